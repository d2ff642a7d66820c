"""What the timeline of a run's page draws, as JSON: whole at first, and then only what is new.

A story may have a million lines. So an answer holds its beginning and a window, the newest lines unless another one is asked
for, and says how many are left out before and behind it. The page tells what it has, for the story and for the lines of output
apart:

    story=ANCHOR.LAST   lines=LAST     what is new since then (timeline.Telling says what an anchor is)
    story=before:ID     lines=after:ID   the window that ends or begins there
    story=still         lines=still    nothing: an older window is looked at
                                       (none of these) the beginning and the newest
    seen=SNAPSHOT                      of the runs below only those that have changed since
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard import run as run_page
from torpor.dashboard import timeline
from torpor.dashboard.run_story import severity, written
from torpor.dashboard.states import look
from torpor.dashboard.timeline import Gap, Telling, ms
from torpor.engine import read, read_story, read_waits
from torpor.engine.read_story import Table
from torpor.engine.read_waits import RunWait
from torpor.engine.states import ENDS, RunState
from torpor.server import auth
from torpor.server.errors import Refused
from torpor.server.hub import hub
from torpor.store.database import Transaction
from torpor.store.records import Event, LogLine, Run

HEAD = {"events": 100, "logs": 200}
WINDOW = {"events": 4900, "logs": 9800}
"""So many entries the beginning and the window have at most."""
MAX_NEWS = 2000
"""When there is more that is new, the window is sent anew."""
MAX_KIN = 1000
MAX_WAITS = 1000
MAX_ATTEMPTS = 200
MAX_TOLD_CHARS = 240

_ASKED = re.compile(r"(before|after):(\d{1,18})|still")
_KNOWN = {"events": re.compile(r"(\d{1,18})\.(\d{1,18})"), "logs": re.compile(r"(\d{1,18})")}
_SNAPSHOT = re.compile(r"\d{1,20}:\d{1,20}:[\d,]{0,4000}")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """The beginning, and a part that may not follow on it."""

    head: list[Any]
    rows: list[Any]
    before: int = 0
    after: int = 0


async def model(request: Request) -> Response:
    """See above."""
    here, query = hub(request), request.query_params
    asked = {"events": query.get("story", ""), "logs": query.get("lines", "")}
    for table, text in asked.items():
        if text and not _ASKED.fullmatch(text) and not _KNOWN[table].fullmatch(text):
            raise Refused(400, f"not a place in a story: {text!r}")
    seen = query.get("seen") or None
    if seen is not None and not _SNAPSHOT.fullmatch(seen):
        raise Refused(400, f"seen: what an answer said, not {seen!r}")
    environment_id = auth.environment(request).id
    async with here.database.transaction() as tx:
        run = await run_page.known(tx, request)
        told: Json = {
            "seen": await read_story.snapshot(tx)
        }  # before what it is about: a change is told twice rather than never
        told |= {"story": await _story(tx, run, asked["events"]), "lines": await _lines(tx, run, asked["logs"])}
        told |= {"attempts": await _attempts(tx, run)}
        told |= await _kin(tx, environment_id, run, seen)
    told |= {"now": ms(here.clock.now()), "over": RunState(run.state) in ENDS, "name": run.task_id}
    return Response(msgspec.json.encode(told), media_type="application/json")


async def window(tx: Transaction, table: Table, run_id: str, asked: str = "") -> Window:
    """The beginning and the newest, or the window that `asked` says."""
    head = await read_story.first(tx, table, run_id, limit=HEAD[table])
    if len(head) < HEAD[table]:
        return Window(head, [])
    begin, limit = head[-1].id, WINDOW[table]
    side, _, place = asked.partition(":")
    if side == "after":
        rows = await read_story.first(tx, table, run_id, after=max(begin, int(place)), limit=limit)
    else:
        before = int(place) if side == "before" else None
        rows = await read_story.newest(tx, table, run_id, after=begin, before=before, limit=limit)
    if not rows:
        return Window(head, [], after=await read_story.count(tx, table, run_id, after=begin))
    left_before = await read_story.count(tx, table, run_id, after=begin, before=rows[0].id)
    left_after = await read_story.count(tx, table, run_id, after=rows[-1].id) if side else 0
    return Window(head, rows, left_before, left_after)


# -- the story --------------------------------------------------------------------------------------------------------


async def _story(tx: Transaction, run: Run, asked: str) -> Json | None:
    if asked == "still":
        return None
    if known := _KNOWN["events"].fullmatch(asked):
        anchor, last = int(known[1]), int(known[2])
        news = await read_story.since(tx, run.id, anchor, last, [*timeline.TURNS], limit=MAX_NEWS + 1)
        if news and len(news) <= MAX_NEWS:
            waits = await read_waits.waits(tx, run.id, since=news[0].at, limit=MAX_WAITS)
            made = timeline.phases(run, news, waits, known=last)
            count = sum(event.id > last for event in news)
            return {"is": "news", "count": count, "last": max(last, news[-1].id)} | _told(made, waits)
    found = await window(tx, "events", run.id, asked)
    story, gaps = await _with_gaps(tx, run, found)
    waits = await read_waits.waits(tx, run.id, limit=MAX_WAITS)
    made = timeline.phases(run, story, waits, gaps)
    place: Json = {"first": found.rows[0].id if found.rows else 0, "last": story[-1].id if story else 0}
    return {"is": "all", "before": found.before, "after": found.after} | place | _told(made, waits)


async def _with_gaps(tx: Transaction, run: Run, found: Window) -> tuple[list[Event], list[Gap]]:
    story, gaps = [*found.head], list[Gap]()
    if found.before:
        # What the run was doing when the window begins is said by a line before it.
        context = await read_story.last_of(
            tx, run.id, [*timeline.TURNS], after=found.head[-1].id, before=found.rows[0].id
        )
        story += [context] if context else []
        gaps.append(Gap((context or found.rows[0]).id, found.before))
    if found.after:
        gaps.append(Gap(None, found.after))
    return story + found.rows, gaps


def _told(made: Telling, waits: Sequence[RunWait]) -> Json:
    bars = [(wait.wait_id, timeline.wait_bar(wait)) for wait in waits]
    return {
        "bars": timeline.bars_json(made.bars),
        "marks": timeline.marks_json(made.marks),
        "anchor": made.anchor,
        "anchorBars": made.anchor_bars,
        "waits": [[id, *timeline.bars_json([bar])[0]] for id, bar in bars],
    }


async def _attempts(tx: Transaction, run: Run) -> list[Any]:
    """Drawn when there are several."""
    if run.attempt < 2:
        return []
    attempts = await read.attempts(tx, run.id)
    return timeline.bars_json([timeline.attempt_bar(each) for each in attempts[-MAX_ATTEMPTS:]])


# -- lines of output --------------------------------------------------------------------------------------------------


async def _lines(tx: Transaction, run: Run, asked: str) -> Json | None:
    if asked == "still":
        return None
    if _KNOWN["logs"].fullmatch(asked):
        news = await read_story.first(tx, "logs", run.id, after=int(asked), limit=MAX_NEWS + 1)
        if len(news) <= MAX_NEWS:
            return {"is": "news", "rows": [_line(line) for line in news], "last": news[-1].id if news else int(asked)}
    found = await window(tx, "logs", run.id, asked)
    rows = found.head + found.rows
    return {
        "is": "all",
        "rows": [_line(line) for line in rows],
        "head": len(found.head),
        "before": found.before,
        "after": found.after,
        "first": found.rows[0].id if found.rows else 0,
        "last": rows[-1].id if rows else 0,
    }


def _line(line: LogLine) -> list[Any]:
    text = line.message + (f"  {written(line.attributes)}" if line.attributes else "")
    brief = text if len(text) <= MAX_TOLD_CHARS else text[: MAX_TOLD_CHARS - 1] + "…"
    return [line.id, ms(line.at), severity(line), brief]


# -- the runs below ---------------------------------------------------------------------------------------------------


async def _kin(tx: Transaction, environment_id: str, run: Run, seen: str | None) -> Json:
    found = await read_story.kin(tx, environment_id, run.id, limit=MAX_KIN + 1, seen=seen)
    is_cut, found = len(found) > MAX_KIN, found[:MAX_KIN]
    stories = await read_story.turns(tx, [each.id for each in found], [*timeline.TURNS]) if found else {}
    rows: list[Json] = []
    for each in found:
        story = stories.get(each.id, [])
        begins = not story or story[0].kind in ("run.triggered", "run.forked")
        made = timeline.phases(each, story, (), [] if begins else [Gap(story[0].id, 0)])
        row = {"id": each.id, "label": each.task_id, "parent": each.parent_run_id, "tone": look(each).tone}
        rows.append(row | {"bars": timeline.bars_json(made.bars), "marks": timeline.marks_json(made.marks)})
    return {"kin": rows} | ({"kinCut": is_cut} if seen is None else {})

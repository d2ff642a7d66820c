"""A run's story in words: what happened to it and what its code has said, in one list; and the log as a file.

The list has the beginning and the newest lines. What is between them is paged through: `?before=` the ids of a line of the
story and of a line of output.
"""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from torpor.dashboard import run as run_page
from torpor.dashboard import timeline
from torpor.dashboard.figures import span, stamp
from torpor.dashboard.states import LOOKS
from torpor.engine import read, read_story
from torpor.engine.states import ENDS, RunState
from torpor.server.errors import Refused
from torpor.server.hub import Hub, hub
from torpor.store.database import Transaction
from torpor.store.records import Event, LogLine, Run
from torpor.words import words

LISTED = 150
"""So many lines stand in a page of the list."""
BEGINNING = 12
"""So many of the first ones stand above the newest."""
_PAGE_LINES = 1000
_TONES = {"frozen": "frozen", "held": "waiting", "working": "running", "queued": "queued", "delayed": "queued"}
_CURSOR = re.compile(r"(\d{1,18})\.(\d{1,18})")
_END = 10**18 - 1


@dataclass(frozen=True, slots=True)
class Told:
    """A line of the story, or a line of output (`level`)."""

    at: datetime
    after: str
    verb: str
    rest: str = ""
    below: tuple[str, ...] = ()
    tone: str = ""
    until: datetime | None = None
    level: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """`first` are the first lines, `lines` those of this page, and `left_out` says how many are between them."""

    first: list[Told]
    lines: list[Told]
    left_out: str | None
    older: str | None
    is_newest: bool


async def page(tx: Transaction, run: Run, before: str | None) -> Page:
    """The newest lines, or those before a cursor.

    Raises: Refused, it is none.
    """
    cursor = _CURSOR.fullmatch(before) if before else None
    if before and cursor is None:
        raise Refused(400, f"before: what a link says, not {before!r}")
    event_id, line_id = (int(cursor[1]), int(cursor[2])) if cursor else (_END, _END)
    events = await read_story.newest(tx, "events", run.id, before=event_id, limit=LISTED + 1)
    lines = await read_story.newest(tx, "logs", run.id, before=line_id, limit=LISTED + 1)
    both = merged(events, lines)
    shown = both[-LISTED:]
    if len(both) <= LISTED:
        return Page([], [_told(each, run) for each in shown], None, None, cursor is None)
    event_id = min((each.id for each in shown if isinstance(each, Event)), default=event_id)
    line_id = min((each.id for each in shown if isinstance(each, LogLine)), default=line_id)
    first = merged(
        await read_story.first(tx, "events", run.id, limit=BEGINNING),
        await read_story.first(tx, "logs", run.id, limit=BEGINNING),
    )[:BEGINNING]
    first = [each for each in first if each.id < (event_id if isinstance(each, Event) else line_id)]
    left_out = sum(
        [
            await read_story.count(tx, "events", run.id, before=event_id),
            await read_story.count(tx, "logs", run.id, before=line_id),
        ]
    ) - len(first)
    older = f"{event_id}.{line_id}" if left_out else None
    told = timeline.many(left_out) if left_out else None
    return Page([_told(each, run) for each in first], [_told(each, run) for each in shown], told, older, cursor is None)


def merged(events: list[Event], lines: list[LogLine]) -> list[Event | LogLine]:
    """Both in one order: events as they were written, whatever clock told them, and lines by their instants."""
    found: list[tuple[datetime, int, Event | LogLine]] = []
    at = None
    for event in events:
        at = max(event.at, at or event.at)
        found.append((at, 0, event))
    found += [(line.at, 1, line) for line in lines]
    found.sort(key=lambda each: each[:2])
    return [each for _, _, each in found]


def _told(one: Event | LogLine, run: Run) -> Told:
    return _of_event(one, run) if isinstance(one, Event) else _of_line(one, run)


def _after(at: datetime, run: Run) -> str:
    """How long after its trigger, to a tenth of a second."""
    seconds = max(0.0, (at - run.created_at).total_seconds())
    if seconds < 60:
        return f"+{span(seconds * 1000)}"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"+{hours}:{minutes:02}:{int(seconds):02}.{int(seconds * 10) % 10}"


def _of_event(event: Event, run: Run) -> Told:
    said = words({"kind": event.kind, "data": timeline.timeless(event.data)})
    end = event.kind.removeprefix("run.")
    tone = LOOKS[RunState(end)].tone if end in ENDS else _TONES.get(str(timeline.TURNS.get(event.kind)), "")
    if timeline.MARKS.get(event.kind) == "trouble":
        tone = "failed"
    until = timeline.instant(event.data.get("due_at") or event.data.get("until"))
    below = () if end in ENDS else said.below  # the page has the error above all
    return Told(event.at, _after(event.at, run), said.verb, said.rest, below, tone, until)


def _of_line(line: LogLine, run: Run) -> Told:
    return Told(line.at, _after(line.at, run), line.message, written(line.attributes), level=severity(line))


def severity(line: LogLine) -> str:
    """What is printed has no level: `output`."""
    return line.level if line.stream == "log" else line.stream


def written(attributes: dict[str, Any]) -> str:
    """As name=value, where a value is JSON unless it is plain text."""
    return "  ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in attributes.items()
    )


async def log(request: Request) -> Response:
    """All that the run's code has printed and logged, as text."""
    here = hub(request)
    async with here.database.transaction() as tx:
        run = await run_page.known(tx, request)
    headers = run_page.as_file(f"{run.id}.log")
    return StreamingResponse(_log(here, run.id), media_type="text/plain; charset=utf-8", headers=headers)


async def _log(here: Hub, run_id: str) -> AsyncIterator[str]:
    after, lines = 0, [None]
    while lines:
        async with here.database.transaction() as tx:
            lines = await read.logs(tx, run_id, after, limit=_PAGE_LINES)
        for line in lines:
            attributes = f"  {written(line.attributes)}" if line.attributes else ""
            yield f"{stamp(line.at)} {severity(line):<8} {line.message}{attributes}\n"
            after = line.id

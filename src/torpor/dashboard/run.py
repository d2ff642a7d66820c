"""One run: its timeline, where it stands, what it was given and what came of it. What people do to it is in run_verbs.py.

The page is three parts that refresh apart: `top` (state, buttons, where it stands), the timeline, whose script asks for the
model as JSON, and `facts` (everything else).
"""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from torpor.dashboard import timeline
from torpor.dashboard.figures import span, stamp
from torpor.dashboard.page import part, render
from torpor.dashboard.states import LOOKS, look
from torpor.durations import write_duration
from torpor.engine import read, read_streams, read_waits, usage
from torpor.engine.read import WaitView
from torpor.engine.read_waits import RunWait
from torpor.engine.states import ENDS, RunState
from torpor.objects import ObjectMissing
from torpor.server import auth, offload
from torpor.server.errors import Refused, not_found
from torpor.server.hub import Hub, hub
from torpor.store.database import Transaction
from torpor.store.records import Checkpoint, Event, LogLine, Run, Schedule
from torpor.words import words

MAX_EVENTS = 5000
MAX_KIN = 1000
MAX_LINES = 10_000
"""So many log lines the timeline has dots for; all of them are in the download."""
MAX_TOLD_CHARS = 400
LISTED = 150
"""So many of the newest lines of the story stand in the list."""
FOLD_CHARS = 4000
"""JSON that is longer is folded; what is kept as an object is downloaded only."""
NEWEST_PARTS = 5
_PAGE_LINES = 1000


async def known(tx: Transaction, request: Request) -> Run:
    """The run that the path names, if it is in this environment."""
    found = await read.run(tx, auth.environment(request).id, request.path_params["run_id"])
    if found is None:
        raise Refused(404, "There is no such run here. It may have been deleted since.")
    return found


async def show(request: Request) -> Response:
    """The page, or the part of it that is to be refreshed."""
    here, wanted = hub(request), part(request)
    values = await _values(here, request, with_facts=wanted != "top")
    return render(request, "run.html", block=wanted if wanted in ("top", "facts") else None, **values)


async def _values(here: Hub, request: Request, *, with_facts: bool) -> dict[str, Any]:
    now, environment_id = here.clock.now(), auth.environment(request).id
    async with here.database.transaction() as tx:
        run = await known(tx, request)
        waits = await read_waits.waits(tx, run.id)
        saved = await _saved(tx, run)
        values: dict[str, Any] = {"run": run, "look": look, "looks": LOOKS, "saved": saved}
        values |= {"is_over": RunState(run.state) in ENDS, "waits": _open(run, waits), "places": _places(run, saved)}
        values |= {"ways_back": _ways_back(saved), "replayable": run.hook is None}
        if with_facts:
            values |= {"story": await _story(tx, run), "relatives": await _relatives(tx, environment_id, run)}
            values |= {"streams": await _streams(tx, run), "options": await _options(tx, environment_id, run)}
    values |= {"errors": errors(run.error), "total_ms": _total_ms(run, now)}
    values |= {"cpu_ms": usage.cpu_ms(run), "frozen_ms": usage.frozen_ms(run, now)}
    values |= {"given": Json.of(run.payload, run.payload_object), "came": Json.of(run.output, run.output_object)}
    return values


def _total_ms(run: Run, now: datetime) -> float:
    return ((run.finished_at or now) - run.created_at).total_seconds() * 1000


# -- payload and output -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Json:
    """A payload or an output: `text` is None if it is kept as an object, whose name says how large it is."""

    text: str | None
    size_bytes: int | None
    is_folded: bool = False

    @classmethod
    def of(cls, text: str | None, object_name: str | None) -> "Json | None":
        if object_name is not None:
            return cls(None, None)
        if text is None:
            return None
        shown = indented(text)
        return cls(shown, len(text.encode()), len(shown) > FOLD_CHARS)


def indented(text: str) -> str:
    try:
        return msgspec.json.format(text, indent=2)
    except msgspec.DecodeError:
        return text


async def packet(request: Request) -> Response:
    """A payload or an output, whole, as a file."""
    here, what = hub(request), request.path_params["field"]
    async with here.database.transaction() as tx:
        run = await known(tx, request)
    kept = {"payload": (run.payload, run.payload_object), "output": (run.output, run.output_object)}
    text, name = kept.get(what, (None, None))
    if name is not None:
        try:
            text = await offload.text_of(here, name)
        except ObjectMissing:
            raise not_found() from None
    if text is None:
        raise not_found()
    return Response(text, media_type="application/json", headers=_as_file(f"{run.id}-{what}.json"))


def _as_file(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}


# -- errors -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as the page shows it: its traceback line by line, and whether each line is a place or its source."""

    name: str
    message: str
    lines: list[tuple[str, str]] = field(default_factory=list)


_PLACE = re.compile(r'\s*File "(.+)", line \d+, in ')


def errors(error: dict[str, Any] | None) -> list[Failure]:
    """The error that ended a run, and what caused it, each after the one that it caused."""
    found: list[Failure] = []
    left = [error] if error else []
    while left and len(found) < 10:
        one = left.pop(0)
        found.append(Failure(str(one.get("name") or "Error"), str(one.get("message") or ""), _lines(one)))
        left += one.get("causes") or []
    return found


def _lines(error: dict[str, Any]) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    trace = str(error.get("stack_trace") or error.get("stackTrace") or "").rstrip()
    for line in trace.splitlines():
        if not line.strip() or line.startswith("Traceback "):
            continue
        if _PLACE.match(line):
            lines.append(("place", line.strip()))
        elif line.startswith(" "):
            lines.append(("mark" if set(line.strip()) <= set("^~ ") else "source", line))
    return lines


# -- where it stands --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint, and what the process waits for that is frozen in it."""

    checkpoint: Checkpoint
    waits: list[WaitView]


async def _saved(tx: Transaction, run: Run) -> list[Saved]:
    """Newest first."""
    checkpoints = (await read.checkpoints(tx, run.id))[-50:]
    return [
        Saved(each, await read.waits_of_checkpoint(tx, each) if each.state in ("usable", "kept") else [])
        for each in reversed(checkpoints)
    ]


def _ways_back(saved: Sequence[Saved]) -> list[Saved]:
    """Where another run can go on from."""
    return [each for each in saved if each.checkpoint.state in ("usable", "kept") and each.checkpoint.digest]


def _open(run: Run, waits: Sequence[RunWait]) -> list[RunWait]:
    """What keeps it now. An answer that is there already is none of it."""
    is_waiting = run.state in (RunState.WAITING, RunState.SUSPENDED)
    return [wait for wait in waits if wait.answered_at is None] if is_waiting else []


def _places(run: Run, saved: Sequence[Saved]) -> list[dict[str, Any]]:
    """Where each task of a run's code stands that has no process."""
    if run.frozen_since is None or run.checkpoint_id is None:
        return []
    return next((each.checkpoint.waiting_at for each in saved if each.checkpoint.id == run.checkpoint_id), [])


# -- the story in words -----------------------------------------------------------------------------------------------


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
class Story:
    lines: list[Told]
    left_out: int


_TONES = {"frozen": "frozen", "held": "waiting", "working": "running", "queued": "queued", "delayed": "queued"}


async def _story(tx: Transaction, run: Run) -> Story:
    events = await read.story(tx, run.id, limit=MAX_EVENTS)
    count = await tx.fetchval("select count(*) from logs where run_id = $1", run.id) or 0
    rows = await tx.fetch("select * from logs where run_id = $1 order by id desc limit $2", run.id, LISTED)
    lines = [LogLine.of(row) for row in reversed(rows)]
    told = [_of_event(event, run) for event in events] + [_of_line(line, run) for line in lines]
    told.sort(key=lambda one: one.at)
    shown = told[-LISTED:]
    return Story(shown, len(events) + count - len(shown))


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
    return line.level if line.stream == "log" else line.stream


def written(attributes: dict[str, Any]) -> str:
    return "  ".join(f"{name}={value}" for name, value in attributes.items())


async def log(request: Request) -> Response:
    """All that the run's code has printed and logged, as text."""
    here = hub(request)
    async with here.database.transaction() as tx:
        run = await known(tx, request)
    headers = _as_file(f"{run.id}.log")
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


# -- the timeline's model ---------------------------------------------------------------------------------------------


async def model(request: Request) -> Response:
    """Rows and scale, with the log lines behind the one that `after` names."""
    here, after = hub(request), request.query_params.get("after", "0")
    if not after.isdecimal() or len(after) > 18:
        raise Refused(400, f"after: the id of a line, not {after!r}")
    now, environment_id = here.clock.now(), auth.environment(request).id
    async with here.database.transaction() as tx:
        run = await known(tx, request)
        story = await read.story(tx, run.id, limit=MAX_EVENTS)
        attempts = await read.attempts(tx, run.id)
        waits = await read_waits.waits(tx, run.id)
        kin = await read_waits.descendants(tx, environment_id, run.id, limit=MAX_KIN)
        stories = await read_waits.turns(tx, [each.id for each in kin], [*timeline.TURNS], limit=4 * MAX_KIN)
        drawn = await tx.fetch("select id, at from logs where run_id = $1 order by id limit $2", run.id, MAX_LINES)
        unknown = sum(row["id"] > int(after) for row in drawn)
        lines = await read.logs(tx, run.id, int(after), limit=unknown) if unknown else []
    made = timeline.timeline(
        run,
        attempts,
        story,
        waits,
        [(each, stories.get(each.id, [])) for each in kin],
        [row["at"] for row in drawn],
        now=now,
        tone_of={each.id: look(each).tone for each in kin},
    )
    told = {
        "now": now.timestamp() * 1000,
        "over": RunState(run.state) in ENDS,
        "lines": [[line.id, line.at.timestamp() * 1000, severity(line), _brief(line)] for line in lines],
        "last": lines[-1].id if lines else int(after),
    }
    return Response(msgspec.json.encode(timeline.written(made) | told), media_type="application/json")


def _brief(line: LogLine) -> str:
    text = line.message + (f"  {written(line.attributes)}" if line.attributes else "")
    return text if len(text) <= MAX_TOLD_CHARS else text[: MAX_TOLD_CHARS - 1] + "…"


# -- relatives, options, streams --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Relative:
    what: str
    run: Run


async def _relatives(tx: Transaction, environment_id: str, run: Run) -> list[Relative]:
    found: list[Relative] = []
    above = {
        "root": run.root_run_id,
        "parent": run.parent_run_id,
        "replay of": run.replayed_from,
        "fork of": run.forked_from,
    }
    if above["root"] == above["parent"]:
        del above["root"]
    for what, run_id in above.items():
        if run_id and run_id != run.id and (one := await read.run(tx, environment_id, run_id)):
            found.append(Relative(what, one))
    found += [Relative("child", one) for one in await read.children(tx, environment_id, run.id) if one.hook is None]
    found += [Relative("made of it", one) for one in await read_waits.made_of(tx, environment_id, run.id)]
    return found


@dataclass(frozen=True, slots=True)
class Stream:
    key: str
    count: int
    newest: list[str]


async def _streams(tx: Transaction, run: Run) -> list[Stream]:
    found: list[Stream] = []
    for key in run.stream_keys[:20]:
        last = await read_streams.last_seq(tx, run.id, "output", key)
        page = await read_streams.page(tx, run.id, "output", key, after=last - NEWEST_PARTS)
        newest = [part.body[:MAX_TOLD_CHARS] for part in page.parts] if page else []
        found.append(Stream(key, last + 1, newest))
    return found


async def _options(tx: Transaction, environment_id: str, run: Run) -> list[tuple[str, str, str | None]]:
    """(name, value, where it leads) of how the run was asked for."""
    schedule: Schedule | None = None
    if run.schedule_id:
        schedule = await read.schedule(tx, environment_id, run.schedule_id)
    key = (run.idempotency_key_options or {}).get("key")
    rows: list[tuple[str, str | None, str | None]] = [
        ("Queue", run.queue, f"/?queue={run.queue}" if re.fullmatch(r"[\w./-]+", run.queue) else None),
        ("Concurrency key", run.concurrency_key or None, None),
        ("Machine", run.preset, None),
        ("Version", run.version, f"/?version={run.version}" if run.version else None),
        ("Locked to version", run.locked_version, None),
        ("Attempts", f"{run.attempt} of at most {run.max_attempts}", None),
        ("Priority", write_duration(run.priority_s) if run.priority_s else None, None),
        ("TTL", write_duration(run.ttl_s) if run.ttl_s else None, None),
        ("Longest work", write_duration(run.max_duration_s) if run.max_duration_s else None, None),
        ("Idempotency key", key if isinstance(key, str) else run.idempotency_key, None),
        ("Debounce key", run.debounce_key, None),
        ("Schedule", (schedule.external_id or schedule.id) if schedule else run.schedule_id, None),
        ("Batch", run.batch_id, f"/?batch={run.batch_id}" if run.batch_id else None),
        ("Triggered by", run.trigger_function, None),
        ("Test", "yes" if run.is_test else None, None),
    ]
    return [(name, value, href) for name, value, href in rows if value]

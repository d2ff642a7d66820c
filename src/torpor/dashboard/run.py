"""One run: where it stands, what it was given and what came of it. What people do to it is in run_verbs.py.

The page is three parts that refresh apart: `top` (state, buttons, where it stands), the timeline, whose script asks for the
model as JSON (run_model.py), and `facts` (everything else; the story in words is run_story.py's).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard import fingerprints, in_line, run_story
from torpor.dashboard.errors import PERIODS
from torpor.dashboard.failure import failures
from torpor.dashboard.page import part, render
from torpor.dashboard.states import LOOKS, look
from torpor.durations import parse_duration, write_duration
from torpor.engine import read, read_story, read_streams, read_waits, usage
from torpor.engine.read import WaitView
from torpor.engine.read_failures import FAILED
from torpor.engine.read_waits import RunWait
from torpor.engine.states import ENDS, RunState
from torpor.objects import ObjectMissing
from torpor.server import auth, offload
from torpor.server.errors import Refused, not_found
from torpor.server.hub import Hub, hub
from torpor.store.database import Transaction
from torpor.store.records import Checkpoint, Deployment, Run, Schedule
from torpor.words import words

MAX_TOLD_CHARS = 400
FOLD_CHARS = 4000
"""JSON that is longer is folded; what is kept as an object is downloaded only."""
NEWEST_PARTS = 5
NEWEST_CHECKPOINTS = 20
NEWEST_EVENTS = 50
MOST_CHILDREN = 100
CHILDREN_SHOWN = 8
"""The others are folded."""


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
        waits = await read_waits.waits(tx, run.id, only_open=True, limit=100)
        saved = await _saved(tx, run)
        image = _image(run, saved)
        values: dict[str, Any] = {"run": run, "look": look, "saved": saved, "why_held": await _why_held(tx, run)}
        values |= {"is_over": RunState(run.state) in ENDS, "waits": _open(run, waits), "image": image}
        values |= {"places": image.waiting_at if image else [], "held_up": await in_line.held_up(tx, run, now)}
        values |= {"ways_back": _ways_back(saved), "replayable": run.hook is None}
        task = await read.task(tx, environment_id, run.task_id)
        values |= {"takes_one": task is not None and task.parameters == "one"}
        values |= {"newer": _newer(run, await read.current_deployment(tx, environment_id))}
        if with_facts:
            story = await run_story.page(tx, run, request.query_params.get("before"))
            values |= {"story": story, "relatives": await _relatives(tx, environment_id, run)}
            values |= {"children": await _children(tx, environment_id, run), "shown": CHILDREN_SHOWN}
            values |= {"streams": await _streams(tx, run), "options": await _options(tx, environment_id, run)}
    values |= {"errors": failures(run.error), "alike": _alike(run, now), "total_ms": _total_ms(run, now)}
    values |= {"cpu_ms": usage.cpu_ms(run), "frozen_ms": (frozen_ms := usage.frozen_ms(run, now))}
    values |= {"frozen_from": now - timedelta(milliseconds=frozen_ms)}
    values |= {"given": Json.of(run.payload, run.payload_object), "came": Json.of(run.output, run.output_object)}
    return values


def _total_ms(run: Run, now: datetime) -> float:
    return ((run.finished_at or now) - run.created_at).total_seconds() * 1000


def _alike(run: Run, now: datetime) -> str | None:
    """Where the failures like this one are, if they are still looked at."""
    if run.state not in FAILED or run.finished_at is None or run.hook is not None:
        return None
    ago = now - run.finished_at + timedelta(minutes=5)
    period = next((each for each in ("24h", "7d", "30d") if each in PERIODS and ago < parse_duration(each)), None)
    return f"/errors/{fingerprints.of_run(run)}?period={period}" if period else None


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
    return Response(text, media_type="application/json", headers=as_file(f"{run.id}-{what}.json"))


def as_file(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}


# -- where it stands --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint, and what the process waits for that is frozen in it."""

    checkpoint: Checkpoint
    waits: list[WaitView]


async def _saved(tx: Transaction, run: Run) -> list[Saved]:
    """Newest first."""
    checkpoints = await read.newest_checkpoints(tx, run.id, limit=NEWEST_CHECKPOINTS)
    of_process = [each for each in checkpoints if each.state in ("usable", "kept")]
    waits = await read.waits_of_checkpoints(tx, run.id, of_process)
    return [Saved(each, waits.get(each.id, [])) for each in checkpoints]


def _ways_back(saved: Sequence[Saved]) -> list[Saved]:
    """Where another run can go on from."""
    return [each for each in saved if each.checkpoint.state in ("usable", "kept") and each.checkpoint.digest]


def _open(run: Run, waits: Sequence[RunWait]) -> list[RunWait]:
    """What keeps it now. An answer that is there already is none of it."""
    return [] if run.state in ENDS else [wait for wait in waits if wait.answered_at is None]


async def _why_held(tx: Transaction, run: Run) -> list[str]:
    """Why a run that waits has its process still, as far as its story says so. A short wait needs no reason."""
    if run.state not in (RunState.WAITING, RunState.EXECUTING):
        return []
    newest = await read_story.newest(tx, "events", run.id, limit=NEWEST_EVENTS)
    told = next((event for event in reversed(newest) if event.kind in ("run.held", "run.freeze_failed")), None)
    if told is None or any(event.kind in ("run.resumed", "run.started") and event.id > told.id for event in newest):
        return []
    said = words({"kind": told.kind, "data": told.data})
    return [*said.below] or [said.rest]


def _image(run: Run, saved: Sequence[Saved]) -> Checkpoint | None:
    """What a run without a process is in."""
    if run.frozen_since is None:
        return None
    return next((each.checkpoint for each in saved if each.checkpoint.id == run.checkpoint_id), None)


def _newer(run: Run, current: Deployment | None) -> Deployment | None:
    """The version that has come since this run failed, if one has."""
    has_failed = LOOKS[RunState(run.state)].tone == "failed"
    if current is None or not has_failed or run.finished_at is None or current.deployed_at < run.finished_at:
        return None
    return current if run.version and current.version != run.version else None


# -- relatives, options, streams --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Relative:
    what: str
    run: Run


async def _relatives(tx: Transaction, environment_id: str, run: Run) -> list[Relative]:
    """What it comes from, and what was made of it."""
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
    for one in await read_waits.made_of(tx, environment_id, run.id):
        found.append(Relative("its fork" if one.forked_from == run.id else "its replay", one))
    return found


async def _children(tx: Transaction, environment_id: str, run: Run) -> list[Run]:
    """Those that failed stand first."""
    found = await read.children(tx, environment_id, run.id, limit=MOST_CHILDREN)
    return sorted((one for one in found if one.hook is None), key=lambda one: one.state not in FAILED)


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
        ("Queue", run.queue, f"/?{urlencode({'queue': run.queue})}"),
        ("Concurrency key", run.concurrency_key or None, None),
        ("Machine", run.preset, None),
        ("Version", run.version, f"/?{urlencode({'version': run.version})}" if run.version else None),
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

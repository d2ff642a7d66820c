"""What is to become of a request: the run as it will be, or why there can be none. Writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from torpor import ids
from torpor.engine import debounce
from torpor.engine.debounce import Debounce
from torpor.engine.instants import after
from torpor.engine.near import near
from torpor.engine.outcomes import Lease
from torpor.engine.payload import PayloadMisfit, fitted
from torpor.engine.queues import own_queue
from torpor.engine.states import RunState
from torpor.engine.tags import MAX_TAGS
from torpor.store.database import Transaction
from torpor.store.records import Run, Task

VERSION_TTL_S = 3600.0
"""How long a run waits for the version that it is locked to, when no ttl was given."""


@dataclass(frozen=True, slots=True)
class TriggerRequest:
    """What somebody wants performed. None: as the task has it."""

    task_id: str
    payload: str | None = None  # JSON text
    run_id: str | None = None  # made by the client: the same request twice is the same run
    idempotency_key: str | None = None
    idempotency_key_ttl_s: float | None = None
    idempotency_key_options: dict[str, Any] | None = None
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] | None = None
    max_attempts: int | None = None
    delay_until: datetime | None = None
    is_test: bool = False
    parent_lease: Lease | None = None  # from inside a run
    trigger_function: str = "trigger"
    queue: str | None = None
    concurrency_key: str = ""
    priority_s: float = 0.0  # lines up as if it had come that much earlier
    ttl_s: float | None = None  # from when it is queued until its start; 0: for ever
    debounce: Debounce | None = None
    lock_to_version: str | None = None
    inherit_tags: bool = False  # its children get its tags, and theirs
    max_tags: int = MAX_TAGS  # those that are handed down included
    max_duration_s: float | None = None
    preset: str | None = None
    batch_id: str | None = None
    batch_index: int | None = None
    schedule_id: str | None = None
    replayed_from: str | None = None
    payload_object: str | None = (
        None  # where the payload is kept, too large for a row; without a payload: checked before
    )


@dataclass(frozen=True, slots=True)
class UnknownTask:
    """The version has no such task; `near` are those with a similar name. No run was made (404)."""

    near: list[str]


@dataclass(frozen=True, slots=True)
class UnknownQueue:
    """No version has declared that queue; `near` are those with a similar name. No run was made (422)."""

    name: str
    near: list[str]


@dataclass(frozen=True, slots=True)
class UnknownVersion:
    """No worker has ever reported that version. No run was made (422)."""

    version: str
    current: str | None


@dataclass(frozen=True, slots=True)
class UnknownPreset:
    """No machine has that name; `names` are those there are. Nothing has changed (422). `task_id`: whose it was to be, where
    a version says so."""

    name: str
    names: list[str]
    task_id: str | None = None


Refusal = UnknownTask | UnknownQueue | UnknownVersion | UnknownPreset | PayloadMisfit


# -- what a request meets ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """What the requests meet."""

    environment_id: str
    current_version: str | None
    accepts_unknown_tasks: bool
    max_queued: int | None
    tasks: dict[tuple[str, str], Task]  # by version and id; of the current version, and of those asked for
    queues: set[str]  # of the names asked for, those that are declared
    presets: list[str]  # those there are, the default one first
    known_runs: set[str]  # of the run ids asked for, those that are there: the request came before


async def look(tx: Transaction, environment_id: str, requests: Sequence[TriggerRequest]) -> Scene:
    rows = await tx.fetch(
        """select tasks.*, environments.current_version, environments.accepts_unknown_tasks, environments.max_queued,
               array(select runs.id from runs where runs.id = any($4::text[]) and runs.environment_id = $1) as known,
               array(select queues.name from queues
                     where queues.environment_id = $1 and queues.name = any($5::text[])) as queues,
               array(select name from presets where presets.environment_id = $1 and is_offered
                     order by not is_default, memory_bytes, name) as presets
           from environments left join tasks on tasks.environment_id = environments.id and tasks.id = any($2::text[])
               and (tasks.version = environments.current_version or tasks.version = any($3::text[]))
           where environments.id = $1""",
        environment_id,
        sorted({request.task_id for request in requests}),
        sorted({request.lock_to_version for request in requests if request.lock_to_version}),
        [request.run_id for request in requests if request.run_id],
        sorted({name for request in requests for name in _queue_names(request)}),
    )
    assert rows, "an environment that a key or a worker has opened"
    tasks: dict[tuple[str, str], Task] = {}
    facts: dict[str, Any] = {}
    for row in rows:
        found = dict(row)
        names = ("current_version", "accepts_unknown_tasks", "max_queued", "known", "queues", "presets")
        facts = {name: found.pop(name) for name in names}
        if found["id"] is not None:
            tasks[(found["version"], found["id"])] = Task(**found)
    return Scene(
        environment_id,
        facts["current_version"],
        facts["accepts_unknown_tasks"],
        facts["max_queued"],
        tasks,
        set(facts["queues"]),
        facts["presets"],
        set(facts["known"]),
    )


def _queue_names(request: TriggerRequest) -> list[str]:
    """What the name of a queue may mean: a task's own queue goes by the task's id as well."""
    if request.queue is None:
        return []
    return [request.queue, own_queue(request.queue)] if request.queue == request.task_id else [request.queue]


# -- the run that it asks for ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Draft:
    """A run that is about to be made."""

    request: TriggerRequest
    run_id: str
    row: dict[str, Any]
    told: dict[str, Any]  # of `run.triggered`
    due_at: datetime | None  # when the timers have something to do with it


async def plan(
    tx: Transaction, scene: Scene, request: TriggerRequest, parent: Run | None, *, place: timedelta, now: datetime
) -> Draft | Refusal:
    """The run, or why there can be none. `place`: how far behind the first of its call it lines up."""
    version = request.lock_to_version or scene.current_version
    task = scene.tasks.get((version, request.task_id)) if version else None
    if request.preset is not None and request.preset not in scene.presets:
        return UnknownPreset(request.preset, scene.presets)
    payload: str | PayloadMisfit | None = request.payload
    missing = None  # what no version has yet
    if task is None:
        if not scene.accepts_unknown_tasks:
            return await _unknown(tx, scene, request)
        missing = f"no version has the task {request.task_id} yet"
        if request.lock_to_version:
            missing = f"version {request.lock_to_version} with the task {request.task_id} is not here yet"
    elif request.payload is not None or request.payload_object is None:
        payload = await fitted(task, request.payload)
        if isinstance(payload, PayloadMisfit):
            return payload
    named = next((name for name in _queue_names(request) if name in scene.queues), None)
    if request.queue is not None and named is None:
        if not scene.accepts_unknown_tasks:
            return await _unknown_queue(tx, scene.environment_id, request.queue)
        named = own_queue(request.task_id) if len(_queue_names(request)) > 1 else request.queue
        missing = missing or f"no version has declared the queue {request.queue} yet"
    asked = {
        "queue": named,
        "max_attempts": request.max_attempts,
        "ttl_s": request.ttl_s,
        "max_duration_s": request.max_duration_s,
        "preset": request.preset,
    }
    asked = {name: value for name, value in asked.items() if value is not None}

    until = debounce.first(request.debounce, now) if request.debounce else request.delay_until
    if until is not None and until <= now:
        until = None
    state = RunState.DELAYED if until else RunState.PENDING_VERSION if missing else RunState.QUEUED
    ttl_s = request.ttl_s if request.ttl_s is not None else task.ttl_s if task else None
    expires_at = after(now, ttl_s) if ttl_s and not until else None
    if state == RunState.PENDING_VERSION and request.lock_to_version and request.ttl_s is None:
        expires_at = after(now, VERSION_TTL_S)
    tags, left_out = _tags(request, parent)
    run_id = request.run_id or ids.new("run")
    row = {
        "id": run_id,
        "environment_id": scene.environment_id,
        "task_id": request.task_id,
        "state": state,
        "payload": None if request.payload_object else payload,
        "max_attempts": max(request.max_attempts or (task.retry.get("max_attempts", 1) if task else 1), 1),
        # The head start counts from when it is queued: of a delayed run the release takes it off.
        "available_at": (until or now - timedelta(seconds=request.priority_s)) + place,
        "delay_until": until,
        "idempotency_key": request.idempotency_key,
        "idempotency_key_options": request.idempotency_key_options,
        "tags": tags,
        "metadata": request.metadata,
        "is_test": request.is_test,
        "trigger_function": request.trigger_function,
        "parent_run_id": parent.id if parent else None,
        "root_run_id": (parent.root_run_id or parent.id) if parent else None,
        "depth": parent.depth + 1 if parent else 0,
        "created_at": now + place,
        "updated_at": now + place,
        "queue": named or (task.queue if task else None) or own_queue(request.task_id),
        "concurrency_key": request.concurrency_key,
        "priority_s": request.priority_s,
        "ttl_s": ttl_s or None,
        "expires_at": expires_at,
        "debounce_key": request.debounce.key if request.debounce else None,
        "debounce_until": debounce.latest(request.debounce, now) if request.debounce else None,
        "locked_version": request.lock_to_version,
        "batch_id": request.batch_id,
        "batch_index": request.batch_index,
        "schedule_id": request.schedule_id,
        "replayed_from": request.replayed_from,
        "inherit_tags": request.inherit_tags or (parent is not None and parent.inherit_tags),
        "max_duration_s": request.max_duration_s or (task.max_duration_s if task else None),
        "asked": asked or None,
        "preset": request.preset or (task.preset if task else None) or scene.presets[0],
        "payload_object": request.payload_object,
    }
    told: dict[str, Any] = {"task_id": request.task_id, "trigger_function": request.trigger_function}
    more = {"tags": tags, "tags_left_out": left_out, "replayed_from": request.replayed_from}
    if state == RunState.PENDING_VERSION:
        more["pending"] = missing
    told |= {name: value for name, value in more.items() if value}
    return Draft(request, run_id, row, told, until or expires_at)


def _tags(request: TriggerRequest, parent: Run | None) -> tuple[list[str], list[str]]:
    """The run's own tags, then those handed down while there is room; and those for which there was none."""
    handed_down = parent.tags if parent and parent.inherit_tags else []
    own = list(dict.fromkeys(request.tags))
    tags = list(dict.fromkeys([*own, *handed_down]))
    room = max(request.max_tags, len(own))
    return tags[:room], tags[room:]


async def _unknown(tx: Transaction, scene: Scene, request: TriggerRequest) -> UnknownTask | UnknownVersion:
    version = request.lock_to_version or scene.current_version
    rows = await tx.fetch(
        "select id from tasks where environment_id = $1 and version = $2 order by id", scene.environment_id, version
    )
    if request.lock_to_version and not rows:
        return UnknownVersion(request.lock_to_version, scene.current_version)
    return UnknownTask(near(request.task_id, [row["id"] for row in rows]))


async def _unknown_queue(tx: Transaction, environment_id: str, name: str) -> UnknownQueue:
    rows = await tx.fetch("select name from queues where environment_id = $1 order by name", environment_id)
    return UnknownQueue(name, near(name, [row["name"] for row in rows]))

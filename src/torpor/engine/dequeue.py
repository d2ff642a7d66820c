"""Hand runs out to a worker: each under a lease, as an attempt to start or a checkpoint to restore."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from torpor.engine import answers, events, hooks, placement, saving_up, slots, usage
from torpor.engine.grant import grant_ready
from torpor.engine.instants import after, to_iso
from torpor.engine.lines import Lines
from torpor.engine.wait import set_open_waits
from torpor.store.database import Transaction
from torpor.store.records import Checkpoint, Environment, Run
from torpor.wire.http import Assignment, StoredCheckpoint
from torpor.wire.presets import Preset
from torpor.wire.runner import Answer, RunContext


@dataclass(frozen=True, slots=True)
class _HandOut:
    """A run that this worker gets, and what with."""

    run: Run
    checkpoint: Checkpoint | None
    version: str
    attempt: int
    lease: int
    preset: Preset
    max_duration_s: float | None = None
    save_every_s: float | None = None

    @property
    def active_ms(self) -> float:
        """What counts of the work so far: what is done again, or in another attempt, starts to count anew."""
        return self.run.active_ms if self.checkpoint and self.attempt == self.run.attempt else 0.0


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who gets the leases, until when."""

    worker_id: str
    instance_id: str
    number: int
    expires_at: datetime


async def dequeue(
    tx: Transaction,
    worker_id: str,
    instance_id: str,
    *,
    free: int,
    versions: list[str],
    can_restore: bool,
    lease_s: float,
    number: int = 0,
    now: datetime,
) -> list[Assignment]:
    """queued -> dequeued, for up to `free` runs and as many as limits allow and fit the worker. Each takes a slot, and room.

    Who stands in line in memory goes first (grant), then the one that this worker has saved up for (saving_up.py), then those
    to restore, then those to start. Among these each line has its turn (lines.py); within a line they go in the order of
    `available_at`.

    For a worker that has said hello; any other instance gets nothing (its heartbeat tells it to say hello), nor does one
    that is to leave (drain.py). Fresh
    attempts start with the environment's current version, or the one they are locked to, so only a worker that has it
    gets them. A checkpoint goes to workers that read the store it is in, unless one of their fitness has refused it.
    `number` is the worker's own for this request: by it rescue.py knows an assignment whose reply was lost.
    """
    # The share makes a new instance's hello wait: it must find, and take back, what is handed out here.
    found = await tx.fetchrow(
        """select environments.*, workers.version as imported, workers.store_id as store, workers.fitness as fitness,
               workers.cpu as cpu, workers.memory_bytes as memory_bytes, workers.labels as labels
           from workers join environments on environments.id = workers.environment_id
           where workers.id = $1 and workers.instance_id = $2 and workers.drain_asked_at is null for share of workers""",
        worker_id,
        instance_id,
    )
    if found is None or free < 1:
        return []
    known = dict(found)
    # What the request names, and what its worker may have imported while the request was held.
    at_hand = {*versions, known.pop("imported")} - {None}
    store_id, fitness = known.pop("store"), known.pop("fitness")
    capacity = placement.Capacity(known.pop("cpu"), known.pop("memory_bytes"), known.pop("labels"))
    environment = Environment.of(known)
    work = await _look(tx, environment, store_id)
    if not (work.fresh or (work.resumed and can_restore)):
        return []
    turn = await slots.my_turn(tx, environment.id)
    most = await slots.room(tx, environment)
    if work.has_ready:
        most -= await grant_ready(tx, environment.id, most, now=now)
    most = min(free, most)
    if most < 1:
        return []
    room = await placement.room(tx, environment.id, worker_id, capacity)
    resumed = Lines.to_restore(environment, turn, work.resumed if can_restore else set(), store_id, fitness)
    fresh = await Lines.to_start(tx, environment, turn, work.fresh, sorted(at_hand))
    holder = _Holder(worker_id, instance_id, number, after(now, lease_s))
    handed: list[_HandOut] = []
    saved_up_for, is_saving = await saving_up.next_run(
        tx, environment.id, worker_id, turn, room, [resumed, fresh], now=now
    )
    if saved_up_for is not None:
        handed = await _hand_out(tx, [saved_up_for], environment, holder, room, now)
    if not is_saving:
        # Each kind after the one before is written: they hold slots now.
        for lines in (resumed, fresh):
            runs = await lines.next(tx, room, most - len(handed))
            handed += await _hand_out(tx, runs, environment, holder, room, now)
    is_short = not (work.resumed | work.fresh).isdisjoint(room.later)
    await saving_up.note_short(tx, environment.id, worker_id, turn, is_short=is_short)
    return [await _assignment(tx, each, environment, worker_id, lease_s, now) for each in handed]


@dataclass(frozen=True, slots=True)
class _Work:
    """What there seems to be, before anything is locked: whether somebody stands in line in memory; with which presets runs
    are queued."""

    has_ready: bool
    resumed: set[str]
    fresh: set[str]


async def _look(tx: Transaction, environment: Environment, store_id: str) -> _Work:
    """A look without a lock: most requests of idle workers end here. What comes after it brings a note of its own."""
    row = await tx.fetchrow(
        # In the order of the indexes, else a planner that sees many queued runs reads the table.
        """select
               (select true from runs where environment_id = $1 and ready_at is not null order by ready_at, id limit 1),
               array(select name from presets, lateral (
                    select from runs where environment_id = $1 and state = 'queued' and checkpoint_id is not null
                        and image_store_id = $2 and preset = presets.name
                    order by queue, concurrency_key, available_at, id limit 1) as queued
                where presets.environment_id = $1),
               array(select name from presets, lateral (
                    select from runs where environment_id = $1 and state = 'queued' and checkpoint_id is null
                        and preset = presets.name
                    order by queue, concurrency_key, available_at, id limit 1) as queued
                where presets.environment_id = $1)""",
        environment.id,
        store_id,
    )
    assert row is not None
    return _Work(bool(row[0]), set(row[1]), set(row[2]))


async def _hand_out(
    tx: Transaction, runs: list[Run], environment: Environment, holder: _Holder, room: placement.Room, now: datetime
) -> list[_HandOut]:
    if not runs:
        return []
    handed = await _prepare(tx, runs, environment, room)
    limits = await _write(tx, handed, holder, now)
    return [
        replace(each, max_duration_s=limits[each.run.id][0], save_every_s=limits[each.run.id][1]) for each in handed
    ]


async def _prepare(tx: Transaction, runs: list[Run], environment: Environment, room: placement.Room) -> list[_HandOut]:
    """What each run is given: its checkpoint, its version, the number of its attempt, its size of machine."""
    ids = [run.checkpoint_id for run in runs if run.checkpoint_id]
    checkpoints: dict[str, Checkpoint] = {}
    if ids:
        await _share_waitpoints(tx, ids)
        rows = await tx.fetch("select * from checkpoints where id = any($1::text[])", ids)
        checkpoints = {row["id"]: Checkpoint.of(row) for row in rows}
    open_attempts = await tx.fetch(
        """select runs.id from runs join attempts on attempts.run_id = runs.id and attempts.number = runs.attempt
           where runs.id = any($1::text[]) and attempts.outcome is null""",
        [run.id for run in runs if run.attempt],
    )
    goes_on = {row["id"] for row in open_attempts}
    handed: list[_HandOut] = []
    for run in runs:
        checkpoint = checkpoints[run.checkpoint_id] if run.checkpoint_id else None
        version = run.version if checkpoint else run.locked_version or environment.current_version
        assert version is not None
        # A restore, or a hand-out that came to nothing, goes on with the open attempt.
        attempt = run.attempt if run.id in goes_on else run.attempt + 1
        handed.append(_HandOut(run, checkpoint, version, attempt, run.lease + 1, room.preset(run)))
    return handed


async def _share_waitpoints(tx: Transaction, checkpoint_ids: list[str]) -> None:
    """A share of every waitpoint that the hand-outs will tie again (set_open_waits): of all runs at once, so in order."""
    await tx.execute(
        """select from waitpoints where id in (
               select waits.waitpoint_id from checkpoints join waits on waits.run_id = checkpoints.run_id
               where checkpoints.id = any($1::text[]) and waits.wait_id = any(checkpoints.open_waits))
           order by id for share""",
        checkpoint_ids,
    )


async def _write(
    tx: Transaction, handed: list[_HandOut], holder: _Holder, now: datetime
) -> dict[str, tuple[float | None, float | None]]:
    """The leases, the attempts and the story's lines, all runs at once. Returns how long each attempt may work, and how
    often it is saved."""
    columns = ([h.run.id for h in handed], [h.attempt for h in handed], [h.version for h in handed])
    rows = await tx.fetch(
        f"""update runs set state = 'dequeued', lease = lease + 1, lease_expires_at = $5, worker_id = $6, instance_id = $7,
               version = given.version, attempt = given.attempt, active_ms = given.active_ms, handed_out_at = $8,
               handed_out_for = $9, heard = 0, updated_at = $8, cpu_ms = cpu_ms + lease_cpu_ms, lease_cpu_ms = 0,
               {usage.thaws("$8")}
           from unnest($1::text[], $2::int[], $3::text[], $4::float8[]) as given (id, attempt, version, active_ms)
           where runs.id = given.id
           returning runs.id, coalesce(max_duration_s,
               (select tasks.max_duration_s from tasks where tasks.environment_id = runs.environment_id
                    and tasks.version = runs.version and tasks.id = runs.task_id)) as max_duration_s,
               (select (tasks.checkpoints->>'every_s')::float8 from tasks where tasks.environment_id = runs.environment_id
                    and tasks.version = runs.version and tasks.id = runs.task_id) as save_every_s""",
        *columns,
        [h.active_ms for h in handed],
        holder.expires_at,
        holder.worker_id,
        holder.instance_id,
        now,
        holder.number,
    )
    limits = {row["id"]: (row["max_duration_s"], row["save_every_s"]) for row in rows}
    await tx.execute(
        """insert into attempts (run_id, number, version, worker_id, lease, dequeued_at)
           select id, attempt, version, $5, lease, $6
           from unnest($1::text[], $2::int[], $3::text[], $4::int[]) as given (id, attempt, version, lease)
           on conflict (run_id, number) do update set worker_id = excluded.worker_id, lease = excluded.lease,
               version = excluded.version""",
        *columns,
        [h.lease for h in handed],
        holder.worker_id,
        now,
    )
    lines: list[events.Line] = []
    for each in handed:
        data: dict[str, Any] = {"worker_id": holder.worker_id, "lease": each.lease, "version": each.version}
        if each.checkpoint:
            data["checkpoint_id"] = each.checkpoint.id
        lines.append(events.Line(each.run.id, each.attempt, data))
    await events.record_all(tx, "run.dequeued", lines, now=now)
    return limits


async def _assignment(
    tx: Transaction, given: _HandOut, environment: Environment, worker_id: str, lease_s: float, now: datetime
) -> Assignment:
    run, checkpoint = given.run, given.checkpoint
    origin, hook = await hooks.call(tx, run) if run.hook else (run, None)
    return Assignment(
        run_id=run.id,
        lease=given.lease,
        lease_s=lease_s,
        task_id=run.task_id,
        version=given.version,
        context=_context(origin, environment, given, worker_id),
        payload=msgspec.Raw((run.payload or "null").encode()),
        payload_is_large=run.payload_object is not None and checkpoint is None,
        checkpoint=_stored(checkpoint) if checkpoint else None,
        answers=await _answers(tx, run, checkpoint, now) if checkpoint else [],
        due_at=to_iso(run.due_at) if checkpoint and run.due_at else None,
        active_s=given.active_ms / 1000,
        hook=hook,
        save_every_s=given.save_every_s if hook is None else None,
        preset=given.preset,
        variables_revision=environment.variables_revision,
    )


async def _answers(tx: Transaction, run: Run, checkpoint: Checkpoint, now: datetime) -> list[Answer]:
    """The answers to what the frozen process waits for, whatever a later process, now dead, was told or had dropped."""
    await set_open_waits(tx, run.id, checkpoint.open_waits, now=now)
    await tx.execute("update waits set delivered_at = null where run_id = $1 and detached_at is null", run.id)
    told = [wait.answer() for wait in await answers.tied(tx, run.id) if not wait.is_open]
    # A large one is collected once the process is there: only then it can be asked for again, should the store fail.
    return [answer for answer in told if answer.output_object is None]


def _stored(checkpoint: Checkpoint) -> StoredCheckpoint:
    return StoredCheckpoint(
        id=checkpoint.id,
        size_bytes=checkpoint.size_bytes,
        files_bytes=checkpoint.files_bytes,
        dump_ms=checkpoint.dump_ms,
        durable_ms=checkpoint.durable_ms,
        rss_bytes=checkpoint.rss_bytes,
        facts=checkpoint.facts,
        image_id=checkpoint.image_id,
        kind=checkpoint.kind,  # pyright: ignore[reportArgumentType]
        name=checkpoint.name,
        store_id=checkpoint.store_id,
        digest=checkpoint.digest,
        key_id=checkpoint.key_id,
        base=checkpoint.base,
        new_bytes=checkpoint.new_bytes,
        shared_bytes=checkpoint.shared_bytes,
    )


def _context(run: Run, environment: Environment, given: _HandOut, worker_id: str) -> RunContext:
    return RunContext(
        run_id=run.id,
        task_id=run.task_id,
        attempt=given.attempt if run.id == given.run.id else run.attempt,
        max_attempts=run.max_attempts,
        version=given.version,
        environment=environment.slug,
        tags=run.tags,
        is_test=run.is_test,
        created_at=to_iso(run.created_at),
        started_at=to_iso(run.started_at) if run.started_at else None,
        parent_run_id=run.parent_run_id,
        root_run_id=run.root_run_id,
        idempotency_key=run.idempotency_key,
        worker_id=worker_id,
        queue=run.queue,
        concurrency_key=run.concurrency_key or None,
        batch_id=run.batch_id,
        schedule_id=run.schedule_id,
        replayed_from=run.replayed_from,
        max_duration_s=given.max_duration_s,
        machine=given.preset,
        metadata=run.metadata or {},
    )

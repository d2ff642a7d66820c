"""Find what must not be, and put it right: a run that would wait for ever, an answer that nobody was told.

The verbs leave nothing like it behind, so this should never find anything. It is for what they can't know of: a row
changed by hand, a database restored from a backup, a fault of ours. `find_faults` looks, without a lock, at one page of
the runs that have not ended; `repair` looks again at one fault, under the locks it needs, and ends it in the way a verb
would have. So a fault that was none, or that passed meanwhile, is let be.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from torpor.engine import events
from torpor.engine.complete import settle
from torpor.engine.end import requeue
from torpor.engine.instants import to_iso
from torpor.engine.locks import lock_run, lock_runs_and_waiters
from torpor.engine.rescue import take_back
from torpor.engine.resume import wake
from torpor.engine.states import ENDS, LEASED, STATUS, RunState
from torpor.engine.versions import QUEUE_IS_DECLARED, queue_what_is_known
from torpor.store.database import Transaction
from torpor.store.records import Run, Waitpoint

SETTLED_S = 600.0
"""What is in order while something is under way (a dump, a hello, a heartbeat) is a fault when it has lasted so long."""


class FaultKind(StrEnum):
    """What can be wrong."""

    NOT_RESUMED = "a frozen run has its answer, or waits for nothing, and was not queued"
    NOT_TOLD = "a run that waits in memory has its answer and was not told"
    READY_FOR_NOTHING = "a run stands in line to go on without an answer"
    NOT_ANSWERED = "a run has ended and whoever waits for it was not answered"
    HELD_BY_NOBODY = "a run is leased to a worker that isn't there any more"
    WRONG_STORE = "a queued run is kept for a store that doesn't have its image"
    NOT_RELEASED = "a run waits for a version that is there"
    WRONG_COUNT = "a batch doesn't count the runs that it waits for"
    NOT_SETTLED = "a batch is complete and whoever waits for it was not answered"


@dataclass(frozen=True, slots=True)
class Fault:
    """`id` is that of a run, or of a batch."""

    kind: FaultKind
    id: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one page holds; `place` is where the next begins, None after the last one."""

    faults: list[Fault]
    place: str | None


async def find_faults(tx: Transaction, *, place: str = "", limit: int = 500, now: datetime) -> Look:
    """Look at the next runs that have not ended, and, with the first page, at all open batches. Changes nothing."""
    rows = await tx.fetch(
        "select id from runs where finished_at is null and id > $1 order by id limit $2", place, limit
    )
    page = [row["id"] for row in rows]
    before = now - timedelta(seconds=SETTLED_S)
    faults: list[Fault] = []
    for kind, statement in _OF_RUNS.items():
        needs_age = "$2" in statement
        found = await tx.fetch(statement, page, *([before] if needs_age else []))
        faults += [Fault(kind, row["id"]) for row in found]
    if not place:
        for kind, statement in _OF_BATCHES.items():
            faults += [Fault(kind, row["id"]) for row in await tx.fetch(statement)]
    return Look(faults, page[-1] if len(page) == limit else None)


async def repair(tx: Transaction, fault: Fault, *, now: datetime) -> bool:
    """End this fault; False if it is none (any more). Each in a transaction of its own: they lock what they need, in order.

    The story of the run, or of those that waited, says so (`run.repaired`).
    """
    return await _REPAIRS[fault.kind](tx, fault, now)


# -- how each is found ------------------------------------------------------------------------------------------------

_ANSWER = """
    select from waits join waitpoints on waitpoints.id = waits.waitpoint_id
    where waits.run_id = runs.id and waits.detached_at is null and waits.delivered_at is null
      and (waitpoints.status <> 'pending' or waits.timed_out_at is not null)"""

_OF_RUNS: dict[FaultKind, str] = {
    FaultKind.NOT_RESUMED: f"""
        select id from runs where id = any($1::text[]) and state = 'suspended'
          and (exists ({_ANSWER})
               or not exists (select from waits join waitpoints on waitpoints.id = waits.waitpoint_id
                              where waits.run_id = runs.id and waits.detached_at is null
                                and waitpoints.status = 'pending' and waits.timed_out_at is null))""",
    FaultKind.NOT_TOLD: f"""
        select id from runs where id = any($1::text[]) and state = 'waiting' and ready_at is null and updated_at < $2
          and exists ({_ANSWER} and coalesce(waits.timed_out_at, waitpoints.completed_at) < $2)""",
    FaultKind.READY_FOR_NOTHING: f"""
        select id from runs where id = any($1::text[]) and ready_at < $2 and not exists ({_ANSWER})""",
    FaultKind.NOT_ANSWERED: """
        select distinct awaited.id from waits
        join waitpoints on waitpoints.id = waits.waitpoint_id join runs awaited on awaited.id = waitpoints.awaited_run_id
        where waits.run_id = any($1::text[]) and waits.detached_at is null and waitpoints.status = 'pending'
          and awaited.finished_at is not null""",
    FaultKind.HELD_BY_NOBODY: """
        select id from runs where id = any($1::text[]) and worker_id is not null and updated_at < $2
          and not exists (select from workers where workers.id = runs.worker_id
                          and workers.instance_id = runs.instance_id)""",
    FaultKind.WRONG_STORE: """
        select runs.id from runs join checkpoints on checkpoints.id = runs.checkpoint_id
        where runs.id = any($1::text[]) and runs.state = 'queued'
          and runs.image_store_id is distinct from checkpoints.store_id""",
    FaultKind.NOT_RELEASED: f"""
        select runs.id from runs join environments on environments.id = runs.environment_id
        join tasks on tasks.environment_id = runs.environment_id and tasks.id = runs.task_id
            and tasks.version = coalesce(runs.locked_version, environments.current_version)
        where runs.id = any($1::text[]) and runs.state = 'pending_version' and {QUEUE_IS_DECLARED}""",
}

_LIVING_ITEMS = """(select count(*) from batch_items join runs on runs.id = batch_items.run_id
                    where batch_items.batch_id = batches.id and runs.finished_at is null)"""

_OF_BATCHES: dict[FaultKind, str] = {
    FaultKind.WRONG_COUNT: f"""
        select id from batches where completed_at is null and is_sealed and pending <> {_LIVING_ITEMS}""",
    FaultKind.NOT_SETTLED: """
        select batches.id from batches join waitpoints on waitpoints.id = batches.waitpoint_id
        where batches.completed_at is not null and settled_at is not null and waitpoints.status = 'pending'
          and waitpoints.kind = 'batch'""",
}


# -- how each is ended ------------------------------------------------------------------------------------------------


async def _still(tx: Transaction, fault: Fault, now: datetime) -> Run | None:
    """The run, locked, if the fault is still there once it is."""
    run = await lock_run(tx, fault.id)
    statement = _OF_RUNS[fault.kind]
    before = [now - timedelta(seconds=SETTLED_S)] if "$2" in statement else []
    return run if run is not None and await tx.fetchval(statement, [fault.id], *before) else None


async def _resume(tx: Transaction, fault: Fault, now: datetime) -> bool:
    run = await _still(tx, fault, now)
    if run is None:
        return False
    await requeue(tx, run, checkpoint_id=run.checkpoint_id, rescues=run.rescues, now=now)
    await _record(tx, run, fault, now)
    return True


async def _tell(tx: Transaction, fault: Fault, now: datetime) -> bool:
    run = await _still(tx, fault, now)
    if run is None:
        return False
    row = await tx.fetchrow(
        """select waitpoints.* from waits join waitpoints on waitpoints.id = waits.waitpoint_id
           where waits.run_id = $1 and waits.detached_at is null and waits.delivered_at is null
           order by waitpoints.completed_at nulls last limit 1""",
        run.id,
    )
    await wake(tx, run, Waitpoint.of(row), now=now)
    await _record(tx, run, fault, now)
    return True


async def _leave_the_line(tx: Transaction, fault: Fault, now: datetime) -> bool:
    run = await _still(tx, fault, now)
    if run is None:
        return False
    await tx.execute("update runs set ready_at = null, updated_at = $2 where id = $1", run.id, now)
    await _record(tx, run, fault, now)
    return True


async def _answer(tx: Transaction, fault: Fault, now: datetime) -> bool:
    """As `end` would have."""
    runs, waitpoints = await lock_runs_and_waiters(tx, [fault.id])
    ended = runs.get(fault.id)
    if ended is None or ended.state not in ENDS:
        return False
    woken: list[str] = []
    for waitpoint in waitpoints:
        if waitpoint.status == "pending":
            woken += await settle(
                tx,
                waitpoint,
                runs,
                status="completed" if ended.state == RunState.COMPLETED else "failed",
                output=ended.output,
                output_object=ended.output_object,
                error=ended.error,
                run_status=STATUS[RunState(ended.state)],
                now=now,
            )
    for run_id in woken:
        await _record(tx, runs[run_id], fault, now)
    return bool(woken)


async def _take_back(tx: Transaction, fault: Fault, now: datetime) -> bool:
    gone = await tx.fetch(_OF_RUNS[fault.kind], [fault.id], now - timedelta(seconds=SETTLED_S))
    if not gone:
        return False
    held_by = await tx.fetchrow("select worker_id, instance_id, lease from runs where id = $1", fault.id)

    def why(run: Run) -> str | None:
        is_the_same = (run.worker_id, run.instance_id, run.lease) == tuple(held_by or ())
        return "its worker isn't there any more" if is_the_same and run.state in LEASED else None

    # Not the run's fault, so it never makes a system failure.
    taken = await take_back(tx, [fault.id], why, max_rescues=2**31 - 1, now=now)
    for run_id in taken:
        await events.record(tx, run_id, "run.repaired", now=now, data={"reason": str(fault.kind)})
    return bool(taken)


async def _keep_for_its_store(tx: Transaction, fault: Fault, now: datetime) -> bool:
    run = await _still(tx, fault, now)
    if run is None:
        return False
    await tx.execute(
        """update runs set updated_at = $2, image_store_id = (select store_id from checkpoints where id = $3)
           where id = $1""",
        run.id,
        now,
        run.checkpoint_id,
    )
    await tx.notify("work", environment_id=run.environment_id)
    await _record(tx, run, fault, now)
    return True


async def _release(tx: Transaction, fault: Fault, now: datetime) -> bool:
    run = await _still(tx, fault, now)
    if run is None:
        return False
    await queue_what_is_known(tx, None, [run.id], now=now)
    await _record(tx, run, fault, now)
    return True


async def _count(tx: Transaction, fault: Fault, now: datetime) -> bool:
    # Under the batch's lock: a run that ends meanwhile waits for it to count itself down, or has done so.
    await tx.execute("select from batches where id = $1 for no key update", fault.id)
    pending = await tx.fetchval(
        f"""update batches set pending = {_LIVING_ITEMS},
                run_count = greatest(run_count, {_LIVING_ITEMS}),
                completed_at = case when {_LIVING_ITEMS} = 0 then $2::timestamptz end
            where id = $1 and completed_at is null and is_sealed and pending <> {_LIVING_ITEMS} returning pending""",
        fault.id,
        now,
    )
    if pending == 0:
        await tx.notify("timer", due_at=to_iso(now))
    return pending is not None


async def _settle_again(tx: Transaction, fault: Fault, now: datetime) -> bool:
    """The timers settle it, as ever."""
    statement = (
        f"""update batches set settled_at = null where id = $1 and id in ({_OF_BATCHES[fault.kind]}) returning id"""
    )
    if await tx.fetchval(statement, fault.id) is None:
        return False
    await tx.notify("timer", due_at=to_iso(now))
    return True


async def _record(tx: Transaction, run: Run, fault: Fault, now: datetime) -> None:
    data = {"reason": str(fault.kind)}
    await events.record(tx, run.id, "run.repaired", now=now, attempt=run.attempt or None, data=data)


_REPAIRS: dict[FaultKind, Callable[[Transaction, Fault, datetime], Awaitable[bool]]] = {
    FaultKind.NOT_RESUMED: _resume,
    FaultKind.NOT_TOLD: _tell,
    FaultKind.READY_FOR_NOTHING: _leave_the_line,
    FaultKind.NOT_ANSWERED: _answer,
    FaultKind.HELD_BY_NOBODY: _take_back,
    FaultKind.WRONG_STORE: _keep_for_its_store,
    FaultKind.NOT_RELEASED: _release,
    FaultKind.WRONG_COUNT: _count,
    FaultKind.NOT_SETTLED: _settle_again,
}

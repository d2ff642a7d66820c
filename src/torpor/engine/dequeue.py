"""Hand runs out to a worker: each under a lease, as an attempt to start or a checkpoint to restore."""

from datetime import datetime

import msgspec

from torpor.engine import answers, events
from torpor.engine.instants import after, to_iso
from torpor.engine.wait import set_open_waits
from torpor.store.database import Transaction
from torpor.store.records import Checkpoint, Environment, Run
from torpor.wire.http import Assignment, StoredCheckpoint
from torpor.wire.runner import Answer, RunContext


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
    """queued -> dequeued, for up to `free` runs: those to restore first, then by their place in the line.

    For a worker that has said hello; any other instance gets nothing (its heartbeat tells it to say hello). Fresh
    attempts start with the environment's current version, so only a worker that has it gets them. A checkpoint is on
    one worker's disk, so only that worker gets its run. `number` is the worker's own for this request: by it rescue.py knows an
    assignment whose reply was lost.
    """
    # The share makes a new instance's hello wait: it must find, and take back, what is handed out here.
    found = await tx.fetchrow(
        """select environments.*, workers.version as imported
           from workers join environments on environments.id = workers.environment_id
           where workers.id = $1 and workers.instance_id = $2 for share of workers""",
        worker_id,
        instance_id,
    )
    if found is None or free < 1:
        return []
    known = dict(found)
    # What the request names, and what its worker may have imported while the request was held.
    at_hand = [*versions, known.pop("imported")]
    environment = Environment.of(known)
    can_start = environment.current_version in at_hand
    rows = await _take(tx, environment, worker_id, free, can_start, can_restore, now)
    await _share_waitpoints(tx, [row["checkpoint_id"] for row in rows if row["checkpoint_id"]])
    assignments: list[Assignment] = []
    for row in rows:
        assignments.append(await _hand_out(tx, Run.of(row), environment, worker_id, instance_id, number, lease_s, now))
    return assignments


async def _take(
    tx: Transaction,
    environment: Environment,
    worker_id: str,
    free: int,
    can_start: bool,
    can_restore: bool,
    now: datetime,
):
    """Lock what this worker can do now; skip what others are locking, so that workers never queue for each other."""
    return await tx.fetch(
        """select runs.* from runs
           where environment_id = $1 and state = 'queued' and available_at <= $2
             and case when checkpoint_id is null
                 then $3 and exists (select from tasks where tasks.environment_id = runs.environment_id
                                     and tasks.version = $4 and tasks.id = runs.task_id)
                 else $5 and exists (select from checkpoints where checkpoints.id = runs.checkpoint_id
                                     and checkpoints.worker_id = $6) end
           order by (checkpoint_id is null), available_at, id
           limit $7 for no key update of runs skip locked""",
        environment.id,
        now,
        can_start,
        environment.current_version,
        can_restore,
        worker_id,
        free,
    )


async def _share_waitpoints(tx: Transaction, checkpoint_ids: list[str]) -> None:
    """A share of every waitpoint that the hand-outs will tie again (set_open_waits): of all runs at once, so in order."""
    if checkpoint_ids:
        await tx.execute(
            """select from waitpoints where id in (
                   select waits.waitpoint_id from checkpoints join waits on waits.run_id = checkpoints.run_id
                   where checkpoints.id = any($1::text[]) and waits.wait_id = any(checkpoints.open_waits))
               order by id for share""",
            checkpoint_ids,
        )


async def _hand_out(
    tx: Transaction,
    run: Run,
    environment: Environment,
    worker_id: str,
    instance_id: str,
    number: int,
    lease_s: float,
    now: datetime,
) -> Assignment:
    checkpoint = await _checkpoint(tx, run)
    version = run.version if checkpoint else environment.current_version
    assert version is not None
    lease = run.lease + 1
    attempt = await _open_attempt(tx, run, version, worker_id, lease, now)
    await tx.execute(
        """update runs set state = 'dequeued', lease = $2, lease_expires_at = $3, worker_id = $4, instance_id = $5,
               version = $6, attempt = $7, updated_at = $8, handed_out_at = $8, handed_out_for = $9 where id = $1""",
        run.id,
        lease,
        after(now, lease_s),
        worker_id,
        instance_id,
        version,
        attempt,
        now,
        number,
    )
    data = {"worker_id": worker_id, "lease": lease, "version": version}
    if checkpoint:
        data["checkpoint_id"] = checkpoint.id
    await events.record(tx, run.id, "run.dequeued", now=now, attempt=attempt, data=data)
    return Assignment(
        run_id=run.id,
        lease=lease,
        lease_s=lease_s,
        task_id=run.task_id,
        version=version,
        context=_context(run, environment, version, attempt, worker_id),
        payload=msgspec.Raw((run.payload or "null").encode()),
        checkpoint=_stored(checkpoint) if checkpoint else None,
        answers=await _answers(tx, run, checkpoint, now) if checkpoint else [],
        due_at=to_iso(run.due_at) if checkpoint and run.due_at else None,
    )


async def _open_attempt(tx: Transaction, run: Run, version: str, worker_id: str, lease: int, now: datetime) -> int:
    """The number of the open attempt (a restore, or a hand-out that came to nothing, goes on with it), else a new one."""
    continued = await tx.fetchval(
        """update attempts set worker_id = $3, lease = $4, version = $5
           where run_id = $1 and number = $2 and outcome is null returning number""",
        run.id,
        run.attempt,
        worker_id,
        lease,
        version,
    )
    if continued is not None:
        return continued
    await tx.execute(
        """insert into attempts (run_id, number, version, worker_id, lease, dequeued_at)
           values ($1, $2, $3, $4, $5, $6)""",
        run.id,
        run.attempt + 1,
        version,
        worker_id,
        lease,
        now,
    )
    return run.attempt + 1


async def _checkpoint(tx: Transaction, run: Run) -> Checkpoint | None:
    if run.checkpoint_id is None:
        return None
    return Checkpoint.of(await tx.fetchrow("select * from checkpoints where id = $1", run.checkpoint_id))


async def _answers(tx: Transaction, run: Run, checkpoint: Checkpoint, now: datetime) -> list[Answer]:
    """The answers to what the frozen process waits for, whatever a later process, now dead, was told or had dropped."""
    await set_open_waits(tx, run.id, checkpoint.open_waits, now=now)
    await tx.execute("update waits set delivered_at = null where run_id = $1 and detached_at is null", run.id)
    return [wait.answer() for wait in await answers.tied(tx, run.id) if not wait.is_open]


def _stored(checkpoint: Checkpoint) -> StoredCheckpoint:
    return StoredCheckpoint(
        id=checkpoint.id,
        size_bytes=checkpoint.size_bytes,
        files_bytes=checkpoint.files_bytes,
        dump_ms=checkpoint.dump_ms,
        durable_ms=checkpoint.durable_ms,
        rss_bytes=checkpoint.rss_bytes,
        facts=checkpoint.facts,
    )


def _context(run: Run, environment: Environment, version: str, attempt: int, worker_id: str) -> RunContext:
    return RunContext(
        run_id=run.id,
        task_id=run.task_id,
        attempt=attempt,
        max_attempts=run.max_attempts,
        version=version,
        environment=environment.slug,
        tags=run.tags,
        is_test=run.is_test,
        created_at=to_iso(run.created_at),
        started_at=to_iso(run.started_at) if run.started_at else None,
        parent_run_id=run.parent_run_id,
        root_run_id=run.root_run_id,
        idempotency_key=run.idempotency_key,
        worker_id=worker_id,
    )

"""A worker can't do what its assignment asks."""

from datetime import datetime

from torpor.engine import events
from torpor.engine.end import close_attempt, end, requeue
from torpor.engine.locks import fenced, lock_runs_and_waiters
from torpor.engine.outcomes import Lease, Ok, Stale
from torpor.engine.rescue import poison
from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.store.records import Run, Waitpoint
from torpor.wire.http import Refusal


async def refuse(tx: Transaction, lease: Lease, refusal: Refusal, *, max_rescues: int = 5, now: datetime) -> Ok | Stale:
    """dequeued -> queued: the run goes back, nothing of the user's ran. For the worker that holds the lease.

    With `checkpoint_unusable`: that image is never handed out again; the run goes on from the one before it, else with
    a new attempt from the top, else (no attempts left) it has crashed. Any other refusal counts as a rescue, so that a
    run which nobody can start ends as a system_failure. One that was asked to end is canceled. Stale also when the run has
    started: too late to refuse.
    """
    around = await lock_runs_and_waiters(tx, [lease.run_id])
    run = fenced(around[0].get(lease.run_id), lease)
    if isinstance(run, Stale):
        return run
    if run.state != RunState.DEQUEUED:
        return Stale(run.lease)
    if run.cancel_requested_at is not None:
        data = {"reason": run.cancel_reason} if run.cancel_reason else None
        await end(tx, run, RunState.CANCELED, around, data=data, now=now)
        return Ok()
    if refusal.checkpoint_unusable and run.checkpoint_id is not None:
        await _do_without(tx, run, run.checkpoint_id, refusal.reason, around, now=now)
        return Ok()
    data = {"reason": refusal.reason, "rescues": run.rescues + 1, "worker_id": run.worker_id}
    if run.rescues + 1 > max_rescues:
        error = await poison(tx, run, refusal.reason, now=now)
        await end(tx, run, RunState.SYSTEM_FAILURE, around, error=error, data=data, now=now)
    else:
        await requeue(tx, run, checkpoint_id=run.checkpoint_id, rescues=run.rescues + 1, now=now)
        await events.record(tx, run.id, "run.refused", now=now, attempt=run.attempt, data=data)
    return Ok()


async def _do_without(
    tx: Transaction,
    run: Run,
    checkpoint_id: str,
    reason: str,
    around: tuple[dict[str, Run], list[Waitpoint]],
    *,
    now: datetime,
) -> None:
    """Go on without that image."""
    await tx.execute(
        "update checkpoints set state = 'unusable', reason = $2 where id = $1", checkpoint_id, reason or "not said"
    )
    previous = await tx.fetchval(
        """update checkpoints set state = 'current' where run_id = $1 and state = 'previous' returning id""", run.id
    )
    has_attempts = run.attempt < run.max_attempts
    goes_on = "previous checkpoint" if previous else "new attempt" if has_attempts else "crashed"
    data = {"checkpoint_id": checkpoint_id, "reason": reason, "worker_id": run.worker_id, "continues": goes_on}
    await events.record(tx, run.id, "run.checkpoint_refused", now=now, attempt=run.attempt, data=data)
    if previous:
        await requeue(tx, run, checkpoint_id=previous, rescues=run.rescues, now=now)
        return
    error = {"name": "CheckpointUnusable", "message": f"the run's checkpoint can't be restored: {reason}"}
    if has_attempts:
        await close_attempt(tx, run, "crashed", error=error, now=now)
        await requeue(tx, run, checkpoint_id=None, rescues=run.rescues, now=now)
    else:
        await end(tx, run, RunState.CRASHED, around, error=error, now=now)

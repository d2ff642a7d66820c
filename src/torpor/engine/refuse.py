"""A worker can't do what its assignment asks."""

from datetime import datetime

from torpor.engine import events, fall_back
from torpor.engine.end import end, requeue
from torpor.engine.locks import fenced, lock_runs_and_waiters
from torpor.engine.outcomes import Lease, Ok, Stale
from torpor.engine.rescue import poison
from torpor.engine.states import LEASED, RunState
from torpor.store.database import Transaction
from torpor.store.records import Run
from torpor.wire.http import Refusal


async def refuse(tx: Transaction, lease: Lease, refusal: Refusal, *, max_rescues: int = 5, now: datetime) -> Ok | Stale:
    """dequeued -> queued: the run goes back, nothing of the user's ran. For the worker that holds the lease.

    With `checkpoint_unusable`: that image is never handed out again; the run goes on from the one before it, else with
    a new attempt from the top, else (no attempts left) it has crashed (fall_back.py). With `unfit`: no worker of this one's
    fitness gets that image again; another one may, or the run waits for one to come. Any other refusal counts as a
    rescue, so that a run which nobody can start ends as a system_failure. One that was asked to end is canceled. Stale
    also when the run has started: too late to refuse.

    With `lost` any leased state -> queued: it had started, and its worker could not keep its process alive.
    """
    around = await lock_runs_and_waiters(tx, [lease.run_id])
    run = fenced(around[0].get(lease.run_id), lease)
    if isinstance(run, Stale):
        return run
    if run.state != RunState.DEQUEUED and not (refusal.lost and run.state in LEASED):
        return Stale(run.lease)
    if run.cancel_requested_at is not None:
        data = {"reason": run.cancel_reason} if run.cancel_reason else None
        await end(tx, run, RunState.CANCELED, around, data=data, now=now)
        return Ok()
    if refusal.checkpoint_unusable and run.checkpoint_id is not None:
        await fall_back.do_without(tx, run, refusal.reason, around, is_damaged=True, now=now)
        return Ok()
    if refusal.unfit and run.checkpoint_id is not None:
        await _pass_on(tx, run, run.checkpoint_id, refusal.reason, now=now)
        return Ok()
    data = {"reason": refusal.reason, "rescues": run.rescues + 1, "worker_id": run.worker_id}
    if run.rescues + 1 > max_rescues:
        error = await poison(tx, run, refusal.reason, now=now)
        await end(tx, run, RunState.SYSTEM_FAILURE, around, error=error, data=data, now=now)
    else:
        await requeue(tx, run, checkpoint_id=run.checkpoint_id, rescues=run.rescues + 1, now=now)
        await events.record(tx, run.id, "run.refused", now=now, attempt=run.attempt, data=data)
    return Ok()


async def _pass_on(tx: Transaction, run: Run, checkpoint_id: str, reason: str, *, now: datetime) -> None:
    """To a worker of another fitness, if one is here; else the run waits for one, as long as give_up has patience."""
    await fall_back.learn(tx, run, reason, now=now)
    is_fit = await fall_back.is_fit_for_somebody(tx, checkpoint_id, now=now)
    data = {
        "checkpoint_id": checkpoint_id,
        "reason": reason,
        "worker_id": run.worker_id,
        "continues": "another worker" if is_fit else "when a worker comes that can use it",
    }
    await requeue(tx, run, checkpoint_id=checkpoint_id, rescues=run.rescues, now=now)
    await events.record(tx, run.id, "run.checkpoint_refused", now=now, attempt=run.attempt, data=data)

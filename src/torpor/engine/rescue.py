"""Take runs back whose lease is over although nobody ended it: the worker is silent, or has started anew."""

from collections.abc import Callable
from datetime import datetime

from torpor.engine import events
from torpor.engine.end import end, requeue, tell_stale
from torpor.engine.locks import lock_runs_and_waiters
from torpor.engine.states import LEASED, RunState
from torpor.store.database import Transaction
from torpor.store.records import Run


async def rescue(tx: Transaction, *, max_rescues: int, limit: int = 100, now: datetime) -> list[str]:
    """Leases that ran out -> queued, from the run's checkpoint if it has one, else from the top, in the same attempt.

    For the server's rescue loop. A run that was taken back more than `max_rescues` times without progress is a
    system_failure: it takes its workers down with it. Returns the runs taken back either way. That the lease ran out
    doesn't prove the process dead; whatever it still says is stale.
    """
    rows = await tx.fetch(
        "select id from runs where lease_expires_at < $1 order by lease_expires_at limit $2", now, limit
    )
    return await take_back(
        tx,
        [row["id"] for row in rows],
        lambda run: run.lease_expires_at is not None and run.lease_expires_at < now,
        reason="its worker went silent",
        max_rescues=max_rescues,
        now=now,
    )


async def take_back(
    tx: Transaction,
    run_ids: list[str],
    is_lost: Callable[[Run], bool],
    *,
    reason: str,
    max_rescues: int,
    now: datetime,
) -> list[str]:
    """End these leases, if they are still lost once the rows are locked (a heartbeat may have been quicker)."""
    if not run_ids:
        return []
    around = await lock_runs_and_waiters(tx, run_ids)
    taken: list[str] = []
    for run_id in run_ids:
        run = around[0].get(run_id)
        if run is None or run.state not in LEASED or not is_lost(run):
            continue
        await tell_stale(tx, run)
        data = {"reason": reason, "rescues": run.rescues + 1, "worker_id": run.worker_id}
        if run.rescues + 1 > max_rescues:
            message = f"the run was taken back {run.rescues + 1} times without progress; the last time because {reason}"
            error = {"name": "SystemFailure", "message": message}
            await end(tx, run, RunState.SYSTEM_FAILURE, around, error=error, data=data, now=now)
        else:
            await requeue(tx, run, checkpoint_id=run.checkpoint_id, rescues=run.rescues + 1, now=now)
            await events.record(tx, run.id, "run.rescued", now=now, attempt=run.attempt, data=data)
        taken.append(run.id)
    return taken

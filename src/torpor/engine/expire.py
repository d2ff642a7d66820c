"""End runs that nobody started in time."""

from collections.abc import Collection
from datetime import datetime

import msgspec

from torpor.engine.end import end
from torpor.engine.locks import lock_runs_and_waiters
from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.store.records import Run
from torpor.wire.runner import TaskError


async def expire(
    tx: Transaction,
    *,
    limit: int = 100,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    now: datetime,
) -> int:
    """queued, pending_version -> expired, for runs that never started and whose ttl is over. For fire_due.

    Whoever waits for one gets a failed answer with the status EXPIRED, and its idempotency key is free. Picked without a
    lock, then locked in the one order (a run that waits for it may come first), then looked at again; what another
    transaction is about to start, cancel or expire is left to that.
    """
    picked = await _pick(tx, limit, only, skip, now)
    if not picked:
        return 0
    around = await lock_runs_and_waiters(tx, picked)
    count = 0
    for run_id in picked:
        run = around[0][run_id]
        if _is_over(run, now):
            reason = _reason(run)
            error = msgspec.to_builtins(TaskError(name="Expired", message=reason))
            await end(tx, run, RunState.EXPIRED, around, error=error, data={"reason": reason}, now=now)
            count += 1
    return count


async def _pick(
    tx: Transaction, limit: int, only: Collection[str] | None, skip: Collection[str], now: datetime
) -> list[str]:
    """Those that nobody holds now: the look takes their locks, and gives them back."""
    look = tx.savepoint()
    await look.start()
    rows = await tx.fetch(
        """select id from runs where expires_at <= $1 and started_at is null and state in ('queued', 'pending_version')
             and ($3::text[] is null or id = any($3)) and not id = any($4::text[])
           order by expires_at limit $2 for no key update skip locked""",
        now,
        limit,
        only,
        skip,
    )
    await look.rollback()
    return sorted(row["id"] for row in rows)


def _is_over(run: Run, now: datetime) -> bool:
    return (
        run.state in (RunState.QUEUED, RunState.PENDING_VERSION)
        and run.started_at is None
        and run.expires_at is not None
        and run.expires_at <= now
    )


def _reason(run: Run) -> str:
    if run.state == RunState.PENDING_VERSION:
        what = f"version {run.locked_version}" if run.locked_version else f"a version with the task {run.task_id}"
        return f"{what} did not come in time"
    return f"not started within its ttl of {run.ttl_s:g} s"

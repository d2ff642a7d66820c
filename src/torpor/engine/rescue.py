"""Take runs back that a worker was given and nobody ended: it is silent, has started anew, never got them, or never starts
them.

**A lost reply.** When the reply to a request for work is lost on the way, only the engine knows of the assignments in it,
and their leases run out. `take_back_lost` doesn't wait for that. A worker instance has one request for work under way at a
time. Each one that it sends, a repeated one too, has the next higher number, and names all leases that it has got by
earlier ones. Before it sends number n it has either read the reply to n-1, or given that connection up, so that the reply
can't arrive any more. Therefore what was handed out for a number below n, and is not named in n, never will arrive. Nothing
else is taken back:

- A copy of an old request that comes late has a number that is not above those of later hand-outs: they are left alone.
- An older request that the server still holds, though its connection is dead, may hand out more. That has the older
  number, and the next request finds it.
- A run that the worker has started, refused or ended isn't `dequeued` any more, or is under another lease.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from torpor.engine import events
from torpor.engine.end import end, requeue, tell_stale
from torpor.engine.locks import lock_runs_and_waiters
from torpor.engine.states import LEASED, RunState
from torpor.store.database import Transaction
from torpor.store.records import Run, Waitpoint
from torpor.wire.http import HeldLease

BOOT_TIMEOUT_S = 120.0
CANCEL_TIMEOUT_S = 60.0
"""A worker ends a canceled run after thirty seconds at the latest. One that has not by now can't."""


async def rescue(
    tx: Transaction,
    *,
    max_rescues: int,
    boot_timeout_s: float = BOOT_TIMEOUT_S,
    limit: int = 100,
    now: datetime,
) -> list[str]:
    """Leases that nobody will end well -> queued, from the run's checkpoint if it has one, else from the top, in the same
    attempt.

    For the server's rescue loop. Such are: a lease that ran out; a run that its worker renews but has not started
    `boot_timeout_s` after the worker's own patience with it was over; a canceled run that its worker doesn't end
    (-> canceled). A run that was taken back more than `max_rescues` times without progress is a system_failure: it takes
    its workers down with it. Returns the runs taken back either way. That a lease ran out doesn't prove the process dead;
    whatever it still says is stale.
    """
    booting_until = now - timedelta(seconds=boot_timeout_s)
    canceling_until = now - timedelta(seconds=CANCEL_TIMEOUT_S)
    rows = await tx.fetch(
        """(select id, 'lease' as why from runs where lease_expires_at < $1 order by lease_expires_at limit $4)
           union all
           (select runs.id, 'boot' from runs join workers on workers.id = runs.worker_id
            where runs.state = 'dequeued'
              and runs.handed_out_at + make_interval(secs => coalesce((workers.facts->>'start_patience_s')::float8, 0)) < $2
            limit $4)
           union all
           (select id, 'cancel' from runs where cancel_requested_at < $3 and finished_at is null
              and lease_expires_at is not null limit $4)""",
        now,
        booting_until,
        canceling_until,
        limit,
    )
    suspected: dict[str, str] = {}
    for row in rows[:limit]:
        suspected.setdefault(row["id"], row["why"])

    def why(run: Run) -> str | None:
        if run.lease_expires_at is not None and run.lease_expires_at < now:
            return "its worker went silent"
        if suspected[run.id] == "boot" and run.state == RunState.DEQUEUED and _before(run.handed_out_at, booting_until):
            return f"its worker did not start it within {_whole((now - (run.handed_out_at or now)).total_seconds())} s"
        if run.cancel_requested_at is not None and run.cancel_requested_at < canceling_until:
            return "it was canceled and its worker did not end it"
        return None

    return await take_back(tx, list(suspected), why, max_rescues=max_rescues, now=now)


async def take_back_lost(
    tx: Transaction,
    worker_id: str,
    instance_id: str,
    number: int,
    holding: Sequence[HeldLease] | None,
    *,
    max_rescues: int,
    now: datetime,
) -> list[str]:
    """Queue again what was handed out to this worker instance in replies that never arrived (see above).

    For each of its requests for work, before anything else is done about it. They count as rescues: an assignment that
    breaks its own delivery, again and again, has to end. Returns the runs taken back. A worker that doesn't count its
    requests (number 0) loses what is lost for the time of a lease.
    """
    if number < 1 or holding is None:
        return []
    rows = await tx.fetch(
        """select id, lease from runs
           where worker_id = $1 and instance_id = $2 and state = 'dequeued' and handed_out_for between 1 and $3""",
        worker_id,
        instance_id,
        number - 1,
    )
    held = {(lease.run_id, lease.lease) for lease in holding}
    lost = {row["id"]: row["lease"] for row in rows if (row["id"], row["lease"]) not in held}

    def why(run: Run) -> str | None:
        is_the_same = run.state == RunState.DEQUEUED and run.lease == lost[run.id]
        return "its worker never got it: the reply was lost on the way" if is_the_same else None

    return await take_back(tx, list(lost), why, max_rescues=max_rescues, now=now)


async def take_back(
    tx: Transaction,
    run_ids: list[str],
    why: Callable[[Run], str | None],
    *,
    max_rescues: int,
    now: datetime,
) -> list[str]:
    """End these leases for the reason that `why` gives, asked once the rows are locked: None if it is none any more (a
    heartbeat, or the start, may have been quicker).
    """
    if not run_ids:
        return []
    around = await lock_runs_and_waiters(tx, run_ids)
    taken: list[str] = []
    for run_id in sorted(run_ids):
        run = around[0].get(run_id)
        reason = why(run) if run is not None and run.state in LEASED else None
        if run is None or reason is None:
            continue
        await tell_stale(tx, run)
        await _put_back(tx, run, around, reason, max_rescues=max_rescues, now=now)
        taken.append(run.id)
    return taken


async def _put_back(
    tx: Transaction,
    run: Run,
    around: tuple[dict[str, Run], list[Waitpoint]],
    reason: str,
    *,
    max_rescues: int,
    now: datetime,
) -> None:
    """queued; or over, if it was to end anyhow or this happened too often."""
    data = {"reason": reason, "rescues": run.rescues + 1, "worker_id": run.worker_id}
    if run.cancel_requested_at is not None:
        told = {"reason": run.cancel_reason, "note": reason}
        await end(tx, run, RunState.CANCELED, around, data=told, now=now)
    elif run.rescues + 1 > max_rescues:
        error = await poison(tx, run, reason, now=now)
        await end(tx, run, RunState.SYSTEM_FAILURE, around, error=error, data=data, now=now)
    else:
        await requeue(tx, run, checkpoint_id=run.checkpoint_id, rescues=run.rescues + 1, now=now)
        await events.record(tx, run.id, "run.rescued", now=now, attempt=run.attempt, data=data)


async def poison(tx: Transaction, run: Run, reason: str, *, now: datetime) -> dict[str, Any]:
    """The error of a run that was handed out in vain too often: every reason since it last got anywhere, oldest first."""
    rows = await tx.fetch(
        """select at, data from events where run_id = $1 and kind in ('run.rescued', 'run.refused')
           order by id desc limit $2""",
        run.id,
        run.rescues,
    )
    told = [(row["at"], row["data"].get("worker_id"), row["data"].get("reason")) for row in reversed(rows)]
    told.append((now, run.worker_id, reason))
    lines = [f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {worker_id}: {why}" for at, worker_id, why in told]
    message = f"handed out {len(told)} times without progress, and taken back or refused each time:\n" + "\n".join(
        lines
    )
    return {"name": "SystemFailure", "message": message}


def _before(at: datetime | None, limit: datetime) -> bool:
    return at is not None and at < limit


def _whole(seconds: float) -> str:
    return f"{seconds:.0f}"

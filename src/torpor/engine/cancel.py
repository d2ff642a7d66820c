"""End a run because a user says so: by itself where it has a process, at once where it has none.

    queued, delayed, suspended, …    canceled at once
    dequeued, executing, waiting     asked (news "cancel"): the process ends by itself, or its worker kills it after a
                                     while; whatever the worker reports then, the run is canceled (finish)
                                     its worker fell silent: rescue ends it, a minute after the request at the latest

Its children are canceled as well: cascade.py, in small steps of its own.
"""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine import events
from torpor.engine.end import end, note_children, tell_stale
from torpor.engine.locks import lock_runs_and_waiters
from torpor.engine.outcomes import Unknown
from torpor.engine.states import ENDS, LEASED, RunState
from torpor.store.database import Transaction
from torpor.store.records import Run, Waitpoint

MAX_REASON_CHARS = 500
"""A reason travels in notifications, which Postgres limits to 8000 bytes."""


@dataclass(frozen=True, slots=True)
class Canceled:
    """It is over. A worker that has the process is told to kill it."""


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Its process was asked to end, now or by an earlier request."""


@dataclass(frozen=True, slots=True)
class AlreadyEnded:
    """Too late, or the same request twice. Nothing has changed."""

    state: RunState


async def cancel(
    tx: Transaction,
    environment_id: str,
    run_id: str,
    *,
    reason: str | None = None,
    at_once: bool = False,
    now: datetime,
) -> Canceled | CancelRequested | AlreadyEnded | Unknown:
    """Any state that is not an end -> canceled, or asked to become so. For the API.

    `at_once` doesn't wait for the process to end by itself: its worker is told to kill it. Whoever waits for the run gets
    a failed answer with the status CANCELED. Its children are canceled by `cascade`.
    """
    around = await lock_runs_and_waiters(tx, [run_id])
    run = around[0].get(run_id)
    if run is None or run.environment_id != environment_id:
        return Unknown()
    return await cancel_locked(tx, run, around, reason=reason, at_once=at_once, now=now)


async def cancel_locked(
    tx: Transaction,
    run: Run,
    around: tuple[dict[str, Run], list[Waitpoint]],
    *,
    reason: str | None,
    at_once: bool = False,
    now: datetime,
) -> Canceled | CancelRequested | AlreadyEnded:
    """As `cancel`, for who holds the run and what is around it."""
    if run.state in ENDS:
        return AlreadyEnded(RunState(run.state))
    reason = reason[:MAX_REASON_CHARS] if reason else None
    if run.state in LEASED and not at_once:
        await _ask(tx, run, reason, now=now)
        return CancelRequested()
    told = reason or run.cancel_reason
    await end(tx, run, RunState.CANCELED, around, data={"reason": told} if told else None, now=now)
    await tell_stale(tx, run)
    return Canceled()


async def _ask(tx: Transaction, run: Run, reason: str | None, *, now: datetime) -> None:
    """To the worker, which passes it on. Asked again it is told again, in case that was lost; heartbeats do the same."""
    if run.cancel_requested_at is None:
        await tx.execute(
            "update runs set cancel_requested_at = $2, cancel_reason = $3, updated_at = $2 where id = $1",
            run.id,
            now,
            reason,
        )
        data = {"reason": reason} if reason else None
        await events.record(tx, run.id, "run.cancel_requested", now=now, attempt=run.attempt or None, data=data)
        await note_children(tx, run.id, now=now)
    await tx.notify(
        "news",
        worker_id=run.worker_id,
        run_id=run.id,
        lease=run.lease,
        kind="cancel",
        reason=run.cancel_reason or reason,
    )

"""End a run because a user says so."""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.end import end, tell_stale
from torpor.engine.locks import lock_runs_and_waiters
from torpor.engine.outcomes import Unknown
from torpor.engine.states import ENDS, RunState
from torpor.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Canceled:
    """It is over. A worker that has the process is told to kill it."""


@dataclass(frozen=True, slots=True)
class AlreadyEnded:
    """Too late, or the same request twice. Nothing has changed."""

    state: RunState


async def cancel(
    tx: Transaction, environment_id: str, run_id: str, *, reason: str | None = None, now: datetime
) -> Canceled | AlreadyEnded | Unknown:
    """Any state that is not an end -> canceled. For the API.

    Whoever waits for the run gets a failed answer with the status CANCELED. Its children go on.
    """
    around = await lock_runs_and_waiters(tx, [run_id])
    run = around[0].get(run_id)
    if run is None or run.environment_id != environment_id:
        return Unknown()
    if run.state in ENDS:
        return AlreadyEnded(RunState(run.state))
    await end(tx, run, RunState.CANCELED, around, data={"reason": reason} if reason else None, now=now)
    await tell_stale(tx, run)
    return Canceled()

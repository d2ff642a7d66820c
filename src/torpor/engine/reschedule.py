"""Move a delayed run to another time."""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine import events
from torpor.engine.instants import to_iso
from torpor.engine.locks import lock_run
from torpor.engine.outcomes import Unknown
from torpor.engine.states import RunState
from torpor.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Rescheduled:
    """It is released then; at once, if that has passed."""

    until: datetime


@dataclass(frozen=True, slots=True)
class NotDelayed:
    """Only a delayed run has a time to move. Nothing has changed."""

    state: RunState


async def reschedule(
    tx: Transaction, environment_id: str, run_id: str, until: datetime, *, now: datetime
) -> Rescheduled | NotDelayed | Unknown:
    """A delayed run is due then instead, sooner or later. For the API; also while it is delayed before a retry."""
    run = await lock_run(tx, run_id)
    if run is None or run.environment_id != environment_id:
        return Unknown()
    if run.state != RunState.DELAYED:
        return NotDelayed(RunState(run.state))
    until = max(until, now)
    await tx.execute(
        "update runs set available_at = $2, delay_until = $2, updated_at = $3 where id = $1", run.id, until, now
    )
    await events.record(tx, run.id, "run.rescheduled", now=now, data={"until": to_iso(until)})
    await tx.notify("timer", due_at=to_iso(until))
    return Rescheduled(until)

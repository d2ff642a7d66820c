"""A waitpoint was answered: queue the frozen run again, or tell the worker that holds the living process."""

from datetime import datetime
from typing import Any

import msgspec

from torpor.engine import events, slots
from torpor.engine.states import LEASED, RunState
from torpor.store.database import Transaction
from torpor.store.records import Run, Waitpoint

MAX_SAID_CHARS = 500


async def wake(tx: Transaction, run: Run, answered: Waitpoint, *, now: datetime) -> None:
    """What an answer means to a run tied to that waitpoint. The caller holds the run's row and has written the answer.

    A queued run needs nothing: it gets all its answers at the hand-out.
    """
    if run.state == RunState.SUSPENDED:
        await resume(tx, run, answered, now=now)
    elif run.state == RunState.WAITING and await slots.is_limited(tx, run):
        await stand_in_line(tx, run, now=now)
    elif run.state in LEASED:
        await tx.notify("news", worker_id=run.worker_id, run_id=run.id, lease=run.lease, kind="answered")


async def stand_in_line(tx: Transaction, run: Run, *, now: datetime) -> None:
    """A run that waits in memory has an answer, and gave its slot back when it began to wait: `grant` gives it another.

    It stays `waiting` until then. The caller holds the run's row.
    """
    assert run.state == RunState.WAITING, run.state
    await tx.execute("update runs set ready_at = coalesce(ready_at, $2), updated_at = $2 where id = $1", run.id, now)
    await tx.notify("grant", environment_id=run.environment_id)


async def resume(tx: Transaction, run: Run, answered: Waitpoint, *, now: datetime) -> None:
    """suspended -> queued, with the checkpoint it left behind. For whoever completed a waitpoint of this run.

    When two waitpoints are answered one after the other, the first resumes and the second finds it queued.
    """
    assert run.state == RunState.SUSPENDED, run.state
    # A timer is late by as much as nobody looked; the figures of the story count from when it was due.
    due_at = min(answered.due_at, now) if answered.due_at else now
    await tx.execute(
        "update runs set state = 'queued', available_at = $2, due_at = $3, updated_at = $2 where id = $1",
        run.id,
        now,
        due_at,
    )
    await events.record(
        tx,
        run.id,
        "run.resuming",
        now=now,
        attempt=run.attempt,
        data={"waitpoint_id": answered.id, "kind": answered.kind, "status": answered.status} | _decision(answered),
    )
    await tx.notify("work", environment_id=run.environment_id)


def _decision(answered: Waitpoint) -> dict[str, Any]:
    """What a person has decided who was asked, and who it was: the story says so."""
    if answered.title is None or answered.output is None:
        return {}
    try:
        said: Any = msgspec.json.decode(answered.output)
    except msgspec.DecodeError:
        return {}
    if not isinstance(said, dict) or not isinstance(said.get("approved"), bool):
        return {}
    told = {name: str(said[name])[:MAX_SAID_CHARS] for name in ("by", "comment") if said.get(name)}
    return {"approved": said["approved"], **told}

"""Have a worker leave: it is handed no more runs, moves or freezes those that it has, and ends."""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.events import announce
from torpor.engine.outcomes import Unknown
from torpor.store.database import Transaction
from torpor.store.records import Worker


@dataclass(frozen=True, slots=True)
class Draining:
    """It is asked; its next heartbeat tells it."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Gone:
    """Nobody is there to be asked."""

    worker: Worker


async def drain_worker(
    tx: Transaction, environment_id: str, worker_id: str, *, now: datetime
) -> Draining | Gone | Unknown:
    """From now on this worker gets no runs; it is told by its heartbeat to get rid of those that it has. For the API.

    It holds for the instance that is up: one that is started anew, by whatever looks after it, takes work again.
    """
    row = await tx.fetchrow(
        "select * from workers where id = $1 and environment_id = $2 for update", worker_id, environment_id
    )
    if row is None:
        return Unknown()
    worker = Worker.of(row)
    if worker.expires_at <= now:
        return Gone(worker)
    row = await tx.fetchrow(
        "update workers set drain_asked_at = coalesce(drain_asked_at, $2) where id = $1 returning *", worker_id, now
    )
    assert row is not None
    await announce(tx, "workers")
    return Draining(Worker.of(row))

"""The append-only story of a run. Each verb writes its line in its own transaction; the dashboard draws only this."""

from datetime import datetime
from typing import Any

from torpor.engine.instants import from_iso
from torpor.engine.locks import lock_leased
from torpor.engine.outcomes import Lease, Ok, Stale
from torpor.store.database import Transaction
from torpor.wire.http import EventReport


async def record(
    tx: Transaction,
    run_id: str,
    kind: str,
    *,
    now: datetime,
    attempt: int | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Add a line to a run's story; kinds are in the past tense: `run.suspended`. Listeners hear that it moved."""
    await tx.execute(
        "insert into events (run_id, at, kind, attempt, data) values ($1, $2, $3, $4, $5)",
        run_id,
        now,
        kind,
        attempt,
        data or {},
    )
    await tx.notify("run", run_id=run_id)


async def tell(tx: Transaction, lease: Lease, report: EventReport, *, now: datetime) -> Ok | Stale:
    """Lines of the story that only the worker can tell, such as `run.freeze_failed`. For the worker that holds the lease.

    A repeated report is told once: the worker's own instants tell lines apart.
    """
    run = await lock_leased(tx, lease)
    if isinstance(run, Stale):
        return run
    for event in report.events:
        at = from_iso(event.at) or now
        known = await tx.fetchval(
            "select 1 from events where run_id = $1 and kind = $2 and at = $3 and data = $4",
            run.id,
            event.kind,
            at,
            event.data,
        )
        if not known:
            await record(tx, run.id, event.kind, now=at, attempt=run.attempt, data=event.data)
    return Ok()

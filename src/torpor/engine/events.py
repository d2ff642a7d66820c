"""The append-only story of a run. Each verb writes its line in its own transaction; the dashboard draws only this."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from torpor.engine.instants import from_iso
from torpor.engine.locks import lock_leased
from torpor.engine.outcomes import Lease, Ok, Stale
from torpor.store.database import Transaction
from torpor.wire.http import EventReport


@dataclass(frozen=True, slots=True)
class Line:
    """A line of one run's story, for `record_all`."""

    run_id: str
    attempt: int | None
    data: dict[str, Any]


async def record_all(tx: Transaction, kind: str, lines: list[Line], *, now: datetime) -> None:
    """Add a line of the same kind to the stories of many runs, in one round trip each for the lines and the notes."""
    await tx.execute(
        """insert into events (run_id, at, kind, attempt, data)
           select run_id, $1, $2, attempt, data
           from unnest($3::text[], $4::int[], $5::jsonb[]) as line (run_id, attempt, data)""",
        now,
        kind,
        [line.run_id for line in lines],
        [line.attempt for line in lines],
        [line.data for line in lines],
    )
    await tx.notify_all("run", [{"run_id": line.run_id} for line in lines])


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


async def announce(tx: Transaction, what: str) -> None:
    """Something beside runs has changed, of this kind: open pages look again. What of it, they know best."""
    await tx.notify("changed", what=what)


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

"""What runs print and log, in the order in which they said it."""

from datetime import datetime

from torpor.engine.instants import from_iso
from torpor.engine.outcomes import Lease, Ok, Stale
from torpor.store.database import Transaction
from torpor.wire.http import LogReport


async def append(tx: Transaction, run_id: str, report: LogReport, *, now: datetime) -> Ok | Stale:
    """Add lines to a run's log. For the worker that has, or had, this lease: last words come after the end.

    A repeated report adds nothing: a line's place in its process's output is its identity. Takes no lock, so a chatty
    run doesn't hold up its own verbs. Stale: that lease was never given.
    """
    lease = Lease(run_id, report.lease)
    present = await tx.fetchval("select lease from runs where id = $1", run_id)
    if present is None or not 1 <= lease.number <= present:
        return Stale(present)
    await tx.executemany(
        """insert into logs (run_id, lease, first_byte, nth, at, level, message, attributes, stream)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing""",
        [
            (
                run_id,
                lease.number,
                report.first,
                nth,
                from_iso(line.at) or now,
                line.level,
                line.message.replace("\0", "�"),  # the one character that Postgres can't hold
                line.attributes,
                line.stream,
            )
            for nth, line in enumerate(report.lines)
        ],
    )
    if report.lines:
        await tx.notify("run", run_id=run_id)
    return Ok()

"""What a run has used: CPU time, memory at its highest, and how long it was frozen.

Workers measure CPU and memory, and tell with each report that ends or saves some work. What they say counts from the
hand-out on, so a later report of a lease contains the earlier one: it is kept apart (`lease_cpu_ms`) and added to the rest
(`cpu_ms`) by the next hand-out. A process that was lost with its worker takes what it had not told along.

How long a run was frozen is the engine's to know: from the moment that its image took the place of its process until the
next hand-out. A fork begins with nothing used.
"""

from datetime import datetime

from torpor.store.database import Transaction
from torpor.store.records import Run
from torpor.wire.http import Usage


async def note(tx: Transaction, run: Run, used: Usage) -> None:
    """A worker has told what this run has used under its lease. The caller holds the run's row."""
    if used.cpu_ms <= 0 and used.peak_memory_bytes <= 0:
        return
    await tx.execute(
        """update runs set lease_cpu_ms = greatest(lease_cpu_ms, $2), peak_memory_bytes = greatest(peak_memory_bytes, $3)
           where id = $1""",
        run.id,
        used.cpu_ms,
        used.peak_memory_bytes,
    )


def freezes(now: str) -> str:
    """For a statement after which there is only the run's image; `now` is the parameter with the instant, such as `$2`."""
    return f"frozen_since = {now}"


def thaws(now: str) -> str:
    """For a statement after which that is over; changes nothing if it wasn't so."""
    frozen = f"greatest(extract(epoch from {now}::timestamptz - frozen_since), 0)::float8 * 1000"
    return f"frozen_ms = frozen_ms + coalesce({frozen}, 0), frozen_since = null"


def cpu_ms(run: Run) -> float:
    """All that was told."""
    return run.cpu_ms + run.lease_cpu_ms


def frozen_ms(run: Run, now: datetime) -> float:
    """Until now."""
    running_ms = (now - run.frozen_since).total_seconds() * 1000 if run.frozen_since else 0.0
    return run.frozen_ms + max(running_ms, 0.0)

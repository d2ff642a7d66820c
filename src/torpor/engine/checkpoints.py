"""Which images are still needed."""

from datetime import datetime

from torpor.store.database import Transaction


async def keep(tx: Transaction, worker_id: str, ids: list[str], *, now: datetime) -> list[str]:
    """Of these images on that worker, those that a run may still be restored from: current, or the one before.

    For the worker's census, which deletes the others. An image that is not known here may be one whose `suspend` is
    under way: the worker spares those younger than ten minutes. Changes nothing.
    """
    del now  # a verb like the others; what is needed doesn't depend on the hour yet
    rows = await tx.fetch(
        """select id from checkpoints
           where id = any($1::text[]) and worker_id = $2 and state in ('current', 'previous')""",
        ids,
        worker_id,
    )
    return [row["id"] for row in rows]

"""The end of a batch: each of its runs counts it down, and the timers answer its waitpoint.

Not verbs by themselves: `end` and `fire_due` call these. A run's end locks the batch last, after all runs and waitpoints,
so it may not complete the batch's waitpoint: it only says that it is complete.
"""

from collections.abc import Collection
from datetime import datetime

import msgspec

from torpor.engine.instants import to_iso
from torpor.engine.states import STATUS, RunState
from torpor.store.database import Transaction

TOLD_ITEMS = 1000
"""A waitpoint's answer names at most so many items; who wants all reads the batch's results."""


async def count_down(tx: Transaction, run_id: str, *, now: datetime) -> None:
    """This run has ended: in each of its batches one item less is pending, or more, where several items share the run.

    The caller holds the run's row. Whoever adds an item of this run meanwhile is kept waiting by it, and then sees the
    run's end.
    """
    rows = await tx.fetch(
        "select batch_id, count(*) from batch_items where run_id = $1 group by batch_id order by batch_id", run_id
    )
    for row in rows:
        is_complete = await tx.fetchval(
            """update batches set pending = pending - $2,
                   completed_at = case when is_sealed and pending = $2 then $3::timestamptz end
               where id = $1 returning completed_at is not null""",
            row["batch_id"],
            row["count"],
            now,
        )
        if is_complete:
            await tx.notify("timer", due_at=to_iso(now))


async def to_settle(tx: Transaction, limit: int, only: Collection[str] | None, skip: Collection[str]) -> dict[str, str]:
    """Batches that are complete and whose waitpoint is not: the waitpoint of each, by which they are locked."""
    rows = await tx.fetch(
        """select waitpoint_id, id from batches
           where completed_at is not null and settled_at is null
             and ($2::text[] is null or id = any($2)) and not id = any($3::text[])
           order by completed_at limit $1""",
        limit,
        only,
        skip,
    )
    return {row["waitpoint_id"]: row["id"] for row in rows}


async def answer(tx: Transaction, batch_id: str) -> str:
    """What the waitpoint of a complete batch is answered with: how each item ended, without outputs."""
    rows = await tx.fetch(
        """select batch_items.index, batch_items.run_id, runs.state from batch_items
           left join runs on runs.id = batch_items.run_id
           where batch_items.batch_id = $1 order by batch_items.index limit $2""",
        batch_id,
        TOLD_ITEMS,
    )
    told = [
        {
            "index": row["index"],
            "run_id": row["run_id"],
            "status": STATUS[RunState(row["state"])] if row["state"] else None,
        }
        for row in rows
    ]
    return msgspec.json.encode(told).decode()


async def mark_settled(tx: Transaction, batch_ids: Collection[str], *, now: datetime) -> None:
    """Their waitpoints are answered. Locks batches, in order: the last thing that a transaction does."""
    await tx.execute(
        """update batches set settled_at = $2 where id in
               (select id from batches where id = any($1::text[]) and settled_at is null order by id for no key update)""",
        list(batch_ids),
        now,
    )

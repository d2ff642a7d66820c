"""Counts and sums over many rows, which lists don't have by themselves: for pages that show how much there is. Writes nothing."""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.states import RunState
from torpor.store.database import Transaction


@dataclass(frozen=True, slots=True)
class QueueLines:
    """What stands in a queue: how many concurrency keys split it now, and since when its oldest run could be handed out."""

    keys: int
    oldest_at: datetime | None


async def queue_lines(tx: Transaction, environment_id: str, names: list[str]) -> dict[str, QueueLines]:
    """By name; queues without any run that is queued or works are left out."""
    rows = await tx.fetch(
        """select queue, count(distinct concurrency_key) filter (where concurrency_key <> '') as keys,
                  min(available_at) filter (where state = 'queued') as oldest_at
           from runs where environment_id = $1 and state in ('queued', 'dequeued', 'executing')
             and queue = any($2::text[]) group by queue""",
        environment_id,
        names,
    )
    return {row["queue"]: QueueLines(row["keys"], row["oldest_at"]) for row in rows}


async def slots_in_use(tx: Transaction, environment_id: str) -> int:
    """How many runs work in an environment, whatever their queues."""
    count = await tx.fetchval(
        "select count(*) from runs where environment_id = $1 and state in ('dequeued', 'executing')", environment_id
    )
    return count or 0


async def batch_states(tx: Transaction, batch_id: str) -> dict[RunState, int]:
    """What has become of a batch's items that are runs; a run that several items share counts for each."""
    rows = await tx.fetch(
        """select runs.state, count(*) as count from batch_items join runs on runs.id = batch_items.run_id
           where batch_items.batch_id = $1 group by runs.state""",
        batch_id,
    )
    return {RunState(row["state"]): row["count"] for row in rows}


async def frozen_by(tx: Transaction, environment_id: str) -> dict[str, int]:
    """How many runs are frozen now, by the worker that froze them last."""
    rows = await tx.fetch(
        """select checkpoints.worker_id, count(*) as count
           from runs join checkpoints on checkpoints.id = runs.checkpoint_id
           where runs.environment_id = $1 and runs.state = 'suspended' group by checkpoints.worker_id""",
        environment_id,
    )
    return {row["worker_id"]: row["count"] for row in rows}

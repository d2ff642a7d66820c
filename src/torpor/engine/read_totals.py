"""Counts and sums over many rows, which lists don't have by themselves: for pages that show how much there is. Writes nothing."""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.store.records import Run


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


async def taken_of_limits(tx: Transaction, environment_id: str) -> dict[str, int]:
    """How much an environment has of what is limited and can be counted, by the limit's name in the API."""
    row = await tx.fetchrow(
        """select (select count(*) from schedules where environment_id = $1 and kind = 'imperative') as "schedules",
                  (select count(*) from env_vars where environment_id = $1) as "variables" """,
        environment_id,
    )
    assert row is not None
    return {**row, "concurrentRuns": await slots_in_use(tx, environment_id)}


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


@dataclass(frozen=True, slots=True)
class CheckpointTotals:
    """What the checkpoints of an environment take, that runs or forks may be restored from. Sizes in bytes."""

    count: int
    size_bytes: int  # as if each were stored by itself
    new_bytes: int  # stored for them alone
    shared_bytes: int  # what others had stored already
    oldest_at: datetime | None
    newest_at: datetime | None


async def checkpoint_totals(tx: Transaction, environment_id: str) -> CheckpointTotals:
    """Those that are usable or kept, of all runs."""
    row = await tx.fetchrow(
        """select count(*) as count, coalesce(sum(size_bytes), 0)::bigint as size_bytes,
                  coalesce(sum(new_bytes), 0)::bigint as new_bytes, coalesce(sum(shared_bytes), 0)::bigint as shared_bytes,
                  min(checkpoints.created_at) as oldest_at, max(checkpoints.created_at) as newest_at
           from checkpoints join runs on runs.id = checkpoints.run_id
           where runs.environment_id = $1 and checkpoints.state in ('usable', 'kept')""",
        environment_id,
    )
    assert row is not None
    return CheckpointTotals(**row)


async def runs_and_waits(
    tx: Transaction, run_ids: list[str]
) -> tuple[dict[str, Run], dict[tuple[str, str], tuple[str, datetime | None]]]:
    """These runs, and all their waits by (run, wait): the kind of what each waits for, and when that is due."""
    runs = await tx.fetch("select * from runs where id = any($1::text[])", run_ids)
    waits = await tx.fetch(
        """select waits.run_id, waits.wait_id, waitpoints.kind, waitpoints.due_at
           from waits join waitpoints on waitpoints.id = waits.waitpoint_id where waits.run_id = any($1::text[])""",
        run_ids,
    )
    told = {(row["run_id"], row["wait_id"]): (row["kind"], row["due_at"]) for row in waits}
    return {row["id"]: Run.of(row) for row in runs}, told

"""Counts and sums over many rows, which lists don't have by themselves: for pages that show how much there is. Writes nothing."""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.store.records import Run

LOOKED_AT = 1000
MOST_FROZEN = 2000


@dataclass(frozen=True, slots=True)
class QueueLines:
    """What stands in a queue: how many concurrency keys split it now, and since when the run that was made first could be
    handed out."""

    keys: int
    oldest_at: datetime | None


async def queue_lines(tx: Transaction, environment_id: str, names: list[str]) -> dict[str, QueueLines]:
    """By name. Keys are those of its runs that work, and of the LOOKED_AT that were queued last."""
    rows = await tx.fetch(
        f"""select name, oldest_at, (
                       select count(distinct concurrency_key) from (
                           (select concurrency_key from runs
                            where environment_id = $1 and queue = name and state in ('dequeued', 'executing') limit {LOOKED_AT})
                           union all
                           (select concurrency_key from runs
                            where environment_id = $1 and queue = name and state = 'queued' and hook is null
                            order by created_at desc, id desc limit {LOOKED_AT})) as looked
                       where concurrency_key <> '') as keys
            from unnest($2::text[]) as names (name) left join lateral (
                select available_at as oldest_at from runs
                where environment_id = $1 and queue = name and state = 'queued' and hook is null
                order by created_at, id limit 1) as oldest on true""",
        environment_id,
        names,
    )
    return {row["name"]: QueueLines(row["keys"], row["oldest_at"]) for row in rows}


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
        """select state, count(*) as count from (
               select state from runs where batch_id = $1
               union all
               select runs.state from batch_items join runs on runs.id = batch_items.run_id
               where batch_items.batch_id = $1 and is_cached) as items
           group by state""",
        batch_id,
    )
    return {RunState(row["state"]): row["count"] for row in rows}


@dataclass(frozen=True, slots=True)
class Frozen:
    """How many runs are frozen now, by the worker that froze them last. `is_cut`: the MOST_FROZEN newest of them."""

    by_worker: dict[str, int]
    is_cut: bool
    most: int = MOST_FROZEN


async def frozen_by(tx: Transaction, environment_id: str) -> Frozen:
    rows = await tx.fetch(
        f"""select checkpoints.worker_id, count(*) as count from (
                select checkpoint_id from runs where environment_id = $1 and state = 'suspended' and hook is null
                order by created_at desc, id desc limit {MOST_FROZEN}) as frozen
            join checkpoints on checkpoints.id = frozen.checkpoint_id group by checkpoints.worker_id""",
        environment_id,
    )
    found = {row["worker_id"]: row["count"] for row in rows}
    return Frozen(found, sum(found.values()) >= MOST_FROZEN)


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

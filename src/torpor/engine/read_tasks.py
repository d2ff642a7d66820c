"""What becomes of each task's runs, at a glance: for the page of tasks. Writes nothing.

All of it is read along the index of tasks and states, so the length of a history costs nothing but the counting of a day.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from torpor.engine.states import ENDS, RunState
from torpor.store.database import Transaction
from torpor.store.records import Run, Task


@dataclass(slots=True)
class Doings:
    """Of one task: its runs that are not over by state, its newest run, and what has become of what was made lately."""

    living: dict[RunState, int] = field(default_factory=dict)
    last: Run | None = None
    ends: list[dict[RunState, int]] = field(default_factory=list)  # one per stretch of time, oldest first


async def doings(
    tx: Transaction, environment_id: str, task_ids: Sequence[str], *, since: datetime, bucket: timedelta, buckets: int
) -> dict[str, Doings]:
    """By task. `ends` counts from `since` on, in `buckets` stretches of time, by when the runs were made."""
    found = {task_id: Doings(ends=[{} for _ in range(buckets)]) for task_id in task_ids}
    rows = await tx.fetch(
        """select task_id, state, count(*) as count from runs
           where environment_id = $1 and hook is null and task_id = any($2::text[]) and state = any($3::text[])
           group by task_id, state""",
        environment_id,
        [*task_ids],
        [state for state in RunState if state not in ENDS],
    )
    for row in rows:
        found[row["task_id"]].living[RunState(row["state"])] = row["count"]
    rows = await tx.fetch(
        """select task_id, state, floor(extract(epoch from created_at - $4) / $5)::int as at, count(*) as count from runs
           where environment_id = $1 and hook is null and task_id = any($2::text[]) and state = any($3::text[])
             and created_at >= $4 and created_at < $4 + $6::interval
           group by task_id, state, at""",
        environment_id,
        [*task_ids],
        [*ENDS],
        since,
        bucket.total_seconds(),
        bucket * buckets,
    )
    for row in rows:
        found[row["task_id"]].ends[row["at"]][RunState(row["state"])] = row["count"]
    # The newest of each state, and of these the newest.
    rows = await tx.fetch(
        """select runs.* from (
               select distinct on (task_id) newest.id from unnest($2::text[]) as tasks (task_id)
                   cross join unnest($3::text[]) as states (state)
                   cross join lateral (
                       select id, created_at from runs
                       where environment_id = $1 and hook is null and runs.task_id = tasks.task_id
                         and runs.state = states.state
                       order by created_at desc, id desc limit 1) as newest
               order by task_id, newest.created_at desc, newest.id desc) as last join runs using (id)""",
        environment_id,
        [*task_ids],
        [*RunState],
    )
    for row in rows:
        found[row["task_id"]].last = Run.of(row)
    return found


async def task_versions(tx: Transaction, environment_id: str, task_id: str, limit: int = 20) -> list[Task]:
    """The task as each version has it, the one that was reported last first."""
    rows = await tx.fetch(
        """select * from tasks where environment_id = $1 and id = $2 order by reported_at desc, version desc limit $3""",
        environment_id,
        task_id,
        limit,
    )
    return [Task.of(row) for row in rows]


async def crons(tx: Transaction, environment_id: str) -> dict[str, list[str]]:
    """By which patterns the clock triggers each task; schedules that are switched off are left out."""
    rows = await tx.fetch(
        """select task_id, cron from schedules where environment_id = $1 and is_active order by task_id, cron""",
        environment_id,
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["task_id"], []).append(row["cron"])
    return found


async def preset_names(tx: Transaction, environment_id: str) -> list[str]:
    """Machines that a run can be triggered with, the default one first."""
    rows = await tx.fetch(
        """select name from presets where environment_id = $1 and is_offered order by not is_default, memory_bytes, name""",
        environment_id,
    )
    return [row["name"] for row in rows]


async def paused_queues(tx: Transaction, environment_id: str) -> set[str]:
    """Names of the queues that nothing is handed out of."""
    rows = await tx.fetch("select name from queues where environment_id = $1 and is_paused", environment_id)
    return {row["name"] for row in rows}

"""How many runs were made when, and what has become of them: for a chart. Writes nothing.

It is counted along the index of states, which holds all that it takes, so no run is read.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from torpor.engine.states import STATUS, RunState
from torpor.store.database import Transaction


@dataclass(frozen=True, slots=True)
class Bucket:
    """A stretch of time and the runs that were made in it, by public status and by state; what none has is left out."""

    since: datetime
    counts: dict[str, int]
    states: dict[RunState, int]


async def run_counts(
    tx: Transaction,
    environment_id: str,
    *,
    since: datetime,
    until: datetime,
    bucket: timedelta,
    task_ids: list[str] | None = None,
    states: Collection[RunState] = tuple(RunState),
) -> list[Bucket]:
    """All buckets from `since`, oldest first, the empty ones too; the last may reach beyond `until`. Of runs in these states."""
    begins = [since + index * bucket for index in range(-(-(until - since) // bucket))]
    # For each bucket and state a stretch of the index, of which nothing but the length is asked.
    rows = await tx.fetch(
        f"""select began, state, count
            from unnest($2::timestamptz[]) as buckets (began) cross join unnest($3::text[]) as states (state)
                 cross join lateral (
                     select count(*) as count from runs
                     where environment_id = $1 and hook is null and runs.state = states.state
                       and created_at >= began and created_at < began + $4::interval
                       {"and task_id = any($5::text[])" if task_ids else ""}) as counted
            where count > 0""",
        environment_id,
        begins,
        [*states],
        bucket,
        *([task_ids] if task_ids else []),
    )
    buckets = {began: Bucket(began, {}, {}) for began in begins}
    for row in rows:
        found, state = buckets[row["began"]], RunState(row["state"])
        found.states[state] = row["count"]
        found.counts[STATUS[state]] = found.counts.get(STATUS[state], 0) + row["count"]
    return [*buckets.values()]

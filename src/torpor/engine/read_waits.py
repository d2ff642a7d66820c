"""What a run has waited for and waits for, and what was made of it. Writes nothing."""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.answers import ALARM
from torpor.store.database import Transaction
from torpor.store.records import Run


@dataclass(frozen=True, slots=True)
class RunWait:
    """A wait of a run's code."""

    wait_id: str
    waitpoint_id: str
    kind: str
    """time, run, batch or token."""
    since: datetime
    until: datetime | None
    """When it ends at the latest: its time, or its deadline."""
    answered_at: datetime | None
    """When the process had its answer; until then, when it was there to be had."""
    title: str | None
    """What a person is asked, where one is."""
    awaited_run_id: str | None
    awaited_task_id: str | None
    batch_id: str | None


async def waits(
    tx: Transaction, run_id: str, *, since: datetime | None = None, only_open: bool = False, limit: int = 1000
) -> list[RunWait]:
    """The latest of a run's waits, oldest first; those that were open at `since` or later, or are open now."""
    rows = await tx.fetch(
        f"""with latest as (
              select * from waits where run_id = $1 and not starts_with(wait_id, '{ALARM}')
                and ($2::timestamptz is null or coalesce(delivered_at, timed_out_at, detached_at, $2) >= $2)
                and (not $3 or coalesce(delivered_at, timed_out_at, detached_at) is null)
              order by created_at desc, wait_id limit $4
            )
            select waits.wait_id, waits.waitpoint_id, waitpoints.kind, waits.created_at as since,
                   least(waitpoints.due_at, waits.times_out_at) as until,
                   coalesce(waits.delivered_at, waits.timed_out_at, waitpoints.completed_at, waits.detached_at) as answered_at,
                   waitpoints.title, waitpoints.awaited_run_id, awaited.task_id as awaited_task_id, waitpoints.batch_id
            from latest as waits join waitpoints on waitpoints.id = waits.waitpoint_id
            left join runs awaited on awaited.id = waitpoints.awaited_run_id
            order by waits.created_at desc, waits.wait_id""",
        run_id,
        since,
        only_open,
        limit,
    )
    return [RunWait(**row) for row in reversed(rows)]


async def made_of(tx: Transaction, environment_id: str, run_id: str, *, limit: int = 50) -> list[Run]:
    """Replays and forks of a run, by what its story says of them: no index finds them the other way."""
    rows = await tx.fetch(
        """select runs.* from events join runs on runs.id = events.data ->> 'as'
           where events.run_id = $1 and events.kind in ('run.replayed', 'run.forked') and runs.environment_id = $2
           order by events.id limit $3""",
        run_id,
        environment_id,
        limit,
    )
    return [Run.of(row) for row in rows]

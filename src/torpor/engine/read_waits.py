"""What a run has waited for and waits for, and the runs below it with their stories. Writes nothing."""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.answers import ALARM
from torpor.store.database import Transaction
from torpor.store.records import Event, Run


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


async def waits(tx: Transaction, run_id: str, *, limit: int = 1000) -> list[RunWait]:
    """The latest of a run's waits, oldest first."""
    rows = await tx.fetch(
        f"""select waits.wait_id, waits.waitpoint_id, waitpoints.kind, waits.created_at as since,
                   least(waitpoints.due_at, waits.times_out_at) as until,
                   coalesce(waits.delivered_at, waits.timed_out_at, waitpoints.completed_at, waits.detached_at) as answered_at,
                   waitpoints.title, waitpoints.awaited_run_id, awaited.task_id as awaited_task_id, waitpoints.batch_id
            from waits join waitpoints on waitpoints.id = waits.waitpoint_id
            left join runs awaited on awaited.id = waitpoints.awaited_run_id
            where waits.run_id = $1 and not starts_with(waits.wait_id, '{ALARM}')
            order by waits.created_at desc, waits.wait_id limit $2""",
        run_id,
        limit,
    )
    return [RunWait(**row) for row in reversed(rows)]


async def descendants(tx: Transaction, environment_id: str, run_id: str, *, limit: int) -> list[Run]:
    """Children, their children and so on, each before what is below it. Hooks are part of the run that they are of."""
    rows = await tx.fetch(
        """with recursive kin (id, level) as (
             (select id, 1 from runs where parent_run_id = $1 and environment_id = $2 and hook is null
              order by created_at, id limit $3)
             union all
             (select runs.id, kin.level + 1 from kin join runs on runs.parent_run_id = kin.id
              where runs.hook is null and kin.level < 20 limit $3)
           )
           select runs.* from kin join runs using (id) order by kin.level, runs.created_at, runs.id limit $3""",
        run_id,
        environment_id,
        limit,
    )
    return [Run.of(row) for row in rows]


async def turns(tx: Transaction, run_ids: list[str], kinds: list[str], *, limit: int) -> dict[str, list[Event]]:
    """Of several stories, the lines of these kinds: by run, in order."""
    rows = await tx.fetch(
        """select id, run_id, at, kind, attempt, data from events
           where run_id = any($1::text[]) and kind = any($2::text[]) order by id limit $3""",
        run_ids,
        kinds,
        limit,
    )
    found: dict[str, list[Event]] = {}
    for row in rows:
        found.setdefault(row["run_id"], []).append(Event.of(row))
    return found


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

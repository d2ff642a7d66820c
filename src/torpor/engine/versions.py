"""Which queued runs can be started: those whose task is in the version that would start them.

A queued run without a checkpoint can be started: dequeue need not ask. Runs of a task that the current version lacks (or
that are locked to a version nobody has) are `pending_version` until a version brings it; their place in the line stays.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from torpor.store.database import CHANNEL, Transaction, note

TASK_DEFAULTS = """
    case when runs.attempt = 0 and runs.hook is null and tasks.id is not null
        then coalesce(runs.asked->>'queue', tasks.queue, 'task/' || tasks.id) else runs.queue end as queue,
    case when runs.attempt = 0 and runs.hook is null and tasks.id is not null
        then coalesce((runs.asked->>'max_attempts')::int, greatest((tasks.retry->>'max_attempts')::int, 1))
        else runs.max_attempts end as max_attempts,
    case when runs.attempt = 0 and runs.hook is null and tasks.id is not null
        then nullif(coalesce((runs.asked->>'ttl_s')::float8, tasks.ttl_s), 0) else runs.ttl_s end as ttl_s,
    case when runs.attempt = 0 and runs.hook is null and tasks.id is not null
        then coalesce((runs.asked->>'max_duration_s')::float8, tasks.max_duration_s)
        else runs.max_duration_s end as max_duration_s,
    case when runs.attempt = 0 and runs.hook is null and tasks.id is not null
        then coalesce(runs.asked->>'preset', tasks.preset,
            (select name from presets where presets.environment_id = runs.environment_id and is_default), runs.preset)
        else runs.preset end as preset"""
"""What a task decides where the trigger said nothing, in a select from `runs` and a `left join tasks`. A run that was
delayed or had no version follows the version that it is queued for, until its first attempt."""

QUEUE_IS_DECLARED = """
    (runs.hook is not null or exists (select from queues where queues.environment_id = runs.environment_id
         and queues.name = coalesce(runs.asked->>'queue', tasks.queue, 'task/' || runs.task_id)))"""


@dataclass(frozen=True, slots=True)
class Matched:
    """How many runs can be started now that could not, and the other way round."""

    queued: int
    pending: int


async def match_versions(tx: Transaction, environment_id: str | None = None, *, now: datetime) -> Matched:
    """queued -> pending_version where no version can start them; pending_version -> queued where one can now.

    For register_version; and for a slow duty of the server (all environments), since a trigger or a retry may have queued
    a run while a version was being registered. Runs that somebody is moving right now are left to the next time.
    """
    parked = await tx.fetch(
        """with gone as materialized (
               select runs.id, coalesce(runs.locked_version, environments.current_version) as version
               from runs join environments on environments.id = runs.environment_id
               where runs.state = 'queued' and runs.checkpoint_id is null
                 and ($1::text is null or runs.environment_id = $1)
                 and not exists (select from tasks where tasks.environment_id = runs.environment_id
                     and tasks.version = coalesce(runs.locked_version, environments.current_version)
                     and tasks.id = runs.task_id)
               for no key update of runs skip locked)
           update runs set state = 'pending_version', updated_at = $2 from gone where runs.id = gone.id
           returning runs.id, runs.task_id, gone.version""",
        environment_id,
        now,
    )
    await tell_pending(tx, [(row["id"], lacks(row["version"], row["task_id"])) for row in parked], now=now)
    found = await queue_what_is_known(tx, environment_id, None, now=now)
    return Matched(found, len(parked))


async def queue_what_is_known(
    tx: Transaction, environment_id: str | None, run_ids: Collection[str] | None, *, now: datetime
) -> int:
    """pending_version -> queued, with the settings of the task that is here now. How many."""
    rows = await tx.fetch(
        f"""with found as materialized (
               select runs.id, tasks.version, {TASK_DEFAULTS}
               from runs join environments on environments.id = runs.environment_id
                    join tasks on tasks.environment_id = runs.environment_id and tasks.id = runs.task_id
                         and tasks.version = coalesce(runs.locked_version, environments.current_version)
               where runs.state = 'pending_version' and ($1::text is null or runs.environment_id = $1)
                 and ($3::text[] is null or runs.id = any($3)) and {QUEUE_IS_DECLARED}
               for no key update of runs skip locked),
           moved as (
               update runs set state = 'queued', updated_at = $2, queue = found.queue,
                   max_attempts = found.max_attempts, ttl_s = found.ttl_s, max_duration_s = found.max_duration_s,
                   preset = found.preset,
                   -- A ttl that was running goes on; that for the version alone is over.
                   expires_at = case when found.ttl_s is null then null
                       when runs.ttl_s is not null then runs.expires_at
                       else $2::timestamptz + make_interval(secs => found.ttl_s) end
               from found where runs.id = found.id returning runs.id, runs.environment_id, runs.expires_at, found.version)
           select * from moved order by id""",
        environment_id,
        now,
        run_ids,
    )
    await _tell(tx, "run.version_found", [(row["id"], {"version": row["version"]}) for row in rows], now=now)
    for each in sorted({row["environment_id"] for row in rows}):
        await tx.notify("work", environment_id=each)
    return len(rows)


async def tell_pending(tx: Transaction, reasons: Collection[tuple[str, str]], *, now: datetime) -> None:
    """`run.pending_version` for each (run id, reason): why it can't be started."""
    await _tell(tx, "run.pending_version", [(run_id, {"reason": reason}) for run_id, reason in reasons], now=now)


def lacks(version: str | None, task_id: str) -> str:
    """As a reason: there is no such version, or no such task in it."""
    return f"version {version} has no task {task_id}" if version else "no version is here yet"


async def _tell(tx: Transaction, kind: str, told: list[tuple[str, dict[str, str]]], *, now: datetime) -> None:
    """Lines of many stories at once."""
    if told:
        await tx.executemany(
            f"""with line as (insert into events (run_id, at, kind, data) values ($1, $2, $3, $4) returning run_id)
                select pg_notify('{CHANNEL}', $5) from line""",
            [(run_id, now, kind, data, note("run", run_id=run_id)) for run_id, data in told],
        )

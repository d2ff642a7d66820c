"""A delayed run's time has come: by its delay, its debounce, or the pause before its next attempt."""

from collections.abc import Collection
from datetime import datetime

from torpor.engine.draft import VERSION_TTL_S
from torpor.engine.instants import to_iso
from torpor.engine.versions import QUEUE_IS_DECLARED, TASK_DEFAULTS, lacks, tell_pending
from torpor.store.database import Transaction


async def release(
    tx: Transaction, *, limit: int, only: Collection[str] | None, skip: Collection[str], now: datetime
) -> int:
    """delayed -> queued; or pending_version, if the task has gone meanwhile. For fire_due.

    It lines up by when it was due, with its head start. Its ttl begins now: what is delayed doesn't expire. Before the
    first attempt it is the present version's task that decides where the trigger said nothing.
    """
    rows = await tx.fetch(
        f"""with due as materialized (
                select * from runs where state = 'delayed' and available_at <= $1
                    and ($3::text[] is null or id = any($3)) and not id = any($4::text[])
                order by available_at limit $2 for no key update skip locked),
            found as (
                select runs.id, coalesce(runs.locked_version, environments.current_version) as version, {TASK_DEFAULTS},
                       tasks.id is not null as has_task, tasks.id is not null and {QUEUE_IS_DECLARED} as is_known
                from due as runs join environments on environments.id = runs.environment_id
                     left join tasks on tasks.environment_id = runs.environment_id and tasks.id = runs.task_id
                          and tasks.version = coalesce(runs.locked_version, environments.current_version))
            update runs set state = case when found.is_known or runs.checkpoint_id is not null then 'queued'
                    else 'pending_version' end, updated_at = $1,
                available_at = runs.available_at - make_interval(secs => runs.priority_s),
                queue = found.queue, max_attempts = found.max_attempts, ttl_s = found.ttl_s,
                max_duration_s = found.max_duration_s, preset = found.preset,
                expires_at = case when runs.started_at is not null then null
                    when found.ttl_s is not null then $1::timestamptz + make_interval(secs => found.ttl_s)
                    when not found.is_known and runs.locked_version is not null
                        and not coalesce(runs.asked, '{{}}'::jsonb) ? 'ttl_s'
                        then $1::timestamptz + make_interval(secs => $5::float8) end
            from found where runs.id = found.id
            returning runs.id, runs.environment_id, runs.task_id, runs.state, runs.expires_at, runs.queue,
                found.version, found.has_task""",
        now,
        limit,
        only,
        skip,
        VERSION_TTL_S,
    )
    reasons = [
        (
            row["id"],
            f"no version has declared the queue {row['queue']} yet"
            if row["has_task"]
            else lacks(row["version"], row["task_id"]),
        )
        for row in rows
        if row["state"] == "pending_version"
    ]
    await tell_pending(tx, reasons, now=now)
    if queued := [row for row in rows if row["state"] == "queued"]:
        await tx.notify_all("run", [{"run_id": row["id"]} for row in queued])
    for environment_id in sorted({row["environment_id"] for row in queued}):
        await tx.notify("work", environment_id=environment_id)
    if expires := [row["expires_at"] for row in rows if row["expires_at"]]:
        await tx.notify("timer", due_at=to_iso(min(expires)))
    return len(rows)

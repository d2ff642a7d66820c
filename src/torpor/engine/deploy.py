"""Workers and versions: who may come, what they bring."""

from datetime import datetime

import msgspec

from torpor import ids
from torpor.engine import queues
from torpor.engine.checkpoints import own_store
from torpor.engine.draft import UnknownPreset
from torpor.engine.events import announce
from torpor.engine.instants import after
from torpor.engine.rescue import take_back
from torpor.engine.schedule import declare_schedules
from torpor.engine.versions import match_versions
from torpor.store.database import Transaction
from torpor.wire.http import Introduction, VersionReport


async def register_worker(
    tx: Transaction,
    environment_id: str,
    intro: Introduction,
    *,
    lease_s: float,
    now: datetime,
    max_rescues: int = 5,
) -> int:
    """A worker came up. Every lease of its former instances is taken back at once; returns how many.

    For the server, on hello. The new instance proves that the former's processes are gone, so nobody has to wait until
    their leases run out. The same hello twice takes nothing back.
    """
    await tx.execute(
        """insert into workers (id, environment_id, instance_id, host, slots, can_freeze, facts,
                                hello_at, seen_at, expires_at, store_id, fitness, cpu, memory_bytes, labels)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9, $10, $11, $12, $13, $14)
           on conflict (id) do update set environment_id = excluded.environment_id,
               version = case when workers.instance_id = excluded.instance_id then workers.version end,
               drain_asked_at = case when workers.instance_id = excluded.instance_id then workers.drain_asked_at end,
               instance_id = excluded.instance_id, host = excluded.host, slots = excluded.slots,
               can_freeze = excluded.can_freeze, facts = excluded.facts,
               hello_at = case when workers.instance_id = excluded.instance_id then workers.hello_at else excluded.hello_at end,
               seen_at = excluded.seen_at, expires_at = excluded.expires_at, store_id = excluded.store_id,
               fitness = excluded.fitness, cpu = excluded.cpu, memory_bytes = excluded.memory_bytes,
               labels = excluded.labels""",
        intro.worker_id,
        environment_id,
        intro.instance_id,
        intro.host,
        intro.slots,
        intro.can_freeze,
        intro.facts,
        now,
        after(now, lease_s),
        # A worker without an object store has its images for itself, and is like no other.
        intro.store_id or own_store(intro.worker_id),
        intro.fitness or own_store(intro.worker_id),
        intro.cpu,
        intro.memory_bytes,
        intro.labels,
    )
    held = await tx.fetch(
        "select id from runs where worker_id = $1 and instance_id <> $2", intro.worker_id, intro.instance_id
    )
    taken = await take_back(
        tx,
        [row["id"] for row in held],
        lambda run: (
            "its worker has started anew"
            if run.worker_id == intro.worker_id and run.instance_id != intro.instance_id
            else None
        ),
        max_rescues=max_rescues,
        now=now,
    )
    await announce(tx, "workers")
    return len(taken)


async def register_version(
    tx: Transaction, environment_id: str, report: VersionReport, *, now: datetime
) -> UnknownPreset | None:
    """A worker has imported a version: its tasks are known from now on, and fresh attempts start with it.

    Runs of tasks that it lacks become pending_version, and those that waited for it are queued. UnknownPreset: nothing
    has changed, the one before stays current.
    """
    if (unknown := await _unknown_preset(tx, environment_id, report)) is not None:
        return unknown
    # The worker's row first: the lock order. Its held request for work, made before the import, may start runs of it now.
    await tx.execute("update workers set version = $2 where id = $1", report.worker_id, report.version)
    await declare_schedules(tx, environment_id, report, now=now)
    await _deployed(tx, environment_id, report, now=now)
    await tx.execute("update environments set current_version = $2 where id = $1", environment_id, report.version)
    await tx.execute(
        "delete from tasks where environment_id = $1 and version = $2 and not id = any($3::text[])",
        environment_id,
        report.version,
        [task.id for task in report.tasks],
    )
    await tx.executemany(
        """insert into tasks (environment_id, version, id, file, line, is_async, parameters, payload_schema, retry, doc,
                              reported_at, queue, ttl_s, max_duration_s, hooks, checkpoints, preset)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
           on conflict (environment_id, version, id) do update set file = excluded.file, line = excluded.line,
               is_async = excluded.is_async, parameters = excluded.parameters,
               payload_schema = excluded.payload_schema, retry = excluded.retry, doc = excluded.doc,
               reported_at = excluded.reported_at, queue = excluded.queue, ttl_s = excluded.ttl_s,
               max_duration_s = excluded.max_duration_s, hooks = excluded.hooks,
               checkpoints = excluded.checkpoints, preset = excluded.preset""",
        [
            (
                environment_id,
                report.version,
                task.id,
                task.file,
                task.line,
                task.is_async,
                task.parameters,
                task.payload_schema,
                msgspec.to_builtins(task.retry),
                task.doc,
                now,
                task.queue.name if task.queue else None,
                task.ttl_s,
                task.max_duration_s,
                task.hooks,
                msgspec.to_builtins(task.checkpoints),
                task.machine or report.machine,
            )
            for task in report.tasks
        ],
    )
    await queues.declare(tx, environment_id, report, now=now)
    await match_versions(tx, environment_id, now=now)
    await tx.notify("work", environment_id=environment_id)
    await announce(tx, "tasks")
    return None


async def _deployed(tx: Transaction, environment_id: str, report: VersionReport, *, now: datetime) -> None:
    """One row per version, however many workers report it; it is deployed anew when another one was current meanwhile."""
    was_current = await tx.fetchval(
        "select current_version = $2 from environments where id = $1 for no key update", environment_id, report.version
    )
    await tx.execute(
        """insert into deployments (id, environment_id, version, runtime_version, created_at, deployed_at)
           select $1, $2, $3, nullif(split_part(max(facts->>'python'), ' ', 2), ''), $5, $5 from workers where id = $4
           on conflict (environment_id, version) do update set
               runtime_version = coalesce(excluded.runtime_version, deployments.runtime_version),
               deployed_at = case when $6 then deployments.deployed_at else excluded.deployed_at end""",
        ids.new("deployment"),
        environment_id,
        report.version,
        report.worker_id,
        now,
        bool(was_current),
    )


async def _unknown_preset(tx: Transaction, environment_id: str, report: VersionReport) -> UnknownPreset | None:
    """The first machine that this version names and nobody knows."""
    named: list[tuple[str | None, str | None]] = [(report.machine, None)]
    named += [(name, task.id) for task in report.tasks for name in (task.machine, task.retry.on_oom)]
    if not any(name for name, _ in named):
        return None
    rows = await tx.fetch(
        """select name from presets where environment_id = $1 and is_offered order by not is_default, memory_bytes, name""",
        environment_id,
    )
    names = [row["name"] for row in rows]
    for name, task_id in named:
        if name is not None and name not in names:
            return UnknownPreset(name, names, task_id)
    return None

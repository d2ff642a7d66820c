"""Say why a run that is queued, or waits for a version, can't be handed to anybody, in its own story: nothing else would
ever happen to it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from torpor.engine import events
from torpor.engine.near import near
from torpor.engine.placement import Capacity, preset_of
from torpor.store.database import Transaction
from torpor.store.records import Environment, Worker
from torpor.wire.presets import GB, Preset


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that the same workers could take: those of one task and size to be started, or with images that the same ones can
    use."""

    environment_id: str
    task_id: str
    locked_version: str | None
    store_id: str | None
    """Where the checkpoint is; None for a run that starts from the top."""
    refused_by: list[str]
    """The fitnesses of workers that can't use its image."""
    preset: str


_QUEUED = "runs.state in ('queued', 'pending_version') and runs.finished_at is null"
"""The second half says nothing new, but has the few that live found by an index (runs_living) among all that have ended."""
_REFUSED_BY = """array(select fitness from refusals where refusals.image_id = checkpoints.image_id order by fitness)"""


async def tell_stranded(tx: Transaction, *, queued_for_s: float = 30.0, limit: int = 100, now: datetime) -> list[str]:
    """Add `run.stranded` with a reason to the story of runs that were queued for so long and that no worker can take.

    For a slow duty of the server, once it has been within reach for a lease: before, workers count as gone that only
    could not be heard. A reason is told once per stay in the queue. Moves no run. Returns those told, at most `limit`.
    """
    before = now - timedelta(seconds=queued_for_s)
    rows = await tx.fetch(
        f"""select distinct runs.environment_id, runs.task_id, runs.locked_version, checkpoints.store_id,
                  {_REFUSED_BY} as refused_by, runs.preset
           from runs left join checkpoints on checkpoints.id = runs.checkpoint_id
           where {_QUEUED}
             and runs.available_at + make_interval(secs => runs.priority_s) <= $1 order by 1, 2, 3, 4, 5, 6""",
        before,
    )
    told: list[str] = []
    for row in rows:
        group = Group(**row)
        reason = await _why(tx, group, now)
        if reason and len(told) < limit:
            told += await _tell(tx, group, reason, before, limit - len(told), now)
    return told


async def _why(tx: Transaction, group: Group, now: datetime) -> str | None:
    """Why no worker can take these, if that is so. That all are busy is no reason: it will pass."""
    environment = Environment.of(await tx.fetchrow("select * from environments where id = $1", group.environment_id))
    rows = await tx.fetch("select * from workers where environment_id = $1 order by seen_at", group.environment_id)
    workers = [Worker.of(row) for row in rows]
    row = await tx.fetchrow(
        "select * from presets where environment_id = $1 and name = $2", environment.id, group.preset
    )
    preset = preset_of(row) if row else None
    if group.store_id is not None:
        return _why_not_restored(group.store_id, group.refused_by, workers, preset, now)
    connected = [worker for worker in workers if worker.expires_at > now]
    if not connected:
        last = f"; the last one was {_name(workers[-1])}, {_seen(workers[-1])}" if workers else ""
        return f"no worker is connected{last}"
    version = group.locked_version or environment.current_version
    if version is None:
        return "no worker has imported any tasks yet"
    called = f"version {version}" if group.locked_version else f"current version {version}"
    return await _why_not_started(tx, environment.id, version, called, group.task_id, connected, preset)


def _why_not_restored(
    store_id: str, refused_by: list[str], workers: list[Worker], preset: Preset | None, now: datetime
) -> str | None:
    own_disk_of = store_id.removeprefix("worker:") if store_id.startswith("worker:") else None
    where = "in an object store" if own_disk_of is None else f"on worker {own_disk_of}"
    readers = [worker for worker in workers if worker.store_id == store_id]
    if not readers:
        known = "that no known worker reads" if own_disk_of is None else "which is not known here"
        if any(worker.id == own_disk_of for worker in workers):
            known = "which keeps its images in an object store now"
        return f"its checkpoint is {where}, {known}" if own_disk_of else f"its checkpoint is {where} {known}"
    connected = [worker for worker in readers if worker.expires_at > now]
    if not connected:
        last = readers[-1]
        if own_disk_of is not None:
            return f"its checkpoint is on {_name(last)}, which is not connected, {_seen(last)}"
        return f"no worker that reads its checkpoint's object store is connected; the last one was {_name(last)}, {_seen(last)}"
    able = [worker for worker in connected if worker.can_freeze]
    if not able:
        if own_disk_of is not None:
            return f"its checkpoint is on {_name(connected[-1])}, which is connected but can't restore"
        return (
            f"no connected worker that reads its checkpoint's object store can restore ({_name(connected[-1])} can't)"
        )
    fit = [worker for worker in able if worker.fitness not in refused_by]
    if not fit:
        return "every connected worker that can read its checkpoint has refused it"
    return _why_too_small(preset, fit, "that can restore it")


async def _why_not_started(
    tx: Transaction,
    environment_id: str,
    version: str,
    called: str,
    task_id: str,
    connected: list[Worker],
    preset: Preset | None,
) -> str | None:
    rows = await tx.fetch(
        "select id from tasks where environment_id = $1 and version = $2 order by id", environment_id, version
    )
    names = [row["id"] for row in rows]
    if task_id not in names:
        similar = near(task_id, names)
        hint = f"; similar names: {', '.join(similar)}" if similar else ""
        return f"the {called} has no task {task_id}{hint}"
    able = [worker for worker in connected if worker.version == version]
    if not able:
        return f"no connected worker has imported the {called}"
    return _why_too_small(preset, able, f"that has imported the {called}")


def _why_too_small(preset: Preset | None, workers: list[Worker], which: str) -> str | None:
    """Why none of these workers, which could take the run otherwise, will ever have room for it."""
    if preset is None:
        return None
    capacities = [Capacity(worker.cpu, worker.memory_bytes, worker.labels) for worker in workers]
    if any(capacity.suits(preset) for capacity in capacities):
        return None
    machine = f"its machine {preset.name} ({_size(preset.cpu, preset.memory_bytes)})"
    labeled = [capacity for capacity in capacities if capacity.has_labels(preset)]
    if not labeled:
        wanted = ",".join(f"{name}={value}" if value else name for name, value in preset.labels.items())
        return f"no connected worker {which} has the labels of {machine}: {wanted}"
    largest = max(labeled, key=lambda one: (one.memory_bytes or 0, one.cpu or 0))
    most = _size(largest.cpu, largest.memory_bytes)
    return f"no connected worker {which} is large enough for {machine}: the largest has {most} to give"


def _size(cpu: float | None, memory_bytes: int | None) -> str:
    cpus = "any number of CPUs" if cpu is None else f"{cpu:g} CPU" + ("" if cpu == 1 else "s")
    memory = "any amount of memory" if memory_bytes is None else f"{memory_bytes / GB:.3g} GB"
    return f"{cpus}, {memory}"


def _name(worker: Worker) -> str:
    return f"worker {worker.id} on {worker.host}"


def _seen(worker: Worker) -> str:
    return f"last seen {worker.seen_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


async def _tell(tx: Transaction, group: Group, reason: str, before: datetime, limit: int, now: datetime) -> list[str]:
    locked = await tx.fetch(
        f"""select runs.id, runs.attempt from runs left join checkpoints on checkpoints.id = runs.checkpoint_id
           where {_QUEUED}
             and runs.available_at + make_interval(secs => runs.priority_s) <= $1
             and runs.environment_id = $2 and runs.task_id = $3 and checkpoints.store_id is not distinct from $4
             and {_REFUSED_BY} = $8 and runs.preset = $9
             and runs.locked_version is not distinct from $7
             and not exists (select from events where events.run_id = runs.id and kind = 'run.stranded'
                             and data->>'reason' = $5 and at >= runs.available_at)
           order by runs.id limit $6 for no key update of runs skip locked""",
        before,
        group.environment_id,
        group.task_id,
        group.store_id,
        reason,
        limit,
        group.locked_version,
        group.refused_by,
        group.preset,
    )
    # Once more, now that they are locked: another server may have told it since that look.
    known = await tx.fetch(
        """select run_id from events join runs on runs.id = events.run_id
           where run_id = any($1::text[]) and kind = 'run.stranded' and data->>'reason' = $2
             and at >= runs.available_at""",
        [row["id"] for row in locked],
        reason,
    )
    fresh = {row["id"]: row["attempt"] for row in locked}
    for row in known:
        fresh.pop(row["run_id"], None)
    for run_id, attempt in fresh.items():
        await events.record(tx, run_id, "run.stranded", now=now, attempt=attempt or None, data={"reason": reason})
    return list(fresh)

"""A request becomes a run: queued, or delayed."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from torpor import ids
from torpor.engine import events
from torpor.engine.instants import after, to_iso
from torpor.engine.locks import fenced
from torpor.engine.near import near
from torpor.engine.outcomes import Lease, Stale
from torpor.engine.payload import PayloadMisfit, fit
from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.store.records import Run, Task

IDEMPOTENCY_TTL_S = 30 * 24 * 3600.0
RELEASED_BY = (RunState.FAILED, RunState.CRASHED, RunState.TIMED_OUT, RunState.EXPIRED, RunState.SYSTEM_FAILURE)
"""A run that ended so gives its idempotency key back: the caller may try again."""


@dataclass(frozen=True, slots=True)
class TriggerRequest:
    """What somebody wants performed."""

    task_id: str
    payload: str | None = None  # JSON text
    run_id: str | None = None  # made by the client: the same request twice is the same run
    idempotency_key: str | None = None
    idempotency_key_ttl_s: float | None = None
    idempotency_key_options: dict[str, Any] | None = None
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] | None = None
    max_attempts: int | None = None  # None: the task's own
    delay_until: datetime | None = None
    is_test: bool = False
    parent_lease: Lease | None = None  # from inside a run
    trigger_function: str = "trigger"


@dataclass(frozen=True, slots=True)
class Triggered:
    """The run, new, or (`is_cached`) the one that this request or its idempotency key had made before."""

    run_id: str
    is_cached: bool


@dataclass(frozen=True, slots=True)
class UnknownTask:
    """The current version has no such task; `near` are those with a similar name. No run was made (404)."""

    near: list[str]


async def trigger(
    tx: Transaction, environment_id: str, request: TriggerRequest, *, now: datetime
) -> Triggered | UnknownTask | PayloadMisfit | Stale:
    """Make a run. For the API, and for user code through its worker (`parent_lease`; Stale: that process is void)."""
    parent = await _parent(tx, request)
    if isinstance(parent, Stale):
        return parent
    if request.run_id and await tx.fetchval(
        "select 1 from runs where id = $1 and environment_id = $2", request.run_id, environment_id
    ):
        return Triggered(request.run_id, is_cached=True)
    task = await _task(tx, environment_id, request.task_id)
    if isinstance(task, UnknownTask):
        return task
    payload = fit(task, request.payload)
    if isinstance(payload, PayloadMisfit):
        return payload
    run_id = request.run_id or ids.new("run")
    if holder := await _claim_key(tx, environment_id, request, run_id, now=now):
        return Triggered(holder, is_cached=True)
    if not await _insert(tx, run_id, environment_id, request, task, payload, parent, now=now):
        return Triggered(run_id, is_cached=True)
    data = {"task_id": task.id, "trigger_function": request.trigger_function}
    await events.record(tx, run_id, "run.triggered", now=now, data=data)
    if request.delay_until and request.delay_until > now:
        await tx.notify("timer", due_at=to_iso(request.delay_until))
    else:
        await tx.notify("work", environment_id=environment_id)
    return Triggered(run_id, is_cached=False)


async def _parent(tx: Transaction, request: TriggerRequest) -> Run | Stale | None:
    """The triggering run, with a share of its row: its lease can't end before its child is there."""
    lease = request.parent_lease
    if lease is None:
        return None
    row = await tx.fetchrow("select * from runs where id = $1 for share", lease.run_id)
    return fenced(Run.of(row) if row else None, lease)


async def _task(tx: Transaction, environment_id: str, task_id: str) -> Task | UnknownTask:
    """The task in the environment's current version."""
    row = await tx.fetchrow(
        """select tasks.* from tasks join environments on environments.id = tasks.environment_id
           where environments.id = $1 and tasks.version = environments.current_version and tasks.id = $2""",
        environment_id,
        task_id,
    )
    if row:
        return Task.of(row)
    rows = await tx.fetch(
        """select tasks.id from tasks join environments on environments.id = tasks.environment_id
           where environments.id = $1 and tasks.version = environments.current_version order by tasks.id""",
        environment_id,
    )
    return UnknownTask(near(task_id, [row["id"] for row in rows]))


async def _claim_key(
    tx: Transaction, environment_id: str, request: TriggerRequest, run_id: str, *, now: datetime
) -> str | None:
    """Put the idempotency key on this run, or say which run has it.

    One statement decides: of two claims at once, the second waits for the first to commit and then loses.
    """
    if not request.idempotency_key:
        return None
    ttl_s = IDEMPOTENCY_TTL_S if request.idempotency_key_ttl_s is None else request.idempotency_key_ttl_s
    claimed = await tx.fetchval(
        """insert into idempotency_keys (environment_id, task_id, key, run_id, expires_at) values ($1, $2, $3, $4, $5)
           on conflict (environment_id, task_id, key) do update
               set run_id = excluded.run_id, expires_at = excluded.expires_at
               where idempotency_keys.expires_at <= $6
                  or exists (select from runs where id = idempotency_keys.run_id and state = any($7::text[]))
           returning run_id""",
        environment_id,
        request.task_id,
        request.idempotency_key,
        run_id,
        after(now, ttl_s),
        now,
        list(RELEASED_BY),
    )
    if claimed:
        return None
    return await tx.fetchval(
        "select run_id from idempotency_keys where environment_id = $1 and task_id = $2 and key = $3",
        environment_id,
        request.task_id,
        request.idempotency_key,
    )


async def _insert(
    tx: Transaction,
    run_id: str,
    environment_id: str,
    request: TriggerRequest,
    task: Task,
    payload: str | None,
    parent: Run | None,
    *,
    now: datetime,
) -> bool:
    """The row; False if a concurrent twin of this request was quicker."""
    is_delayed = request.delay_until is not None and request.delay_until > now
    status = await tx.execute(
        """insert into runs (id, environment_id, task_id, state, payload, max_attempts, available_at, delay_until,
               idempotency_key, idempotency_key_options, tags, metadata, is_test, trigger_function,
               parent_run_id, root_run_id, depth, created_at, updated_at, queue)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $18, $19)
           on conflict (id) do nothing""",
        run_id,
        environment_id,
        task.id,
        RunState.DELAYED if is_delayed else RunState.QUEUED,
        payload,
        max(request.max_attempts or task.retry.get("max_attempts", 1), 1),
        request.delay_until if is_delayed else now,
        request.delay_until if is_delayed else None,
        request.idempotency_key,
        request.idempotency_key_options,
        list(dict.fromkeys(request.tags)),
        request.metadata,
        request.is_test,
        request.trigger_function,
        parent.id if parent else None,
        (parent.root_run_id or parent.id) if parent else None,
        parent.depth + 1 if parent else 0,
        now,
        f"task/{task.id}",
    )
    return status.endswith(" 1")

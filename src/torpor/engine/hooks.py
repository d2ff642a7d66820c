"""Hooks of runs that ended without a process to call them: each is made a run of its own, which a fresh process performs.

A hook run has the task and the payload of the run that ended (`hook_of`), and the context of that run; it lines up in a
queue of its own, has three attempts, and appears in that run's story instead of in lists of runs. It has no hooks.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

import msgspec

from torpor import ids
from torpor.engine import events
from torpor.engine.states import STATUS, RunState
from torpor.store.database import Transaction
from torpor.store.records import Run
from torpor.wire.runner import HookCall, RetryPolicy, TaskError

QUEUE = "hooks"
POLICY = RetryPolicy(max_attempts=3, min_delay_s=1.0, max_delay_s=60.0, factor=5.0)
MAX_DURATION_S = 600.0


async def follow(tx: Transaction, run: Run, state: RunState, performed: Collection[str], *, now: datetime) -> None:
    """A run has ended: have its hook called, if its task has one that its own process hasn't `performed`.

    The code is that of the environment's current version, like that of any run which starts now.
    """
    if state == RunState.COMPLETED or run.hook is not None:
        return
    hook = "on_cancel" if state == RunState.CANCELED else "on_failure"
    if hook in performed:
        return
    hook_run_id = await tx.fetchval(
        """insert into runs (id, environment_id, task_id, state, payload, payload_object, max_attempts, available_at, tags,
                             is_test, trigger_function, depth, created_at, updated_at, queue, hook, hook_of,
                             max_duration_s, preset)
           select $1, runs.environment_id, runs.task_id, 'queued', runs.payload, runs.payload_object, $2, $3, runs.tags,
                  runs.is_test, 'hook', runs.depth, $3, $3, $4, $5, runs.id, $6, runs.preset
           from runs join environments on environments.id = runs.environment_id
                join tasks on tasks.environment_id = runs.environment_id and tasks.id = runs.task_id
                     and tasks.version = environments.current_version
           where runs.id = $7 and $5 = any(tasks.hooks)
           returning id""",
        ids.new("run"),
        POLICY.max_attempts,
        now,
        QUEUE,
        hook,
        MAX_DURATION_S,
        run.id,
    )
    if hook_run_id is not None:
        await events.record(tx, run.id, "hook.queued", now=now, data={"hook": hook, "run_id": hook_run_id})
        await tx.notify("work", environment_id=run.environment_id)


async def tell(tx: Transaction, run: Run, kind: str, *, error: dict[str, Any] | None = None, now: datetime) -> None:
    """A line in the story of the run whose hook this is; nothing for any other run."""
    if run.hook_of is not None:
        data: dict[str, Any] = {"hook": run.hook, "run_id": run.id}
        if error is not None:
            data["error"] = error
        await events.record(tx, run.hook_of, kind, now=now, attempt=run.attempt or None, data=data)


async def call(tx: Transaction, run: Run) -> tuple[Run, HookCall]:
    """For the hand-out of a hook run: whose hook it is, and what to say of its end."""
    assert run.hook is not None
    origin = Run.of(await tx.fetchrow("select * from runs where id = $1", run.hook_of))
    error = msgspec.convert(origin.error, TaskError) if origin.error else None
    reason = origin.cancel_reason
    if reason is None and run.hook == "on_cancel":
        told = await tx.fetchval(
            "select data from events where run_id = $1 and kind = 'run.canceled' order by id desc limit 1", origin.id
        )
        reason = (told or {}).get("reason")
    return origin, HookCall(run.hook, run.id, error, STATUS[RunState(origin.state)], reason)

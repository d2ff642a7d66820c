"""An attempt has ended: the run is over, or tried again."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from torpor.engine import active, checkpoints, events, hooks, slots, usage
from torpor.engine.answers import detach_all
from torpor.engine.end import close_attempt, end, requeue
from torpor.engine.instants import to_iso
from torpor.engine.locks import fenced, lock_runs_and_waiters
from torpor.engine.outcomes import Lease, Stale
from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.store.records import Run
from torpor.wire.http import FinishReport, OutOfMemory
from torpor.wire.runner import RetryPolicy, TaskError


@dataclass(frozen=True, slots=True)
class Finished:
    """Where the run stands now. `retry_at`: when its next attempt may start, if there is one."""

    state: RunState
    retry_at: datetime | None = None


_STATE_AFTER = {"failed": RunState.FAILED, "crashed": RunState.CRASHED, "timed_out": RunState.TIMED_OUT}


async def finish(
    tx: Transaction,
    lease: Lease,
    report: FinishReport,
    *,
    jitter: Callable[[], float],
    output_object: str | None = None,
    now: datetime,
) -> Finished | Stale:
    """The attempt completed, failed (an exception), crashed (the process died), was canceled or worked for too long. For
    the worker that holds the lease.

    Completed: the run is over and its output is kept. Failed: tried again after the retry policy's delay, if it is
    retryable and attempts are left: from the top or, if the policy says so, from the newest usable checkpoint. Crashed
    with attempts left: at once, from the newest usable checkpoint if there is one. Crashed since its memory was used up, and the
    policy names a larger machine: the same attempt goes on there. Timed out: over, for another attempt would take as long.
    Canceled: over, and so is a run that was asked to end, whatever its process made of it. Whoever
    waits for a run that is over is answered. Stale: this came before, or the run was taken away; the outcome counts for
    nothing, and the worker forgets it. `jitter()` is between 0 and 1. `output_object`: where the output is kept instead,
    since it is too large for a row.
    """
    around = await lock_runs_and_waiters(tx, [lease.run_id])
    run = fenced(around[0].get(lease.run_id), lease)
    if isinstance(run, Stale):
        return run
    await usage.note(tx, run, report.usage)
    if run.cancel_requested_at is not None or report.outcome == "canceled":
        data = {"reason": run.cancel_reason} if run.cancel_reason else {}
        if report.error is not None:
            data["note"] = f"{report.error.name}: {report.error.message}"
        await end(tx, run, RunState.CANCELED, around, data=data, performed=report.hooks, now=now)
        return Finished(RunState.CANCELED)
    if report.outcome == "completed":
        output = None if output_object else bytes(report.output).decode()
        await end(tx, run, RunState.COMPLETED, around, output=output, output_object=output_object, now=now)
        return Finished(RunState.COMPLETED)
    state = _STATE_AFTER[report.outcome]
    error = msgspec.to_builtins(report.error or TaskError(state.name.title(), "no error was told"))
    if report.oom is not None and await _went_on_larger(tx, run, report.oom, now=now):
        return Finished(RunState.QUEUED, retry_at=now)
    if state == RunState.TIMED_OUT or not report.retryable or run.attempt >= run.max_attempts:
        await end(tx, run, state, around, error=error, data={"error": error}, performed=report.hooks, now=now)
        return Finished(state)
    await close_attempt(tx, run, report.outcome, error=error, now=now)
    data = {"error": error, "next_attempt": run.attempt + 1}
    if report.outcome == "crashed":
        data["from_checkpoint"] = run.checkpoint_id
        if report.oom is not None:
            data["out_of_memory"] = msgspec.to_builtins(report.oom)
        await requeue(tx, run, checkpoint_id=run.checkpoint_id, rescues=0, now=now)
        await events.record(tx, run.id, "run.retrying", now=now, attempt=run.attempt, data=data)
        return Finished(RunState.QUEUED, retry_at=now)
    policy = await _policy(tx, run)
    delay_s = retry_delay_s(policy, run.attempt, jitter)
    retry_at = now + timedelta(seconds=delay_s)
    resumes_from = run.checkpoint_id if policy.resume == "checkpoint" else None
    if resumes_from is None:
        await checkpoints.set_aside(tx, run.id, now=now)
    else:
        data["from_checkpoint"] = resumes_from
    if delay_s <= 0:
        await requeue(tx, run, checkpoint_id=resumes_from, rescues=0, now=now)
    else:
        await _delay(tx, run, retry_at, resumes_from, now=now)
    data |= {"retry_at": to_iso(retry_at), "delay_s": round(delay_s, 3)}
    await events.record(tx, run.id, "run.retrying", now=now, attempt=run.attempt, data=data)
    return Finished(RunState.DELAYED if delay_s > 0 else RunState.QUEUED, retry_at)


async def _went_on_larger(tx: Transaction, run: Run, oom: OutOfMemory, *, now: datetime) -> bool:
    """-> queued, from its newest checkpoint, else from the top, with the larger preset that its policy names for this.

    No attempt is used up: the code has done nothing wrong, it was given too little. This happens once, since only a preset
    with more memory counts; where it has that one already, this is a crash like any other.
    """
    named = (await _policy(tx, run)).on_oom
    larger = await tx.fetchval(
        """select larger.name from presets as larger, presets as own
           where larger.environment_id = $1 and larger.name = $2 and own.environment_id = $1 and own.name = $3
             and larger.memory_bytes > own.memory_bytes""",
        run.environment_id,
        named,
        run.preset,
    )
    if larger is None:
        return False
    await requeue(tx, run, checkpoint_id=run.checkpoint_id, rescues=0, preset=larger, now=now)
    data = msgspec.to_builtins(oom)
    data |= {"machine": run.preset, "next_machine": larger, "from_checkpoint": run.checkpoint_id}
    await events.record(tx, run.id, "run.out_of_memory", now=now, attempt=run.attempt, data=data)
    return True


def retry_delay_s(policy: RetryPolicy, attempt: int, jitter: Callable[[], float]) -> float:
    """How long to wait after attempt number `attempt`: exponential up to the maximum; jitter stretches it by up to 2.

    >>> retry_delay_s(RetryPolicy(min_delay_s=1, factor=2, max_delay_s=60, jitter=False), 3, lambda: 0.0)
    4.0
    """
    try:
        delay_s = policy.min_delay_s * policy.factor ** (attempt - 1)
    except OverflowError:
        delay_s = policy.max_delay_s
    if policy.jitter:
        delay_s *= 1.0 + jitter()
    return max(0.0, float(min(policy.max_delay_s, delay_s)))


async def _policy(tx: Transaction, run: Run) -> RetryPolicy:
    """The task's, as of the version that has just failed."""
    if run.hook is not None:
        return hooks.POLICY
    retry = await tx.fetchval(
        "select retry from tasks where environment_id = $1 and version = $2 and id = $3",
        run.environment_id,
        run.version,
        run.task_id,
    )
    return msgspec.convert(retry, RetryPolicy) if retry else RetryPolicy()


async def _delay(tx: Transaction, run: Run, retry_at: datetime, checkpoint_id: str | None, *, now: datetime) -> None:
    """-> delayed, from this checkpoint or from the top. The lease moves on."""
    await tx.execute(
        f"""update runs set state = 'delayed', checkpoint_id = $4, rescues = 0, available_at = $2, updated_at = $3,
                lease = lease + 1, lease_expires_at = null, worker_id = null, instance_id = null, ready_at = null,
                image_store_id = (select store_id from checkpoints where id = $4), {active.ends("$3")}
            where id = $1""",
        run.id,
        retry_at,
        now,
        checkpoint_id,
    )
    await slots.released(tx, run)
    if checkpoint_id is None:
        await detach_all(tx, run.id, now=now)
    await tx.notify("timer", due_at=to_iso(retry_at))

"""Runs, their story and their batches become the API's JSON, as render.py does it with the rest.

`isCompleted` is true for every final status: clients poll until it is.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from torpor.durations import write_duration
from torpor.engine import usage
from torpor.engine.read_batch import ItemResult
from torpor.engine.states import ENDS, STATUS, RunState
from torpor.server.render import Json, present, schedule_of_run
from torpor.store.records import (
    Batch,
    BatchItem,
    Environment,
    Event,
    LogLine,
    Run,
    Schedule,
)

_WAITING = frozenset({"WAITING"})
_QUEUED = frozenset({"QUEUED", "DELAYED", "PENDING_VERSION"})
_EXECUTING = frozenset({"EXECUTING", "DEQUEUED"})
_FAILED = frozenset({"FAILED", "CRASHED", "SYSTEM_FAILURE", "EXPIRED", "TIMED_OUT"})

_TRIGGER_FUNCTIONS = frozenset({"trigger", "triggerAndWait", "batchTrigger", "batchTriggerAndWait"})
"""Those that the official client knows; to it a run with another one can't be read."""


def _raw(text: str | None) -> msgspec.Raw | None:
    """JSON text that user code made goes out as it came in."""
    return None if text is None else msgspec.Raw(text.encode())


def run_summary(run: Run, now: datetime) -> Json:
    """What lists and related runs show of a run."""
    state = RunState(run.state)
    status = STATUS[state]
    key_options = run.idempotency_key_options or {}
    duration = ((run.finished_at or now) - run.started_at).total_seconds() if run.started_at else 0.0
    return present(
        {
            "id": run.id,
            "status": status,
            "taskIdentifier": run.task_id,
            "idempotencyKey": written if isinstance(written := key_options.get("key"), str) else run.idempotency_key,
            "version": run.version,
            "isQueued": status in _QUEUED,
            "isExecuting": status in _EXECUTING,
            "isWaiting": status in _WAITING,
            "isCompleted": state in ENDS,
            "isSuccess": status == "COMPLETED",
            "isFailed": status in _FAILED,
            "isCancelled": status == "CANCELED",
            "isTest": run.is_test,
            "createdAt": run.created_at,
            "updatedAt": run.updated_at,
            "startedAt": run.started_at,
            "finishedAt": run.finished_at,
            "delayedUntil": run.delay_until,
            "ttl": write_duration(run.ttl_s) if run.ttl_s else None,
            "expiredAt": run.finished_at if state == RunState.EXPIRED else None,
            "tags": sorted(run.tags),
            "costInCents": 0,
            "baseCostInCents": 0,
            "durationMs": max(0, round(duration * 1000)),
            "metadata": run.metadata,
            "machine": run.preset,
            "usage": {
                "cpuMs": round(usage.cpu_ms(run)),
                "peakMemoryBytes": run.peak_memory_bytes,
                "frozenMs": round(usage.frozen_ms(run, now)),
            },
            "depth": run.depth,
            "triggerFunction": run.trigger_function if run.trigger_function in _TRIGGER_FUNCTIONS else "trigger",
            "batchId": run.batch_id,
        }
    )


def run_in_list(run: Run, environment: Environment, now: datetime) -> Json:
    summary = run_summary(run, now)
    del summary["depth"]
    return {**summary, "env": {"id": environment.id, "name": environment.slug}}


def run_whole(
    run: Run,
    *,
    root: Run | None,
    parent: Run | None,
    children: Sequence[Run],
    schedule: Schedule | None,
    now: datetime,
) -> Json:
    """A run with what it was given, what came of it, and its relatives."""
    related = {
        "root": run_summary(root, now) if root else None,
        "parent": run_summary(parent, now) if parent else None,
        "children": [run_summary(child, now) for child in children],
    }
    whole = {
        "payload": _raw(run.payload),
        "output": _raw(run.output),
        "error": _run_error(run.error),
        "relatedRuns": present(related),
        "attemptCount": run.attempt,
        "schedule": schedule_of_run(schedule) if schedule else None,
        "queue": {"name": run.queue},
        "concurrencyKey": run.concurrency_key or None,
        "priority": run.priority_s or None,
        "maxAttempts": run.max_attempts,
        "maxDuration": run.max_duration_s,
        "lockedToVersion": run.locked_version,
        "replayedFrom": run.replayed_from,
        "forkedFrom": run.forked_from,
        "forkedCheckpointId": run.forked_checkpoint_id,
    }
    return run_summary(run, now) | present(whole)


def _run_error(error: Json | None) -> Json | None:
    if error is None:
        return None
    causes = [_run_error({**cause, "causes": []}) for cause in error.get("causes") or ()]
    return present(
        {
            "message": error["message"],
            "name": error["name"],
            "stackTrace": error.get("stack_trace") or None,
            "causes": causes or None,
        }
    )


def run_result(run: Run) -> Json:
    """The end of a run, as one who waited for it is told: its output, or its error in the client's own terms."""
    told: Json = {"id": run.id, "taskIdentifier": run.task_id}
    if run.state == RunState.COMPLETED:
        return {"ok": True, **told, "output": run.output or "null", "outputType": "application/json"}
    return {"ok": False, **told, "error": task_run_error(run)}


_INTERNAL_CODE = {
    RunState.CANCELED: "TASK_RUN_CANCELLED",
    RunState.CRASHED: "TASK_RUN_CRASHED",
    RunState.TIMED_OUT: "MAX_DURATION_EXCEEDED",
}


def task_run_error(run: Run) -> Json:
    """Why a run has ended badly, in the client's terms. A code that the client doesn't know would break its feeds."""
    error = run.error or {}
    if run.state == RunState.FAILED and error:
        trace = error.get("stack_trace", "")
        return {"type": "BUILT_IN_ERROR", "name": error["name"], "message": error["message"], "stackTrace": trace}
    code = _INTERNAL_CODE.get(RunState(run.state), "UNSPECIFIED_ERROR")
    return present({"type": "INTERNAL_ERROR", "code": code, "message": error.get("message")})


# -- batches ----------------------------------------------------------------------------------------------------------


def batch_status(batch: Batch) -> str:
    """PENDING while items are yet to come, PROCESSING while runs are yet to end; then how it went with the items."""
    if batch.is_aborted:
        return "ABORTED"
    if batch.completed_at is None:
        return "PROCESSING" if batch.is_sealed else "PENDING"
    if batch.failed_items:
        return "ABORTED" if batch.failed_items == batch.run_count else "PARTIAL_FAILED"
    return "COMPLETED"


def _batch_summary(batch: Batch) -> Json:
    return {
        "id": batch.id,
        "status": batch_status(batch),
        "idempotencyKey": batch.idempotency_key,
        "createdAt": batch.created_at,
        "updatedAt": max(batch.updated_at, batch.completed_at or batch.updated_at),
        "runCount": batch.run_count,
    }


def batch(batch: Batch, run_ids: list[str], failed: Sequence[BatchItem]) -> Json:
    errors = [{"index": item.index, "taskIdentifier": item.task_id, "error": item.error} for item in failed]
    processing = present({"completedAt": batch.sealed_at, "errors": errors})
    return present({**_batch_summary(batch), "runs": run_ids, "processing": processing})


def batch_in_list(batch: Batch) -> Json:
    counts = {"items": batch.item_count, "pending": batch.pending, "failedItems": batch.failed_items}
    return present({**_batch_summary(batch), "counts": counts, "completedAt": batch.completed_at})


def batch_result(result: ItemResult) -> Json | None:
    """How an item ended; None while its run goes on. `index` and `status` are ours."""
    item, run = result.item, result.run
    if run is not None:
        if RunState(run.state) not in ENDS:
            return None
        return {"index": item.index, "status": STATUS[RunState(run.state)], **run_result(run)}
    why = item.error or "its run was deleted"
    error = {"type": "STRING_ERROR", "raw": why}
    return {"index": item.index, "ok": False, "id": item.run_id or "", "taskIdentifier": item.task_id, "error": error}


# -- a run's story ----------------------------------------------------------------------------------------------------


def event(event: Event) -> Json:
    return present({"id": event.id, "at": event.at, "kind": event.kind, "attempt": event.attempt, "data": event.data})


def log_line(line: LogLine) -> Json:
    return {
        "id": line.id,
        "at": line.at,
        "level": line.level,
        "message": line.message,
        "attributes": line.attributes,
        "stream": line.stream,
    }

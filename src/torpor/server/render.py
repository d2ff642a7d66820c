"""A row becomes the API's JSON, in one function per resource. Absent fields are left out, never null.

Dates may only be left out (the official client reads a null as 1970), and `isCompleted` is true for every final status:
clients poll until it is.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from torpor.cron import Pattern
from torpor.durations import write_duration
from torpor.engine import usage
from torpor.engine.api_keys import is_valid
from torpor.engine.read import TokenView, WaitView
from torpor.engine.read_batch import ItemResult
from torpor.engine.states import ENDS, STATUS, RunState
from torpor.server.auth import callback_hash
from torpor.server.hub import Hub
from torpor.store.records import (
    ApiKey,
    Batch,
    BatchItem,
    BulkAction,
    Checkpoint,
    DataKey,
    Deployment,
    Environment,
    Event,
    LogLine,
    Run,
    Schedule,
    Task,
    Worker,
)

Json = dict[str, Any]

_WAITING = frozenset({"WAITING"})
_QUEUED = frozenset({"QUEUED", "DELAYED", "PENDING_VERSION"})
_EXECUTING = frozenset({"EXECUTING", "DEQUEUED"})
_FAILED = frozenset({"FAILED", "CRASHED", "SYSTEM_FAILURE", "EXPIRED", "TIMED_OUT"})

_TRIGGER_FUNCTIONS = frozenset({"trigger", "triggerAndWait", "batchTrigger", "batchTriggerAndWait"})
"""Those that the official client knows; to it a run with another one can't be read."""

TOKEN_STATUS = {"pending": "WAITING", "completed": "COMPLETED", "timed_out": "TIMED_OUT", "failed": "COMPLETED"}
TOKEN_TIMED_OUT = {"code": "TRIGGER_WAITPOINT_TIMEOUT", "message": "the wait token was not completed in time"}


def _present(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


def _raw(text: str | None) -> msgspec.Raw | None:
    """JSON text that user code made goes out as it came in."""
    return None if text is None else msgspec.Raw(text.encode())


# -- runs -------------------------------------------------------------------------------------------------------------


def run_summary(run: Run, now: datetime) -> Json:
    """What lists and related runs show of a run."""
    state = RunState(run.state)
    status = STATUS[state]
    key_options = run.idempotency_key_options or {}
    duration = ((run.finished_at or now) - run.started_at).total_seconds() if run.started_at else 0.0
    return _present(
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
        "relatedRuns": _present(related),
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
    return run_summary(run, now) | _present(whole)


def _run_error(error: Json | None) -> Json | None:
    if error is None:
        return None
    causes = [_run_error({**cause, "causes": []}) for cause in error.get("causes") or ()]
    return _present(
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
    return _present({"type": "INTERNAL_ERROR", "code": code, "message": error.get("message")})


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
    processing = _present({"completedAt": batch.sealed_at, "errors": errors})
    return _present({**_batch_summary(batch), "runs": run_ids, "processing": processing})


def batch_in_list(batch: Batch) -> Json:
    counts = {"items": batch.item_count, "pending": batch.pending, "failedItems": batch.failed_items}
    return _present({**_batch_summary(batch), "counts": counts, "completedAt": batch.completed_at})


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


# -- bulk actions -----------------------------------------------------------------------------------------------------


def bulk_action(action: BulkAction) -> Json:
    status = "ABORTED" if action.aborted_at else "COMPLETED" if action.completed_at else "PENDING"
    return _present(
        {
            "id": action.id,
            "name": action.name,
            "by": action.made_by,
            "type": action.kind.upper(),
            "status": status,
            "counts": {"total": action.total, "success": action.succeeded, "failure": action.failed},
            "createdAt": action.created_at,
            "completedAt": action.completed_at,
        }
    )


# -- a run's story ----------------------------------------------------------------------------------------------------


def event(event: Event) -> Json:
    return _present({"id": event.id, "at": event.at, "kind": event.kind, "attempt": event.attempt, "data": event.data})


def log_line(line: LogLine) -> Json:
    return {
        "id": line.id,
        "at": line.at,
        "level": line.level,
        "message": line.message,
        "attributes": line.attributes,
        "stream": line.stream,
    }


def checkpoint(checkpoint: Checkpoint) -> Json:
    return _present(
        {
            "id": checkpoint.id,
            "runId": checkpoint.run_id,
            "number": checkpoint.number,
            "kind": checkpoint.kind,
            "name": checkpoint.name,
            "state": checkpoint.state,
            "reason": checkpoint.reason,
            "attempt": checkpoint.attempt,
            "workerId": checkpoint.worker_id,
            "imageId": checkpoint.image_id,
            "storeId": checkpoint.store_id,
            "baseImageId": checkpoint.base,
            "keyId": checkpoint.key_id or None,
            "digest": checkpoint.digest or None,
            "sizeBytes": checkpoint.size_bytes,
            "newBytes": checkpoint.new_bytes,
            "sharedBytes": checkpoint.shared_bytes,
            "filesBytes": checkpoint.files_bytes,
            "rssBytes": checkpoint.rss_bytes,
            "dumpMs": checkpoint.dump_ms,
            "durableMs": checkpoint.durable_ms,
            "waitingAt": checkpoint.waiting_at,
            "facts": checkpoint.facts,
            "createdAt": checkpoint.created_at,
            "keptUntil": checkpoint.kept_until,
        }
    )


def wait(wait: WaitView) -> Json:
    """A wait that a frozen process is in; `canBeAnswered` by a fork."""
    return _present(
        {
            "id": wait.wait_id,
            "kind": wait.kind,
            "status": TOKEN_STATUS[wait.status],
            "waitpointId": wait.waitpoint_id,
            "runId": wait.awaited_run_id,
            "dueAt": wait.due_at,
            "canBeAnswered": wait.can_be_answered,
        }
    )


def api_key(key: ApiKey, yours: str, now: datetime) -> Json:
    """Not the key: which it is, and what it may do. `yours` is the id of the one that this is asked with."""
    return _present(
        {
            "id": key.id,
            "name": key.name,
            "hint": key.hint,
            "scopes": key.scopes,
            "isPersonal": True if key.is_personal else None,
            "isValid": is_valid(key, now),
            "isConfigured": key.is_configured,
            "isYours": key.id == yours,
            "createdAt": key.created_at,
            "createdBy": key.created_by,
            "lastUsedAt": key.last_used_at,
            "expiresAt": key.expires_at,
            "revokedAt": key.revoked_at,
        }
    )


def data_key(key: DataKey) -> Json:
    """Not the key: which it is."""
    return _present({"id": key.id, "createdAt": key.created_at, "retiredAt": key.retired_at})


# -- wait tokens ------------------------------------------------------------------------------------------------------


def token_url(here: Hub, token_id: str) -> str:
    """Whoever has this URL may complete the token, once, without a key."""
    return f"{here.public_url}/api/v1/waitpoints/tokens/{token_id}/callback/{callback_hash(here, token_id)}"


def token_in_list(here: Hub, view: TokenView) -> Json:
    token = view.token
    return _present(
        {
            "id": token.id,
            "url": token_url(here, token.id),
            "status": TOKEN_STATUS[token.status],
            "completedAt": token.completed_at,
            "timeoutAt": token.due_at,
            "idempotencyKey": token.idempotency_key,
            "idempotencyKeyExpiresAt": token.idempotency_key_expires_at,
            "tags": token.tags,
            "createdAt": token.created_at,
            "title": token.title,
            "context": token.context,
            "runIds": view.run_ids,
        }
    )


def token_whole(here: Hub, view: TokenView) -> Json:
    """A token with its value, as packet text."""
    token, item = view.token, token_in_list(here, view)
    match token.status:
        case "pending":
            return item
        case "timed_out":
            output = msgspec.json.encode(TOKEN_TIMED_OUT).decode()
            return item | {"output": output, "outputType": "application/json", "outputIsError": True}
        case "failed":
            output = msgspec.json.encode({"message": (token.error or {}).get("message", "")}).decode()
            return item | {"output": output, "outputType": "application/json", "outputIsError": True}
        case _:
            output = token.output or "null"
            return item | {"output": output, "outputType": "application/json", "outputIsError": False}


def approval(here: Hub, view: TokenView) -> Json:
    """What a run asks of a person, and the answer. A value that is no answer counts as a rejection, as it does in the run."""
    token = view.token
    told: Json = {}
    match token.status:
        case "pending":
            status = "WAITING"
        case "timed_out":
            status = "TIMED_OUT"
        case _:
            value = msgspec.json.decode(token.output) if token.output else None
            answer = value if isinstance(value, dict) else {"approved": value is True}
            status = "APPROVED" if answer.get("approved") is True else "REJECTED"
            told = {name: answer[name] for name in ("by", "comment") if isinstance(answer.get(name), str)}
    return _present(
        {
            "id": token.id,
            "status": status,
            "title": token.title,
            "context": token.context,
            "runIds": view.run_ids,
            "madeBy": token.created_by_run_id,
            "tags": token.tags,
            "createdAt": token.created_at,
            "timeoutAt": token.due_at,
            "answeredAt": token.completed_at,
            "url": token_url(here, token.id),
            **told,
        }
    )


# -- schedules --------------------------------------------------------------------------------------------------------

ENVIRONMENT_TYPE = {"dev": "DEVELOPMENT", "stg": "STAGING", "prod": "PRODUCTION", "preview": "PREVIEW"}


def _generator(schedule: Schedule) -> Json:
    pattern = _pattern(schedule)
    return {"type": "CRON", "expression": schedule.cron, "description": pattern.explain() if pattern else ""}


def _pattern(schedule: Schedule) -> Pattern | None:
    """None for one that can't be read; its `problem` says so."""
    try:
        return Pattern.read(schedule.cron, schedule.timezone)
    except ValueError:
        return None


def schedule_of_run(schedule: Schedule) -> Json:
    """The schedule that triggered a run, as the run shows it."""
    return _present(
        {
            "id": schedule.id,
            "externalId": schedule.external_id,
            "deduplicationKey": schedule.deduplication_key,
            "generator": _generator(schedule),
        }
    )


def schedule(schedule: Schedule, environment: Environment, now: datetime) -> Json:
    """A schedule. `nextRun` is what the pattern names, `nextRunEffectiveAt` the same moved within the window."""
    pattern = _pattern(schedule)
    return _present(
        {
            **schedule_of_run(schedule),
            "type": "DECLARATIVE" if schedule.kind == "declared" else "IMPERATIVE",
            "task": schedule.task_id,
            "active": schedule.is_active,
            "timezone": schedule.timezone,
            "window": schedule.window_text,
            "catchUp": schedule.catch_up,
            "nextRun": schedule.next_tick_at,
            "nextRunEffectiveAt": schedule.next_fire_at,
            "upcoming": pattern.upcoming(now) if pattern and schedule.is_active else [],
            "lastTimestamp": schedule.last_tick_at,
            "lastRunId": schedule.last_run_id,
            "problem": schedule.problem,
            "problemAt": schedule.problem_at,
            "environments": [
                {"id": environment.id, "type": ENVIRONMENT_TYPE.get(environment.slug, environment.slug.upper())}
            ],
        }
    )


# -- what there is ----------------------------------------------------------------------------------------------------


def task(task: Task) -> Json:
    return _present(
        {
            "id": task.id,
            "version": task.version,
            "file": task.file,
            "line": task.line,
            "isAsync": task.is_async,
            "parameters": task.parameters,
            "payloadSchema": task.payload_schema,
            "retry": task.retry,
            "doc": task.doc,
            "machine": task.preset,
        }
    )


def deployment(deployment: Deployment) -> Json:
    """What isn't known (who deployed it, from which commit) is left out; the runtime's version may not be, but may be null."""
    return {
        "id": deployment.id,
        "createdAt": deployment.created_at,
        "deployedAt": deployment.deployed_at,
        "shortCode": deployment.id.partition("_")[2][:8],
        "version": deployment.version,
        "runtime": "python",
        "runtimeVersion": deployment.runtime_version,
        "status": "DEPLOYED",
    }


def worker(worker: Worker, load: tuple[int, int], now: datetime) -> Json:
    """A worker, and how many of its runs work and are held. What it does not tell of itself is left out."""
    facts = worker.facts
    running, held = load
    return _present(
        {
            "id": worker.id,
            "host": worker.host,
            "version": worker.version,
            "slots": worker.slots,
            "running": running,
            "held": held,
            "capacity": _present({"cpu": worker.cpu, "memoryBytes": worker.memory_bytes}) or None,
            "disk": _present({"sizeBytes": worker.disk_bytes, "freeBytes": worker.disk_free_bytes}) or None,
            "labels": worker.labels or None,
            "isolation": facts.get("isolation"),
            "trust": facts.get("trust"),
            "networks": facts.get("networks"),
            "canFreeze": worker.can_freeze,
            "noFreezeReason": facts.get("no_freeze_reason"),
            "criu": facts.get("criu"),
            "storeId": worker.store_id,
            "fitness": worker.fitness,
            "facts": facts,
            "isAlive": worker.expires_at > now,
            "drainAskedAt": worker.drain_asked_at,
            "startedAt": worker.hello_at,
            "seenAt": worker.seen_at,
        }
    )

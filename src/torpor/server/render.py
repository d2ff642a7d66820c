"""A row becomes the API's JSON, in one function per resource; render_runs.py has those of runs and batches.

Absent fields are left out, never null: the official client reads a date that is null as 1970.
"""

from datetime import datetime
from typing import Any

import msgspec

from torpor.cron import Pattern
from torpor.engine.api_keys import is_valid
from torpor.engine.read import TokenView, WaitView
from torpor.server.auth import callback_hash
from torpor.server.hub import Hub
from torpor.store.records import (
    ApiKey,
    BulkAction,
    Checkpoint,
    DataKey,
    Deployment,
    Environment,
    Schedule,
    Task,
    Worker,
)

Json = dict[str, Any]

TOKEN_STATUS = {"pending": "WAITING", "completed": "COMPLETED", "timed_out": "TIMED_OUT", "failed": "COMPLETED"}
TOKEN_TIMED_OUT = {"code": "TRIGGER_WAITPOINT_TIMEOUT", "message": "the wait token was not completed in time"}


def present(fields: Json) -> Json:
    """Without what is None."""
    return {name: value for name, value in fields.items() if value is not None}


# -- bulk actions -----------------------------------------------------------------------------------------------------


def bulk_action(action: BulkAction) -> Json:
    status = "ABORTED" if action.aborted_at else "COMPLETED" if action.completed_at else "PENDING"
    return present(
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


# -- checkpoints, and keys ---------------------------------------------------------------------------------------------


def checkpoint(checkpoint: Checkpoint) -> Json:
    return present(
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
    return present(
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
    return present(
        {
            "id": key.id,
            "name": key.name,
            "hint": key.hint,
            "scopes": key.scopes,
            "isPersonal": True if key.is_personal else None,
            "isWorker": True if key.is_worker else None,
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
    return present({"id": key.id, "createdAt": key.created_at, "retiredAt": key.retired_at})


# -- wait tokens ------------------------------------------------------------------------------------------------------


def token_url(here: Hub, token_id: str) -> str:
    """Whoever has this URL may complete the token, once, without a key."""
    return f"{here.public_url}/api/v1/waitpoints/tokens/{token_id}/callback/{callback_hash(here, token_id)}"


def token_in_list(here: Hub, view: TokenView) -> Json:
    token = view.token
    return present(
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
    return present(
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
    return present(
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
    return present(
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
    return present(
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
    return present(
        {
            "id": worker.id,
            "host": worker.host,
            "version": worker.version,
            "slots": worker.slots,
            "running": running,
            "held": held,
            "capacity": present({"cpu": worker.cpu, "memoryBytes": worker.memory_bytes}) or None,
            "disk": present({"sizeBytes": worker.disk_bytes, "freeBytes": worker.disk_free_bytes}) or None,
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

"""Asking for runs: by a trigger, or by another run that is performed again."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from torpor.durations import parse_duration
from torpor.sdk import running
from torpor.sdk.batch import BatchItem
from torpor.sdk.calls.call import Call, Json, duration, post, segment, text, written
from torpor.sdk.calls.doors import asked
from torpor.sdk.calls.runs import INLINE
from torpor.sdk.debounce import Debounce
from torpor.sdk.idempotency import Idempotency, hashed, resolved
from torpor.sdk.queue import Queue

_OPTIONS = {
    "idempotency_key": "idempotencyKey",
    "idempotency_key_ttl": "idempotencyKeyTTL",
    "max_attempts": "maxAttempts",
    "max_duration": "maxDuration",
    "concurrency_key": "concurrencyKey",
    "lock_to_version": "lockToVersion",
    "version": "lockToVersion",
    "inherit_tags": "inheritTags",
    "is_test": "test",
}


class Triggers:
    @asked
    def trigger(self, task_id: str, payload: Any = None, **options: Any) -> Call[Json]:
        """Ask for a run: `{"id": "run_…", "isCached"?: bool}`. Options: tags, delay, idempotency_key, max_attempts, ….

        Raises:
            NotFound: no such task; `error.body["near"]` has similar names.
            Unprocessable: the payload doesn't fit; `error.body["problems"]` says where.
        """
        body: Json = {} if payload is None else {"payload": payload}
        if chosen := trigger_options(options, payload):
            body["options"] = chosen
        return post(f"/api/v1/tasks/{segment(task_id)}/trigger", body)

    @asked
    def replay(self, run_id: str, **changes: Any) -> Call[Json]:
        """A new run like that one: `{"id": "run_…"}`. It takes over payload, tags, metadata, queue and the like.

        Args:
            run_id: the run to perform again, whatever became of it.
            **changes: `payload`, `tags`, `metadata`, `queue`, `concurrency_key`, `version`, `is_test`, `delay`, `ttl`,
                `max_attempts`, `max_duration`, `priority`, `idempotency_key`: instead of what that run had.
        """
        rest = {name: value for name, value in changes.items() if name != "payload"}
        body = trigger_options(rest, changes.get("payload"))
        if isinstance(queue := body.get("queue"), dict):
            body["queue"] = queue["name"]  # the replay's own spelling
        if "payload" in changes:
            body["payload"] = changes["payload"]  # None is one, too
        return post(f"/api/v1/runs/{segment(run_id)}/replay", body)

    @asked
    def reschedule(self, run_id: str, delay: str | float | timedelta | datetime) -> Call[Json]:
        """Move a delayed run: it is due so much from now, or at that instant. Returns the run.

        Raises:
            ApiError: it is not delayed (any more).
        """
        call = post(f"/api/v1/runs/{segment(run_id)}/reschedule", {"delay": text(duration(delay))})
        return replace(call, query=INLINE)

    @asked
    def reset_idempotency_key(self, task_id: str, key: str | Idempotency) -> Call[Json]:
        """Free a key: the next trigger with it makes a new run.

        Raises:
            NotFound: no run of that task has it.
        """
        name = key if isinstance(key, str) else key.key
        if name is None:
            raise ValueError("the key of a payload can't be reset by itself: pass the run's idempotencyKey text")
        scope = key.scope if isinstance(key, Idempotency) else None
        on_wire = hashed(name, scope or ("run" if running.session is not None else "global"))
        return post(f"/api/v1/idempotencyKeys/{on_wire}/reset", {"taskIdentifier": task_id})


def trigger_options(options: Json, payload: Any) -> Json:
    """Options, by our names or the API's, as the API names and writes them. The payload may be what the key is made of.

    A key by our name is hashed, as `task.options` does it; the API's goes as it is.
    """
    key = options.get("idempotency_key")
    if isinstance(key, str | Idempotency) and key:
        as_json = None if payload is None else written(payload)
        rest = {name: value for name, value in options.items() if name != "idempotency_key"}
        options = resolved({**rest, "idempotencyKey": key}, as_json)
    chosen = {_OPTIONS.get(name, name): value for name, value in options.items() if value is not None}
    for name in ("delay", "ttl", "idempotencyKeyTTL"):
        if name in chosen:
            chosen[name] = duration(chosen[name])
    if "maxDuration" in chosen and isinstance(chosen["maxDuration"], str | timedelta):
        chosen["maxDuration"] = parse_duration(chosen["maxDuration"]).total_seconds()
    if isinstance(queue := chosen.get("queue"), str | Queue):
        chosen["queue"] = {"name": queue if isinstance(queue, str) else queue.name}
    if isinstance(debounce := chosen.get("debounce"), Debounce):
        chosen["debounce"] = debounce.to_api()
    return chosen


def batch_item(task_id: str, payload: Any, options: Json) -> BatchItem[Any]:
    """One of a batch's items."""
    try:
        as_json = None if payload is None else written(payload)
    except (TypeError, ValueError, NotImplementedError) as error:
        return BatchItem(task_id, error=f"its payload can't be JSON: {error}")
    return BatchItem(task_id, as_json, trigger_options(options, payload))

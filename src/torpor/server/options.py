"""The options of a trigger, from the management API's words to the engine's.

Each documented option is carried out, or refused by name: an option that is ignored would be a promise broken without a
word. Only what the official client adds by itself, and what changes nothing here, is let pass.
"""

import difflib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from torpor.durations import parse_duration, parse_when
from torpor.server.errors import Refused

MAX_TAGS = 10
MAX_TAG_LENGTH = 128
MAX_KEY_LENGTH = 2048
MAX_METADATA_BYTES = 256 * 1024
MAX_ATTEMPTS = 100

HARMLESS = frozenset({"payloadType", "payloadSize", "metadataType", "resumeParentOnCompletion"})
"""Read elsewhere, or only told."""
NOT_YET = frozenset(
    {"concurrency", "concurrencyKey", "debounce", "externalDeploymentId", "lockToVersion", "machine"}
    | {"maxDuration", "parentRunId", "priority", "region", "ttl"}
)
CARRIED_OUT = frozenset(
    {"delay", "idempotencyKey", "idempotencyKeyOptions", "idempotencyKeyTTL", "maxAttempts", "metadata", "queue"}
    | {"tags", "test"}
)


@dataclass(frozen=True)
class TriggerOptions:
    idempotency_key: str | None = None
    idempotency_key_options: dict[str, Any] | None = None
    idempotency_key_ttl_s: float | None = None
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] | None = None
    max_attempts: int | None = None
    delay_until: datetime | None = None
    is_test: bool = False


def read_options(task_id: str, given: dict[str, Any], *, now: datetime) -> TriggerOptions:
    """What the caller asks for; 422 (413 for too much metadata) that names the option which can't be had."""
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name in NOT_YET:
            raise Refused(422, f"options.{name} is not supported yet")
        if name not in HARMLESS | CARRIED_OUT:
            raise _unknown(name)
    _check_queue(task_id, options.get("queue"))
    key, key_options = options.get("idempotencyKey"), options.get("idempotencyKeyOptions")
    if key_options is not None and not isinstance(key_options, dict):
        raise _wrong("idempotencyKeyOptions", "it must be an object")
    return TriggerOptions(
        idempotency_key=read_key("options.idempotencyKey", key),
        idempotency_key_options=key_options,
        idempotency_key_ttl_s=_ttl_s(options.get("idempotencyKeyTTL")),
        tags=read_tags("options.tags", options.get("tags")),
        metadata=_metadata(options.get("metadata")),
        max_attempts=_max_attempts(options.get("maxAttempts")),
        delay_until=_delay(options.get("delay"), now),
        is_test=_test(options.get("test", False)),
    )


def read_tags(where: str, given: Any) -> list[str]:
    """One tag or several, without repetitions."""
    tags = [given] if isinstance(given, str) else given or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        raise Refused(422, f"{where}: tags are a text or a list of texts")
    for tag in tags:
        if len(tag) > MAX_TAG_LENGTH:
            raise Refused(422, f"{where}: a tag has at most {MAX_TAG_LENGTH} characters; {tag[:40]!r}… has {len(tag)}")
    tags = list(dict.fromkeys(tags))
    if len(tags) > MAX_TAGS:
        raise Refused(422, f"{where}: at most {MAX_TAGS} tags; there are {len(tags)}")
    return tags


def read_key(where: str, given: Any) -> str | None:
    """An idempotency key."""
    if given is None or given == "":
        return None
    if not isinstance(given, str) or len(given) > MAX_KEY_LENGTH:
        raise Refused(422, f"{where}: it must be a text of at most {MAX_KEY_LENGTH} characters")
    return given


def _wrong(name: str, why: object) -> Refused:
    return Refused(422, f"options.{name}: {why}")


def _unknown(name: str) -> Refused:
    near = difflib.get_close_matches(name, sorted(CARRIED_OUT | NOT_YET), 1)
    return _wrong(name, "there is no such option" + (f"; did you mean {near[0]}?" if near else ""))


def _check_queue(task_id: str, queue: Any) -> None:
    """Its own queue is where a run goes anyway; the client may name it."""
    if queue is None:
        return
    name = queue.get("name") if isinstance(queue, dict) else queue
    if name not in (task_id, f"task/{task_id}"):
        raise _wrong("queue", f"other queues than the task's own are not supported yet ({name!r})")


def _ttl_s(given: Any) -> float | None:
    if given is None:
        return None
    try:
        return parse_duration(given).total_seconds()
    except (ValueError, TypeError) as error:
        raise _wrong("idempotencyKeyTTL", error) from None


def _delay(given: Any, now: datetime) -> datetime | None:
    """A moment that has passed already means: without delay."""
    if given is None:
        return None
    try:
        until = parse_when(given, now=now)
    except (ValueError, TypeError) as error:
        raise _wrong("delay", error) from None
    return until if until > now else None


def _metadata(given: Any) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        raise _wrong("metadata", "it must be an object")
    size = len(msgspec.json.encode(given))
    if size > MAX_METADATA_BYTES:
        raise Refused(413, f"options.metadata has {size} bytes; at most {MAX_METADATA_BYTES} are taken")
    return given


def _max_attempts(given: Any) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MAX_ATTEMPTS:
        raise _wrong("maxAttempts", f"it must be a whole number from 1 to {MAX_ATTEMPTS}")
    return given


def _test(given: Any) -> bool:
    if not isinstance(given, bool):
        raise _wrong("test", "it must be true or false")
    return given

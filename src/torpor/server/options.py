"""The options of a trigger, from the management API's words to the engine's.

Each documented option is carried out, or refused by name: an option that is ignored would be a promise broken without a
word. Only what the official client adds by itself, and what changes nothing here, is let pass.
"""

import difflib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from torpor.config import Settings
from torpor.durations import parse_duration, parse_when
from torpor.engine import Debounce
from torpor.server.errors import Refused

MAX_TAG_LENGTH = 128
MAX_KEY_LENGTH = 2048
MAX_PRIORITY_S = 365 * 86_400
MAX_CONCURRENCY_KEY_LENGTH = 512
MAX_DEBOUNCE_KEY_LENGTH = 512
MIN_DEBOUNCE_S = 1.0
MIN_DURATION_S = 5.0

HARMLESS = frozenset({"payloadType", "payloadSize", "metadataType", "resumeParentOnCompletion"})
"""Read elsewhere, or only told."""
NOT_YET = frozenset({"concurrency", "externalDeploymentId", "parentRunId", "region"})
CARRIED_OUT = frozenset(
    {"concurrencyKey", "debounce", "delay", "idempotencyKey", "idempotencyKeyOptions", "idempotencyKeyTTL"}
    | {
        "inheritTags",
        "lockToVersion",
        "machine",
        "maxAttempts",
        "maxDuration",
        "metadata",
        "priority",
        "queue",
        "tags",
        "test",
        "ttl",
    }
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
    queue: str | None = None
    concurrency_key: str = ""
    priority_s: float = 0.0
    ttl_s: float | None = None
    debounce: Debounce | None = None
    lock_to_version: str | None = None
    inherit_tags: bool = False
    max_duration_s: float | None = None
    preset: str | None = None
    max_tags: int = 10


def read_options(given: dict[str, Any], limits: Settings, *, now: datetime) -> TriggerOptions:
    """What the caller asks for; 422 (413 for too much metadata) that names the option which can't be had."""
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name in NOT_YET:
            raise Refused(422, f"options.{name} is not supported yet")
        if name not in HARMLESS | CARRIED_OUT:
            raise _unknown(name)
    if "delay" in options and "debounce" in options:
        raise _wrong("delay", "a debounce has a delay of its own: leave one of the two out")
    key, key_options = options.get("idempotencyKey"), options.get("idempotencyKeyOptions")
    if key_options is not None and not isinstance(key_options, dict):
        raise _wrong("idempotencyKeyOptions", "it must be an object")
    return TriggerOptions(
        idempotency_key=read_key("options.idempotencyKey", key),
        idempotency_key_options=key_options,
        idempotency_key_ttl_s=read_seconds("options.idempotencyKeyTTL", options.get("idempotencyKeyTTL")),
        tags=read_tags("options.tags", options.get("tags"), limits),
        metadata=_metadata(options.get("metadata"), limits.max_metadata_bytes),
        max_attempts=_max_attempts(options.get("maxAttempts"), limits.max_attempts),
        delay_until=_delay(options.get("delay"), now),
        is_test=_flag("test", options.get("test", False)),
        queue=_queue(options.get("queue")),
        concurrency_key=_concurrency_key(options.get("concurrencyKey")),
        priority_s=_number("priority", options.get("priority", 0), at_least=0, at_most=MAX_PRIORITY_S),
        ttl_s=_ttl(options.get("ttl"), limits.max_ttl_s),
        debounce=_debounce(options.get("debounce")),
        lock_to_version=_text("lockToVersion", options.get("lockToVersion"), 128),
        inherit_tags=_flag("inheritTags", options.get("inheritTags", False)),
        max_duration_s=_max_duration(options.get("maxDuration")),
        preset=_machine(options.get("machine")),
        max_tags=limits.max_tags,
    )


def read_tags(where: str, given: Any, limits: Settings) -> list[str]:
    """One tag or several, without repetitions."""
    tags = [given] if isinstance(given, str) else [] if given is None else given
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        raise Refused(422, f"{where}: tags are a text or a list of texts")
    for tag in tags:
        if len(tag) > MAX_TAG_LENGTH:
            told = f"{where}: a tag has at most {MAX_TAG_LENGTH} characters; {tag[:40]!r}… has {len(tag)}"
            raise Refused(422, told, limit=MAX_TAG_LENGTH, value=len(tag))
    tags = list(dict.fromkeys(tags))
    if len(tags) > (most := limits.max_tags):
        raise Refused(422, f"{where}: at most {most} tags; there are {len(tags)}", limit=most, value=len(tags))
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


def _text(name: str, given: Any, longest: int) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or not given or len(given) > longest:
        raise _wrong(name, f"it must be a text of 1 to {longest} characters")
    return given


def _number(name: str, given: Any, *, at_least: float, at_most: float) -> float:
    # Not a NaN either, which is neither less nor more.
    if isinstance(given, bool) or not isinstance(given, int | float) or not at_least <= given <= at_most:
        raise _wrong(name, f"it must be a number of seconds from {at_least:g} to {at_most:.0f}")
    return float(given)


def _flag(name: str, given: Any) -> bool:
    if not isinstance(given, bool):
        raise _wrong(name, "it must be true or false")
    return given


def _queue(given: Any) -> str | None:
    """By name; whether it is declared is known further on."""
    return _text("queue", given.get("name") if isinstance(given, dict) else given, 128 + len("task/"))


def _concurrency_key(given: Any) -> str:
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = str(given)
    return _text("concurrencyKey", given, MAX_CONCURRENCY_KEY_LENGTH) or ""


def _max_duration(given: Any) -> float | None:
    if given is None:
        return None
    return _number("maxDuration", given, at_least=MIN_DURATION_S, at_most=100 * 365 * 86_400)


def _machine(given: Any) -> str | None:
    """By name, also as the object that the official client writes in its task's settings; whether there is one is known
    further on."""
    return _text("machine", given.get("preset") if isinstance(given, dict) else given, 128)


def _debounce(given: Any) -> Debounce | None:
    if given is None:
        return None
    if not isinstance(given, dict) or given.keys() - {"key", "delay", "mode", "maxDelay"}:
        raise _wrong("debounce", "it must be an object with key and delay, and perhaps mode and maxDelay")
    key = _text("debounce.key", given.get("key"), MAX_DEBOUNCE_KEY_LENGTH)
    delay_s = read_seconds("options.debounce.delay", given.get("delay"))
    max_delay_s = read_seconds("options.debounce.maxDelay", given.get("maxDelay"))
    if key is None or delay_s is None:
        raise _wrong("debounce", "key and delay are needed")
    if delay_s < MIN_DEBOUNCE_S:
        raise _wrong("debounce.delay", f"it must be at least {MIN_DEBOUNCE_S:g} s")
    if max_delay_s is not None and max_delay_s < delay_s:
        raise _wrong("debounce.maxDelay", "it must not be shorter than the delay")
    mode = given.get("mode") or "leading"
    if mode not in ("leading", "trailing"):
        raise _wrong("debounce.mode", f"it is leading (the first payload) or trailing (the newest), not {mode!r}")
    return Debounce(key, delay_s, mode, max_delay_s)


def read_seconds(where: str, given: Any) -> float | None:
    """A length of time: text, or seconds."""
    if given is None:
        return None
    try:
        return parse_duration(given).total_seconds()
    except (ValueError, TypeError) as error:
        raise Refused(422, f"{where}: {error}") from None


def _delay(given: Any, now: datetime) -> datetime | None:
    """A moment that has passed already means: without delay."""
    until = read_when("options.delay", given, now) if given is not None else None
    return until if until and until > now else None


def read_when(where: str, given: Any, now: datetime) -> datetime:
    """A point in time, or how long until then."""
    try:
        return parse_when(given, now=now)
    except (ValueError, TypeError) as error:
        raise Refused(422, f"{where}: {error}") from None


def _metadata(given: Any, most: int) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        raise _wrong("metadata", "it must be an object")
    size = len(msgspec.json.encode(given))
    if size > most:
        raise Refused(413, f"options.metadata has {size} bytes; at most {most} are taken", limit=most, value=size)
    return given


def _max_attempts(given: Any, most: int) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= most:
        more = {"limit": most, "value": given} if isinstance(given, int) and given > most else {}
        raise Refused(422, f"options.maxAttempts: it must be a whole number from 1 to {most}", **more)
    return given


def _ttl(given: Any, most_s: float) -> float | None:
    ttl_s = read_seconds("options.ttl", given)
    if ttl_s is not None and most_s and ttl_s > most_s:
        raise Refused(422, f"options.ttl: at most {most_s:g} s, not {ttl_s:g} s", limit=most_s, value=ttl_s)
    return ttl_s

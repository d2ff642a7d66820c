"""What can be said about a task or its runs beside the payload: which options there are, what works, how the API has it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, Literal, TypedDict

from torpor.durations import parse_duration, write_duration
from torpor.sdk.checkpoints import Checkpoints
from torpor.sdk.debounce import Debounce
from torpor.sdk.idempotency import LONGEST, Idempotency
from torpor.sdk.queue import Queue

Duration = str | float | timedelta


class Options(TypedDict, total=False):
    """What `task.options(...)` takes."""

    delay: Duration | datetime
    """The run starts that much later, or at that instant (with a time zone). Which version performs it is decided then."""
    ttl: Duration
    """The run ends as EXPIRED if nobody has started it after so long; 0: never. Default: the task's own."""
    idempotency_key: str | Idempotency
    """The same key again gives the same run. A bare text is this run's own inside a run, global outside."""
    idempotency_key_ttl: Duration
    """For how long the key stands for the run. Default: 30 days."""
    debounce: Debounce
    """Triggers in quick succession share a run."""
    queue: Queue | str
    """Where the run lines up, instead of its task's queue: one that is declared in code."""
    concurrency_key: str
    """Splits the queue: each key has the queue's limit for itself. Not handed down to the run's own children."""
    priority: float
    """A head start in seconds: the run lines up as if it had come so much earlier. From 0 to a year."""
    tags: str | Sequence[str]
    """To find the run again: at most 10, of up to 128 characters."""
    inherit_tags: bool
    """The runs that this one triggers get its tags, too, and so do theirs."""
    metadata: Mapping[str, Any]
    """Goes with the run; anything that can be JSON."""
    max_attempts: int
    """Instead of the task's own `Retry.max_attempts`."""
    max_duration: Duration
    """An attempt that has worked for longer, waits not counted, is ended. At least 5 seconds. Default: the task's own."""
    version: str
    """Only this version of the code may perform it. Default: the current one, when it starts."""
    machine: str
    """The size of machine, by its name, such as "medium-1x". Default: the task's own."""


class Settings(TypedDict, total=False):
    """What `@task(...)` takes besides `id` and `retry`."""

    queue: Queue
    ttl: Duration
    max_duration: Duration
    checkpoints: Checkpoints
    network: Literal["host", "private", "none"]
    machine: str


_LONGEST_PRIORITY_S = 365 * 86_400


def refuse(given: dict[str, Any], known: Sequence[str], what: str, others: Sequence[str] = ()) -> None:
    """Refuse what is not `known`, with the nearest names.

    Raises:
        TypeError: there is no such option.
    """
    for name in given:
        if name not in known:
            near = get_close_matches(name, (*known, *others))
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join((*others, *known))}"
            raise TypeError(f"{what}() has no option {name!r}: {hint}")


def to_api(options: dict[str, Any]) -> dict[str, Any]:
    """Checked, and named and written as in the public API; an `Idempotency` is resolved later, when there is a payload.

    Raises:
        TypeError, ValueError: as for `task.options`.
    """
    refuse(options, tuple(Options.__annotations__), "options")
    api: dict[str, Any] = {}
    for name, value in options.items():
        if value is not None:
            api_name, write = _WRITTEN[name]
            api[api_name] = write(name, value)
    return api


def _delay(name: str, value: Any) -> str:
    if isinstance(value, datetime):
        from torpor.sdk import waits

        return waits.aware(value, f"{name}=").isoformat()
    return write_duration(value)


def _duration(name: str, value: Any) -> str:
    return write_duration(value)


def _key(name: str, value: Any) -> Any:
    if isinstance(value, Idempotency):
        return value
    if not isinstance(value, str) or not value or len(value) > LONGEST:
        raise TypeError(f"{name}={value!r}: a text of 1 to {LONGEST} characters is needed, or an Idempotency(...)")
    return value


def _debounce(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Debounce):
        raise TypeError(f"{name}={value!r}: a Debounce(...) is needed")
    return value.to_api()


def _queue(name: str, value: Any) -> dict[str, str]:
    return {"name": value.name if isinstance(value, Queue) else _text(name, value)}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name}={value!r}: text is needed")
    return value


def _priority(name: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _LONGEST_PRIORITY_S:
        raise ValueError(f"{name}={value!r}: a number of seconds from 0 to {_LONGEST_PRIORITY_S} is needed")
    return value


def _tags(name: str, value: Any) -> list[str]:
    from torpor.sdk import waits

    return waits.tag_list(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: True or False is needed")
    return value


def _max_attempts(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}: a whole number from 1 on is needed")
    return value


def _max_duration(name: str, value: Any) -> float:
    seconds = parse_duration(value).total_seconds()
    if seconds < 5:
        raise ValueError(f"{name}={value!r}: at least 5 seconds are needed")
    return seconds


def _plain_object(name: str, value: Any) -> dict[str, Any]:
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    if not isinstance(value, Mapping):
        raise TypeError(f"{name}={value!r}: names and values are needed")
    try:
        return to_jsonable_python(dict(value))
    except PydanticSerializationError as error:
        raise TypeError(f"{name} can't be JSON: {error}") from None


_WRITTEN: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "delay": ("delay", _delay),
    "ttl": ("ttl", _duration),
    "idempotency_key": ("idempotencyKey", _key),
    "idempotency_key_ttl": ("idempotencyKeyTTL", _duration),
    "debounce": ("debounce", _debounce),
    "queue": ("queue", _queue),
    "concurrency_key": ("concurrencyKey", _text),
    "priority": ("priority", _priority),
    "tags": ("tags", _tags),
    "inherit_tags": ("inheritTags", _flag),
    "metadata": ("metadata", _plain_object),
    "max_attempts": ("maxAttempts", _max_attempts),
    "max_duration": ("maxDuration", _max_duration),
    "version": ("lockToVersion", _text),
    "machine": ("machine", _text),
}
"""Each option's name in the API, and how it is checked and written."""

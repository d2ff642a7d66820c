"""What can be said about a task or its runs beside the payload: which options there are, what works, how the API has it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, TypedDict

from torpor.durations import parse_duration
from torpor.errors import NotYet
from torpor.sdk.queue import Queue

Duration = str | float | timedelta


class Options(TypedDict, total=False):
    """What `task.options(...)` takes. The first five work; the others are refused with NotYet until they do."""

    delay: Duration | datetime
    """The run starts that much later, or at that instant (with a time zone)."""
    idempotency_key: str
    """The same key again gives the same run."""
    tags: str | Sequence[str]
    """To find the run again: at most 10, of up to 128 characters."""
    metadata: Mapping[str, Any]
    """Goes with the run; anything that can be JSON."""
    max_attempts: int
    """Instead of the task's own `Retry.max_attempts`."""
    idempotency_key_ttl: Duration
    concurrency_key: str
    queue: Any
    ttl: Duration
    priority: float
    machine: str
    debounce: Any
    version: str
    max_duration: Duration


class Settings(TypedDict, total=False):
    """What `@task(...)` takes besides `id` and `retry`. `machine` is refused with NotYet until it works."""

    queue: Queue
    ttl: Duration
    max_duration: Duration
    machine: str


_WORKING = ("delay", "idempotency_key", "tags", "metadata", "max_attempts")
_INSTEAD = {
    "ttl": "leave it out; a run waits until a worker takes it",
    "idempotency_key_ttl": "leave it out; keys last 30 days",
    "max_duration": "leave it out, and bound the work with asyncio.timeout()",
    "version": "leave it out; runs use the current version",
}


def refuse(
    given: dict[str, Any], working: Sequence[str], known: Sequence[str], what: str, others: Sequence[str] = ()
) -> None:
    """Refuse what is not `working`: with NotYet what is at least `known`, else with the nearest names.

    Raises:
        NotYet: it is known, and not carried out.
        TypeError: there is no such option.
    """
    for name in given:
        if name in working:
            continue
        if name in known:
            instead = _INSTEAD.get(name, "leave it out")
            raise NotYet(f"{what}({name}=…) is not carried out yet: {instead}")
        near = get_close_matches(name, (*known, *others))
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join((*others, *known))}"
        raise TypeError(f"{what}() has no option {name!r}: {hint}")


def to_api(options: dict[str, Any]) -> dict[str, Any]:
    """Checked, and named and written as in the public API.

    Raises:
        NotYet, TypeError, ValueError: as for `task.options`.
    """
    refuse(options, _WORKING, tuple(Options.__annotations__), "options")
    api: dict[str, Any] = {}
    for name, value in options.items():
        if value is None:
            continue
        match name:
            case "delay":
                api["delay"] = _delay(value)
            case "idempotency_key":
                if not isinstance(value, str) or not value:
                    raise TypeError(f"idempotency_key={value!r}: text is needed")
                api["idempotencyKey"] = value
            case "tags":
                from torpor.sdk import waits

                api["tags"] = waits.tag_list(value)
            case "metadata":
                api["metadata"] = _plain_object(value)
            case _:
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise ValueError(f"max_attempts={value!r}: a whole number from 1 on is needed")
                api["maxAttempts"] = value
    return api


def _delay(value: Any) -> str:
    if isinstance(value, datetime):
        from torpor.sdk import waits

        return waits.aware(value, "delay=").isoformat()
    seconds = parse_duration(value).total_seconds()
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


def _plain_object(value: Any) -> dict[str, Any]:
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    if not isinstance(value, Mapping):
        raise TypeError(f"metadata={value!r}: names and values are needed")
    try:
        return to_jsonable_python(dict(value))
    except PydanticSerializationError as error:
        raise TypeError(f"metadata can't be JSON: {error}") from None

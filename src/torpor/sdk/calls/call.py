"""One call of the API: what is sent, and what of the reply is wanted.

Nothing here sends. Values are given as Python has them and written as the API does: durations and instants as text, lists
comma-joined in a query, names in its spelling.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

import msgspec

Json = dict[str, Any]
T = TypeVar("T")


def _whole(reply: Any) -> Any:
    return reply


def _nothing(reply: Any) -> None:
    return None


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request whose reply is read as a T."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    held_s: float = 0.0  # how long the server may hold it
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    read: Callable[[Any], T] = _whole

    def part(self, name: str) -> "Call[Any]":
        """The same, when only this field of the reply is wanted."""
        return replace(cast("Call[Any]", self), read=itemgetter(name))

    def nothing(self) -> "Call[None]":
        """The same, when it is enough that there was a reply."""
        return replace(cast("Call[None]", self), read=_nothing)


def get(path: str, query: Json | None = None, held_s: float = 0.0) -> Call[Any]:
    pairs = tuple((name, text(value)) for name, value in (query or {}).items() if value is not None)
    return Call("GET", path, pairs, held_s=held_s)


def post(path: str, body: Json | None = None) -> Call[Any]:
    return Call("POST", path, body=b"" if body is None else written(body))


def segment(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


# -- how values are written --------------------------------------------------------------------------------------------


def written(value: Any) -> bytes:
    """As JSON."""
    return msgspec.json.encode(value, enc_hook=_plain)


def text(value: Any) -> str:
    """A query value as the API writes it: lists comma-joined, instants in ISO 8601."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case datetime():
            return value.isoformat()
        case timedelta():
            return f"{round(value.total_seconds())}s"
        case list() | tuple() | set() | frozenset():
            return ",".join(text(part) for part in value)
        case _:
            return str(value)


def _plain(value: Any) -> Any:
    """msgspec's way out for types it doesn't know: pydantic models, and whatever else can dump itself."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise NotImplementedError(f"a {type(value).__name__} can't be sent as JSON")


def duration(value: Any) -> Any:
    """A timedelta or a number of seconds as text, since the API takes text; text and dates stay as they are."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.3f}".rstrip("0").rstrip(".") + "s"
    return value


def when(value: Any) -> Any:
    """An instant, or how long from now, or ago, as the API writes it."""
    return None if value is None else text(duration(value))


def present(body: Json) -> Json:
    """Without what is None."""
    return {name: value for name, value in body.items() if value is not None}


def renamed(given: Json, names: Mapping[str, str], what: str = "filter") -> Json:
    """By the API's names.

    Raises:
        TypeError: there is no such thing; the message has those that there are.
    """
    if unknown := sorted(given.keys() - names.keys()):
        raise TypeError(f"unknown {what} {unknown[0]!r}; there are: {', '.join(names)}")
    return {names[name]: value for name, value in given.items()}

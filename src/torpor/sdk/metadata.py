"""`torpor.metadata`: what a run says of itself while it works, for whoever looks at it: progress, a status, partial results.

    metadata.set("progress", 0.4)
    metadata.increment("pages", 3)
    metadata.parent.append("done", name)

Plain calls, in async and sync code and from threads. They are stored within a second, before every wait and before the run's
end. `get` and `current` show at once what was just set.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from torpor.sdk import running
from torpor.sdk.plain import plain
from torpor.wire.http import MetadataReply
from torpor.wire.operations import check, find
from torpor.wire.runner import Flush, Op, Target

Kind = Literal["set", "delete", "append", "remove", "increment"]


class Writer:
    """Changes the metadata of one run: the run's own, or that of the run above it.

    A key that starts with `$.` is a path: `"$.steps.upload.state"`. Objects that are missing on the way are made. Values are
    whatever can be JSON: models, dataclasses and dates dump themselves.

    Outside of a run, such as in a unit test, arguments are checked and nothing else happens.
    """

    def __init__(self, target: Target) -> None:
        self._target: Target = target
        self._name = "metadata" if target == "self" else f"metadata.{target}"

    def set(self, key: str, value: Any) -> None:
        """Put a value in its place.

        Raises:
            TypeError, ValueError: the key or the value can't be used; the message says which and why.

        Example:
            >>> metadata.set("status", {"step": "upload", "files": 3})
        """
        self._say("set", key, value)

    def delete(self, key: str) -> None:
        """Remove a key. It need not be there."""
        self._say("delete", key)

    def replace(self, values: Mapping[str, Any]) -> None:
        """Have these be all the metadata there is.

        Example:
            >>> metadata.replace({"status": "starting"})
        """
        self._change(f"{self._name}.replace(…)", Op("update", value=self._object("replace", values)))

    def update(self, values: Mapping[str, Any]) -> None:
        """Put several values in their places, and leave the others: as `dict.update`.

        Example:
            >>> metadata.update({"status": "done", "pages": 12})
        """
        for key, value in self._object("update", values).items():
            self._say("set", key, value)

    def append(self, key: str, value: Any) -> None:
        """Put a value at the end of a list, which is begun with it if there is none.

        Example:
            >>> metadata.append("log", "uploaded a.pdf")
        """
        self._say("append", key, value)

    def remove(self, key: str, value: Any) -> None:
        """Take all that equals this value out of a list.

        Example:
            >>> metadata.remove("busy_with", "a.pdf")
        """
        self._say("remove", key, value)

    def increment(self, key: str, by: float = 1) -> None:
        """Add to a number, which begins at 0. Exact also when several runs do it to their parent at once.

        Example:
            >>> metadata.increment("pages")
            >>> metadata.parent.increment("done", 0.5)
        """
        self._add("increment", key, by, 1)

    def decrement(self, key: str, by: float = 1) -> None:
        """Take from a number.

        Example:
            >>> metadata.decrement("left", 10)
        """
        self._add("decrement", key, by, -1)

    def _add(self, call: str, key: str, by: float, sign: int) -> None:
        what = f"{self._name}.{call}({key!r}, {by!r})"
        if isinstance(by, bool) or not isinstance(by, int | float):
            raise TypeError(f"{what}: a number is needed")
        if not math.isfinite(by):
            raise ValueError(f"{what}: a finite number is needed")
        self._say("increment", key, by * sign, call)

    def _object(self, call: str, values: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(values, Mapping):
            raise TypeError(f"{self._name}.{call}(…) takes a mapping, not {values!r:.80}")
        return plain(dict(values), f"{self._name}.{call}(…)")

    def _say(self, kind: Kind, key: str, value: Any = None, call: str | None = None) -> None:
        what = f"{self._name}.{call or kind}({key!r}, …)"
        if not isinstance(key, str):
            raise TypeError(f"{what}: the key must be text")
        self._change(what, Op(kind, plain(key, what), plain(value, what)))

    def _change(self, what: str, op: Op) -> None:
        try:
            check(op)
        except ValueError as wrong:
            raise ValueError(f"{what}: {wrong}") from None
        limit, size = running.limits().metadata_bytes, len(msgspec.json.encode(op.value))
        if size > limit:
            raise ValueError(f"{what}: the value has {size} bytes of JSON; metadata has at most {limit} in all")
        if (session := running.listening(f"{self._name} changed")) is not None:
            session.change(self._target, op, size=size)


class _Own(Writer):
    """The run's own, which can be read as well."""

    def __init__(self) -> None:
        super().__init__("self")
        self.parent = Writer("parent")
        self.root = Writer("root")

    def get(self, key: str, default: Any = None) -> Any:
        """A value, as far as it is known here: what this run has set, and what others had set when the server last answered.

        Example:
            >>> metadata.get("progress", 0)
            0
        """
        return copy.deepcopy(find(_known(), key, default))

    def current(self) -> dict[str, Any]:
        """All of it; `{}` outside of a run.

        Example:
            >>> metadata.current()
            {}
        """
        return copy.deepcopy(_known())


class Metadata(_Own):
    """The metadata of the run that this code is part of.

    Attributes:
        parent: changes that of the run that triggered this one; its own where there is none.
        root: changes that of the run at the top of the tree; its own if that is this one.

    Example:
        >>> from torpor import metadata, task
        >>> @task
        ... async def convert(pages: list[str]) -> None:
        ...     metadata.set("pages", len(pages))
        ...     for number, page in enumerate(pages):
        ...         metadata.set("progress", number / len(pages))
        ...         metadata.root.increment("converted")
    """

    async def flush(self) -> dict[str, Any]:
        """Wait until all that was said so far is stored: metadata, tags, parts of streams. Returns the metadata as it is now,
        with what others have made of it.

        Raises:
            ApiError: some of it can't be stored, such as metadata that would be too large. What is stored stays as it is.

        Example:
            >>> async def settle() -> None:
            ...     metadata.set("ready", True)
            ...     await metadata.flush()
        """
        session = running.listening("metadata.flush()")
        return {} if session is None else _stored(await session.call("flush", Flush()))


class BlockingMetadata(_Own):
    """The same for code that does not await: `from torpor.sync import metadata`."""

    def flush(self) -> dict[str, Any]:
        """As `torpor.metadata.flush`, blocking.

        Raises:
            BlockingInLoop: called in a running event loop.
        """
        session = running.listening("metadata.flush()")
        running.refuse_in_loop("torpor.sync.metadata.flush()")
        return {} if session is None else _stored(session.call_blocking("flush", Flush()))


metadata = Metadata()
blocking_metadata = BlockingMetadata()


def _known() -> dict[str, Any]:
    return {} if running.session is None else running.session.metadata


def _stored(body: msgspec.Raw) -> dict[str, Any]:
    return msgspec.json.decode(body, type=MetadataReply).metadata

"""`torpor.stream`: parts that a run gives out one by one while it works, such as the words of a model, to whoever reads along.

    tokens = stream("tokens")
    tokens.append("Once upon ")
    await tokens.pipe(model.generate(prompt))

A part is on its way at once and stored within some 50 ms, in order, and before every wait and the run's end. When the server is
slow or away, what is not stored yet is held back in the worker, up to a limit; then `append` blocks until there is room again.
`pipe` and `writer` of async code wait for it instead, and the event loop goes on.
"""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar, get_args, overload

import msgspec

from torpor import ids
from torpor.sdk import running
from torpor.sdk.plain import encoded
from torpor.wire.runner import Flush, Part, Target
from torpor.wire.streams import KEYS, MAX_PART_BYTES, is_key

T = TypeVar("T")

PAUSE_S = 0.02


class Stream:
    """A stream of a run: of this one, of its parent, or of the run at the top of the tree.

    Attributes:
        name: the key under which it is read.
    """

    def __init__(self, name: str, to: Target) -> None:
        self.name = name
        self._to: Target = to

    def append(self, part: Any) -> None:
        """Give out a part: text, or anything that can be JSON. Models, dataclasses and dates dump themselves.

        Outside of a run it is checked and goes nowhere.

        Raises:
            TypeError, ValueError: it can't be JSON, or has more than 512 KiB of it.

        Example:
            >>> stream("log").append({"step": 3, "text": "parsing"})
        """
        what = f"stream({self.name!r}).append(…)"
        data = encoded(part, what)
        if len(data) > MAX_PART_BYTES:
            raise ValueError(f"{what}: the part has {len(data)} bytes of JSON; at most {MAX_PART_BYTES} are taken")
        if (session := running.listening("stream.append()")) is not None:
            session.append(self._to, self.name, Part(ids.new("part"), msgspec.Raw(data)))

    @overload
    def pipe(self, parts: AsyncIterable[T], each: Callable[[T], object] | None = None) -> Coroutine[Any, Any, int]: ...
    @overload
    def pipe(self, parts: Iterable[T], each: Callable[[T], object] | None = None) -> int: ...
    def pipe(self, parts: Any, each: Callable[[Any], object] | None = None) -> Any:
        """Give out all that an iterator yields, and return how many parts that was when all of them are stored.

        Args:
            parts: an async iterator: then await this. Or a plain one, in code that does not await: then it blocks.
            each: called with each part after it was given out, such as to put the whole text together.

        Raises:
            TypeError, ValueError: a part can't be given out; those before it were.
            ApiError: the server does not store them, such as when the stream is full.
            BlockingInLoop: a plain iterator in a running event loop.

        Example:
            >>> async def answer(tokens: AsyncIterable[str]) -> str:
            ...     text: list[str] = []
            ...     await stream("answer").pipe(tokens, each=text.append)
            ...     return "".join(text)
        """
        if hasattr(parts, "__aiter__"):
            return self._pipe(parts, each)
        if running.session is not None:
            running.refuse_in_loop("stream.pipe() of a plain iterator")
        count = 0
        with self.writer() as write:
            for part in parts:
                write(part)
                count += 1
                if each is not None:
                    each(part)
        return count

    async def _pipe(self, parts: AsyncIterable[Any], each: Callable[[Any], object] | None) -> int:
        count = 0
        async with self.writer() as write:
            async for part in parts:
                await write(part)
                count += 1
                if each is not None:
                    each(part)
        return count

    def writer(self) -> "Writing":
        """`append`, and at the end the certainty that all of it is stored: as a plain or as an async context.

        Raises:
            ApiError: at the end, if some of it is not.
            BlockingInLoop: a plain one, at its end, in a running event loop.

        Example:
            >>> async def tell(lines: AsyncIterable[str]) -> None:
            ...     async with stream("log").writer() as write:
            ...         async for line in lines:
            ...             await write(line)
            >>> def tell_blocking(lines: list[str]) -> None:
            ...     with stream("log").writer() as write:
            ...         for line in lines:
            ...             write(line)
        """
        return Writing(self)


class Writing:
    """What `Stream.writer` gives. In the async one what would block is awaited."""

    def __init__(self, to: Stream) -> None:
        self._to = to

    def __enter__(self) -> Callable[[Any], None]:
        return self._to.append

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and (session := running.session) is not None:
            running.refuse_in_loop("stream.writer()")
            session.call_blocking("flush", Flush())

    async def __aenter__(self) -> Callable[[Any], Awaitable[None]]:
        return self._write

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and (session := running.session) is not None:
            await session.call("flush", Flush())

    async def _write(self, part: Any) -> None:
        while (session := running.session) is not None and not session.has_room:
            await asyncio.sleep(PAUSE_S)
        self._to.append(part)


def stream(name: str = "default", *, to: Target = "self") -> Stream:
    """A stream by its name. It begins with its first part, and need not be closed: it ends with its run.

    Args:
        name: at most 256 printable characters.
        to: whose it is: this run's, its parent's, or that of the run at the top of the tree. Where there is none above, its own.

    Raises:
        TypeError, ValueError: an argument makes no sense.

    Example:
        >>> from torpor import stream, task
        >>> @task
        ... async def write(prompt: str) -> None:
        ...     words = stream("words", to="parent")
        ...     for word in prompt.split():
        ...         words.append(word)
    """
    if to not in get_args(Target):
        raise ValueError(f"stream({name!r}, to={to!r}): it is one of {', '.join(get_args(Target))}")
    return Stream(checked_name("stream", name), to)


def checked_name(what: str, name: str) -> str:
    """The name of a stream.

    Raises:
        TypeError, ValueError: it can't be one.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what}({name!r}): a name is text")
    if not is_key(name):
        raise ValueError(f"{what}({name[:40]!r}): a name has {KEYS}")
    return name

r"""A run's output: the file that its stdout and stderr append to, read by lines and sent to the server.

A regular file, because CRIU takes such a one along without fuss where a pipe would break. The SDK's logger writes
structured lines into the same file, so that their order among prints is kept: `\x1e`, one JSON object, a newline.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torpor.wire.http import LogLine

STRUCTURED = b"\x1e"
MAX_LINE_BYTES = 32 << 10  # a longer line is told in pieces: output without newlines must not pile up here
MAX_READ_BYTES = 1 << 20
MAX_DEPTH = 16
INTERVAL_S = 0.2
LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})


class Output:
    """Reads what a run has written since the last time.

    Args:
        file: the run's output.log.
        base: how many bytes this run had written in its former lives; makes `first` unique within the run.
    """

    def __init__(self, file: Path, base: int = 0) -> None:
        self._file = file
        self._base = base
        self._read = 0
        self._rest = b""

    @property
    def position(self) -> int:
        """How many bytes of this run's output were handed out so far, over all its lives."""
        return self._base + self._read - len(self._rest)

    def end(self) -> int:
        """How many bytes this run has written so far, over all its lives."""
        try:
            return self._base + self._file.stat().st_size
        except FileNotFoundError:
            return self._base

    def pieces(self, *, last: bool = False) -> Iterator[tuple[int, list[LogLine]]]:
        """All that was written since the last time, in reports of bounded size. With `last` also an unfinished line."""
        while self._base + self._read < self.end():
            first, lines = self.lines()
            if lines:
                yield first, lines
        if last and self._rest:
            yield self.lines(last=True)

    def lines(self, *, last: bool = False) -> tuple[int, list[LogLine]]:
        """The complete lines of the next piece, and the position of the first. With `last` also an unfinished one."""
        first = self.position
        try:
            with open(self._file, "rb") as file:
                file.seek(self._read)
                data = file.read(MAX_READ_BYTES)
        except FileNotFoundError:
            return first, []
        self._read += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        if self._rest and (last or len(self._rest) > MAX_LINE_BYTES):
            whole.append(self._rest)
            self._rest = b""
        now = datetime.now(UTC).isoformat()
        return first, [line for raw in whole for line in _parse(raw, now)]


class Follower:
    """Tells what a run writes, as it writes it.

    Args:
        output: the run's.
        tell: takes the position of the first of some lines, and these.
    """

    def __init__(self, output: Output, tell: Callable[[int, list[LogLine]], Awaitable[None]]) -> None:
        self._output = output
        self._tell = tell
        self._one_at_a_time = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Follow no more. What was written since the last look is not told; what is on its way is told to its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def catch_up(self, *, last: bool = False) -> None:
        """Tell all that was written since the last time; with `last` also an unfinished line."""
        async with self._one_at_a_time:
            for first, lines in self._output.pieces(last=last):
                await self._tell(first, lines)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            # Lines that were handed out and then not told would be missing: `stop` must not end that half-way.
            self._telling = asyncio.create_task(self.catch_up())
            await asyncio.shield(self._telling)


def _parse(raw: bytes, now: str) -> list[LogLine]:
    if raw.startswith(STRUCTURED):
        try:
            return [_structured(json.loads(raw[1:]))]
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # not the logger's after all: told as it stands
    text = _storable(raw.decode("utf-8", errors="replace"))
    pieces = [text[at : at + MAX_LINE_BYTES] for at in range(0, len(text), MAX_LINE_BYTES)] or [""]
    return [LogLine(now, "info", piece, {}, "output") for piece in pieces]


def _structured(told: dict[str, Any]) -> LogLine:
    """A line of the logger. Anybody can write such a line, so it is believed only as far as it is one."""
    at, level, message = told["at"], told["level"], told["message"]
    attributes = told.get("attributes") or {}
    datetime.fromisoformat(at)
    if level not in LEVELS or not isinstance(message, str) or not isinstance(attributes, dict):
        raise TypeError("not a line of the logger")
    return LogLine(at, level, _storable(message[:MAX_LINE_BYTES]), _clean(attributes, MAX_DEPTH))


def _clean(value: Any, depth: int) -> Any:
    if depth == 0:
        return "\u2026"
    match value:
        case str():
            return _storable(value)
        case dict():
            return {_storable(str(key)): _clean(held, depth - 1) for key, held in value.items()}
        case list():
            return [_clean(held, depth - 1) for held in value]
        case _:
            return value


def _storable(text: str) -> str:
    """Postgres text holds neither NUL nor half a character."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")

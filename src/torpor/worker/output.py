r"""A run's output: the file that its stdout and stderr append to, read by lines and sent to the server.

A regular file, because CRIU takes such a one along without fuss where a pipe would break. The SDK's logger writes
structured lines into the same file, so that their order among prints is kept: `\x1e`, one JSON object, a newline.

Whatever a run does to that file, it costs the worker little:

- told       so much output of a run is kept (`TORPOR_OUTPUT_BYTES`, over all its lives); what comes after that is left out, with
             a line that says so. Each line counts for what it costs beside its text.
- on disk    what was told, or is to be left out, is punched out of the file at the next look, five times a second. So the file
             never holds more than what is yet to be told, however long the server is away.
- in memory  a piece of a megabyte, or of 2,000 lines, at a time.
- holes      that were made by writing far ahead, or by a truncation to more, are not told.
- a file that was cut short is read on from its new end.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torpor.wire.http import LogLine
from torpor.worker import namespaces

STRUCTURED = b"\x1e"
MAX_LINE_BYTES = 32 << 10  # a longer line is told in pieces: output without newlines must not pile up here
MAX_READ_BYTES = 1 << 20
MAX_LINES = 2000
MAX_DEPTH = 16
LINE_BYTES = 64
"""What a line costs beside its text: the shortest one is a row in the database as well."""
MAX_TOLD_BYTES = 100 << 20
PUNCHED_BYTES = 1 << 20
"""Not less than that is punched out at once: for most runs there is never a reason to."""
INTERVAL_S = 0.2
LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})


class Output:
    """Reads what a run has written since the last time.

    Args:
        file: the run's output.log.
        base: how many bytes this run had written in its former lives; makes `first` unique within the run.
        told_bytes: how much of that was told.
        limit_bytes: how much of a run is told.
    """

    def __init__(self, file: Path, base: int = 0, *, told_bytes: int = 0, limit_bytes: int = MAX_TOLD_BYTES) -> None:
        self.told_bytes = told_bytes
        self._file = file
        self._base = base
        self._limit_bytes = limit_bytes
        self._was_full = told_bytes >= limit_bytes
        self._read = 0
        self._punched = 0
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
        """All that was written since the last time, in reports of bounded size. With `last` also an unfinished line.

        What is written while the reports are made is left to the next time: it may never end.
        """
        end = self.end()
        while self._base + self._read < end:
            before = self._read
            first, lines = self.lines()
            if lines:
                yield first, lines
            if self._read == before:
                break  # it was cut short meanwhile
        if last and self._rest:
            yield self.lines(last=True)

    def lines(self, *, last: bool = False) -> tuple[int, list[LogLine]]:
        """The complete lines of the next piece, and the position of the first. With `last` also an unfinished one."""
        first = self.position
        raw = self._next_piece(last=last)
        now = datetime.now(UTC).isoformat()
        told = [line for each in raw for line in _parse(each, now)]
        self.told_bytes += sum(LINE_BYTES + len(each) for each in raw)
        if self.told_bytes > self._limit_bytes and not self._was_full:
            self._was_full = True
            told.append(self._enough(now))
        return first, told

    def spare_the_disk(self) -> None:
        """Punch out of the file what was read, and what won't be told. It keeps its size, so nobody who writes to it notices."""
        left_bytes = max(0, self._limit_bytes - self.told_bytes)
        with suppress(OSError), self._opened(os.O_RDWR) as file:
            size = os.fstat(file).st_size
            if self._read - self._punched >= PUNCHED_BYTES:
                namespaces.punch_hole(file, self._punched, self._read - self._punched)
                self._punched = self._read
            beyond = self._read + left_bytes
            if size - beyond >= PUNCHED_BYTES:
                namespaces.punch_hole(file, beyond, size - beyond)

    # -- the file -----------------------------------------------------------------------------------------------------

    def _next_piece(self, *, last: bool) -> list[bytes]:
        """Whole lines, or parts of one that is too long."""
        try:
            data, is_cut_off = self._next_bytes()
        except FileNotFoundError:
            return []
        if self._was_full:
            self._rest = b""
            return []
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(whole) > MAX_LINES:
            later = b"\n".join([*whole[MAX_LINES:], self._rest])
            whole, self._rest = whole[:MAX_LINES], b""
            self._read -= len(later)  # to be read again: nothing that was read before this piece is in there
        elif self._rest and (last or is_cut_off or len(self._rest) > MAX_LINE_BYTES):
            whole.append(self._rest)
            self._rest = b""
        return whole

    def _next_bytes(self) -> tuple[bytes, bool]:
        """What comes next in the file; and whether there is nothing between that, or what came before, and a hole."""
        with self._opened(os.O_RDONLY) as file:
            size = os.fstat(file).st_size
            if size < self._read:
                self._base += self._read - size  # positions never go back
                self._read = self._punched = size
                return b"", True
            if self._was_full or size == self._read:
                self._read = size
                return b"", False
            try:
                begins = os.lseek(file, self._read, os.SEEK_DATA)
            except OSError:  # there is nothing but a hole up to the end
                begins = size
            if begins > self._read:
                self._read = begins
                return b"", True
            ends = os.lseek(file, self._read, os.SEEK_HOLE)  # at the latest where the file ends
            data = os.pread(file, min(MAX_READ_BYTES, ends - self._read), self._read)
            self._read += len(data)
            return data, False

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        file = os.open(self._file, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            yield file
        finally:
            os.close(file)

    def _enough(self, now: str) -> LogLine:
        kept = f"{self._limit_bytes / 1e6:g} MB"
        return LogLine(
            now, "warning", f"Torpor keeps {kept} of a run's output (TORPOR_OUTPUT_BYTES): what comes next is left out"
        )


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
                self._output.spare_the_disk()
                await self._tell(first, lines)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            self._output.spare_the_disk()
            if self._telling is None or self._telling.done():
                # Lines that were handed out and then not told would be missing: `stop` must not end that half-way.
                self._telling = asyncio.create_task(self.catch_up())


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

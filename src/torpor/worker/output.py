r"""A run's output: the file that its stdout and stderr append to, read by lines and sent to the server.

A regular file, because CRIU takes such a one along without fuss where a pipe would break. The SDK's logger writes
structured lines into the same file, so that their order among prints is kept: `\x1e`, one JSON object, a newline.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torpor.wire.http import LogLine

STRUCTURED = b"\x1e"
MAX_LINE_BYTES = 32 << 10  # a longer line is told in pieces: output without newlines must not pile up here
MAX_READ_BYTES = 1 << 20


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

    def lines(self, *, last: bool = False) -> tuple[int, list[LogLine]]:
        """The complete lines since the last call, and the position of the first. With `last` also an unfinished one."""
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


def _parse(raw: bytes, now: str) -> list[LogLine]:
    if raw.startswith(STRUCTURED):
        try:
            told: dict[str, Any] = json.loads(raw[1:])
            return [LogLine(told["at"], told["level"], told["message"], told.get("attributes") or {})]
        except (ValueError, KeyError, TypeError):
            pass  # not the logger's after all: told as it stands
    text = raw.decode("utf-8", errors="replace").replace("\0", "\ufffd")  # Postgres text holds no NUL
    pieces = [text[at : at + MAX_LINE_BYTES] for at in range(0, len(text), MAX_LINE_BYTES)] or [""]
    return [LogLine(now, "info", piece, {}, "output") for piece in pieces]

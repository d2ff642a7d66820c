"""Our end of the socket over which a run's process speaks with its supervisor."""

import asyncio
import fcntl
import os
import sys
import termios
from contextlib import suppress
from typing import Any, Protocol

from torpor.wire.framing import Unframer

MAX_UNREAD_BYTES = 256 << 20
"""So much may wait for a process to read it: several answers of the largest size. One that asks and never listens is ended."""


class Listener(Protocol):
    """Who is told what happens on it."""

    def connected(self, connection: "Connection") -> bool:
        """Somebody has connected; false: it is to be closed."""
        ...

    def heard(self, connection: "Connection", data: bytes) -> None: ...

    def disconnected(self, connection: "Connection") -> None: ...

    def is_not_heard(self) -> None:
        """More waits to be read on the other side than anybody may leave there."""
        ...


class Connection(asyncio.Protocol):
    """One connection of a process."""

    def __init__(self, listener: Listener) -> None:
        self.unframer = Unframer()
        self._listener = listener
        self._transport: Any = None
        self.is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if not self._listener.connected(self):
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._listener.heard(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._hear_last_words()
        self._listener.disconnected(self)

    def _hear_last_words(self) -> None:
        """It has closed its end while we were writing to it. What it said before is still to be read, though asyncio no longer
        does: that it is about to sleep, most of the time.
        """
        with suppress(OSError):
            control, left = self._transport.get_extra_info("socket").fileno(), self.unread()
            while left > 0 and (data := os.read(control, left)):
                left -= len(data)
                self._listener.heard(self, data)

    def write(self, data: bytes) -> None:
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self._listener.is_not_heard()

    def pause(self) -> None:
        """Read no more for now."""
        if not self.is_paused and not self._transport.is_closing():
            self.is_paused = True
            self._transport.pause_reading()

    def go_on(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self._transport.resume_reading()

    def unread(self) -> int:
        """How many bytes wait to be read here. What was read is in the inbox at once."""
        number = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
        return int.from_bytes(number, sys.byteorder)

    def has_sent_all(self) -> bool:
        return self._transport.get_write_buffer_size() == 0

    def close(self) -> None:
        self._transport.abort()

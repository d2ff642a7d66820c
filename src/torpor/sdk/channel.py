"""The runner's end of the control socket: whole messages out, whole messages in.

The socket is closed before a freeze and opened anew after it, so that no image holds a descriptor of ours. When the
supervisor is gone there is nobody to report to, and its successor will start this run again: the process ends at once,
so that one run never works twice.
"""

import errno
import os
import select
import socket
import time
from collections import deque
from typing import NoReturn

from torpor.wire.framing import MAX_MESSAGE_BYTES, FramingError, Unframer, frame
from torpor.wire.runner import RunnerMessage, SupervisorMessage, from_runner, from_supervisor

SUPERVISOR_GONE = 70
"""Exit code of a runner whose supervisor died (EX_SOFTWARE)."""
RECONNECT_S = 30.0


class Channel:
    """A connection to the supervisor. One thread at a time may read, and one may write."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = _connect(path)
        self._unframer = Unframer()
        self._inbox: deque[SupervisorMessage] = deque()
        self._outbox = bytearray()  # a signal handler of user code may throw us out half-way: the next send goes on

    def fileno(self) -> int:
        """The socket's descriptor; -1 while closed."""
        return self._socket.fileno()

    def send(self, message: RunnerMessage) -> None:
        """Send one message, whole. Blocks while the supervisor is slow to read."""
        body = from_runner.encode(message)
        if len(body) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {len(body)} bytes can't be sent; at most {MAX_MESSAGE_BYTES} are allowed")
        self._outbox += frame(body)
        try:
            while self._outbox:
                del self._outbox[: self._socket.send(self._outbox)]
        except OSError as error:
            _end_if_gone(error)
            raise

    def receive(self) -> SupervisorMessage:
        """The next message; blocks until there is one."""
        while not self._inbox:
            self._read()
        return self._inbox.popleft()

    def received(self) -> list[SupervisorMessage]:
        """Read once, when the socket is readable, and return the messages that are whole now."""
        self._read()
        return self.left_over()

    def left_over(self) -> list[SupervisorMessage]:
        """Messages that came along with one that was received."""
        messages = list(self._inbox)
        self._inbox.clear()
        return messages

    def has_news(self, within_s: float = 0.0) -> bool:
        """Whether something waits to be read, or comes within that time."""
        if self._inbox:
            return True
        poll = select.poll()  # select.select() can't look at descriptors above 1023
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(within_s * 1000))

    def close(self) -> None:
        """Let go of the socket. What the supervisor sent meanwhile is told again after `Resumed`."""
        self._socket.close()
        self._unframer = Unframer()
        self._inbox.clear()

    def reopen(self) -> None:
        """Connect anew. The supervisor listens before it wakes us, so the first try normally does it."""
        until = time.monotonic() + RECONNECT_S
        while True:
            try:
                self._socket = _connect(self.path)
                return
            except OSError:
                if time.monotonic() > until:
                    _supervisor_gone()
                time.sleep(0.05)

    def _read(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except OSError as error:
            _end_if_gone(error)
            raise
        if not data:
            _supervisor_gone()
        try:
            self._inbox += map(from_supervisor.decode, self._unframer.feed(data))
        except FramingError:
            _supervisor_gone()


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)  # close-on-exec, as Python makes all of them
    connection.settimeout(None)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _end_if_gone(error: OSError) -> None:
    """Anything else comes from a signal handler of user code, whose exceptions, such as TimeoutError, are OSErrors too."""
    if isinstance(error, ConnectionError) or error.errno in (errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN):
        _supervisor_gone()


def _supervisor_gone() -> NoReturn:
    os._exit(SUPERVISOR_GONE)

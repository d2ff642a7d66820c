"""The runner's end of the control socket: whole messages out, whole messages in.

The socket is closed before a freeze and opened anew after it, so that no image holds a descriptor of ours. A run that works
can be frozen as well, at any moment: then the supervisor closes its end, which is found here (`LetGo`), and the door that
was about to read or send connects again. A message that had not left whole is sent again, from its first byte.

When the supervisor is gone there is nobody to report to, and its successor will start this run again: the process ends, so
that one run never works twice.
"""

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import time
from collections import deque
from typing import NoReturn, TypeVar

import msgspec

from torpor.wire.framing import MAX_MESSAGE_BYTES, FramingError, Unframer, frame
from torpor.wire.runner import Cancel, Result, RunnerMessage, SupervisorMessage, from_runner, from_supervisor

SUPERVISOR_GONE = 70
"""Exit code of a runner whose supervisor died (EX_SOFTWARE)."""
RECONNECT_S = 30.0
"""For how long a supervisor may not be there. By the clock that stands still in a freeze."""
PAUSE_S = 0.05
SHORT_S = 1.0
"""A connection that is closed again sooner than that counts as none."""
_CREDENTIALS = struct.Struct("3i")

_LASTING = Result | Cancel

M = TypeVar("M", bound=msgspec.Struct)


class LetGo(Exception):
    """The supervisor has closed its end: for a checkpoint, or because it died. `reconnect` finds out which."""


class _Outgoing:
    """A message on its way, and how many of its bytes have left."""

    def __init__(self, message: RunnerMessage) -> None:
        body = from_runner.encode(message)
        if len(body) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {len(body)} bytes can't be sent; at most {MAX_MESSAGE_BYTES} are allowed")
        self.message = message
        self.data = memoryview(frame(body))
        self._counts: list[int] = []

    @property
    def sent(self) -> int:
        """How many bytes have left."""
        return sum(self._counts)

    @property
    def has_left(self) -> bool:
        """Whether all of them have."""
        return self.sent == len(self.data)

    def begin_anew(self) -> None:
        """What has left of it was for nothing."""
        self._counts = []

    def send_some(self, connection: socket.socket) -> None:
        """As many bytes as are taken now.

        They are sent and counted in one call of C code: a signal handler that raises comes before both, or after both.
        """
        self._counts.extend(map(connection.send, [self.data[self.sent :]]))


class Channel:
    """A connection to the supervisor. One thread at a time may read, and one may write or connect again.

    Attributes:
        in_use: how deep the code that runs is in here. A signal's handler keeps its hands off then.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.in_use = 0
        self._unframer = Unframer()
        self._inbox: deque[SupervisorMessage] = deque()
        self._outbox: deque[_Outgoing] = (
            deque()
        )  # a signal handler of user code may throw us out: the next send goes on
        self._is_up = True
        self._supervisor = 0
        self._socket = self._connect()

    def fileno(self) -> int:
        """The socket's descriptor; -1 while closed."""
        return self._socket.fileno()

    @property
    def unsent(self) -> list[RunnerMessage]:
        """What has not left whole."""
        return [each.message for each in self._outbox if not each.has_left]

    def send(self, message: RunnerMessage) -> None:
        """Send one message, whole. Blocks while the supervisor is slow to read.

        Raises:
            LetGo: the message is kept, and leaves after the next connect.
        """
        self._outbox.append(_Outgoing(message))
        self._flush()

    def keeps(self, message: RunnerMessage) -> bool:
        """Whether it has not left whole."""
        return any(each.message is message and not each.has_left for each in self._outbox)

    def withdraw(self, message: RunnerMessage) -> None:
        """Don't send it after all: it was kept, and has lost its meaning."""
        self._outbox = deque(each for each in self._outbox if each.message is not message)

    def receive(self) -> SupervisorMessage:
        """The next message; blocks until there is one.

        Raises:
            LetGo: there won't be one on this connection.
        """
        while not self._inbox:
            self._read()
        return self._inbox.popleft()

    def received(self) -> list[SupervisorMessage]:
        """Read once, when the socket is readable, and return the messages that are whole now.

        Raises:
            LetGo: there won't be any more on this connection.
        """
        self._read()
        return self.left_over()

    def left_over(self) -> list[SupervisorMessage]:
        """Messages that came along with one that was received."""
        messages = list(self._inbox)
        self._inbox.clear()
        return messages

    def has_news(self, within_s: float = 0.0) -> bool:
        """Whether something waits to be read (an end as well), or comes within that time."""
        if self._inbox or not self._is_up:
            return True
        poll = select.poll()  # select.select() can't look at descriptors above 1023
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(within_s * 1000))

    def has_room(self) -> bool:
        """Whether something can be sent at once. What is sent without a connection is kept."""
        poll = select.poll()
        if not self._is_up:
            return True
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(0))

    def was_let_go(self) -> bool:
        """Whether the supervisor has closed its end, though we have not closed ours. There may be something left to read."""
        if self._socket.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._socket, 0)  # the end of a connection is told in any case
        return not self._is_up or any(what & select.POLLHUP for _, what in poll.poll(0))

    def shut_down(self) -> None:
        """End the connection under a thread that reads from it: it gets `LetGo`."""
        with contextlib.suppress(OSError):  # the other end was quicker
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket. What the supervisor sent meanwhile is told again after `Resumed`."""
        self._socket.close()
        self._is_up = False
        self._unframer = Unframer()
        self._inbox.clear()
        self._outbox = deque(each for each in self._outbox if not each.has_left)
        for each in self._outbox:
            each.begin_anew()

    def reconnect(self, greeting: RunnerMessage, reply: type[M]) -> M:
        """Connect anew, say this first, and wait for that reply; then send what had not left.

        The supervisor listens before it wakes us, so the first try normally does it. It may freeze us in here again.
        """
        until = time.monotonic() + RECONNECT_S
        self.in_use += 1
        try:
            kept = self._what_was_left()
            while True:
                self.close()
                self._socket = self._connect_until(until)
                connected_at = time.monotonic()
                try:
                    return self._greet(greeting, reply, kept)
                except LetGo:
                    kept += self._what_was_left()
                if time.monotonic() - connected_at > SHORT_S:
                    until = time.monotonic() + RECONNECT_S
                elif time.monotonic() > until:
                    _supervisor_gone()
                time.sleep(PAUSE_S)
        finally:
            self.in_use -= 1

    def _greet(self, greeting: RunnerMessage, reply: type[M], kept: list[SupervisorMessage]) -> M:
        self._write(_Outgoing(greeting))
        while not isinstance(message := self._next(), reply):
            if isinstance(message, _LASTING):
                kept.append(message)
        self._inbox.extendleft(reversed(kept))
        kept.clear()
        self._is_up = True  # not before: thrown out of here by a signal handler of user code we must begin anew
        with contextlib.suppress(LetGo):  # once more: what was said counts all the same, and the next use finds out
            self._flush()
        return message

    def _what_was_left(self) -> list[SupervisorMessage]:
        """Read what the supervisor had said before it closed its end, and keep what it will not say again."""
        if self._socket.fileno() >= 0 and self.was_let_go():
            with contextlib.suppress(LetGo):
                while True:
                    self._take_in()
        return [message for message in self._inbox if isinstance(message, _LASTING)]

    def _next(self) -> SupervisorMessage:
        while not self._inbox:
            self._take_in()
        return self._inbox.popleft()

    def _connect_until(self, until: float) -> socket.socket:
        while True:
            try:
                return self._connect()
            except OSError:
                if time.monotonic() > until or _has_ended(self._supervisor):
                    _supervisor_gone()
                time.sleep(PAUSE_S)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)  # close-on-exec, as Python makes all of them
        if connection.fileno() < 3:  # user code has closed a standard stream, and may want its number again
            with connection as low:
                connection = socket.socket(fileno=fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 3))
        connection.settimeout(None)
        try:
            connection.connect(self.path)
        except OSError:
            connection.close()
            raise
        self._supervisor = _peer(connection)
        return connection

    def _flush(self) -> None:
        if not self._is_up:
            raise LetGo
        while self._outbox:
            self._write(self._outbox[0])
            self._outbox.popleft()

    def _write(self, outgoing: _Outgoing) -> None:
        self.in_use += 1
        try:
            while not outgoing.has_left:
                outgoing.send_some(self._socket)
        except OSError as error:
            _judge(error)
            raise
        finally:
            self.in_use -= 1

    def _read(self) -> None:
        if not self._is_up:
            raise LetGo
        self._take_in()

    def _take_in(self) -> None:
        self.in_use += 1
        try:
            data = self._socket.recv(1 << 16)
            if not data:
                raise LetGo
            self._inbox += map(from_supervisor.decode, self._unframer.feed(data))
        except OSError as error:
            _judge(error)
            raise
        except FramingError:
            _supervisor_gone()
        finally:
            self.in_use -= 1


def _peer(connection: socket.socket) -> int:
    """The supervisor's process id; 0 where it can't be known, as in a pid namespace of our own."""
    kind = getattr(socket, "SO_PEERCRED", None)
    if kind is None:
        return 0
    return _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, kind, _CREDENTIALS.size))[0]


def _has_ended(pid: int) -> bool:
    """Whether a process is certainly no more. In a pid namespace there is no need to know: it takes us along."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _judge(error: OSError) -> None:
    """Raise `LetGo` if the other end has closed; end if user code has closed ours. Anything else comes from a signal handler
    of user code, whose exceptions, such as TimeoutError, are OSErrors too.
    """
    if isinstance(error, ConnectionError):
        raise LetGo from None
    if error.errno in (errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN):
        _supervisor_gone()


def _supervisor_gone() -> NoReturn:
    os._exit(SUPERVISOR_GONE)

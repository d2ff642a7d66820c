"""UDP sockets that are connected: let go of before a freeze, and connected again after it.

To connect one gives it an address of this machine, the one that its peer is reached from. CRIU would give it the same address
again, and a machine that hasn't got it couldn't restore the run at all. So the connection is dissolved meanwhile. What
waits in the socket to be read stays there; the port stays too, if it is free on the next machine.

Sockets within this machine (loopback) keep theirs: every machine has it.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_FD = "/proc/self/fd"


@dataclass(frozen=True)
class Dissolved:
    """A socket that was connected."""

    fd: int
    peer: Any
    port: int

    @property
    def told(self) -> str:
        return f"fd {self.fd}: UDP to {self.peer[0]}:{self.peer[1]}"


def let_go(ours: set[int]) -> list[Dissolved]:
    """Dissolve what is connected to other machines; `connect_again` undoes it."""
    found = list(_connected(ours))
    if found:
        import ctypes  # seldom needed

        libc = ctypes.CDLL(None)
        for each in found:
            libc.connect(each.fd, bytes(16), 16)  # an address of no family at all: AF_UNSPEC
    return found


def connect_again(sockets: list[Dissolved]) -> list[str]:
    """Returns what could not be, one line per socket: it is there, and not connected."""
    lost: list[str] = []
    for each in sockets:
        with _borrowed(each.fd) as borrowed:
            if borrowed.getsockname()[1] == 0:
                with contextlib.suppress(OSError):  # somebody else's by now
                    borrowed.bind(("", each.port))
            try:
                borrowed.connect(each.peer)
            except OSError as error:
                lost.append(f"{each.told}: {error.strerror}")
    return lost


def _connected(ours: set[int]) -> Iterator[Dissolved]:
    seen: set[str] = set()
    try:
        numbers = sorted(map(int, os.listdir(_FD)))
    except OSError:
        return
    for fd in numbers:
        with contextlib.suppress(OSError):  # the one that listed the directory; not a socket; not connected
            name = os.readlink(f"{_FD}/{fd}")
            if fd in ours or name in seen or not name.startswith("socket:"):
                continue
            seen.add(name)  # another descriptor of it is the same socket
            with _borrowed(fd) as borrowed:
                if borrowed.type == socket.SOCK_DGRAM and borrowed.family in (socket.AF_INET, socket.AF_INET6):
                    peer, own = borrowed.getpeername(), borrowed.getsockname()
                    if not own[0].startswith("127.") and own[0] != "::1":
                        yield Dissolved(fd, peer, own[1])


@contextlib.contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """The socket of a descriptor, which stays user code's."""
    borrowed = socket.socket(fileno=fd)
    try:
        yield borrowed
    finally:
        borrowed.detach()

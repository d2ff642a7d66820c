"""userfaultfd: fill in the memory of another process while it runs, page by page. The kernel's interface, and no more.

A process touches a page that isn't there and is stopped by the kernel; we read that from the descriptor, and put the page.
Whatever it does to its address space meanwhile (unmapping, moving, forking) it tells us likewise, and it waits until we have
read it. Once every descriptor is closed, pages that were never put read as zeros: so it isn't closed before all are in.

See ioctl_userfaultfd(2). CRIU makes the descriptors, and asks the kernel for the events named here.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

PAGE = os.sysconf("SC_PAGE_SIZE")

_MESSAGE = struct.Struct("=B7xQQQ")


class _Range(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Copy(ctypes.Structure):
    _fields_ = (
        ("target", ctypes.c_uint64),
        ("source", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("copied", ctypes.c_int64),
    )


class _Zero(ctypes.Structure):
    _fields_ = (("range", _Range), ("mode", ctypes.c_uint64), ("zeroed", ctypes.c_int64))


def _request(direction: int, number: int, argument: type[ctypes.Structure]) -> int:
    return direction << 30 | ctypes.sizeof(argument) << 16 | 0xAA << 8 | number


_WAKE = _request(2, 0x02, _Range)
_COPY = _request(3, 0x03, _Copy)
_ZERO = _request(3, 0x04, _Zero)

_libc = ctypes.CDLL(None, use_errno=True)  # not fcntl.ioctl: a request's answer counts even when it fails


@dataclass(frozen=True, slots=True)
class Touched:
    """A thread is stopped at a page that isn't there."""

    address: int


@dataclass(frozen=True, slots=True)
class Forked:
    """The process has a child, with memory like its own; `fd` is the child's descriptor."""

    fd: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A mapping, or a part of it, has another address now."""

    start: int
    to: int
    length: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """The process has given up what was there, with its mapping or without."""

    start: int
    end: int


Event = Touched | Forked | Moved | Dropped


class Gone(Exception):
    """The process has ended, or runs another program now."""


class Ahead(Exception):
    """The process is changing its address space: what it tells must be read before pages can be put."""


class UserFaults:
    """The descriptor of one address space."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)

    def close(self) -> None:
        """Once for all: what is missing still, reads as zeros from now on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def events(self) -> Iterator[Event]:
        """What the process has done since the last time, in its order."""
        while True:
            try:
                message = os.read(self.fd, _MESSAGE.size)
            except BlockingIOError:
                return
            if not message:
                return
            kind, first, second, third = _MESSAGE.unpack(message)
            match kind:
                case 0x12:
                    yield Touched(second)
                case 0x13:
                    yield Forked(first & 0xFFFFFFFF)
                case 0x14:
                    yield Moved(first, second, third)
                case 0x15 | 0x16:
                    yield Dropped(first, second)
                case _:
                    raise OSError(errno.EPROTO, f"userfaultfd told of an event {kind:#x}, which nobody asked for")

    def put(self, address: int, source: int, length: int) -> tuple[int, int]:
        """Copy pages from our memory at `source` to the process, and let those go on that waited for them.

        Returns:
            How many bytes were put, and the error (0 if there was none) that stood at the first page that was not:
            EEXIST (there is one), ENOENT (it is not all in one mapping that waits for pages).

        Raises:
            Gone, Ahead: see there.
            OSError: anything else, such as no memory.
        """
        copy = _Copy(address, source, length, 0, 0)
        if _libc.ioctl(self.fd, ctypes.c_ulong(_COPY), ctypes.byref(copy)) == 0:
            return length, 0
        return max(copy.copied, 0), _tolerable(ctypes.get_errno(), copy.copied)

    def zero(self, address: int) -> None:
        """A page that never had any contents: zeros, unless there is a page by now. Who waited for it goes on.

        Raises:
            as `put`.
        """
        zero = _Zero(_Range(address, PAGE), 0, 0)
        if _libc.ioctl(self.fd, ctypes.c_ulong(_ZERO), ctypes.byref(zero)) != 0:
            _tolerable(ctypes.get_errno(), zero.zeroed)
            self.wake(address, PAGE)

    def wake(self, start: int, length: int) -> None:
        """Let those go on that wait for a page in this range; who doesn't find one touches it again."""
        woken = _Range(start, length)
        _libc.ioctl(self.fd, ctypes.c_ulong(_WAKE), ctypes.byref(woken))


def _tolerable(number: int, done: int) -> int:
    if done > 0:
        return 0  # a part was put: the next try finds out what stands in the way
    if number == errno.EAGAIN:
        raise Ahead
    if number in (errno.ESRCH, errno.ENOSPC):
        raise Gone
    if number not in (errno.EEXIST, errno.ENOENT):
        raise OSError(number, f"a page could not be put: {os.strerror(number)}")
    return number

"""Descriptors that are not files: what Linux has made one of, and terminals."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

from freezing import freeze, program

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    assert result >= 0, os.strerror(ctypes.get_errno())
    return result


@program
async def memory_file() -> None:
    """memfd, with seals, and mapped."""
    import mmap

    number = os.memfd_create("held", os.MFD_ALLOW_SEALING)
    os.write(number, b"hello world")
    fcntl.fcntl(number, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    mapped = mmap.mmap(number, 11)
    for n in range(2):
        await freeze()
        mapped[0:1] = b"%d" % n
        assert os.pread(number, 100, 0) == b"%dello world" % n
        assert fcntl.fcntl(number, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    with contextlib.suppress(PermissionError):
        os.ftruncate(number, 3)
        raise AssertionError("the seal is gone")


@program
async def epoll_and_eventfd() -> None:
    polled, counter, silent = select.epoll(), os.eventfd(0), os.eventfd(0)
    polled.register(counter, select.EPOLLIN)
    polled.register(silent, select.EPOLLIN | select.EPOLLET)
    for n in range(2):
        os.eventfd_write(counter, n + 3)
        await freeze()
        assert polled.poll(5) == [(counter, select.EPOLLIN)]
        assert os.eventfd_read(counter) == n + 3
    assert polled.poll(0) == []


@program
async def timer_descriptor() -> None:
    """Its time stands still with the process; one that has expired is still to be read."""
    expired, pending = (checked(libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)) for _ in range(2))
    for number, seconds in ((expired, 0.01), (pending, 1.5)):
        nanoseconds = int((seconds % 1) * 1e9)
        checked(libc.timerfd_settime(number, 0, struct.pack("qqqq", 0, 0, int(seconds), nanoseconds), None))
    began = time.monotonic()
    time.sleep(0.05)
    for _ in range(2):
        await freeze()
    assert os.read(expired, 8) == struct.pack("Q", 1)
    while True:
        with contextlib.suppress(BlockingIOError):
            assert os.read(pending, 8) == struct.pack("Q", 1)
            break
        await asyncio.sleep(0.01)
    assert time.monotonic() - began >= 1.5


@program
async def signal_descriptor() -> None:
    """A signal that was sent before the freeze is read from it afterwards."""
    mask = ctypes.create_string_buffer(128)
    libc.sigemptyset(mask)
    libc.sigaddset(mask, signal.SIGUSR2)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    number = checked(libc.signalfd(-1, mask, os.O_NONBLOCK))
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGUSR2)
        await freeze()
        assert struct.unpack_from("I", os.read(number, 128))[0] == signal.SIGUSR2
    with contextlib.suppress(BlockingIOError):
        os.read(number, 128)
        raise AssertionError("there was only one")


@program
async def inotify_watch() -> None:
    """Of a directory of the run's own."""
    os.mkdir("watched")
    number = checked(libc.inotify_init1(os.O_NONBLOCK))
    watch = checked(libc.inotify_add_watch(number, b"watched", 0x100))  # IN_CREATE
    for n in range(2):
        await freeze()
        Path("watched", f"file{n}").touch()
        told = os.read(number, 4096)
        which, what, _, length = struct.unpack_from("iIII", told)
        assert (which, what, told[16 : 16 + length].rstrip(b"\0")) == (watch, 0x100, b"file%d" % n)


@program
async def process_descriptor() -> None:
    """A pidfd of a child that lives, and of one that has ended."""
    living, ended = subprocess.Popen(["cat"], stdin=subprocess.PIPE), subprocess.Popen(["true"])
    of_living, of_ended = os.pidfd_open(living.pid), os.pidfd_open(ended.pid)
    os.waitid(os.P_PIDFD, of_ended, os.WEXITED | os.WNOWAIT)
    for _ in range(2):
        await freeze()
        signal.pidfd_send_signal(of_living, 0)
        assert os.waitid(os.P_PIDFD, of_living, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
        assert select.select([of_ended], [], [], 0)[0] == [of_ended]
    signal.pidfd_send_signal(of_living, signal.SIGKILL)
    status = os.waitid(os.P_PIDFD, of_living, os.WEXITED)
    assert status is not None
    assert status.si_status == signal.SIGKILL


@program
async def pseudo_terminal() -> None:
    """With a program at its other end, its size, and its settings."""
    ours, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    cat = subprocess.Popen(["cat"], stdin=theirs, stdout=theirs, start_new_session=True)
    for n in range(2):
        await freeze()
        os.write(ours, b"line %d\n" % n)
        heard = b""
        while not heard.endswith(b"\n"):
            heard += os.read(ours, 100)
        assert heard == b"line %d\r\n" % n
        assert os.get_terminal_size(theirs) == (77, 33)
        assert not termios.tcgetattr(theirs)[3] & termios.ECHO
    os.write(ours, b"\x04")
    assert cat.wait(60) == 0

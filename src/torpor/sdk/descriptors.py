"""Descriptors that an image can't hold, or should not: found before a freeze, parked, and opened again after it.

A file outside the run's directory may grow, shrink or vanish while the run is away, and CRIU refuses to restore a file
whose size has changed. So such a file is *parked*: path, flags and offset are remembered and /dev/null takes its number.
Files inside the run's directory travel with the checkpoint and stay as they are.

Left alone, because parking would lose something:
  - files with locks, and files that are mapped shared and writable: the lock or the mapping hangs on this very file;
  - deleted files, and /dev/shm: CRIU carries the first in the image, and the second is memory;
  - every file, while another thread of user code is at work: it would read an early end, or write into nothing.

Linux only; elsewhere nothing is ever frozen and these functions find nothing.
"""

import fcntl
import os
import socket
import stat
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

_FD = "/proc/self/fd"
_SO_PEERCRED = 17
_CREDENTIALS = struct.Struct("3i")
_NEVER = {
    "anon_inode:[io_uring]": "an io_uring",
    "anon_inode:[perf_event]": "a perf event",
    "anon_inode:bpf-": "a BPF object",
}
_ELSEWHERE = ("/dev/shm/", "/run/shm/")
_RESTING = {"wait", "join", "_wait_for_tstate_lock", "_worker"}
"""Functions of threading and concurrent.futures in which a thread waits for others or for work."""
_WHERE_TO_REST = ("/threading.py", "/concurrent/futures/thread.py")


@dataclass(frozen=True)
class Parked:
    """One open file description that was let go, with all descriptors that share it (and its offset)."""

    descriptors: tuple[tuple[int, bool], ...]  # number, inheritable
    path: str
    flags: int
    offset: int
    looked: tuple[int, int, int, int]  # device, inode, size, mtime

    @property
    def inode(self) -> tuple[int, int]:
        return self.looked[:2]

    @property
    def told(self) -> str:
        return f"fd {self.descriptors[0][0]} {self.path}"


# -- what can't be frozen ---------------------------------------------------------------------------------------------


def unfreezable(ours: set[int]) -> list[str]:
    """Why this process can't be frozen now, one line per descriptor; nothing has been touched."""
    return [f"fd {fd} is {why}" for fd, name in _open(ours) if (why := _why_not(fd, name))]


def _why_not(fd: int, name: str) -> str | None:
    for prefix, what in _NEVER.items():
        if name.startswith(prefix):
            return what
    return _outside_peer(fd) if name.startswith("socket:") else None


def _outside_peer(fd: int) -> str | None:
    """A unix connection with a process that isn't part of this run. Pairs without a name are left for CRIU to judge."""
    try:
        connection = socket.socket(fileno=os.dup(fd))
    except OSError:
        return None
    with connection:
        if connection.family != socket.AF_UNIX:
            return None
        try:
            peer, own = connection.getpeername(), connection.getsockname()
            pid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, _CREDENTIALS.size))[0]
        except OSError:
            return None  # listening, or not connected
    if not (peer or own) or _is_ours(pid):
        return None
    return f"a unix socket connected to another process ({_readable(peer or own)})"


def _is_ours(pid: int) -> bool:
    """Whether a process belongs to this run: itself or a descendant. 0 means that it is in another pid namespace."""
    seen = 0
    while pid > 1 and pid != os.getpid() and seen < 100:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
        seen += 1
    return pid == os.getpid()


def _readable(address: str | bytes) -> str:
    text = os.fsdecode(address)
    return "@" + text[1:] if text.startswith("\0") else text


# -- parking ----------------------------------------------------------------------------------------------------------


def park(run_directory: str, ours: set[int]) -> list[Parked]:
    """Let go of the outside files. `ours` are descriptors to leave alone; `unpark` undoes it."""
    if _others_at_work():
        return []
    inside = (os.path.realpath(run_directory) + "/", *_ELSEWHERE)
    files = [file for fd, path in _open(ours) if path.startswith("/") and (file := _describe(fd, path))]
    outside = [file for file in files if not file.path.startswith(inside)]
    if not outside:
        return []
    # By inode, not by descriptor: closing any descriptor of a file drops all POSIX locks that a process has on it.
    held = _mapped() | {file.inode for file in files if _is_locked(file.descriptors[0][0])}
    parked = _join_duplicates([file for file in outside if file.inode not in held and _can_reopen(file)])
    if parked:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for file in parked:
            for fd, inheritable in file.descriptors:
                os.dup2(null, fd, inheritable=inheritable)
        os.close(null)
    return parked


def unpark(parked: list[Parked]) -> list[str]:
    """Open them again at their offsets, under their old numbers.

    Returns what is not as it was, one line per file: gone (its descriptor goes on reading nothing and writing nowhere),
    replaced, cut short or changed (it is open, at the old offset).
    """
    lost: list[str] = []
    for file in parked:
        try:
            new = os.open(file.path, file.flags | os.O_CLOEXEC)
        except OSError as error:
            lost.append(f"{file.told}: {error.strerror}")
            continue
        if change := _change(file, os.fstat(new)):
            lost.append(f"{file.told}: {change}")
        os.lseek(new, file.offset, os.SEEK_SET)
        for fd, inheritable in file.descriptors:
            os.dup2(new, fd, inheritable=inheritable)
        os.close(new)
    return lost


def _describe(fd: int, path: str) -> Parked | None:
    try:
        status = os.fstat(fd)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink == 0 or flags & os.O_PATH:
            return None
        offset = os.lseek(fd, 0, os.SEEK_CUR)
        inheritable = os.get_inheritable(fd)
    except OSError:
        return None
    return Parked(((fd, inheritable),), path, flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC), offset, _look(status))


def _look(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _change(file: Parked, status: os.stat_result) -> str | None:
    now = _look(status)
    if file.path.startswith(("/proc/", "/sys/")) or now == file.looked:
        return None
    if now[:2] != file.inode:
        return "another file has taken its place"
    if now[2] < file.offset:
        return f"cut short, from {file.looked[2]} to {now[2]} bytes"
    if now[2] > file.looked[2] and file.flags & os.O_APPEND:
        return None  # a log that grew: what it is for
    return "changed while the run was away"


def _can_reopen(file: Parked) -> bool:
    """Whether the path still leads to this file and we may open it: it may stem from before privileges were dropped."""
    try:
        trial = os.open(file.path, file.flags | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _look(os.fstat(trial))[:2] == file.inode
    finally:
        os.close(trial)


def _is_locked(fd: int) -> bool:
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            return b"\nlock:" in b"\n" + file.read()
    except OSError:
        return True  # can't tell, so leave it


def _mapped() -> set[tuple[int, int]]:
    """Device and inode of every file that is mapped shared and writable."""
    found: set[tuple[int, int]] = set()
    with open("/proc/self/maps") as file:
        for line in file:
            _, access, _, device, inode, *_ = line.split(maxsplit=5)
            if inode != "0" and "w" in access and access.endswith("s"):
                major, minor = (int(part, 16) for part in device.split(":"))
                found.add((os.makedev(major, minor), int(inode)))
    return found


def _join_duplicates(files: list[Parked]) -> list[Parked]:
    """Descriptors made by dup() share one offset, and must share one again: found by moving it and looking twice."""
    joined: list[Parked] = []
    for file in files:
        fd = file.descriptors[0][0]
        for place, other in enumerate(joined):
            if (other.path, other.flags, other.offset, other.looked) == (
                file.path,
                file.flags,
                file.offset,
                file.looked,
            ):
                os.lseek(fd, file.offset + 1, os.SEEK_SET)
                is_shared = os.lseek(other.descriptors[0][0], 0, os.SEEK_CUR) == file.offset + 1
                os.lseek(fd, file.offset, os.SEEK_SET)
                if is_shared:
                    both = other.descriptors + file.descriptors
                    joined[place] = Parked(both, file.path, file.flags, file.offset, file.looked)
                    break
        else:
            joined.append(file)
    return joined


def _open(ours: set[int]) -> Iterator[tuple[int, str]]:
    """Every descriptor above stderr, and what it leads to."""
    try:
        names = os.listdir(_FD)
    except OSError:
        return
    for fd in sorted(map(int, names)):
        if fd > 2 and fd not in ours:
            try:
                yield fd, os.readlink(f"{_FD}/{fd}")
            except OSError:
                continue  # the one that listed the directory


def _others_at_work() -> bool:
    """Whether a Python thread besides this one may touch a file: one that isn't asleep in a lock or an empty queue."""
    here = threading.get_ident()
    others = (frame.f_code for thread, frame in sys._current_frames().items() if thread != here)
    return not all(code.co_name in _RESTING and code.co_filename.endswith(_WHERE_TO_REST) for code in others)

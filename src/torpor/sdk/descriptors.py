"""Descriptors that an image can't hold, or should not: found before a freeze, parked, and opened again after it.

A file outside the run's directory may grow, shrink or vanish while the run is away, and CRIU refuses to restore a file
whose size has changed. So such a file is *parked*: path, flags and offset are remembered and /dev/null takes its number.

Some can't be parked, because that would lose something. Then the run must not be frozen: it would start over if the
file changed.
  - files with locks, and files that are mapped shared and writable: the lock or the mapping hangs on this very file.
    SQLite in WAL mode always has both;
  - files that can't be opened again;
  - every file, while another thread of user code is at work: it would read an early end, or write into nothing.

Left to CRIU, for they come back whatever happens outside:
  - files in the run's directory travel with the checkpoint; deleted files are in the image; /dev/shm is memory;
  - files that can't be parked, yet are only appended to: their size isn't compared;
  - files that can't be parked, yet belong to Python or an installed package and are only read.

Files that are mapped read-only, libraries and model weights for instance, are left to CRIU as well, though they must not
change: else nothing that uses a library could be frozen.

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
from types import FrameType

from torpor.sdk import fresh

_FD = "/proc/self/fd"
_SO_PEERCRED = 17
_CREDENTIALS = struct.Struct("3i")
_NEVER = {
    "anon_inode:[io_uring]": "an io_uring",
    "anon_inode:[perf_event]": "a perf event",
    "anon_inode:bpf-": "a BPF object",
}
_ELSEWHERE = ("/dev/shm/", "/run/shm/")
_KERNEL = ("/proc/", "/sys/")
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


@dataclass(frozen=True)
class Findings:
    """What is open: files that can be parked, and what is wrong with the others, one line per descriptor.

    `could_change`: files that can't be parked; a restore would fail if they changed meanwhile.
    `never`: what no image can hold.
    """

    to_park: list[Parked]
    could_change: list[str]
    never: list[str]


def look(run_directory: str, ours: set[int]) -> Findings:
    """Go through all descriptors but `ours`. Nothing is touched yet."""
    opened = list(_open(ours))
    never = [f"fd {fd} is {why}" for fd, name in opened if (why := _why_not(fd, name))]
    files = [file for fd, path in opened if path.startswith("/") and (file := _describe(fd, path))]
    inside = (os.path.realpath(run_directory) + "/", *_ELSEWHERE)
    outside = [file for file in files if not file.path.startswith(inside)]
    mapped = _mapped_for_writing()
    # By inode, not by descriptor: closing any descriptor of a file drops all POSIX locks that a process has on it.
    locked = {file.inode for file in files if _is_locked(file.descriptors[0][0])} if outside else set()
    user = _thread_at_work() if outside else None
    installed = _installed()
    to_park: list[Parked] = []
    could_change: list[str] = []
    for file in outside:
        if (obstacle := _obstacle(file, locked, mapped, user)) is None:
            to_park.append(file)
        elif not _comes_back_anyway(file, installed):
            could_change.append(
                f"fd {file.descriptors[0][0]} is open on {file.path}, "
                f"which could change while the run is frozen, and {obstacle}"
            )
    # A mapping outlives the descriptor that it was made with.
    told = {file.inode for file in files} | {file.path for file in files}
    for inode, path in mapped.items():
        if not told & {inode, path} and not path.startswith((*inside, "/dev/")) and os.path.isfile(path):
            could_change.append(f"{path} is mapped for writing, and could change while the run is frozen")
    return Findings(to_park, could_change, never)


# -- what can't be frozen ---------------------------------------------------------------------------------------------


def _obstacle(
    file: Parked, locked: set[tuple[int, int]], mapped: dict[tuple[int, int], str], user: str | None
) -> str | None:
    """Why an outside file can't be let go, if it can't."""
    if file.inode in locked:
        return "this process holds a lock on it"
    if file.inode in mapped or file.path in mapped.values():  # some file systems show other numbers in maps
        return "it is mapped for writing"
    if user is not None:
        return f"{user} may be using it"
    return _why_not_again(file)  # the last: closing what it opens would drop locks


def _comes_back_anyway(file: Parked, installed: tuple[str, ...]) -> bool:
    """Whether CRIU restores it even if it is left open: it doesn't compare the size of a log, and others don't change."""
    access = file.flags & os.O_ACCMODE
    if access == os.O_WRONLY and file.flags & os.O_APPEND:
        return True
    return file.path.startswith(_KERNEL) or (access == os.O_RDONLY and file.path.startswith(installed))


def _installed() -> tuple[str, ...]:
    """Where the interpreter, its packages and the system's libraries are."""
    places = {"/usr", "/lib", "/lib64", sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    places |= {path for path in sys.path if path.endswith(("/site-packages", "/dist-packages"))}
    return tuple(real + "/" for place in places if (real := os.path.realpath(place)) != "/")


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
    """Whether a process belongs to this run: itself or a descendant. 0 means that it is in another pid namespace.

    A run that can be frozen is process 1 of its own, and so everybody's ancestor in there. (/proc could not tell: it is that of
    the worker's namespace, where the same number is somebody else's.)
    """
    if os.getpid() == 1:
        return pid > 0
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


# -- connections ----------------------------------------------------------------------------------------------------


def connections(ours: set[int]) -> list[tuple[int, str]]:
    """Descriptors of TCP connections, and with whom: an image doesn't hold their other ends."""
    return [(fd, peer) for fd, name in _open(ours) if name.startswith("socket:") and (peer := _tcp_peer(fd))]


def lost_connections(before: list[tuple[int, str]]) -> list[str]:
    """Those of them that are none any more: all of them after a restore, where CRIU puts closed sockets in their places."""
    return [f"fd {fd}: the connection with {peer} is closed" for fd, peer in before if _tcp_peer(fd) is None]


def _tcp_peer(fd: int) -> str | None:
    try:
        connection = socket.socket(fileno=os.dup(fd))
    except OSError:
        return None
    with connection:
        try:
            if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
                return None
            host, port = connection.getpeername()[:2]
        except OSError:
            return None  # listening, or not connected
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- parking ----------------------------------------------------------------------------------------------------------


def park(files: list[Parked]) -> list[Parked]:
    """Let go of these files, which `look` has found; `unpark` undoes it."""
    parked = _join_duplicates(files)
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
    if file.path.startswith(_KERNEL) or now == file.looked:
        return None
    if now[:2] != file.inode:
        return "another file has taken its place"
    if now[2] < file.offset:
        return f"cut short, from {file.looked[2]} to {now[2]} bytes"
    if now[2] > file.looked[2] and file.flags & os.O_APPEND:
        return None  # a log that grew: what it is for
    return "changed while the run was away"


def _why_not_again(file: Parked) -> str | None:
    """Why we couldn't open this file again. It may stem from before privileges were dropped, or a rename."""
    try:
        trial = os.open(file.path, file.flags | os.O_CLOEXEC)
    except OSError as error:
        return f"it can't be opened again ({error.strerror})"
    try:
        if _look(os.fstat(trial))[:2] == file.inode:
            return None
        return "its path leads to another file by now"
    finally:
        os.close(trial)


def _is_locked(fd: int) -> bool:
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            return b"\nlock:" in b"\n" + file.read()
    except OSError:
        return True  # can't tell, so leave it


def _mapped_for_writing() -> dict[tuple[int, int], str]:
    """Device and inode, and path, of every file that is mapped shared and writable."""
    found: dict[tuple[int, int], str] = {}
    try:
        maps = open("/proc/self/maps")  # noqa: SIM115
    except OSError:
        return found
    with maps:
        for line in maps:
            _, access, _, device, inode, *path = line.split(maxsplit=5)
            if inode != "0" and path and "w" in access and access.endswith("s"):
                major, minor = (int(part, 16) for part in device.split(":"))
                found[(os.makedev(major, minor), int(inode))] = path[0].rstrip("\n")
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
    """Every descriptor but `ours`, and what it leads to."""
    try:
        names = os.listdir(_FD)
    except OSError:
        return
    for fd in sorted(map(int, names)):
        if fd not in ours:
            try:
                yield fd, os.readlink(f"{_FD}/{fd}")
            except OSError:
                continue  # the one that listed the directory


def _thread_at_work() -> str | None:
    """A Python thread besides this one that may touch a file: one that isn't asleep in a lock or an empty queue."""
    here = threading.get_ident()
    names = {thread.ident: f"the thread {thread.name!r}" for thread in threading.enumerate()}
    for thread, frame in sys._current_frames().items():
        if thread != here and not _is_resting(frame):
            return names.get(thread, "another thread")
    return None


def _is_resting(frame: FrameType) -> bool:
    """Whether a thread sleeps until another one wakes it. With a timeout it may wake by itself, while files are parked: that
    doesn't matter if it only looks after connections.
    """
    code = frame.f_code
    if code.co_name not in _RESTING or not code.co_filename.endswith(_WHERE_TO_REST):
        return False
    return frame.f_locals.get("timeout") in (None, -1) or fresh.is_upkeep_thread(frame)

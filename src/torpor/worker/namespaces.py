"""The Linux system calls that Python 3.11 lacks: unshare, setns, mount, prctl, statx and a few more. Nothing about runs.

Importing this module is safe anywhere; calling it is for Linux and, mostly, for root.
"""

import ctypes
import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

SYNC_FILE_RANGE_WRITE = 2

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_SET_REAL = {"x86_64": (119, 117), "aarch64": (149, 147)}
"""setresgid and setresuid."""
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = 0o2000000
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
"""The same on every architecture, as all calls that are younger than 403."""
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID = 1, 2
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2
_STATX_BTIME = 0x800

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the named namespaces for new ones. For CLONE_NEWPID the next child is the new one's pid 1."""
    _check(_libc.unshare(flags), "unshare")


def join(pid: int, kinds: Sequence[str]) -> None:
    """Enter namespaces of another process (`mnt`, `net`): this thread alone, and what it starts."""
    unshare(CLONE_FS)  # threads share their root directory, and one that shares can't change namespaces
    opened = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    try:
        for descriptor in opened:
            _check(_libc.setns(descriptor, 0), "setns")
    finally:
        for descriptor in opened:
            os.close(descriptor)


def join_file(path: str) -> None:
    """Enter the namespace that is kept at `path`: this thread alone, and what it starts."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, 0), f"setns {path}")
    finally:
        os.close(descriptor)


def not_shared_with(pid: int, kinds: Sequence[str]) -> list[str]:
    """Those kinds of namespaces in which a process isn't where we are."""
    return [kind for kind in kinds if os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")]


def be_really(uid: int, gid: int) -> None:
    """Take these as real ids, and stay root by the effective ones: this thread alone, and what it starts.

    By the bare system calls: the C library's, and so Python's, change the ids of all threads.
    """
    for call, number in zip(_SET_REAL[os.uname().machine], (gid, uid), strict=True):
        _check(_libc.syscall(ctypes.c_long(call), number, 0, 0), "setresid")


def own_mounts() -> None:
    """A mount namespace for this thread alone, and what it starts; it begins as a copy of the one that we are in. What is
    mounted there is seen there only: most machines let mounts spread to copies, and back.
    """
    unshare(CLONE_FS | CLONE_NEWNS)
    mount(None, "/", None, MS_REC | MS_PRIVATE)


def share_host_name(pid: int) -> None:
    """Give the host name namespace of another process our name. For a thread of its own, which is back afterwards: one that was
    restored has the name of the machine on which it was frozen.
    """
    name, ours = socket.gethostname(), os.open("/proc/self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(theirs, CLONE_NEWUTS), "setns")
            try:
                socket.sethostname(name)
            finally:
                _check(_libc.setns(ours, CLONE_NEWUTS), "setns")
        finally:
            os.close(theirs)
    finally:
        os.close(ours)


def has_our_mounts(pid: int) -> bool:
    """Whether a process is in our own mount namespace."""
    return not not_shared_with(pid, ("mnt",))


def prctl(option: int, value: int = 0, further: int = 0) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(further), 0, 0), f"prctl({option})")


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    def text(value: str | None) -> bytes | None:
        return None if value is None else value.encode()

    _check(
        _libc.mount(text(source), text(target), text(kind), ctypes.c_ulong(flags), text(data)),
        f"mount {kind or source} on {target}",
    )


def bind(source: str, target: str) -> None:
    """Let `target` show what `source` holds, with everything mounted below it."""
    mount(source, target, None, MS_BIND | MS_REC)


def bind_safely(source: str, target: str, *, read_only: bool) -> None:
    """As `bind`, and nothing in there is set-user-id any more, nor writable if it is to be read only."""
    bind(source, target)
    attributes = _MOUNT_ATTR_NOSUID | (_MOUNT_ATTR_RDONLY if read_only else 0)
    wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
    if (
        _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, target.encode(), _AT_RECURSIVE, wanted, ctypes.c_size_t(len(wanted)))
        != 0
    ):
        # Before Linux 5.12 only one mount at a time can be changed: what is mounted below the source is left out.
        unmount(target)
        mount(source, target, None, MS_BIND)
        mount(None, target, None, MS_BIND | MS_REMOUNT | MS_NOSUID | (MS_RDONLY if read_only else 0))


def unmount(point: str) -> None:
    """Take a mount out of sight with all that is mounted below it; it ends when nobody uses it any more."""
    _check(_libc.umount2(point.encode(), MNT_DETACH), f"unmount {point}")


def pick_up(point: str, *, with_all_below: bool) -> int:
    """A copy of a mount that is mounted nowhere yet; `put_down` does that. It ends when the descriptor is closed before."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if with_all_below else 0)
    descriptor = _libc.syscall(_OPEN_TREE, _AT_FDCWD, point.encode(), flags)
    _check(descriptor, f"open_tree {point}")
    return descriptor


def put_down(picked_up: int, target: str | int) -> None:
    """Mount it, on a path or on an open directory."""
    if isinstance(target, int):
        at, path, flags = target, b"", _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    else:
        at, path, flags = _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH
    try:
        _check(_libc.syscall(_MOVE_MOUNT, picked_up, b"", at, path, flags), f"move_mount to {target}")
    finally:
        os.close(picked_up)


def mount_proc_of(pid: int, target: str) -> None:
    """Mount a /proc on `target`, a path of this thread's mount namespace, that shows the pid namespace of that process.

    Linux can be told which since 6.18.
    """
    with suppress(OSError):
        mount("proc", target, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"pidns=/proc/{pid}/ns/pid")
        return
    mount_proc_by_program(pid, target)


def mount_proc_by_program(pid: int, target: str) -> None:
    """As `mount_proc_of`, on any Linux.

    A /proc is one of the pids of whoever mounts it, and only a child can be in another pid namespace than its parent. So it takes
    a program, and a thread of its own to start it: see `elsewhere`.
    """
    descriptor = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(descriptor, CLONE_NEWPID), "setns")
    finally:
        os.close(descriptor)
    before = os.stat(target).st_dev
    command = ["mount", "-n", "-i", "-t", "proc", "-o", "nosuid,nodev,noexec", "proc", target]
    if shutil.which("mount") is None:
        told = (
            f"ctypes.CDLL(None).mount(b'proc', {target.encode()!r}, b'proc', {MS_NOSUID | MS_NODEV | MS_NOEXEC}, None)"
        )
        command = [sys.executable, "-I", "-S", "-c", f"import ctypes; {told}"]
    none = subprocess.DEVNULL
    done = subprocess.run(command, stdin=none, stdout=none, stderr=subprocess.PIPE, text=True, check=False)
    # Not by its exit status: our caller may be pid 1 of a namespace that reaps every child itself.
    if os.stat(target).st_dev == before:
        raise OSError(errno.EIO, f"no /proc on {target}: {done.stderr.strip() or 'mount does not say why'}")


def elsewhere(do: Callable[[], T]) -> T:
    """Do it in a thread that is made for this alone: one that has been in other namespaces is of no use for anything else."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="elsewhere") as thread:
        return thread.submit(do).result()


def unmount_below(directory: str) -> None:
    """Detach whatever is mounted below a directory, the innermost first, so that it can be removed."""
    below = os.fsencode(directory).rstrip(b"/") + b"/"
    with open("/proc/self/mounts", "rb") as mounts:
        # The kernel writes a space in a name as a backslash and three octal digits.
        points = [line.split()[1].decode("unicode_escape").encode("latin-1") for line in mounts]
    for point in reversed([point for point in points if point.startswith(below)]):
        _check(_libc.umount2(point, MNT_DETACH), f"unmount {os.fsdecode(point)}")


def may_unshare() -> bool:
    """Can this process make namespaces? Root on Linux with CAP_SYS_ADMIN in its effective set."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    with open("/proc/self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return bool(effective & (1 << 21))  # CAP_SYS_ADMIN


def filesystem_of(path: str) -> str:
    """The type of the file system that `path` is on, such as `tmpfs`, by the longest mount point that leads to it."""
    best, kind = "", ""
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            _, point, fs, *_ = line.split()
            if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, kind = point, fs
    return kind


def start_writing(descriptor: int) -> None:
    """Have the kernel write a file's dirty pages to disk now, without waiting for them. A hint: it promises nothing."""
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), SYNC_FILE_RANGE_WRITE)


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Give the disk back what a part of a file takes. It reads as zeros then; the file stays as long as it is."""
    how = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    _check(_libc.fallocate(descriptor, how, ctypes.c_int64(offset), ctypes.c_int64(length)), "fallocate")


def birth_time(path: str) -> float | None:
    """When a file was made (wall time); None when it is gone, or its file system doesn't tell."""
    answer = ctypes.create_string_buffer(256)
    if not hasattr(_libc, "statx") or _libc.statx(_AT_FDCWD, path.encode(), 0, _STATX_BTIME, answer) != 0:
        return None
    (mask,) = struct.unpack_from("=I", answer, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", answer, 80)
    return seconds + nanoseconds / 1e9 if mask & _STATX_BTIME else None

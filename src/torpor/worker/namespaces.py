"""The Linux system calls that Python 3.11 lacks: unshare, mount, prctl, sync_file_range. Nothing about runs.

Importing this module is safe anywhere; calling it is for Linux and, mostly, for root.
"""

import ctypes
import os
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

SYNC_FILE_RANGE_WRITE = 2

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the named namespaces for new ones. For CLONE_NEWPID the next child is the new one's pid 1."""
    _check(_libc.unshare(flags), "unshare")


def prctl(option: int, value: int = 0) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl({option})")


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

"""Where images are while they are files: for CRIU to write, and for CRIU to read. In memory where there is room, else on disk.

A disk has outliers: single dumps of small images took up to two seconds while it wrote back something else. Memory (a
tmpfs) has none, but what an image takes of it runs and page cache can't have. So it is used when about twice the
bytes that are expected are free, of the machine's and of our control group's.
"""

import contextlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

MEMORY = Path("/run/torpor-images")
"""The supervisor has a tmpfs of its own on /run."""

_ROOM = 2.0
_LEAVE_BYTES = 256 << 20
"""What runs should find free beside that."""
_TMPFS_MAGIC = 0x01021994


@dataclass
class Place:
    """One image's directory."""

    path: Path
    in_memory: bool
    expected_bytes: int


@dataclass
class Workspace:
    """Two directories for images that are files, and what is free in them."""

    disk: Path
    memory: Path | None = None
    """a directory on a tmpfs, or None: everything goes to the disk"""
    _taken: dict[Path, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for directory in (self.disk, self.memory):
            if directory is not None:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.memory is not None and not is_tmpfs(self.memory):
            self.memory = None

    def sweep(self) -> None:
        """Remove what an earlier life has left. Call it before anything is begun."""
        for directory in (self.disk, self.memory):
            if directory is not None:
                for left in directory.iterdir():
                    shutil.rmtree(left, ignore_errors=True)

    def begin(self, name: str, expected_bytes: int, room: float = _ROOM) -> Place:
        """An empty directory of this name, in memory if about that many bytes and as many again are free there."""
        in_memory = self.memory is not None and self.free_memory() > expected_bytes * room + _LEAVE_BYTES
        parent = self.memory if in_memory else self.disk
        assert parent is not None
        path = parent / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700, parents=True)
        place = Place(path, in_memory, expected_bytes)
        self._taken[path] = place
        return place

    def end(self, place: Place) -> None:
        """It is no longer needed."""
        shutil.rmtree(place.path, ignore_errors=True)
        self._taken.pop(place.path, None)

    def free_memory(self) -> int:
        """How many bytes a new image may take of memory: those are spoken for that others have begun to fill."""
        assert self.memory is not None
        disk = os.statvfs(self.memory)
        # A list of its own: other threads begin and end some meanwhile.
        taken = [place for place in list(self._taken.values()) if place.in_memory]
        promised = sum(place.expected_bytes for place in taken)
        written = sum(_bytes_in(place.path) for place in taken)
        return min(available_memory(), disk.f_bavail * disk.f_frsize) - max(0, promised - written)


def is_tmpfs(directory: Path) -> bool:
    """Whether files there are in memory."""
    told = ""
    with contextlib.suppress(OSError):
        where = os.path.realpath(directory)
        best = -1
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            point = left.split()[4]
            if (where + "/").startswith(point.rstrip("/") + "/") and len(point) >= best:
                best, told = len(point), right.split()[0]
    return told == "tmpfs"


def available_memory() -> int:
    """What can be had without swapping: of the machine, and within the control group that we are in."""
    free = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    for group, limit, used in _groups():
        with contextlib.suppress(OSError, ValueError):
            taken = int((group / used).read_text()) - _page_cache(group)
            free = min(free, int((group / limit).read_text()) - taken)
    return max(free, 0)


def memory_limit() -> int:
    """All the memory there is: of the machine, or what our control group may have if that is less."""
    sizes: list[int] = []
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            sizes.append(int(line.split()[1]) * 1024)
    for group, limit, _ in _groups():
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int((group / limit).read_text()))
    return min(sizes)


def _page_cache(group: Path) -> int:
    """What counts as used and is given up for the asking."""
    total = 0
    for line in (group / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "active_file"):
            total += int(value)
    return total


def _groups() -> list[tuple[Path, str, str]]:
    """Our control group and each above it, and the files that tell its limit and its use, in either version of cgroups."""
    found: list[tuple[Path, str, str]] = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
            elif "memory" in controllers.split(","):
                root, names = Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
            else:
                continue
            group = root / path.lstrip("/")
            while True:
                found.append((group, *names))
                if group == root or root not in group.parents:
                    break
                group = group.parent
    return found


def _bytes_in(directory: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                total += _bytes_in(Path(entry.path))
            else:
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total

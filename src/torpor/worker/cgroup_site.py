"""Where this host lets us make control groups, and how a limit is written there. Two kinds: `cgroups_v2.py`, `cgroups_v1.py`.

A host has either one hierarchy for all controllers (v2), or one for each (v1), or a mixture in which v2 has none that we need.
In a container both may show no more than the container's own part.
"""

import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torpor.wire.presets import Preset

NEEDED = ("memory", "pids")
"""Without these there are no limits worth the name."""
WANTED = ("cpu",)
"""These are done without, if they can't be had."""
KILL_PATIENCE_S = 5.0


@dataclass(frozen=True)
class NoCgroups:
    """There are no control groups for us.

    Attributes:
        reason: why, in words.
        fix: what to do about it.
    """

    reason: str
    fix: str


@dataclass(frozen=True)
class Caps:
    """What a run may use, in the kernel's units.

    Attributes:
        cpu: how much of the machine's CPUs it gets when others want them as well; with `is_hard`, never more.
    """

    memory_bytes: int
    pids: int
    cpu: float
    is_hard: bool = False

    @classmethod
    def of(cls, preset: Preset, *, is_hard: bool = False) -> "Caps":
        return cls(preset.memory_bytes, preset.pids, preset.cpu, is_hard)


@dataclass(frozen=True)
class Memory:
    """How much a group uses.

    Attributes:
        now_bytes: without what the kernel would give back if it had to (contents of files on disks).
        peak_bytes: the most at any moment, with that; 0 where the kernel doesn't tell.
        cached_bytes: what it would give back now.
    """

    now_bytes: int
    peak_bytes: int
    cached_bytes: int


Groups = dict[str, Path]
"""A group's directory for each controller. In v2 they are all the same one."""


class Site(ABC):
    """A place for groups.

    Attributes:
        homes: for each controller, the group below which ours are made.
        lacks: the controllers among `WANTED` that aren't to be had.
    """

    kind: ClassVar[str]

    def __init__(self, homes: Groups, lacks: tuple[str, ...] = ()) -> None:
        self.homes = homes
        self.lacks = lacks

    @property
    def is_prepared(self) -> bool:
        """Groups that are made here can have limits at once."""
        return True

    def prepare(self) -> None:
        """Make the place fit for groups.

        Raises:
            OSError: it can't be; the message says why.
        """
        return

    def open_up(self, groups: Groups) -> None:
        """Let groups below these have limits."""
        return

    @abstractmethod
    def limit(self, groups: Groups, caps: Caps) -> bool:
        """Set the limits. False: the memory's can't be lowered that far, as more is in use; it stays as it was."""

    @abstractmethod
    def weigh(self, groups: Groups, cpus: float) -> None:
        """Let a group count for so many CPUs among its neighbours."""

    @abstractmethod
    def memory(self, groups: Groups) -> Memory: ...

    @abstractmethod
    def cpu_ms(self, groups: Groups) -> float | None:
        """CPU time of all its processes, those that have ended included; None if that isn't counted here."""

    @abstractmethod
    def oom_kills(self, groups: Groups) -> int:
        """How many processes of the group were killed because it had used up its memory."""

    @abstractmethod
    def kill(self, groups: Groups) -> None:
        """Send SIGKILL to all processes; none can be missed by forking meanwhile."""

    def refused_pids(self, groups: Groups) -> int:
        """How often a process or thread could not be made because there were too many."""
        return counter(groups["pids"] / "pids.events", "max")


def distinct(groups: Groups) -> list[Path]:
    return list(dict.fromkeys(groups.values()))


def counter(file: Path, name: str) -> int:
    """One number of a file of lines such as `oom_kill 3`; 0 if it isn't there."""
    try:
        for line in file.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0


def number(file: Path) -> int:
    """The number that a file holds; 0 if there is none."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


def pids_of(groups: Groups) -> set[int]:
    """The processes of a group, and of those below. Those of pid namespaces that can't be seen from here are left out."""
    found = set[int]()
    for top in distinct(groups):
        for group in [top, *below(top)]:
            try:
                found |= {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
            except OSError:
                continue  # it has just been removed, or can't be asked (a threaded group): its parent answers for it
    return found - {0}


def below(group: Path) -> Iterator[Path]:
    """All groups below one, the outer ones first."""
    try:
        inner = [entry for entry in group.iterdir() if entry.is_dir()]
    except OSError:
        return
    for each in inner:
        yield each
        yield from below(each)


def kill_one_by_one(groups: Groups) -> None:
    """For kernels that can't kill a group as a whole."""
    if (pids := groups.get("pids")) is not None:
        with suppress(OSError):
            (pids / "pids.max").write_text("0")  # who can't fork can't get away
    end = time.monotonic() + KILL_PATIENCE_S
    while (left := pids_of(groups)) and time.monotonic() < end:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


# -- what is mounted --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mount:
    """A hierarchy that can be seen here.

    Attributes:
        kind: `cgroup2` or `cgroup`.
        root: which of its groups is seen at `point`.
        controllers: of a v1 hierarchy.
    """

    kind: str
    root: str
    point: Path
    is_writable: bool
    controllers: frozenset[str]

    def where(self, group: str) -> Path | None:
        """The directory of a group, if it can be seen."""
        if group == self.root or self.root == "/":
            return self.point / group.lstrip("/") if self.root == "/" else self.point
        if group.startswith(self.root + "/"):
            return self.point / group[len(self.root) + 1 :]
        return None


def mounts(mountinfo: str) -> list[Mount]:
    """The hierarchies in a `/proc/self/mountinfo`."""
    found: list[Mount] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split()[:3]
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, point = (text.encode().decode("unicode_escape") for text in fields[3:5])
        is_writable = "rw" in fields[5].split(",") and "rw" in options.split(",")
        found.append(Mount(kind, root, Path(point), is_writable, frozenset(options.split(",")) - {"rw", "ro"}))
    return found


def memberships(cgroup: str) -> dict[str, str]:
    """By controller the group that `/proc/self/cgroup` names; that of v2 by the empty name."""
    found = dict[str, str]()
    for line in cgroup.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found

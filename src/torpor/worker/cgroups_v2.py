"""Control groups of the second version: one hierarchy, in which a group has processes or groups below it, not both.

So a place for groups must be free of processes first. Ours is, in this order:

1. the group that we are in, if it is ours to arrange: of a container, of a unit with `Delegate=yes`, with nobody but us in
   it. Whoever is in there is moved to a group without limits beside those of the runs (`torpor/outside`);
2. the top of the hierarchy, of which the rule doesn't hold. There runs are out of reach of limits that were set for us, so it is
   taken only where there are none.
"""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

from torpor.worker.cgroup_site import (
    NEEDED,
    WANTED,
    Caps,
    Groups,
    Memory,
    Mount,
    NoCgroups,
    Site,
    counter,
    distinct,
    kill_one_by_one,
    number,
)

PERIOD_US = 100_000
OUTSIDE = ("torpor", "outside")
"""Where the processes are that were in our group when we began: the worker, and in a container all others."""
_CLEARING_PATIENCE_S = 5.0
DELEGATE = (
    "give the worker a control group that it may arrange (systemd: Delegate=yes in its unit; "
    "a container: its own cgroup namespace, and /sys/fs/cgroup mounted read-write)"
)


def look(mounted: list[Mount], ours: dict[str, str]) -> "Unified | NoCgroups":
    """A place in the hierarchy, if it has the controllers that we need."""
    why = "no control groups are mounted here"
    for mount in mounted:
        if mount.kind != "cgroup2":
            continue
        match _look_in(mount, ours.get("", "/")):
            case Unified() as found:
                return found
            case reason:
                why = reason
    return NoCgroups(why, DELEGATE)


def _look_in(mount: Mount, ours: str) -> "Unified | str":
    own = mount.where(ours)
    if own is None or not own.is_dir():
        return "the control group that the worker is in can't be seen here"
    if own.parts[-2:] == OUTSIDE:
        own = own.parents[1]  # a worker before us has put our parent there
    reasons: list[str] = []
    for home in dict.fromkeys((own, mount.point)):
        there = _words(home / "cgroup.controllers")
        lacking = [each for each in NEEDED if each not in there]
        if lacking:
            reasons.append(f"no controller for {' and '.join(lacking)} in {home}")
        elif not mount.is_writable or not os.access(home / "cgroup.subtree_control", os.W_OK):
            reasons.append(f"the control groups are read-only here ({home})")
        elif home is own and not _is_ours_to_arrange(own):
            reasons.append(f"others are in {home}, which is not ours to arrange")
        elif home is not own and not _is_top(home):
            continue
        elif home is not own and (limited := _limited(own, mount.point)) is not None:
            reasons.append(f"runs must stay within the limits of {limited}")
        else:
            return Unified(dict.fromkeys((*NEEDED, *WANTED), home), tuple(each for each in WANTED if each not in there))
    return "; ".join(reasons)


def _is_top(group: Path) -> bool:
    """The one group of a host that may have both, processes and limits below it."""
    return not (group / "cgroup.type").exists()


def _is_ours_to_arrange(group: Path) -> bool:
    if _is_top(group) or not (group.parent / "cgroup.procs").exists():  # a container sees nothing above its own
        return True
    for name in ("trusted.delegate", "user.delegate"):
        with suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    # Those of a pid namespace that we don't see are told as 0.
    return set(_words(group / "cgroup.procs")) <= {str(os.getpid())}


def _limited(group: Path, top: Path) -> Path | None:
    """The innermost group around us whose memory is limited."""
    while group != top:
        with suppress(OSError):
            if (group / "memory.max").read_text().strip() != "max":
                return group
        group = group.parent
    return None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


class Unified(Site):
    """The hierarchy of v2."""

    kind = "v2"

    @property
    def home(self) -> Path:
        return self.homes["memory"]

    @property
    def is_prepared(self) -> bool:
        return {*NEEDED, *WANTED} - {*self.lacks} <= {*_words(self.home / "cgroup.subtree_control")}

    def prepare(self) -> None:
        if not _is_top(self.home) and _words(self.home / "cgroup.procs"):
            self._clear()
        self.open_up(self.homes)
        (self.home / OUTSIDE[0]).mkdir(exist_ok=True)

    def _clear(self) -> None:
        """Move all processes out of our group; those that are forked meanwhile, too."""
        outside = self.home.joinpath(*OUTSIDE)
        outside.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + _CLEARING_PATIENCE_S
        while pids := _words(self.home / "cgroup.procs"):
            if time.monotonic() > end or set(pids) == {"0"}:
                raise OSError(errno.EBUSY, f"processes in {self.home} can't be moved out of it")
            for pid in pids:
                with suppress(ProcessLookupError):
                    (outside / "cgroup.procs").write_text(pid)

    def open_up(self, groups: Groups) -> None:
        for group in distinct(groups):
            missing = {*NEEDED, *WANTED} - set(_words(group / "cgroup.subtree_control"))
            for controller in missing:
                try:
                    (group / "cgroup.subtree_control").write_text(f"+{controller}")
                except OSError:
                    if controller in NEEDED:
                        raise
                    self.lacks = tuple({*self.lacks, controller})

    def limit(self, groups: Groups, caps: Caps) -> bool:
        group = groups["memory"]
        (group / "pids.max").write_text(str(caps.pids))
        if (group / "cpu.weight").exists():
            self.weigh(groups, caps.cpu)
            quota = str(max(1000, round(caps.cpu * PERIOD_US))) if caps.is_hard else "max"
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        if (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0")
        if self.memory(groups).now_bytes > caps.memory_bytes:
            return False  # the kernel would do it all the same, and kill
        (group / "memory.max").write_text(str(caps.memory_bytes))
        return True

    def weigh(self, groups: Groups, cpus: float) -> None:
        with suppress(FileNotFoundError):
            (groups["memory"] / "cpu.weight").write_text(str(min(max(1, round(cpus * 100)), 10_000)))

    def memory(self, groups: Groups) -> Memory:
        group = groups["memory"]
        stat = group / "memory.stat"
        cached = max(0, counter(stat, "file") - counter(stat, "shmem"))
        now = max(0, number(group / "memory.current") - cached)
        return Memory(now, number(group / "memory.peak"), cached)

    def cpu_ms(self, groups: Groups) -> float | None:
        return counter(groups["memory"] / "cpu.stat", "usage_usec") / 1000

    def oom_kills(self, groups: Groups) -> int:
        return counter(groups["memory"] / "memory.events", "oom_kill")

    def kill(self, groups: Groups) -> None:
        [group] = distinct(groups)
        if (group / "cgroup.kill").exists():
            (group / "cgroup.kill").write_text("1")
        else:  # a kernel before 5.14
            kill_one_by_one(groups)

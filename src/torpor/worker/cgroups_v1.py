"""Control groups of the first version: a hierarchy for each controller, wherever it is mounted."""

import errno
import os
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
    kill_one_by_one,
    number,
)

PERIOD_US = 100_000


def look(mounted: list[Mount], ours: dict[str, str]) -> "Legacy | NoCgroups":
    """A place in each hierarchy that we need: below the group that we are in, as limits of that are ours as well."""
    homes, problems = Groups(), dict[str, str]()
    for controller in (*NEEDED, *WANTED, "cpuacct"):
        match _home(controller, mounted, ours.get(controller, "/")):
            case Path() as home:
                homes[controller] = home
            case why:
                problems[controller] = why
    for controller in NEEDED:
        if controller in problems:
            return NoCgroups(problems[controller], f"mount the controller {controller} for the worker, read-write")
    return Legacy(homes, tuple(each for each in WANTED if each in problems))


def _home(controller: str, mounted: list[Mount], ours: str) -> Path | str:
    """Where groups for a controller can be made; else why they can't."""
    why = f"no control groups for {controller} are mounted here"
    for mount in mounted:
        if mount.kind != "cgroup" or controller not in mount.controllers:
            continue
        home = mount.where(ours)
        if home is None or not home.is_dir():
            why = f"the control group for {controller} that the worker is in can't be seen here"
        elif not mount.is_writable or not os.access(home, os.W_OK):
            why = f"the control groups for {controller} are read-only here ({home})"
        else:
            return home
    return why


class Legacy(Site):
    """Hierarchies of v1."""

    kind = "v1"

    def limit(self, groups: Groups, caps: Caps) -> bool:
        (groups["pids"] / "pids.max").write_text(str(caps.pids))
        if (cpu := groups.get("cpu")) is not None:
            self.weigh(groups, caps.cpu)
            quota = max(1000, round(caps.cpu * PERIOD_US)) if caps.is_hard else -1
            if (cpu / "cpu.cfs_quota_us").exists():  # not in every kernel
                (cpu / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (cpu / "cpu.cfs_quota_us").write_text(str(quota))
        return self._limit_memory(groups["memory"], caps.memory_bytes)

    def weigh(self, groups: Groups, cpus: float) -> None:
        if (cpu := groups.get("cpu")) is not None:
            (cpu / "cpu.shares").write_text(str(min(max(2, round(cpus * 1024)), 262_144)))

    def _limit_memory(self, group: Path, limit_bytes: int) -> bool:
        """With swap the limit is the same, so that none is used. The kernel wants it never to be below the other."""
        files = [group / "memory.limit_in_bytes", group / "memory.memsw.limit_in_bytes"]
        with_swap = files[1].exists()  # needs swapaccount=1
        for file in reversed(files) if number(files[0]) < limit_bytes else files:
            if file is files[1] and not with_swap:
                continue
            try:
                file.write_text(str(limit_bytes))
            except OSError as error:
                if error.errno == errno.EBUSY:
                    return False
                raise
        if not with_swap:
            (group / "memory.swappiness").write_text("0")
        return True

    def memory(self, groups: Groups) -> Memory:
        group = groups["memory"]
        stat = group / "memory.stat"
        cached = max(0, counter(stat, "total_cache") - counter(stat, "total_shmem"))
        now = number(group / "memory.usage_in_bytes")
        return Memory(max(0, now - cached), number(group / "memory.max_usage_in_bytes"), cached)

    def cpu_ms(self, groups: Groups) -> float | None:
        group = groups.get("cpuacct")
        return None if group is None else number(group / "cpuacct.usage") / 1e6

    def oom_kills(self, groups: Groups) -> int:
        return counter(groups["memory"] / "memory.oom_control", "oom_kill")

    def kill(self, groups: Groups) -> None:
        kill_one_by_one(groups)

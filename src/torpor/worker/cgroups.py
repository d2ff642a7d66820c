"""Limits: each run's processes are in a control group, which bounds their memory, their number and their share of the CPUs.

    <where we may>/torpor/<worker>/<run>      a run, with the limits of its preset
    <where we may>/torpor/outside             v2 only: who was in our own group before (cgroups_v2.py says why)

A worker holds a lock on its tree for as long as it lives. So a tree without one is a dead worker's: whoever comes next
removes it, with all that is left in it. The worker's shadow does the same when its supervisor has died.

CRIU must never be in a run's group: a run that has used up what it may have could not be restored. So a restored run enters
as a first process that is alone, before it has its memory; and a forked one by itself, before it runs any of its code.
"""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from torpor.wire.http import Usage
from torpor.wire.presets import BUILT_IN, DEFAULT_PRESET, Preset
from torpor.worker import cgroups_v1, cgroups_v2, namespaces
from torpor.worker.cgroup_site import (
    KILL_PATIENCE_S,
    Caps,
    Groups,
    NoCgroups,
    Site,
    below,
    distinct,
    memberships,
    mounts,
    pids_of,
)

__all__ = ["Cgroup", "Cgroups", "NoCgroups", "favor_moves", "look", "probe"]

log = logging.getLogger(__name__)

FIX = cgroups_v2.DELEGATE
TREE = cgroups_v2.OUTSIDE[0]
SPARE_BYTES = 64 << 20
SPARE_PIDS = 32
"""CRIU needs some memory in a run that it dumps or restores, and processes that help to build its tree; they aren't the run's."""
_REMOVING_PATIENCE_S = 2.0


def look() -> Site | NoCgroups:
    """What there is on this host for the process that asks. Changes nothing."""
    try:
        mounted = mounts(Path("/proc/self/mountinfo").read_text())
        ours = memberships(Path("/proc/self/cgroup").read_text())
    except OSError as error:
        return NoCgroups(f"this kernel has no control groups ({error})", "use Linux with control groups")
    newer = cgroups_v2.look(mounted, ours)
    if isinstance(newer, Site):
        return newer
    older = cgroups_v1.look(mounted, ours)
    if isinstance(older, Site):
        return older
    return older if any(mount.kind == "cgroup" for mount in mounted) else newer


def probe(site: Site | NoCgroups, controller: str) -> None:
    """Make a group with a limit of this kind and remove it, if that can be done without moving anybody.

    Raises:
        OSError: there is none of this kind.
    """
    if isinstance(site, NoCgroups):
        raise OSError(errno.EPERM, site.reason)
    if controller in site.lacks:
        raise OSError(errno.ENOENT, f"there are no control groups for {controller} here")
    groups = {each: home / f"torpor-probe-{os.getpid()}" for each, home in site.homes.items()}
    for group in distinct(groups):
        group.mkdir()
    try:
        if site.is_prepared:
            site.limit(groups, Caps.of(BUILT_IN[DEFAULT_PRESET]))
    finally:
        _remove(site, groups)


def favor_moves(place: Path) -> bool:
    """Have the kernel move processes between groups in 0.3 ms instead of 10: by default it waits until no CPU looks at them.

    That is a switch of the whole machine, which is on while any hierarchy is mounted that asks for it. So we mount an empty
    one of our own, in our own mounts, which go when we do. False: this kernel can't, or we may not.
    """
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        namespaces.mount("torpor", str(place), "cgroup", namespaces.MS_NOSUID, "none,name=torpor,favordynmods")
    except OSError as error:
        log.debug("moves between control groups are slow: %s", error)
        return False
    return True


class Cgroups:
    """The groups of one worker.

    Args:
        site: where they are.
        worker: its name.
        is_hard: a run gets no more CPU than its preset says, also when nobody else wants it.
    """

    def __init__(self, site: Site, worker: str, *, is_hard: bool = False) -> None:
        self.site = site
        self.worker = worker
        self.is_hard = is_hard
        self._locks: list[int] = []

    @property
    def lacks(self) -> tuple[str, ...]:
        """The controllers that runs have to do without."""
        return self.site.lacks

    def open(self) -> None:
        """Make our tree, and remove those of dead workers. Before a process leaves the pid namespace in which the others are.

        Raises:
            OSError: it can't be made.
        """
        self.site.prepare()
        with self._one_at_a_time():
            groups = self._tree(self.worker)
            for group in distinct(groups):
                group.mkdir(exist_ok=True)
            for group in distinct(groups):
                self._locks.append(os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                fcntl.flock(self._locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.site.open_up(self._tree(""))
            self.site.open_up(groups)
            self.site.weigh(groups, os.cpu_count() or 1)  # all runs together count as much as the machine has
            self._sweep_runs(groups)
            self._sweep_workers()

    def create(self, name: str, preset: Preset | None = None, *, inherited_bytes: int = 0) -> "Cgroup":
        """A group for a run.

        Args:
            inherited_bytes: how much of its memory is as its version's import has left it. Forked runs share that, so it is not
                counted in theirs; a restored one has it for itself, and may use so much more.

        Raises:
            OSError: it can't be made.
        """
        groups = {controller: tree / name for controller, tree in self._tree(self.worker).items()}
        for group in distinct(groups):
            group.mkdir(exist_ok=True)
        made = Cgroup(self.site, name, groups, inherited_bytes=inherited_bytes, is_hard=self.is_hard)
        try:
            made.resize(preset or BUILT_IN[DEFAULT_PRESET])
        except BaseException:
            made.remove()
            raise
        return made

    def close(self) -> None:
        """Kill and remove all that is left of our runs, and our tree."""
        with self._one_at_a_time():
            groups = self._tree(self.worker)
            self._sweep_runs(groups)
            _remove(self.site, groups)
            self._let_go()
            for group in distinct(self._tree("")):
                with suppress(OSError):  # others have theirs in it
                    group.rmdir()

    def _let_go(self) -> None:
        while self._locks:
            os.close(self._locks.pop())

    def _tree(self, worker: str) -> Groups:
        return {controller: home / TREE / worker for controller, home in self.site.homes.items()}

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """No tree is swept that is just being made. All of them are locked, since other workers may share only some with us."""
        with ExitStack() as locked:
            for group in sorted(distinct(self._tree(""))):
                locked.callback(os.close, _lock_made(group))
            yield

    def _sweep_runs(self, tree: Groups) -> None:
        for name in {name for group in distinct(tree) for name in _names(group)}:
            _remove(self.site, {controller: group / name for controller, group in tree.items()})

    def _sweep_workers(self) -> None:
        """Remove the trees that no living worker holds."""
        names = {name for group in distinct(self._tree("")) for name in _names(group)}
        for name in names - {self.worker, cgroups_v2.OUTSIDE[1]}:
            tree = {controller: group for controller, group in self._tree(name).items() if group.is_dir()}
            with ExitStack() as locked:
                try:
                    for group in distinct(tree):
                        lock = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                        locked.callback(os.close, lock)
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except (BlockingIOError, FileNotFoundError):
                    continue  # it lives, or somebody else is at it
                log.info("removing the control groups of worker %s, which is dead", name)
                self._sweep_runs(tree)
                _remove(self.site, tree)


def _names(group: Path) -> set[str]:
    """Of the groups in it; none if it is gone."""
    try:
        return {entry.name for entry in group.iterdir() if entry.is_dir()}
    except FileNotFoundError:
        return set()


def _lock_made(group: Path) -> int:
    """Make a group and lock it. Whoever leaves last removes it, so it must be there still when it is locked."""
    while True:
        group.mkdir(exist_ok=True)
        try:
            lock = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(group), os.fstat(lock)):
                return lock
        os.close(lock)


class Cgroup:
    """The group of one run, for one life of its process.

    Attributes:
        preset: what it may use.
        inherited_bytes: see `Cgroups.create`.
    """

    def __init__(self, site: Site, name: str, groups: Groups, *, inherited_bytes: int, is_hard: bool) -> None:
        self.name = name
        self.preset = BUILT_IN[DEFAULT_PRESET]
        self.inherited_bytes = inherited_bytes
        self._site = site
        self._groups = groups
        self._is_hard = is_hard
        self._is_loosened = False
        self._is_loose = False
        self._most_bytes = 0

    # -- limits -------------------------------------------------------------------------------------------------------

    @property
    def files(self) -> list[str]:
        """The `cgroup.procs` files into which a process writes itself (0) to enter."""
        return [str(group / "cgroup.procs") for group in distinct(self._groups)]

    def enter(self, pid: int) -> None:
        """Put a process into it, with what it forks from now on.

        Raises:
            OSError: it can't enter, or is gone.
        """
        for file in self.files:
            Path(file).write_text(str(pid))

    def resize(self, preset: Preset) -> None:
        self.preset = preset
        self._set()

    def loosen(self) -> None:
        """CRIU is about to work in it, and needs something that is not the run's."""
        self._is_loosened = True
        self._set()

    def tighten(self) -> None:
        """CRIU is done."""
        self._is_loosened = False
        self.keep_tight()

    def keep_tight(self) -> None:
        """Set the limit that is due, if it could not be set yet since more was in use."""
        if self._is_loose and not self._is_loosened:
            self._set()

    def _set(self) -> None:
        caps = Caps.of(self.preset, is_hard=self._is_hard)
        memory_bytes, pids = caps.memory_bytes + self.inherited_bytes, caps.pids
        if self._is_loosened:
            memory_bytes, pids = memory_bytes + SPARE_BYTES, pids + SPARE_PIDS
        was_set = self._site.limit(self._groups, Caps(memory_bytes, pids, caps.cpu, caps.is_hard))
        self._is_loose = self._is_loosened or not was_set

    # -- what it has used ---------------------------------------------------------------------------------------------

    def measure(self) -> None:
        """Look at its memory: called now and then, so that `usage` knows more than the last moment."""
        self._most_bytes = max(self._most_bytes, self._site.memory(self._groups).now_bytes)

    def usage(self) -> Usage:
        """What was used since the group was made.

        The kernel's own peak counts contents of files that were read, which it would have given back; as far as they are
        still there they are taken off. What was measured in between may be more.
        """
        memory = self._site.memory(self._groups)
        self._most_bytes = max(self._most_bytes, memory.now_bytes, memory.peak_bytes - memory.cached_bytes)
        own_bytes = max(0, self._most_bytes - self.inherited_bytes)
        return Usage(self._site.cpu_ms(self._groups) or 0.0, own_bytes)

    def oom_kills(self) -> int:
        """How many of its processes were killed because it had used up its memory."""
        return self._site.oom_kills(self._groups)

    def refused_pids(self) -> int:
        """How often it could not make a process or thread because it had as many as it may."""
        return self._site.refused_pids(self._groups)

    # -- its end ------------------------------------------------------------------------------------------------------

    def pids(self) -> set[int]:
        """Its processes, as far as they can be seen from here."""
        return pids_of(self._groups)

    def kill(self) -> None:
        """Kill all that is in it, wherever in the tree of processes that has got to, and wait until it is gone."""
        _kill(self._site, self._groups)

    def remove(self) -> None:
        """Kill what is left in it, and remove it."""
        _remove(self._site, self._groups)


def _kill(site: Site, groups: Groups) -> None:
    with suppress(OSError):
        site.kill(groups)
    end = time.monotonic() + KILL_PATIENCE_S
    while pids_of(groups) and time.monotonic() < end:
        time.sleep(0.002)


def _remove(site: Site, groups: Groups) -> None:
    """What can't be removed now is left to whoever sweeps next."""
    if pids_of(groups):
        _kill(site, groups)
    end = time.monotonic() + _REMOVING_PATIENCE_S
    for top in distinct(groups):
        for group in [*reversed(list(below(top))), top]:
            while True:
                try:
                    group.rmdir()
                except OSError as error:
                    # Processes that have ended are in it until the last of their threads is gone.
                    if error.errno == errno.EBUSY and time.monotonic() < end:
                        time.sleep(0.002)
                        continue
                    if error.errno != errno.ENOENT:
                        log.warning("the control group %s can't be removed: %s", group, error)
                break

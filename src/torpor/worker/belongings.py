"""What a run's process has on its machine, besides itself: a directory, a room, limits, a network. It is made before the process
is, given to it when it stands in its namespaces, and given back when it is gone.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from torpor.wire import runner
from torpor.wire.networks import HOST
from torpor.wire.presets import Preset
from torpor.worker import files, namespaces
from torpor.worker.cgroups import Cgroup, Cgroups
from torpor.worker.network import Network, Networks, resolv_conf
from torpor.worker.room import Room, Rooms
from torpor.worker.router import NoNetwork

log = logging.getLogger(__name__)


class Belongings:
    """Those of one process.

    Args:
        directory: its own.
        home: what is removed with it: the directory itself, or one that holds it.

    Attributes:
        room: what it sees, and who it is; None: what the worker sees, and root.
        cgroup: its limits, if it has any.
        inherited_bytes: how much of its memory is as its version's import has left it.
        network: its network namespace, if it is not the worker's.
    """

    def __init__(self, directory: Path, home: Path) -> None:
        self.room: Room | None = None
        self.cgroup: Cgroup | None = None
        self.inherited_bytes = 0
        self.network: Network | None = None
        self._directory = directory
        self._home = home
        self._on_root: list[Callable[[int], object]] = []
        """Called in a thread with the pid of a process that is being restored, when it stands alone in its new namespaces: what
        they do holds for all that follows. Not of one that is forked."""
        self._on_buried: list[Callable[[], object]] = []
        """Called in a thread, the last one first, when the process is gone: they give back what it had."""

    @property
    def place(self) -> Path:
        """Where its files and its control socket are, as we see it: `work/`, `tmp/`, `ctl.sock`."""
        return self._directory if self.room is None else self.room.own

    @property
    def real_uid(self) -> tuple[int, int] | None:
        """User and group, if it isn't root."""
        return None if self.room is None else (self.room.uid, self.room.gid)

    @property
    def network_kind(self) -> str:
        """What it reaches: `host`, `private` or `none`."""
        return HOST if self.network is None else self.network.kind

    def facts(self) -> dict[str, Any]:
        """For its image: where it is to be restored, and as whom."""
        told: dict[str, Any] = {"directory": self._directory.name, "network": self.network_kind}
        return told if self.room is None else told | {"room": self.room.facts()}

    # -- before it is there -----------------------------------------------------------------------------------------------

    def furnish(self, rooms: Rooms | None = None, project: Path | None = None) -> None:
        """A directory for a process that is to be forked, with a room in it if there are `rooms`; its name was never used before.

        Raises:
            OSError: what was made until then is removed when it is buried.
        """
        self._directory.mkdir(parents=True, mode=0o700)
        if rooms is not None:
            assert project is not None
            self.room = room = rooms.make(self._directory, project)
            self._on_buried.append(lambda: rooms.give_back(room))
            return
        for name in files.PRIVATE:
            (self._directory / name).mkdir(mode=0o700)

    def limit(self, cgroups: Cgroups | None, preset: Preset | None = None, *, holds_bytes: int = 0) -> None:
        """Make its control group, if there are any, which goes when it does.

        Args:
            preset: what it may use; None: the usual, until it has a run.
            holds_bytes: how much of what it has inherited it doesn't share with others.

        Raises:
            OSError: there is none to be had.
        """
        if cgroups is not None:
            self.cgroup = cgroups.create(self._home.name, preset, inherited_bytes=holds_bytes)
            self._on_root.append(self.cgroup.enter)
            self._on_buried.append(self.cgroup.remove)

    def fit(self, preset: Preset) -> None:
        """It has a run now: let it use what that may.

        Raises:
            OSError: it can't be set.
        """
        if self.cgroup is not None:
            self.cgroup.resize(preset)
        if self.room is not None:
            self.room.resize(preset.disk_bytes)

    async def join_network(self, networks: Networks, kind: str) -> None:
        """Get the network that it is to live in, when it has its room. It gives it back when it is buried.

        Raises:
            NoNetwork: there is none of this kind for it here, so it can't be.
        """
        if kind != HOST and self.room is None:
            raise NoNetwork(
                f"its network is to be {kind!r}, which takes a room of its own, and this worker gives it none (TORPOR_ISOLATION)"
            )
        self.network = await networks.take(kind)
        if self.network is not None:
            self._on_buried.append(self.network.release)
        if self.room is not None:
            (self.room.own / "etc" / "resolv.conf").write_text(resolv_conf(kind))

    def order(self) -> runner.RoomOrder | None:
        """For the runner that is forked to be this process: what it is to enter."""
        if self.room is None:
            return None
        return msgspec.structs.replace(
            self.room.order(),
            cgroups=self.cgroup.files if self.cgroup is not None else [],
            network=self.network.path if self.network is not None else None,
        )

    # -- while it is there, and afterwards --------------------------------------------------------------------------------

    def stands_in_its_namespaces(self, pid: int) -> None:
        """While it is being restored: give it what its namespaces are to have."""
        if self.room is not None:
            self.room.enter_proc(pid)
        for each in self._on_root:
            each(pid)

    @contextmanager
    def room_for_criu(self) -> Iterator[None]:
        """CRIU works inside of the process, which must not cost it its life."""
        if self.cgroup is None:
            yield
            return
        self.cgroup.loosen()
        try:
            yield
        finally:
            with suppress(OSError):
                self.cgroup.tighten()

    def give_back(self) -> None:
        """When it is gone: one thing that can't be given back does not keep the others. The directory last: all are in there."""
        while self._on_buried:
            try:
                self._on_buried.pop()()
            except OSError as error:
                log.warning("%s: what it had can't be given back: %s", self._directory.name, error)
        remove(self._home)


def remove(directory: Path) -> None:
    """A run's directory with all that is in it. A room is mounted there, and something else may be: CRIU
    mounts a /proc for a moment in the middle of a dump, and user code that is root may do what root may; a process that is killed
    then leaves its mount to us.
    """
    if namespaces.may_unshare():
        for part in [*directory.glob("room"), *directory.glob("own"), *directory.glob("*/own")]:
            with suppress(OSError):  # nothing is mounted there
                namespaces.unmount(str(part))  # with all that is below it, which one by one takes longer
        with suppress(OSError):  # then removing fails below, and the supervisor's end cleans up
            namespaces.unmount_below(str(directory))
    files.remove(directory)

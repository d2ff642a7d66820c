"""A run's room: what it sees, and who it is.

    /run/torpor/<name>/        the supervisor's directory of a run
        output.log             what it prints
        own/                   a file system in memory, of a size: all that this run can write to
            work/ tmp/ shm/    the run's: they travel with its checkpoints
            ctl.sock  etc/     ours: it can use them, and neither remove nor replace them
        room/                  its root: the template, read-only, and mounted in there

    the run sees  /run/torpor  own/                 /tmp      own/tmp       /dev/shm  -> /run/torpor/shm
                  /dev/pts     terminals, its own   /proc     its own pids

A run is *forked* into a room that is mounted among the supervisor's mounts (a process that was forked from others' memory and has
mounts of its own can't be dumped), and leaves everything else by chroot. That is a wall here: it holds nothing that is open
outside, and has no capability to leave. A run that is *restored* has its room in mounts of its own, at the path that its image
names. So several lives of one image can be on one worker at once. These mounts hold no other run's room, whose memory would
else stay for as long as this run lives.

Its user is from a range, by chance, and goes with its images: its files and its processes are that user's. Its group is that of
all runs, so that they can write to each other's files where TORPOR_WRITABLE lets them meet.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import random
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.wire import presets
from torpor.wire.runner import RoomOrder
from torpor.worker import files, namespaces, template
from torpor.worker.template import OWN, TEMPORARY, Template

log = logging.getLogger(__name__)

TEMPLATES = Path("/run/torpor-rooms")
ENVIRONMENT = {"HOME": TEMPORARY, "USER": "run", "LOGNAME": "run", "TMPDIR": TEMPORARY}
LIMITS = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": 65536}
_PARTS = (*files.PRIVATE, files.SHM)
"""Of the room's own file system, what is the run's."""
_INODE_BYTES = 8192
_FEWEST_INODES = 20_000
_OWN_FLAGS = namespaces.MS_NOSUID | namespaces.MS_NODEV
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PASSWD = """root:x:0:0:root:/root:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
run:x:{uid}:{gid}:run:/tmp:/bin/sh
"""
_GROUP = """root:x:0:
nogroup:x:65534:
run:x:{gid}:
"""


@dataclass(frozen=True)
class Room:
    """One run's.

    Attributes:
        root: where its root directory is mounted, in the mount namespace that the run is in.
        own: its own file system, as the supervisor sees it.
        uid, gid: who the run is.
        project: the root of the project that it sees.
    """

    root: Path
    own: Path
    uid: int
    gid: int
    project: Path
    template: Template

    def order(self) -> RoomOrder:
        """For the runner that is to enter it."""
        return RoomOrder(str(self.root), OWN, self.uid, self.gid, LIMITS, environment=ENVIRONMENT)

    def facts(self) -> dict[str, Any]:
        """For its images."""
        return {"uid": self.uid, "gid": self.gid, "root": str(self.project)}

    def resize(self, disk_bytes: int) -> None:
        """Let it write so much.

        Raises:
            OSError: it has written more than that already.
        """
        namespaces.mount(None, str(self.own), None, namespaces.MS_REMOUNT | _OWN_FLAGS, _size(disk_bytes))

    def go_apart(self, home: Path, run_root: Path) -> None:
        """In a thread of its own: leave our mounts for a copy, and mount the room in there, where its image says.

        Args:
            home: what is to be at `run_root`: it holds the directory of this run, and no other.
        """
        namespaces.own_mounts()
        own = run_root / self.own.relative_to(home)
        picked_up = [
            (namespaces.pick_up(str(home), with_all_below=False), run_root),
            (namespaces.pick_up(str(self.template.path), with_all_below=True), self.root),
            (namespaces.pick_up(str(self.own), with_all_below=False), own),
        ]
        # All that belongs to other runs: mounted here as well, it would stay in memory for as long as this run lives.
        namespaces.unmount(str(run_root))
        for mount, place in picked_up:
            namespaces.put_down(mount, str(place))
        _furnish(dataclasses.replace(self, own=own))
        namespaces.unmount(str(TEMPLATES))
        # CRIU stands outside, and binds unix sockets by the names that they have in the room.
        for name in _PARTS:
            namespaces.bind(f"{own}/{name}", f"{run_root}/{name}")
        namespaces.bind(f"{self.root}{TEMPORARY}", TEMPORARY)
        if files.SHARED.is_dir():
            namespaces.bind(f"{own}/{files.SHM}", str(files.SHARED))

    def enter_proc(self, pid: int) -> None:
        """Mount the /proc of a process that is being restored in here and stands in its new pid namespace."""

        def do() -> None:
            namespaces.join(pid, ("mnt",))
            namespaces.mount_proc_of(pid, f"{self.root}/proc")

        namespaces.elsewhere(do)


class Rooms:
    """Makes the rooms of one worker.

    Args:
        run_root: where runs have their directories.
        settings: what else is to be seen, and which users there are.

    Raises:
        ConfigError: the range of users can't be used.
    """

    def __init__(self, run_root: Path, settings: Settings) -> None:
        self._run_root = run_root
        self._readable = _paths(settings.readable)
        self._writable = _paths(settings.writable)
        self._hidden = [settings.data_dir.resolve()]
        if (settings.object_store or "").startswith("file://"):
            self._hidden.append(Path((settings.object_store or "").removeprefix("file://")))
        self._uids = _range(settings.run_uids)
        self._taken: set[int] = set()
        self._templates: dict[Path, tuple[tuple[object, ...], Template]] = {}
        self._count = 0
        self._turn = threading.Lock()

    @property
    def gid(self) -> int:
        """The group of all runs."""
        return self._uids.start

    def template(self, project: Path) -> Template:
        """What runs of this project see: made once, and again when something on the machine has taken another's place.

        Raises:
            OSError: it can't be mounted.
        """
        with self._turn:
            plan = template.plan(project, readable=self._readable, writable=self._writable, hidden=self._hidden)
            looked = (plan, *plan.looked())
            known = self._templates.get(project)
            if known is not None and known[0] == looked:
                return known[1]
            if not self._count:
                TEMPLATES.mkdir(mode=0o755, exist_ok=True)
                namespaces.mount("tmpfs", str(TEMPLATES), "tmpfs", _OWN_FLAGS, "mode=755,size=1m")
            self._count += 1
            path = TEMPLATES / str(self._count)
            path.mkdir()
            try:
                made = template.make(plan, path)
            except BaseException:
                path.rmdir()
                raise
            self._templates[project] = looked, made
            if known is not None:  # rooms that show it keep what they show
                namespaces.unmount(str(known[1].path))
                known[1].path.rmdir()
            return made

    def make(self, directory: Path, project: Path, *, disk_bytes: int | None = None) -> Room:
        """One for a runner that is to be forked: ready to be entered, but for its /proc, which is its own to mount.

        Args:
            directory: the run's, which exists.

        Raises:
            OSError: it can't be; what was mounted is below the directory.
        """
        made = self.template(project)
        room = Room(directory / "room", directory / "own", self._take_uid(), self.gid, project, made)
        try:
            _make_own(room, disk_bytes)
            for name in _PARTS:
                _make_private(room, name)
            room.root.mkdir(exist_ok=True)
            namespaces.bind(str(made.path), str(room.root))
            _furnish(room)
        except BaseException:
            self.give_back(room)
            raise
        return room

    def prepare(
        self, directory: Path, archive: Path, facts: Mapping[str, Any], *, disk_bytes: int | None = None
    ) -> Room:
        """One for a run that is to be restored: its own file system as it was packed. `Room.go_apart` mounts the rest.

        Args:
            directory: the run's, which exists.
            facts: those of its image, under `room`.

        Raises:
            OSError: as above.
        """
        project = Path(facts["root"])
        known_as = self._run_root / directory.name
        template = self.template(project)
        room = Room(known_as / "room", directory / "own", facts["uid"], facts["gid"], project, template)
        _make_own(room, disk_bytes)
        files.unpack(archive, room.own)
        _make_private(room, files.SHM)
        files.unpack_shared(archive, room.own / files.SHM)
        (directory / "room").mkdir()
        for name in _PARTS:
            (directory.parent / name).mkdir()
        return room

    def give_back(self, room: Room) -> None:
        """Its user is nobody's any more."""
        with self._turn:
            self._taken.discard(room.uid)

    def _take_uid(self) -> int:
        """By chance: other workers take theirs from the same range, and runs come here with theirs."""
        with self._turn:
            free = len(self._uids) - 1 - len(self._taken)
            if free <= 0:
                raise OSError(errno.EUSERS, "all users of TORPOR_RUN_UIDS are taken")
            while (uid := random.randrange(self._uids.start + 1, self._uids.stop)) in self._taken:
                pass
            self._taken.add(uid)
            return uid


def _make_own(room: Room, disk_bytes: int | None) -> None:
    room.own.mkdir(exist_ok=True)
    size = disk_bytes or presets.BUILT_IN[presets.DEFAULT_PRESET].disk_bytes
    namespaces.mount("tmpfs", str(room.own), "tmpfs", _OWN_FLAGS, f"mode=755,{_size(size)}")
    etc = room.own / "etc"
    etc.mkdir()
    (etc / "passwd").write_text(_PASSWD.format(uid=room.uid, gid=room.gid))
    (etc / "group").write_text(_GROUP.format(gid=room.gid))
    for name in ("hosts", "resolv.conf"):
        with contextlib.suppress(OSError):
            (etc / name).write_bytes(Path("/etc", name).read_bytes())
    for path in (etc, *etc.iterdir()):
        path.chmod(0o755 if path == etc else 0o644)


def _size(disk_bytes: int) -> str:
    return f"size={disk_bytes},nr_inodes={max(disk_bytes // _INODE_BYTES, _FEWEST_INODES)}"


def _make_private(room: Room, name: str) -> None:
    path = room.own / name
    path.mkdir(mode=0o700)
    os.chown(path, room.uid, room.gid)


def _furnish(room: Room) -> None:
    """Mount what is one run's into its root, which shows the template.

    Whatever is mounted on something is made after it. CRIU reads the mounts of our namespace piece by piece, the oldest first,
    and fails if it has seen one but not what it is on: another run's room may go in between, as a whole.
    """
    root = str(room.root)
    namespaces.bind(str(room.own), root + OWN)
    namespaces.bind(f"{room.own}/tmp", root + TEMPORARY)
    flags = namespaces.MS_NOSUID | namespaces.MS_NOEXEC
    namespaces.mount("devpts", f"{root}/dev/pts", "devpts", flags, "newinstance,ptmxmode=666,mode=620")
    for path in room.template.late:
        source, names = f"{room.template.path}{path}", path.removeprefix(TEMPORARY + "/").split("/")
        with _place(root + TEMPORARY, names, is_directory=os.path.isdir(source)) as place:
            namespaces.put_down(namespaces.pick_up(source, with_all_below=True), place)


@contextlib.contextmanager
def _place(above: str, names: Sequence[str], *, is_directory: bool) -> Iterator[int]:
    """An open mount point below a directory, made if it is not there. No link is followed: a run may have made it."""
    *directories, last = names
    at = os.open(above, _DIRECTORY)
    try:
        for name in directories:
            below = _made_directory(at, name)
            os.close(at)
            at = below
        point = _made_directory(at, last) if is_directory else os.open(last, _FILE, 0o644, dir_fd=at)
    finally:
        os.close(at)
    try:
        yield point
    finally:
        os.close(point)


def _made_directory(at: int, name: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=at)
    return os.open(name, _DIRECTORY, dir_fd=at)


def _paths(setting: str | None) -> list[str]:
    return [path for path in (setting or "").split(":") if path]


def _range(setting: str) -> range:
    found = re.fullmatch(r"(\d+)-(\d+)", setting.strip())
    if found is None or not 0 < int(found[1]) < int(found[2]) < 1 << 31:
        raise ConfigError(
            f"TORPOR_RUN_UIDS={setting!r} can't be used: it should be two user ids, such as 200000-299999"
        )
    return range(int(found[1]), int(found[2]) + 1)

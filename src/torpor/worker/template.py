"""What all runs of a project see alike: the system and its libraries, the interpreter, its packages, the project. Read-only.

It is a root directory in a small tmpfs, whose directories are bound to those of the machine **at the same paths**: a zygote has
imported its modules from there, and an image names the files that it has mapped. A run gets one recursive bind of it.

    /usr /bin /lib …  /nix      as on the machine (directories, or links where the machine has links)
    sys.prefix, sys.path, …     the interpreter and all that it imports from
    the project                 where the tasks are
    /etc                        a few files and directories, copied; passwd, group, hosts, resolv.conf are each room's own
    /dev                        null zero full random urandom, made anew; fd, shm, pts as links and mount points
    /sys/devices/system         how many CPUs there are
    TORPOR_READABLE             what else is to be read
    TORPOR_WRITABLE             what is to be written as well

What is mounted on the machine below one of these comes along. The worker's own data directory is covered, wherever it lies
below something that is readable. Directories that lead to these paths are made anew and can be passed, whatever they allow on
the machine.
"""

import contextlib
import logging
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torpor.worker import namespaces

log = logging.getLogger(__name__)

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix")
PROCESSORS = "/sys/devices/system"
OWN = "/run/torpor"
"""Where a run's own file system is, in its room."""
TEMPORARY = "/tmp"
"""Of the room's own file system. What of the machine is to be seen below it is mounted in each room."""
ROOMS_OWN = ("passwd", "group", "hosts", "resolv.conf")
"""Files of /etc that each room has for itself; here there are links to them."""

_ETC = (
    *(
        "alternatives",
        "ca-certificates",
        "ca-certificates.conf",
        "debian_version",
        "fonts",
        "gai.conf",
        "glvnd",
        "host.conf",
    ),
    *(
        "ImageMagick-6",
        "ImageMagick-7",
        "ld.so.cache",
        "ld.so.conf",
        "ld.so.conf.d",
        "locale.alias",
        "localtime",
        "magic",
    ),
    *(
        "mime.types",
        "networks",
        "nsswitch.conf",
        "OpenCL",
        "os-release",
        "pki",
        "protocols",
        "services",
        "ssl",
        "terminfo",
    ),
    *("timezone", "vulkan"),
)
_DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
"""The minor numbers of those whose major one is 1."""
_LINKS = {
    "dev/fd": "/proc/self/fd",
    "dev/stdin": "/proc/self/fd/0",
    "dev/stdout": "/proc/self/fd/1",
    "dev/stderr": "/proc/self/fd/2",
    "dev/ptmx": "pts/ptmx",
    "dev/shm": f"{OWN}/shm",
    "var/tmp": "/tmp",
    "etc/mtab": "/proc/mounts",
    **{f"etc/{name}": f"{OWN}/etc/{name}" for name in ROOMS_OWN},
}
_NEVER = ("/", "/proc", "/sys", "/dev", "/run", OWN, TEMPORARY, "/etc")
"""Of these there are own ones; to bind them would show what a room is to hide, or other rooms."""


@dataclass(frozen=True)
class Plan:
    """What a template is to show.

    Attributes:
        readable, writable: paths of the machine, without those that are not there.
        hidden: directories to cover where they can be seen.
    """

    readable: tuple[str, ...]
    writable: tuple[str, ...]
    hidden: tuple[str, ...]

    def looked(self) -> tuple[object, ...]:
        """Changes when a template that was made earlier no longer shows what this one would."""
        return tuple(map(_look, (*self.readable, *self.writable, *(f"/etc/{name}" for name in _ETC))))


@dataclass(frozen=True)
class Template:
    """A template that was made.

    Attributes:
        path: where it is mounted.
        late: paths below /tmp that it shows: hidden by the room's own, they are to be mounted there again.
    """

    path: Path
    late: tuple[str, ...]


def plan(project: Path, *, readable: Sequence[str], writable: Sequence[str], hidden: Iterable[Path]) -> Plan:
    """Look at the machine.

    Args:
        project: the root of the project.
        readable, writable: what the settings add.
        hidden: directories that no run may see into.
    """
    importable = [entry for entry in sys.path if entry]
    prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, os.path.realpath(sys.executable)]
    system = [path for path in SYSTEM if not os.path.islink(path)]
    wanted = [*system, PROCESSORS, *prefixes, *importable, str(project), *readable]
    return Plan(
        tuple(_outermost(_there(wanted, told=readable))),
        tuple(_outermost(_there(writable, told=writable))),
        tuple(sorted({str(path.resolve()) for path in hidden})),
    )


def make(wanted: Plan, path: Path) -> Template:
    """Make one at `path`, an empty directory.

    Raises:
        OSError: something can't be mounted; nothing is left there.
    """
    namespaces.mount("tmpfs", str(path), "tmpfs", namespaces.MS_NOSUID, "mode=755,size=16m")
    for each in wanted.readable:
        if not _is_for_all(Path(each)):
            log.warning("%s is closed to runs, which are not root: let others read it (chmod o+rX)", each)
    try:
        for name in ("proc", "dev/pts", "tmp", "run/torpor", "etc", "var", "root", "home"):
            (path / name).mkdir(parents=True)
        for name in SYSTEM:
            if os.path.islink(name):
                (path / name[1:]).symlink_to(os.readlink(name))
        make_devices(path / "dev")
        _copy_etc(path / "etc")
        outer = [source for source in wanted.readable if not _is_below(source, wanted.writable)]
        for source in sorted({*outer, *wanted.writable}):  # what is above comes first
            _show(source, path, read_only=source not in wanted.writable)
        for name, target in _LINKS.items():
            with contextlib.suppress(FileExistsError):  # something that is to be seen lies below it
                (path / name).symlink_to(target)
        for directory in wanted.hidden:
            _cover(Path(f"{path}{directory}"))
        flags = namespaces.MS_BIND | namespaces.MS_REMOUNT | namespaces.MS_RDONLY | namespaces.MS_NOSUID
        namespaces.mount(None, str(path), None, flags)
    except BaseException:
        namespaces.unmount(str(path))
        raise
    late = [each for each in (*outer, *wanted.writable) if _is_below(each, (TEMPORARY,))]
    return Template(path, tuple(sorted({*late})))


def _there(paths: Iterable[str], told: Sequence[str]) -> Iterable[str]:
    """Those that exist and can be shown, under their names and under those that links lead to."""
    for path in paths:
        for each in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
            if each in _NEVER or _is_below(each, ("/proc", OWN)):
                if path in told:
                    log.warning("%s can't be shown to runs, which have one of their own", path)
            elif os.path.exists(each):
                yield each
            elif path in told:
                log.warning("%s, which runs are to see, does not exist", path)


def _outermost(paths: Iterable[str]) -> list[str]:
    """Without those that are below others."""
    found: list[str] = []
    for path in sorted({*paths}, key=lambda path: path.split("/")):
        if not found or not _is_below(path, found):
            found.append(path)
    return found


def _is_below(path: str, directories: Iterable[str]) -> bool:
    return any(path == each or path.startswith(each.rstrip("/") + "/") for each in directories)


def _show(source: str, root: Path, *, read_only: bool) -> None:
    target = Path(f"{root}{source}")
    if not target.exists():
        if os.path.isdir(source):
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    namespaces.bind_safely(source, str(target), read_only=read_only)


def _cover(directory: Path) -> None:
    """Let an empty directory be seen in its place, if it can be seen at all."""
    if directory.is_dir():
        flags = namespaces.MS_RDONLY | namespaces.MS_NOSUID | namespaces.MS_NODEV
        namespaces.mount("tmpfs", str(directory), "tmpfs", flags, "mode=555,size=4k")


def make_devices(directory: Path) -> None:
    """Those that every program expects.

    Raises:
        OSError: they can neither be made nor had from the machine.
    """
    for name, minor in _DEVICES.items():
        device = directory / name
        try:
            os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, minor))
            device.chmod(0o666)
        except PermissionError:  # a container may not make any, but has some
            device.unlink(missing_ok=True)
            device.touch()
            namespaces.mount(f"/dev/{name}", str(device), None, namespaces.MS_BIND)


def _copy_etc(into: Path) -> None:
    for name in _ETC:
        source = Path("/etc", name)
        # A link that leads to somewhere else (/etc/static) is followed: only the system is where it was.
        follow = source.is_symlink() and not os.path.realpath(source).startswith(("/usr/", "/etc/", "/nix/"))
        with contextlib.suppress(OSError):
            if source.is_dir() and (follow or not source.is_symlink()):
                shutil.copytree(source, into / name, symlinks=True, ignore=_unreadable)
            elif source.is_symlink() or _is_for_all(source):
                shutil.copy2(source, into / name, follow_symlinks=follow)


def _unreadable(directory: str, names: list[str]) -> list[str]:
    """What not everybody may read on the machine: private keys below /etc/ssl."""
    return [name for name in names if not _is_for_all(Path(directory, name))]


def _is_for_all(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else 0)
    return stat.S_ISLNK(status.st_mode) or (status.st_mode & wanted == wanted and not stat.S_ISSOCK(status.st_mode))


def _look(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, stat.S_ISDIR(status.st_mode) or (status.st_size, status.st_mtime_ns)

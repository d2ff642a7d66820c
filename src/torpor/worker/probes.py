"""What a room is made of (namespaces, mounts, a user, a filter, limits), tried: each thing is done once, in a child process that
gives it all back when it ends.

A kernel that has a feature, or a capability that is held, proves little: security modules, outer filters and user
namespaces refuse in their own ways. So nothing is concluded from a version or a list.
"""

import errno
import os
import resource
import select
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torpor.config import Settings
from torpor.wire.networks import PRIVATE
from torpor.worker import cgroups, namespaces, privileges, seccomp, template

PATIENCE_S = 5.0
"""A probe that takes longer hangs: its child is killed, and the thing counts as missing."""

_PR_SET_NO_NEW_PRIVS = 38
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41

_MOUNTS = (
    "give the container the capability SYS_ADMIN, and turn off a security profile that refuses mounts "
    "(Docker: apparmor=unconfined)"
)
_SPACES = "give the container the capability SYS_ADMIN, or --privileged"


@dataclass(frozen=True)
class Probe:
    """One thing to try.

    Attributes:
        name: what is missing when it fails.
        act: tries it, in a child process of its own; fails with an OSError.
        fix: what to do about it.
        is_needed: without it there is no room at all.
    """

    name: str
    act: Callable[[], object]
    fix: str
    is_needed: bool = True


# -- one try, in a child that takes everything along when it ends -----------------------------------------------------


def attempt(act: Callable[[], object], patience_s: float = PATIENCE_S) -> str | None:
    """Do it in a child process. None: it worked; else why not."""
    ready: list[int] = []
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _be_the_child(act, theirs)
    os.close(theirs)
    try:
        ready = select.select([ours], [], [], patience_s)[0]
        said = os.read(ours, 4096).decode(errors="replace") if ready else ""
    finally:
        os.close(ours)
        if not ready:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if said == "ok":
        return None
    if said:
        return said
    if not ready:
        return f"it hangs: no answer within {patience_s:g} s"
    return f"the process that tried it ended with {os.waitstatus_to_exitcode(status)}"


def _be_the_child(act: Callable[[], object], channel: int) -> None:
    said = "ok"
    try:
        namespaces.prctl(namespaces.PR_SET_PDEATHSIG, signal.SIGKILL)
        act()
    except OSError as error:
        said = _words(error)
    except BaseException as error:  # noqa: BLE001  (the stack above is our parent's: nothing may leave here)
        said = f"{type(error).__name__}: {error}"
    finally:
        os.write(channel, said.encode())
        os._exit(0)


def _words(error: OSError) -> str:
    """`mount tmpfs on /tmp: Operation not permitted` as it is; an error of Python's own calls without its number."""
    return str(error.strerror or error) if error.filename is None else f"{error.filename}: {error.strerror}"


def _inside(act: Callable[[], object]) -> None:
    """In a process forked from here, which is in the pid namespace that was just made.

    Raises:
        OSError: what it could not do.
    """
    if (why := attempt(act)) is not None:
        raise OSError(errno.EPERM, why)


@contextmanager
def _doing(what: str) -> Iterator[None]:
    """Have an error of the kernel's say what it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{what}: {error.strerror}") from None


def _require(claim: bool, otherwise: str) -> None:
    if not claim:
        raise OSError(errno.EPERM, otherwise)


# -- what a room is made of -------------------------------------------------------------------------------------------


def _processes() -> None:
    namespaces.unshare(namespaces.CLONE_NEWPID | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS)
    _inside(lambda: _require(os.getpid() == 1, "a process of a new pid namespace is not its first"))


def _scratch() -> Path:
    """A small tmpfs that only this child sees, over a directory that is there anyway."""
    namespaces.unshare(namespaces.CLONE_NEWNS)
    namespaces.mount(None, "/", None, namespaces.MS_REC | namespaces.MS_PRIVATE)
    place = tempfile.gettempdir()
    namespaces.mount("tmpfs", place, "tmpfs", namespaces.MS_NOSUID, "mode=755,size=1m")
    return Path(place)


def _mounts() -> None:
    _scratch()


def _root() -> None:
    """A tree with a part of ours in it that can't be written, with devices that work, and with nothing else of ours."""
    root = _scratch() / "root"
    part, devices = root / "part", root / "dev"
    for directory in (part, devices):
        directory.mkdir(parents=True)
    namespaces.bind_safely(os.path.dirname(os.__file__), str(part), read_only=True)
    with _doing("devices can't be made or mounted"):
        template.make_devices(devices)
    with _doing("chroot"):
        os.chroot(root)
    os.chdir("/")
    try:
        os.close(os.open("/part/torpor-probe", os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        _require(error.errno == errno.EROFS, f"a read-only mount answers {error.strerror}")
    else:
        os.unlink("/part/torpor-probe")
        raise OSError(errno.EPERM, "a read-only mount can be written")
    _require(sorted(os.listdir("/")) == ["dev", "part"], "a root of our own shows more than was put there")
    with _doing("a device of our own can't be opened"):  # as on a file system whose devices are none
        os.close(os.open("/dev/null", os.O_WRONLY))


def _proc() -> None:
    namespaces.unshare(namespaces.CLONE_NEWPID)

    def first() -> None:
        place = str(_scratch())
        flags = namespaces.MS_NOSUID | namespaces.MS_NODEV | namespaces.MS_NOEXEC
        namespaces.mount("proc", place, "proc", flags)
        seen = [name for name in os.listdir(place) if name.isdigit()]
        _require(seen == ["1"], "a /proc of a new pid namespace shows processes of others")

    _inside(first)


def _user(uid: int, gid: int) -> None:
    """A user and a group of a run's, and no way back."""
    with _doing("becoming another user"):
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise OSError(errno.EPERM, "a process that became another user can become root again")


def _files(uid: int, gid: int) -> None:
    """Files that are its own, and that we can pack and lay all the same."""
    own = _scratch() / "own"
    own.mkdir(mode=0o700)
    with _doing("files can't be given to another user"):
        os.chown(own, uid, gid)
    with _doing("another user's files can't be read, written or changed"):
        (own / "file").write_text("text")
        os.chown(own / "file", uid, gid)
        os.chmod(own / "file", 0o400)
        (own / "file").read_text()
        os.utime(own / "file", (0, 0))


def _end(uid: int, gid: int) -> None:
    """A process that is another user's can be killed."""
    child = os.fork()
    if child == 0:
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        time.sleep(PATIENCE_S)
        os._exit(0)
    time.sleep(0.001)
    while Path(f"/proc/{child}").stat().st_uid != uid and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    with _doing("another user's process can't be killed"):
        os.kill(child, signal.SIGKILL)


def _capabilities(uid: int, gid: int) -> None:
    with _doing("capabilities can't be given up"):
        privileges.become(uid, gid)
    kept = {
        name: value
        for name, _, value in (line.partition(":\t") for line in Path("/proc/self/status").read_text().splitlines())
        if name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") and int(value, 16)
    }
    _require(not kept, f"some capabilities can't be given up: {kept}")


def _no_new_privileges() -> None:
    namespaces.prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _filter() -> None:
    """A filter of system calls is taken, and bites."""
    seccomp.refuse_dangerous()
    told = Path("/proc/self/status").read_text()
    _require("Seccomp:\t2" in told, "the kernel took a filter of system calls and doesn't use it")


def _disk() -> None:
    """A directory that holds so much and no more."""
    place = _scratch()
    try:
        (place / "much").write_bytes(bytes(2 << 20))
    except OSError as error:
        _require(error.errno == errno.ENOSPC, f"a full directory answers {error.strerror}")
    else:
        raise OSError(errno.EPERM, "a directory with a size holds more than that")


def _limits() -> None:
    """Those that the process carries along."""
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        _, most = resource.getrlimit(kind)
        limit = 64 if most == resource.RLIM_INFINITY else min(64, most)
        resource.setrlimit(kind, (limit, limit))


def _network() -> None:
    """A network of its own, with nothing but a loopback device in it."""
    import fcntl

    namespaces.unshare(namespaces.CLONE_NEWNET)
    names = [name for _, name in socket.if_nameindex()]
    _require("eth0" not in names, "a new network shows our devices")
    with (
        _doing("its loopback device can't be brought up"),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket,
    ):
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP_RUNNING))


def _private_network() -> None:
    """A network with a way out, by the tools that it takes."""
    import asyncio

    from torpor.worker.network import Networks, NoNetwork

    async def make() -> None:
        networks = Networks()
        try:
            await networks.take(PRIVATE)
        except NoNetwork as error:
            raise OSError(errno.ENOENT, str(error)) from None
        finally:
            await networks.stop()

    asyncio.run(make())


def probes(settings: Settings) -> tuple[Probe, ...]:
    """All that is tried, in the order in which it is told."""
    first, _, last = settings.run_uids.partition("-")
    gid, uid = int(first), int(last or first)  # the far end: a user namespace may hold the beginning alone
    wants_private = settings.network == PRIVATE or settings.trust == "foreign"
    way_out = Probe("a private network", _private_network, "install passt, nftables and iproute2", is_needed=False)
    site = cgroups.look()
    fix = site.fix if isinstance(site, cgroups.NoCgroups) else "use a kernel with this controller"
    return (
        Probe("processes of its own", _processes, _SPACES),
        Probe("mounts of its own", _mounts, _MOUNTS),
        Probe("a root of its own", _root, _MOUNTS + "; and the capability SYS_CHROOT"),
        Probe(
            "a /proc of its own",
            _proc,
            _MOUNTS + "; in a user namespace, have nothing of /proc masked (Docker: systempaths=unconfined)",
        ),
        Probe(
            "a user of its own",
            partial(_user, uid, gid),
            "give the container SETUID and SETGID, and in a user namespace a range of users that holds TORPOR_RUN_UIDS",
        ),
        Probe(
            "files of its own",
            partial(_files, uid, gid),
            "give the container CHOWN, DAC_OVERRIDE and FOWNER; " + _MOUNTS,
        ),
        Probe("being ended by its worker", partial(_end, uid, gid), "give the container KILL"),
        Probe(
            "being without capabilities",
            partial(_capabilities, uid, gid),
            "give the container SETPCAP: it takes that to give up the others",
        ),
        Probe("no new privileges", _no_new_privileges, "use a kernel of this decade"),
        Probe("a limit on its disk", _disk, _MOUNTS),
        Probe("limits on files and descriptors", _limits, "raise the hard limits of the worker (ulimit -H)"),
        Probe("a filter of system calls", _filter, "use a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or arm64"),
        Probe("a network of its own", _network, _SPACES + "; setting it up takes NET_ADMIN", is_needed=False),
        *([way_out] if wants_private else []),
        Probe("a limit on its memory", partial(cgroups.probe, site, "memory"), fix, is_needed=False),
        Probe("a limit on its processes", partial(cgroups.probe, site, "pids"), fix, is_needed=False),
        Probe("a share of the CPU", partial(cgroups.probe, site, "cpu"), fix, is_needed=False),
    )

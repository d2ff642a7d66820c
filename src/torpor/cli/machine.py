"""What `torpor doctor` looks at: each fact about this machine that freezing runs, or running at all, depends on.

Nothing here prints, and nothing changes the machine.
"""

import asyncio
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torpor.config import Settings
from torpor.errors import ConfigError, CriuError

if TYPE_CHECKING:
    from torpor.worker.isolation import Isolation

State = Literal["ok", "note", "missing"]

# Name, bit, whether freezing fails without it, and what it is for.
_CAPABILITIES = (
    ("CAP_SYS_ADMIN", 21, True, "makes namespaces and mounts"),
    ("CAP_SYS_PTRACE", 19, True, "reads the memory of a run"),
    ("CAP_NET_ADMIN", 12, True, "restores sockets, and brings up networks of runs"),
    ("CAP_SYS_TIME", 25, True, "lets monotonic clocks stand still while a run is frozen"),
    ("CAP_SETPCAP", 8, False, "gives up the capabilities of a run, without which there are no rooms"),
    ("CAP_CHECKPOINT_RESTORE", 40, False, "not needed beside CAP_SYS_ADMIN"),
)
# What must exist, what it is called, and what it is for.
_KERNEL = (
    ("/proc/self/ns/pid", "pid namespaces", "each run is process 1 of its own"),
    ("/proc/self/ns/mnt", "mount namespaces", "CRIU's cache gets a place of its own"),
    ("/proc/self/map_files", "CHECKPOINT_RESTORE", "CRIU looks into a process"),
    ("/proc/self/ns/time", "time namespaces", "monotonic clocks stand still while a run is frozen"),
)
_NEEDED_OF_KERNEL = 3  # Of the list above; without the last one only clocks jump.


@dataclass(frozen=True)
class Fact:
    """One line of the examination.

    Attributes:
        name: what was looked at.
        state: `ok`; `note`, which is worth knowing; or `missing`, without which runs can't be frozen.
        told: what was found.
        fix: what to do about it, if anything.
    """

    name: str
    state: State
    told: str
    fix: str | None = None


def examine(settings: Settings) -> list[Fact]:
    """Look at everything; the last step dumps and restores a small process, which takes about a second."""
    looks: tuple[Callable[[Settings], Iterator[Fact]], ...] = (
        _python,
        _database,
        _system,
        _root,
        _kernel,
        _places,
        _criu,
        _fitness,
        _isolation,
    )
    return [fact for look in looks for fact in look(settings)]


def can_freeze(facts: list[Fact]) -> bool:
    """Nothing that freezing needs is missing, and a round trip was seen."""
    return all(fact.state != "missing" for fact in facts)


def _python(settings: Settings) -> Iterator[Fact]:
    yield Fact("Python", "ok", f"{platform.python_version()} ({sys.executable})")


def _database(settings: Settings) -> Iterator[Fact]:
    if settings.database_url:
        yield Fact("Postgres", "ok", "the server that TORPOR_DATABASE_URL names")
        return
    # Both are noted only: a worker without a database of its own freezes as well as any other.
    if importlib.util.find_spec("asyncpg") is None:
        yield Fact("Postgres", "note", "the driver asyncpg is not installed", "install torpor with its dependencies")
        return
    from torpor.store import binaries

    try:
        found = binaries.choose(None)
        user = binaries.account()
    except ConfigError as error:
        yield Fact("Postgres", "note", str(error))
        return
    yield Fact("Postgres", "ok", f"{found.version} ({found.bin}), run as {user.name} by Torpor itself")


def _system(settings: Settings) -> Iterator[Fact]:
    if sys.platform != "linux":
        name = f"macOS {platform.mac_ver()[0]}" if sys.platform == "darwin" else platform.system()
        yield Fact("System", "missing", f"{name}: processes can be frozen on Linux only", "run the worker on Linux")
        return
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        name = "Linux"
    yield Fact("System", "ok", f"{name}, kernel {platform.release()}, {platform.machine()}")


def _root(settings: Settings) -> Iterator[Fact]:
    if sys.platform != "linux":
        return
    if os.geteuid() != 0:
        yield Fact("Root", "missing", "this is not root, which freezing needs", "start the worker with sudo")
        return
    yield Fact("Root", "ok", "yes")
    from torpor.worker.criu_setup import effective_capabilities

    held = effective_capabilities()
    for name, bit, is_needed, purpose in _CAPABILITIES:
        if held >> bit & 1:
            yield Fact(name, "ok", f"held; {purpose}")
        elif is_needed:
            yield Fact(name, "missing", f"not held; {purpose}", f"start the container with --cap-add={name[4:]}")
        else:
            yield Fact(name, "note", f"not held; {purpose}")


def _kernel(settings: Settings) -> Iterator[Fact]:
    if sys.platform != "linux":
        return
    for number, (path, name, purpose) in enumerate(_KERNEL):
        if Path(path).exists():
            yield Fact(f"Kernel: {name}", "ok", f"so {purpose}")
        else:
            state: State = "missing" if number < _NEEDED_OF_KERNEL else "note"
            yield Fact(f"Kernel: {name}", state, f"not there, so not: {purpose}", "use a kernel that is built with it")


def _places(settings: Settings) -> Iterator[Fact]:
    if sys.platform != "linux":
        return
    if is_tmpfs("/run", Path("/proc/self/mounts").read_text()):
        yield Fact("/run", "ok", "a tmpfs, where CRIU keeps what it learned about the kernel")
    else:
        yield Fact("/run", "ok", "not a tmpfs, so the worker mounts one there that only it sees")
    yield Fact("cgroups", "ok", cgroup_version(Path("/sys/fs/cgroup")))


def _criu(settings: Settings) -> Iterator[Fact]:
    from torpor.worker import criu_proof, criu_setup

    found = asyncio.run(criu_setup.find(settings))
    if isinstance(found, criu_setup.NoCriu):
        yield Fact("CRIU", "missing", found.reason, found.fix)
        return
    where = {"private": "Torpor's own", "system": "the system's", "TORPOR_CRIU": "named by TORPOR_CRIU"}[found.source]
    yield Fact("CRIU", "ok", f"{found.version}, {where} ({found.command[-1]})")
    try:
        proof = asyncio.run(criu_proof.prove(found.command))
    except CriuError as error:
        yield Fact(
            "Round trip", "missing", f"a small process could not be frozen: {error.reason}", criu_setup.INSTALL_HINT
        )
    else:
        told = f"a small process was frozen in {proof.dump_ms:.0f} ms and came back in {proof.restore_ms:.0f} ms"
        yield Fact("Round trip", "ok", told)
        yield from _round_trip_of_a_room(settings, found.command)
    if not settings.freeze:
        yield Fact("TORPOR_FREEZE", "note", "it is off, so runs are held in memory all the same", "unset TORPOR_FREEZE")


def _round_trip_of_a_room(settings: Settings, command: tuple[str, ...]) -> Iterator[Fact]:
    """With a process like a run in a room: only where there are to be any."""
    from torpor.worker import criu_proof

    if settings.isolation == "off" or isolation(settings).level == "off":
        return
    try:
        proof = asyncio.run(criu_proof.prove(command, in_room=True))
    except CriuError as error:
        told = f"a process of another user, with a root of its own, could not be frozen: {error.reason}"
        yield Fact("Round trip of a room", "missing", told, "set TORPOR_ISOLATION=off to have runs frozen all the same")
    else:
        told = f"the same as another user, with a root of its own: {proof.dump_ms:.0f} ms and {proof.restore_ms:.0f} ms"
        yield Fact("Round trip of a room", "ok", told)


def _fitness(settings: Settings) -> Iterator[Fact]:
    """What decides whether checkpoints of other machines can go on here."""
    if sys.platform != "linux":
        return
    from torpor.worker import cpu, criu_setup, fitness

    level = cpu.level()
    reached = f"reaches {level}" if level else "reaches no level of x86-64"
    try:
        cpu.check(settings.cpu_baseline)
    except ConfigError as error:
        yield Fact("CPU", "missing", f"{error} (it {reached})", "choose a baseline that every machine reaches")
    else:
        told = settings.cpu_baseline or "all that it has, so they move only to machines that have as much"
        yield Fact("CPU", "ok", f"{reached}; checkpoints made here need {told}")
    found = asyncio.run(criu_setup.find(settings))
    machine = fitness.look(None if isinstance(found, criu_setup.NoCriu) else found.version)
    told = (
        f"{machine.digest} (CPU, CRIU, Python, libc, installed packages); equal ones can thaw each other's checkpoints"
    )
    yield Fact("Fitness", "ok", told)


def isolation(settings: Settings) -> "Isolation":
    """The most that this machine gives."""
    from torpor.worker.isolation import possible

    return possible(settings)


def _isolation(settings: Settings) -> Iterator[Fact]:
    """How far runs can be kept apart. Nothing here keeps a machine from freezing, so nothing counts as missing."""
    found = isolation(settings)
    if settings.isolation == "off":
        told = (
            "TORPOR_ISOLATION is off, so runs are not; this machine would give "
            + {
                "full": "all of it",
                "partial": "a part of it",
                "off": "nothing",
            }[found.level]
        )
        yield Fact("Isolation", "note", told, "set TORPOR_ISOLATION to auto, or unset it")
    elif found.level == "off":
        yield Fact("Isolation", "note", "off: a room of its own can't be made for a run here")
    else:
        told = {
            "full": "full: each run in a room of its own, with all limits",
            "partial": "partial: some of it is missing",
        }
        yield Fact("Isolation", "ok" if found.level == "full" else "note", told[found.level])
    for each in found.missing:
        yield Fact(f"No {each.what}", "note", each.why, each.fix)


def is_tmpfs(directory: str, mounts: str) -> bool:
    """Is a tmpfs mounted right there? `mounts` is the text of /proc/self/mounts; the last mount on a place counts."""
    kinds = [fields[2] for line in mounts.splitlines() if (fields := line.split())[1] == directory]
    return bool(kinds) and kinds[-1] in ("tmpfs", "ramfs")


def cgroup_version(root: Path) -> str:
    """Which kind of cgroups this machine has, in words."""
    if (root / "cgroup.controllers").exists():
        return "version 2"
    if (root / "unified" / "cgroup.controllers").exists():
        return "version 1, with version 2 beside it (hybrid)"
    if (root / "memory").exists():
        return "version 1"
    return "none are mounted"

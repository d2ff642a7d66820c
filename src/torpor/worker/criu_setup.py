"""Find a CRIU that works on this machine, install one if asked to, and remember what was proved.

In this order: the one that `TORPOR_CRIU` names (and then no other), the system's, our own private one. Only a real
dump and restore counts. `python -m torpor.worker.criu_setup install` is what bin/setup calls.
"""

import asyncio
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torpor.config import Settings
from torpor.errors import CriuError
from torpor.worker import criu, criu_install, criu_proof
from torpor.worker.criu import Criu

INSTALL_HINT = "run `torpor doctor --fix` to install a CRIU of Torpor's own, or install CRIU 4.2 or newer"
_PROOFS = "criu-proof.json"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAPABILITIES = {"CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_NET_ADMIN": 12, "CAP_SYS_TIME": 25}
"""Without one of these no CRIU restores anything. Found out by taking away one at a time."""


@dataclass(frozen=True)
class NoCriu:
    """Why nothing can be frozen here, and what to do about it. Runs that wait are held in memory."""

    reason: str
    fix: str


async def find(
    settings: Settings, *, fresh: bool = False, in_room: bool = False, project: Path | None = None
) -> Criu | NoCriu:
    """The CRIU to use, proved on this machine since it was booted.

    Args:
        settings: names the CRIU, if the user has chosen one, and where proofs are remembered.
        fresh: prove again, whatever is remembered.
        in_room: it is to freeze runs in rooms, which are other users' processes in root directories of their own.
        project: whose runs it is to freeze.
    """
    if in_the_way := obstacle(project):
        return in_the_way
    candidates = _candidates(settings)
    tried: list[str] = []
    for command, source in candidates:
        try:
            found = Criu(command, await criu.version(command), source)
            if fresh or not _is_proved(settings, found, in_room):
                await prove(found, in_room=in_room)
                _remember(settings, found, in_room)
        except CriuError as error:
            tried.append(f"{command[-1]} ({source}): {error.reason}")
        else:
            return found
    if settings.criu:
        return NoCriu(
            f"the CRIU that TORPOR_CRIU names does not work: {tried[0]}", "unset TORPOR_CRIU, or name another"
        )
    if not candidates:
        return NoCriu("CRIU is not installed", INSTALL_HINT)
    return NoCriu("no CRIU here passes a dump and restore: " + "; ".join(tried), INSTALL_HINT)


async def prove(found: Criu, *, in_room: bool = False) -> None:
    """Dump, kill and restore a small process with it; `in_room`: one like a run in a room.

    Raises:
        CriuError: it does not work on this machine; the reason is in plain words.
    """
    await criu_proof.prove(found.command, in_room=in_room)


async def install(prefix: Path | None, report: Callable[[str], None]) -> Criu:
    """Install a private CRIU and see how it identifies itself; the default prefix is in the user's cache.

    Raises:
        CriuError: it could not be fetched, or it does not run.
    """
    command = await criu_install.install(prefix or private_prefix(), report)
    return Criu(command, await criu.version(command), "private")


def private_prefix() -> Path | None:
    """Where TORPOR_CRIU_PREFIX wants our own CRIU; None leaves it to the user's cache."""
    chosen = os.environ.get("TORPOR_CRIU_PREFIX")
    return Path(chosen) if chosen else None


def obstacle(project: Path | None = None) -> NoCriu | None:
    """What no CRIU could overcome: asked first, because its own messages about these are hard to read.

    Args:
        project: whose runs are to be frozen.
    """
    if sys.platform != "linux":
        return NoCriu("processes can be frozen on Linux only", "nothing to do: everything but freezing works")
    if os.geteuid() != 0:
        return NoCriu("freezing needs root", "start the worker as root, for example with sudo")
    effective = effective_capabilities()
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        return NoCriu(
            f"root lacks {' and '.join(missing)} here", "start the container with --privileged, or give it these"
        )
    for what, directory, hidden_below in (
        ("Python", Path(sys.prefix), ("/dev/shm", "/run")),
        ("Python", Path(sys.base_prefix), ("/dev/shm", "/run")),
        ("the project", project, ("/dev/shm",)),
    ):
        if directory is not None and (place := _which_hides(directory, hidden_below)):
            reason = f"{what} is in {directory}, and what is frozen or thawed has a {place} of its own, which hides it"
            return NoCriu(reason, f"move {what} to a directory that is not below {place}, and start again")
    return None


def _which_hides(directory: Path, places: Sequence[str]) -> str | None:
    """Below which of these places it is, if it is: runs have a /dev/shm of their own, and the proof a /run. What of the machine's
    /tmp is to be seen is mounted in each run's own (`room.py`).
    """
    names = (directory.absolute(), directory.resolve())
    return next((place for place in places if any(name.is_relative_to(place) for name in names)), None)


def effective_capabilities() -> int:
    """The set of capabilities that this process holds, one bit for each."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _candidates(settings: Settings) -> list[tuple[tuple[str, ...], str]]:
    if settings.criu:
        return [((settings.criu,), "TORPOR_CRIU")]
    found: list[tuple[tuple[str, ...], str]] = []
    # The path of a plain user does not hold sbin, where criu is.
    if system := shutil.which("criu", path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}"):
        found.append(((system,), "system"))
    if private := criu_install.installed(private_prefix()):
        found.append((private, "private"))
    return found


# ---- Proofs are remembered until the machine, its kernel or the CRIU changes -----------------------------------------


def _key(found: Criu, in_room: bool) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return " ".join([*found.command, found.version, platform.release(), boot, *(["room"] if in_room else [])])


def _proofs(settings: Settings) -> list[str]:
    try:
        known = json.loads((settings.data_dir / _PROOFS).read_text())
    except (OSError, ValueError):
        return []  # A proof that can't be read is given again.
    return known if isinstance(known, list) else []


def _is_proved(settings: Settings, found: Criu, in_room: bool) -> bool:
    return _key(found, in_room) in _proofs(settings)


def _remember(settings: Settings, found: Criu, in_room: bool) -> None:
    """Best effort: where it can't be written, the proof is given again at the next start, in half a second."""
    path = settings.data_dir / _PROOFS
    proved = _key(found, in_room)
    known = [proved, *(key for key in _proofs(settings) if key != proved)][:8]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f"{path.name}.{os.getpid()}")
        written.write_text(json.dumps(known))
        written.replace(path)
    except OSError:
        pass


# ---- For bin/setup ------------------------------------------------------------------------------------------------


async def _set_up() -> int:
    """Leave the machine with a CRIU that works, if that can be had; say in one line how it went."""
    settings = Settings.from_environment()
    found = await find(settings)
    if isinstance(found, NoCriu) and not settings.criu and obstacle() is None:
        try:
            await install(None, lambda line: print(line, flush=True))
        except CriuError as error:
            print(f"CRIU could not be installed, so waiting runs will be held in memory: {error.reason}")
            return 1
        found = await find(settings)
    if isinstance(found, NoCriu):
        print(f"Waiting runs will be held in memory: {found.reason}. To change that, {found.fix}.")
        return 1
    print(f"CRIU {found.version} works here ({found.source})")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        raise SystemExit("usage: python -m torpor.worker.criu_setup install")
    raise SystemExit(asyncio.run(_set_up()))

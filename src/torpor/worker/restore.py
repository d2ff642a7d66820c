"""A durable image becomes a running process again, in stages.

    FETCHED     every byte of the image is ours and whole; nothing unverified ever reaches CRIU. Of a large one, most memory is
                yet to be read and verified: a page that isn't ours never reaches the tree, which is killed then (lazy.py)
    FIT         what it needs of a machine is here
    UNPACKED    the run's directory has the files of the freeze, and an empty output.log
    APART       in mounts of its own the directory is where the image says, and so is its room; without one, its shared memory is
                in /dev/shm
    (the caller listens on the control socket: the runner will connect the moment it wakes)
    RESTORED    the tree exists as it was frozen, as a child of this process: asleep in sigwait, or stopped in its work
    (the caller sends SIGUSR1, or SIGCONT)

A failure leaves no process and no directory. `ImageDamaged` means that this image can never be used; `Unfit` that it can't be
used here; `CriuError` that it could not be used now.

Each restored tree has mounts of its own, which nobody but CRIU and the tree ever sees. So several lives of one image can be on
one worker at once, though all of them know their directory by the same path.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torpor import ids
from torpor.errors import CriuError, TorporError
from torpor.images import Draft, Images, Laid, Later
from torpor.wire.http import StoredCheckpoint
from torpor.worker import belongings, criu, files, fitness, namespaces
from torpor.worker.faults import Fault, reach
from torpor.worker.network import Network
from torpor.worker.process import Origin, RunProcess
from torpor.worker.room import Room, Rooms
from torpor.worker.trust import Trust
from torpor.worker.uninterrupted import uninterrupted


class Unfit(TorporError):
    """This image needs what this machine hasn't: its message says what. Another machine may have it."""


@dataclass(frozen=True)
class Prepared:
    """An image that may be restored: it was verified, this machine can run it, and its files are laid."""

    criu_images: Path
    home: Path
    """What is below it is at `run_root` in the run's own mounts."""
    directory: Path
    archive: Path
    run_root: Path
    output_base: int
    later: Sequence[Later] = ()
    """memory that comes when the tree runs; none if all is there"""
    room: Room | None = None
    """what the run sees; none if it sees what we see"""
    trust: Trust = Trust.OWN
    """how far the code was trusted when it was imported"""
    told_bytes: int = 0
    """how much of its output was told"""
    inherited_bytes: int = 0
    """how much of its memory is as its version's import has left it"""
    network: str | None = None
    """what it reached"""


@asynccontextmanager
async def prepared(
    images: Images,
    stored: StoredCheckpoint,
    machine: fitness.Machine | None,
    run_root: Path,
    rooms: Rooms | None = None,
    *,
    lazy_bytes: int = 0,
    disk_bytes: int | None = None,
) -> AsyncIterator[Prepared]:
    """Fetch and verify the image, and lay the run's directory, which is the caller's from then on. Inside, CRIU can read it.
    `lazy_bytes`: see `Images.fetch`. `rooms`: for images of runs that had one; there it may
    write `disk_bytes`.

    Raises:
        ImageDamaged, ObjectsDown: see `Images.fetch`.
        Unfit: see there.
        OSError: the disk is full or broken.
    """
    await reach(Fault.BEFORE_FETCH)
    laid = await images.fetch(stored, lazy_bytes=lazy_bytes)
    try:
        await reach(Fault.FETCHED)
        if machine is not None and (reason := await asyncio.to_thread(fitness.why_unfit, laid.facts, machine)):
            raise Unfit(reason)
        yield await lay(
            laid.facts, laid, run_root, rooms, output_base=laid.facts["output_position"], disk_bytes=disk_bytes
        )
    finally:
        await asyncio.to_thread(images.release, laid)


async def lay(
    facts: Mapping[str, Any],
    image: Draft | Laid,
    run_root: Path,
    rooms: Rooms | None,
    *,
    output_base: int = 0,
    disk_bytes: int | None = None,
) -> Prepared:
    """Lay the run's directory, with its files as they were: in its room, if it had one.

    Raises:
        Unfit: it had, and there are none here.
        OSError: the disk is full or broken, or a room can't be mounted. Nothing is left.
    """
    laying = partial(_lay, facts, image, run_root, rooms, output_base=output_base, disk_bytes=disk_bytes)
    return await uninterrupted(laying, undo=lambda prepared: belongings.remove(prepared.home))


def _lay(
    facts: Mapping[str, Any],
    image: Draft | Laid,
    run_root: Path,
    rooms: Rooms | None,
    *,
    output_base: int,
    disk_bytes: int | None,
) -> Prepared:
    home = run_root / ids.new("home")
    directory = home / facts["directory"]
    room = None
    try:
        directory.mkdir(parents=True, mode=0o700)
        if "room" not in facts:
            files.unpack(image.files, directory)
        elif rooms is not None:
            if disk_bytes is not None:  # it may have come from a larger machine
                disk_bytes = max(disk_bytes, image.files.stat().st_size)
            room = rooms.prepare(directory, image.files, facts["room"], disk_bytes=disk_bytes)
        else:
            raise Unfit("it was made in a room of its own, and there are none here")
        (directory / "output.log").touch(0o600)
    except BaseException:
        belongings.remove(home)
        raise
    later = image.later if isinstance(image, Laid) else ()
    return Prepared(
        image.criu,
        home,
        directory,
        image.files,
        run_root,
        output_base,
        later,
        room,
        Trust(facts.get("trust", Trust.OWN)),
        facts.get("output_told_bytes", 0),
        facts.get("inherited_bytes", 0),
        facts.get("network"),
    )


def process_of(prepared: Prepared, base: str | None) -> RunProcess:
    """The process that it is to become: listen to it, and then `revive` it."""
    known_as = prepared.run_root / prepared.directory.name
    made = RunProcess(prepared.directory, prepared.home, Origin(base), known_as)
    made.belongings.room = prepared.room
    made.trust = prepared.trust
    made.belongings.inherited_bytes = prepared.inherited_bytes
    return made


async def revive(tool: criu.Criu, prepared: Prepared, revived: RunProcess) -> tuple[int, float]:
    """Let CRIU make the tree again; return its root's pid and how long CRIU took, in ms.

    Args:
        revived: made by `process_of`; what comes later of its memory, and what it is to find in its namespaces, are its own.

    Raises:
        CriuError: nothing of it is left.
        ImageDamaged, MemoryLost: nothing either; what the tree wanted of its memory can't be had.
    """
    memory = revived.memory
    await reach(Fault.BEFORE_RESTORE)
    began = time.perf_counter()
    making = criu.restore(
        tool,
        images=prepared.criu_images,
        scratch=prepared.directory,
        enter=lambda: go_apart(prepared, revived.belongings.network),
        memory=memory,
        real_uid=revived.belongings.real_uid,
        on_root=revived.belongings.stands_in_its_namespaces,
    )
    restoring = asyncio.ensure_future(making)
    if memory is not None:
        memory.whole.add_done_callback(
            lambda _: restoring.cancel() if memory.failure else None
        )  # it would wait for ever
    await reach(Fault.DURING_RESTORE)
    try:
        pid = await restoring
    except asyncio.CancelledError:
        if memory is not None and memory.failure:
            raise memory.failure from None
        raise
    except CriuError as error:
        if revived.belongings.cgroup is not None and revived.belongings.cgroup.oom_kills():
            preset = revived.belongings.cgroup.preset
            told = f"its image needs more memory than {preset.name} allows ({preset.memory_bytes >> 20} MB)"
            raise CriuError(told, error.log) from None
        raise
    took_ms = (time.perf_counter() - began) * 1000
    await reach(Fault.RESTORED)
    return pid, took_ms


def go_apart(prepared: Prepared, network: Network | None) -> None:
    """In a thread of its own: enter the tree's network, and leave our mounts for a copy, changed to what it is to see."""
    if network is not None:
        network.enter()
    if prepared.room is not None:
        prepared.room.go_apart(prepared.home, prepared.run_root)
        return
    namespaces.own_mounts()
    namespaces.mount(str(prepared.home), str(prepared.run_root), None, namespaces.MS_BIND)
    if files.SHARED.is_dir():
        flags = namespaces.MS_NOSUID | namespaces.MS_NODEV
        namespaces.mount("tmpfs", str(files.SHARED), "tmpfs", flags, "mode=1777")
        files.unpack_shared(prepared.archive)

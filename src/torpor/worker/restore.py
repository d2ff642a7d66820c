"""A durable image becomes a running process again, in stages.

    VERIFIED    every byte of the image is ours and whole; nothing unverified ever reaches CRIU
    UNPACKED    the run's directory has the files of the freeze, and an empty output.log
    APART       in mounts of its own the directory is where the image says, and the run's shared memory in /dev/shm
    (the caller listens on the control socket: the runner will connect the moment it wakes)
    RESTORED    the tree exists and sleeps in sigwait, as a child of this process
    (the caller sends SIGUSR1)

A failure leaves no process and no directory. `ImageDamaged` means that this image can never be used; `CriuError` that it
could not be used now and here.

Each restored tree has mounts of its own, which nobody but CRIU and the tree ever sees. So several lives of one image can be on
one worker at once, though all of them know their directory by the same path.
"""

import asyncio
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from torpor import ids
from torpor.worker import criu, files, namespaces
from torpor.worker.faults import Fault, reach
from torpor.worker.images import FILES, Images


@dataclass(frozen=True)
class Prepared:
    """An image that may be restored: it was verified and its files are laid."""

    criu_images: Path
    home: Path
    """What is below it is at `run_root` in the run's own mounts."""
    directory: Path
    archive: Path
    run_root: Path
    output_base: int


async def prepare(images: Images, checkpoint_id: str, run_root: Path) -> Prepared:
    """Verify the image and lay the run's directory.

    Raises:
        ImageDamaged: see `Images.verify`.
        OSError: the disk is full or broken.
    """
    return await asyncio.to_thread(_prepare, images, checkpoint_id, run_root)


def _prepare(images: Images, checkpoint_id: str, run_root: Path) -> Prepared:
    place = images.verify(checkpoint_id)
    facts = images.facts(checkpoint_id)
    home = run_root / ids.new("home")
    try:
        directory = home / facts["directory"]
        directory.mkdir(parents=True, mode=0o700)
        files.unpack(place / FILES, directory)
        (directory / "output.log").touch(0o600)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    return Prepared(place / "criu", home, directory, place / FILES, run_root, facts["output_position"])


async def revive(tool: criu.Criu, prepared: Prepared) -> tuple[int, float]:
    """Let CRIU make the tree again; return its root's pid and how long CRIU took, in ms.

    Raises:
        CriuError: nothing of it is left.
    """
    await reach(Fault.BEFORE_RESTORE)
    began = time.perf_counter()
    making = criu.restore(
        tool, images=prepared.criu_images, scratch=prepared.directory, enter=lambda: go_apart(prepared)
    )
    restoring = asyncio.ensure_future(making)
    await reach(Fault.DURING_RESTORE)
    pid = await restoring
    took_ms = (time.perf_counter() - began) * 1000
    await reach(Fault.RESTORED)
    return pid, took_ms


def go_apart(prepared: Prepared) -> None:
    """In a thread of its own: leave our mounts for a copy, and change it to what the tree is to see."""
    namespaces.own_mounts()
    namespaces.mount(str(prepared.home), str(prepared.run_root), None, namespaces.MS_BIND)
    if files.SHARED.is_dir():
        flags = namespaces.MS_NOSUID | namespaces.MS_NODEV
        namespaces.mount("tmpfs", str(files.SHARED), "tmpfs", flags, "mode=1777")
        files.unpack_shared(prepared.archive)

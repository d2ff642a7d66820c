"""A durable image becomes a running process again, in stages.

    VERIFIED    every byte of the image is ours and whole; nothing unverified ever reaches CRIU
    UNPACKED    the run's directory has the files of the freeze, and an empty output.log
    (the caller listens on the control socket: the runner will connect the moment it wakes)
    RESTORED    the tree exists and sleeps in sigwait, as a child of this process
    (the caller sends SIGUSR1)

A failure leaves no process and no directory. `ImageDamaged` means that this image can never be used; `CriuError` that it
could not be used now and here.
"""

import asyncio
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from torpor.worker import criu, files
from torpor.worker.faults import Fault, reach
from torpor.worker.images import FILES, Images


@dataclass(frozen=True)
class Prepared:
    """An image that may be restored: it was verified and its files are laid."""

    criu_images: Path
    directory: Path
    output_base: int


async def prepare(images: Images, checkpoint_id: str, run_root: Path) -> Prepared:
    """Verify the image and lay the run's directory, at the path that the image names.

    Raises:
        ImageDamaged: see `Images.verify`.
        OSError: the disk is full or broken.
    """
    return await asyncio.to_thread(_prepare, images, checkpoint_id, run_root)


def _prepare(images: Images, checkpoint_id: str, run_root: Path) -> Prepared:
    place = images.verify(checkpoint_id)
    facts = images.facts(checkpoint_id)
    directory = run_root / facts["directory"]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    files.unpack(place / FILES, directory)
    (directory / "output.log").touch(0o600)
    return Prepared(place / "criu", directory, facts["output_position"])


async def revive(tool: criu.Criu, prepared: Prepared) -> tuple[int, float]:
    """Let CRIU make the tree again; return its root's pid and how long CRIU took, in ms.

    Raises:
        CriuError: nothing of it is left.
    """
    await reach(Fault.BEFORE_RESTORE)
    began = time.perf_counter()
    restoring = asyncio.ensure_future(criu.restore(tool, images=prepared.criu_images, scratch=prepared.directory))
    await reach(Fault.DURING_RESTORE)
    pid = await restoring
    took_ms = (time.perf_counter() - began) * 1000
    await reach(Fault.RESTORED)
    return pid, took_ms

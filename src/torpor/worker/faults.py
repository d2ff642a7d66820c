"""The places where tests may stop a worker, to kill something at the worst moment.

A test names a directory in TORPOR_FAULT_DIR and makes `<fault>.pause` in it. The worker then makes `<fault>.reached` and
stands still there until the pause file is gone. Without the variable this costs one comparison.
"""

import asyncio
import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from torpor.objects import Objects


class Fault(StrEnum):
    """Each is a moment between two effects; a lifecycle test stops at every one of them."""

    BEFORE_FORK = "before_fork"  # leased, no process yet
    STARTED = "started"  # the runner has its work, the engine was told
    STOPPED = "stopped"  # in the middle of its work, its control socket closed by us
    BEFORE_DUMP = "before_dump"  # the process stands still
    DURING_DUMP = "during_dump"  # CRIU is asked
    DUMPED = "dumped"  # stopped, its memory written down
    PACKED = "packed"  # its files as well; nothing is durable
    PACKS_STORED = "packs_stored"  # packs are durable, no manifest names them
    PUBLISHED = "published"  # durable, the engine doesn't know
    ACCEPTED = "accepted"  # the engine has it (suspended, saved, moved); the process still exists
    KILLED = "killed"  # the process is gone, too
    BEFORE_FETCH = "before_fetch"  # leased with a checkpoint
    FETCHED = "fetched"  # the image is laid, every byte verified
    BEFORE_RESTORE = "before_restore"  # the run's files are laid, nothing is restored
    DURING_RESTORE = "during_restore"  # CRIU is asked to restore
    RESTORED = "restored"  # the process exists, still asleep
    RESUMED = "resumed"  # it has its answers, the engine was not told
    BEFORE_FINISH = "before_finish"  # the outcome is known here only


_DIRECTORY = os.environ.get("TORPOR_FAULT_DIR")


async def reach(fault: Fault) -> None:
    """Stand still here if a test asks for it."""
    if _DIRECTORY is None:
        return
    pause = Path(_DIRECTORY, f"{fault}.pause")
    if pause.exists():
        Path(_DIRECTORY, f"{fault}.reached").touch()
        while pause.exists():
            await asyncio.sleep(0.01)


def watched_objects(objects: Objects) -> Objects:
    """The same object store, with the moment between packs and manifest to stop at, if a test may stop this worker."""
    return objects if _DIRECTORY is None else cast(Objects, _Watched(objects))


class _Watched:
    """Passes everything on."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    async def put_all(self, objects: Sequence[tuple[str, bytes]]) -> None:
        *packs, manifest = objects
        if packs and manifest[0].startswith("images/"):
            await self._objects.put_all(packs)
            await reach(Fault.PACKS_STORED)
            packs = []
        await self._objects.put_all([*packs, manifest])

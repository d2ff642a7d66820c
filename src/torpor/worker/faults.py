"""The places where tests may stop a worker, to kill something at the worst moment.

A test names a directory in TORPOR_FAULT_DIR and makes `<fault>.pause` in it. The worker then makes `<fault>.reached` and
stands still there until the pause file is gone. Without the variable this costs one comparison.
"""

import asyncio
import os
from enum import StrEnum
from pathlib import Path


class Fault(StrEnum):
    """Each is a moment between two effects; a lifecycle test stops at every one of them."""

    BEFORE_FORK = "before_fork"  # leased, no process yet
    STARTED = "started"  # the runner has its work, the engine was told
    BEFORE_DUMP = "before_dump"  # the runner has let go of its control socket
    DURING_DUMP = "during_dump"  # CRIU is asked, nothing is durable
    DUMPED = "dumped"  # stopped, images written, not yet published
    PUBLISHED = "published"  # durable, the engine doesn't know
    ACCEPTED = "accepted"  # the engine has suspended the run, the process still exists
    BEFORE_RESTORE = "before_restore"  # leased with a checkpoint, image verified, nothing restored
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

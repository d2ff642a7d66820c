"""What a worker leaves when it is killed, and how it is removed: directories of runs, half-made images, names in /dev/shm.

Most of what a run has goes with its supervisor by the kernel's word: processes with the pid namespace, mounts with the mount
namespace, networks with the last descriptor. What lies on disks and in what all processes of a machine share does not. It
is removed

    when the supervisor has ended, however it did      by its shadow (serve.py), which is outside of all that
    when the shadow was killed as well                 by the next worker on the same data directory

so that nothing is left after the next start, at the latest. Whoever sweeps holds the lock of the data directory, and no
process of the worker lives: it would pull the ground from under it.
"""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from torpor.worker import files

log = logging.getLogger(__name__)

LONGEST_DUMP_S = 600.0
"""What a dump leaves in /dev/shm is of no dump that is under way, after this time: another worker may be at one."""

PATIENCE_S = 2.0


def sweep(worker: Path, *, since: float | None = None) -> None:
    """Remove all that a worker has left, which is dead.

    Args:
        worker: its directory, below the data directory.
        since: when it was started, if that is known: then what nobody uses of what was made later is its own.
    """
    for place in ("runs", "images"):
        empty(worker / place)
    files.sweep_link_remaps(older_than=time.time() - LONGEST_DUMP_S)
    if since is not None:
        files.sweep_unused_link_remaps(since=since)


def last_start(lock: Path) -> float | None:
    """When the former worker on this data directory was started: it wrote its pid into the lock."""
    try:
        return lock.stat().st_mtime
    except OSError:
        return None


def empty(place: Path) -> None:
    """Remove all that is in a directory. Again, if need be: the lock is given back a moment before the last process is dead."""
    end = time.monotonic() + PATIENCE_S
    while left := _entries(place):
        for each in left:
            if each.is_dir(follow_symlinks=False):
                files.remove(Path(each.path))
            else:
                with suppress(OSError):
                    os.unlink(each.path)
        if time.monotonic() > end:
            log.warning("what a former worker has left in %s can't be removed", place)
            return


def _entries(place: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(place))
    except FileNotFoundError:
        return []

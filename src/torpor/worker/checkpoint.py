"""A running process becomes a durable image, in stages. The engine's word and the kill come after, in `live_run.py`.

    PARKED      the runner has let go of its control socket and sleeps in sigwait: nothing of ours is in its descriptors
    DUMPED      CRIU has written the tree's memory and left every process stopped
    PACKED      the run's own files are beside it: nothing could write to them since, the tree is stopped
    PUBLISHED   all of it is durable, checksummed, and has its name

Until PUBLISHED every failure is undone the same way: the half-written image is removed, and CRIU has let the tree run on
(or we do). So a checkpoint that fails costs the run nothing but time.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torpor.errors import CriuError
from torpor.wire.http import StoredCheckpoint
from torpor.worker import criu, files, namespaces
from torpor.worker.faults import Fault, reach
from torpor.worker.images import FILES, Images
from torpor.worker.process import RunProcess

WRITE_EARLY_INTERVAL_S = 0.004


async def take(
    tool: criu.Criu,
    images: Images,
    *,
    checkpoint_id: str,
    process: RunProcess,
    facts: Callable[[], dict[str, Any]],
    entered: float,
) -> StoredCheckpoint:
    """Write the image of a parked process tree and leave the tree stopped.

    Args:
        process: the run's, asleep.
        facts: what to record in the manifest; asked when the tree stands still.
        entered: `time.perf_counter()` when the wait was entered, for `durable_ms`.

    Raises:
        CriuError: the process can't be dumped; it runs on.
        OSError: the disk is full or broken; the process was let run on.
    """
    pid = process.pid
    assert pid is not None
    rss_bytes = resident_bytes(pid)
    since = time.time()
    try:
        place = images.begin(checkpoint_id)
        _refuse_foreign_namespaces(pid)
        await reach(Fault.BEFORE_DUMP)
        began = time.perf_counter()
        dumping = asyncio.ensure_future(criu.dump(tool, pid=pid, images=place / "criu"))
        await reach(Fault.DURING_DUMP)
        await _write_early(place / "criu" / "pages-1.img", dumping)
        await dumping
        dump_ms = (time.perf_counter() - began) * 1000
        await reach(Fault.DUMPED)
        files_bytes = await asyncio.to_thread(_pack, process, place / FILES, since)
        told = facts()
        size_bytes = await asyncio.to_thread(images.publish, checkpoint_id, told)
    except BaseException:
        await asyncio.to_thread(images.delete, checkpoint_id)
        criu.let_run(pid)
        raise
    await reach(Fault.PUBLISHED)
    return StoredCheckpoint(
        id=checkpoint_id,
        size_bytes=size_bytes,
        files_bytes=files_bytes,
        dump_ms=dump_ms,
        durable_ms=(time.perf_counter() - entered) * 1000,
        rss_bytes=rss_bytes,
        facts=told,
    )


def _pack(process: RunProcess, archive: Path, since: float) -> int:
    """The files of a stopped tree, and its shared memory: all of it where that is its own, as it is after a restore."""
    assert process.pid is not None
    if namespaces.has_our_mounts(process.pid):
        shared = process.shared = files.shared_memory(tree(process.pid))
    else:
        place = Path(f"/proc/{process.pid}/root") / files.SHARED.relative_to("/")
        shared = files.shared_memory([], place=place, is_private=True)
    size = files.pack(process.directory, archive, shared=shared)
    files.drop_link_remaps(process.directory, shared, since=since)
    return size


async def _write_early(pages: Path, dumping: asyncio.Future[None]) -> None:
    """Set the disk to work while CRIU is still busy: what it has written of the memory need not wait for the fsync."""
    while not dumping.done():
        await asyncio.wait([dumping], timeout=WRITE_EARLY_INTERVAL_S)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(pages, os.O_RDONLY)
            try:
                namespaces.start_writing(descriptor)
            finally:
                os.close(descriptor)


def _refuse_foreign_namespaces(pid: int) -> None:
    """CRIU would dump a child with mounts or a network of its own, and could never restore it."""
    for each in tree(pid):
        for kind, what in (("mnt", "mounts"), ("net", "a network")):
            try:
                if os.readlink(f"/proc/{each}/ns/{kind}") != os.readlink(f"/proc/{pid}/ns/{kind}"):
                    command = Path(f"/proc/{each}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    raise CriuError(f"a child process has {what} of its own: {command.strip()}")
            except (FileNotFoundError, ProcessLookupError):
                continue


def tree(pid: int) -> list[int]:
    """The process and all its descendants, parents first. Empty once it is gone."""
    found = [pid]
    for each in found:
        try:
            threads = os.listdir(f"/proc/{each}/task")
            for thread in threads:
                found += [int(child) for child in Path(f"/proc/{each}/task/{thread}/children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def resident_bytes(pid: int) -> int:
    """How much memory the tree holds (RSS; pages that a fork shares are counted in each process that maps them)."""
    total = 0
    for each in tree(pid):
        try:
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total * os.sysconf("SC_PAGE_SIZE")

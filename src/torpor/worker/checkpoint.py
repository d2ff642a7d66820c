"""A running process becomes a durable image, in stages. What follows (the kill, or that it goes on) is the caller's.

    STILL       the runner sleeps in sigwait, or was stopped wherever it was; its control socket is closed at one end at least
    DUMPED      CRIU has written the tree's memory and left every process stopped
    PACKED      the run's own files are beside it: nothing could write to them since, the tree is stopped
    PUBLISHED   all of it is durable in the object store, sealed: packs first, then the manifest that names them
    ACCEPTED    the engine has it, so what it refers to is kept; or it does not want it

Until PACKED every failure is undone the same way: the draft is removed, and CRIU has let the tree run on (or we do). From
then on the draft is all that an image needs; a tree that is to go on may do so, or wait for what becomes of it. A crash
after PUBLISHED costs objects that no row names, which the garbage duty finds.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torpor.errors import CriuError, TorporError
from torpor.images import Draft, Images
from torpor.wire.http import LeaseReply, StoredCheckpoint
from torpor.worker import criu, files, fitness, namespaces
from torpor.worker.faults import Fault, reach
from torpor.worker.process import RunProcess

MAX_GONE = 5
Kind = Literal["wait", "named", "auto", "move"]


class NotAccepted(TorporError):
    """The engine does not take this image, however it is published."""


@dataclass(frozen=True)
class Taken:
    """An image that is whole, but not durable yet."""

    id: str
    draft: Draft
    facts: dict[str, Any]
    base: str | None
    files_bytes: int
    dump_ms: float
    rss_bytes: int
    entered: float


async def take(
    tool: criu.Criu,
    images: Images,
    *,
    checkpoint_id: str,
    process: RunProcess,
    facts: Callable[[], dict[str, Any]],
    entered: float,
) -> Taken:
    """Write down a process tree that stands still, and leave it stopped.

    Args:
        process: the run's, asleep or stopped.
        facts: what to record in the manifest; asked when all of the tree stands still.
        entered: `time.perf_counter()` when the freeze was wanted, for `durable_ms`.

    Raises:
        CriuError: the process can't be dumped; it runs on, or stands still as it did before.
        OSError: there is no room for it; the process was let run on.
    """
    pid = process.pid
    assert pid is not None
    try:
        await process.whole()
    except TorporError as lost:
        raise CriuError(f"it can't be given the rest of its memory: {lost}") from None
    rss_bytes = resident_bytes(pid)
    since = time.time()
    draft: Draft | None = None
    try:
        _refuse_foreign_namespaces(pid)
        draft = images.begin(checkpoint_id, expected_bytes=rss_bytes)
        await reach(Fault.BEFORE_DUMP)
        images.follow(draft, base=process.base)
        began = time.perf_counter()
        with process.belongings.room_for_criu():
            dumping = asyncio.ensure_future(
                criu.dump(tool, pid=pid, images=draft.criu, real_uid=process.belongings.real_uid)
            )
            await reach(Fault.DURING_DUMP)
            await dumping
        dump_ms = (time.perf_counter() - began) * 1000
        await reach(Fault.DUMPED)
        files_bytes = await asyncio.to_thread(_pack, process, draft.files, since)
        draft.dumped()
        told = {**facts(), "files": await asyncio.to_thread(mapped_files, process)}
    except BaseException:
        if draft is not None:
            await asyncio.to_thread(images.discard, draft)
        criu.let_run(pid)
        raise
    await reach(Fault.PACKED)
    return Taken(checkpoint_id, draft, told, process.base, files_bytes, dump_ms, rss_bytes, entered)


async def settle(
    images: Images,
    taken: Taken,
    kind: Kind,
    tell: Callable[[StoredCheckpoint], Awaitable[LeaseReply]],
    *,
    store_id: str,
    strays: list[str],
    name: str | None = None,
) -> LeaseReply:
    """Publish the image and have the engine decide about it; then the draft is gone.

    The engine may have begun to delete packs that the image refers to, since nothing else did: it is published again
    without them.

    Args:
        tell: says it to the engine.
        strays: takes the names of objects that were stored for nothing.

    Raises:
        ObjectsDown: the object store doesn't take it now.
        ImageDamaged: there is no key to seal it with.
        NotAccepted: see there.
        OSError: the draft can't be read.
    """
    without: set[str] = set()
    stored_for_nothing: set[str] = set()
    try:
        for _ in range(MAX_GONE):
            published = await images.publish(taken.draft, taken.facts, base=taken.base, without=without)
            new = {f"packs/{pack.id}" for pack in published.packs if pack.is_new} | {f"images/{taken.id}"}
            stored_for_nothing |= new
            await reach(Fault.PUBLISHED)
            stored = StoredCheckpoint(
                id=taken.id,
                size_bytes=published.size_bytes,
                files_bytes=taken.files_bytes,
                dump_ms=taken.dump_ms,
                durable_ms=(time.perf_counter() - taken.entered) * 1000,
                rss_bytes=taken.rss_bytes,
                facts={key: value for key, value in taken.facts.items() if key != "files"},
                image_id=published.image_id,
                kind=kind,
                name=name,
                store_id=store_id,
                digest=published.digest,
                key_id=published.key_id,
                base=taken.base,
                packs=published.packs,
                new_bytes=published.new_bytes,
                shared_bytes=published.shared_bytes,
            )
            reply = await tell(stored)
            if reply.status in ("ok", "suspended"):
                images.accepted(taken.draft)
                stored_for_nothing -= new
            if reply.status != "gone":
                await reach(Fault.ACCEPTED)
                return reply
            without.update(reply.gone)
        raise NotAccepted(f"the engine says {MAX_GONE} times that what it refers to is being deleted")
    finally:
        strays.extend(stored_for_nothing)
        await asyncio.to_thread(images.discard, taken.draft)


def _pack(process: RunProcess, archive: Path, since: float) -> int:
    """As `pack`, of a tree that may go on: names that the dump has made in there for its own use are removed."""
    shared = _shared(process)
    size = files.pack(process.belongings.place, archive, shared=shared)
    files.drop_link_remaps(process.belongings.place, shared, since=since)
    if process.belongings.room is None and _has_our_mounts(process.pid or 0):
        process.shared = shared
    return size


def pack(process: RunProcess, archive: Path) -> int:
    """Write the files of a stopped tree and its shared memory to `archive`; return its size."""
    return files.pack(process.belongings.place, archive, shared=_shared(process))


def _shared(process: RunProcess) -> list[Path]:
    """Its shared memory: all of it where that is its own, in a room or after a restore."""
    assert process.pid is not None
    if process.belongings.room is not None:
        return files.shared_memory([], place=process.belongings.room.own / files.SHM, is_private=True)
    if _has_our_mounts(process.pid):
        return files.shared_memory(tree(process.pid))
    place = Path(f"/proc/{process.pid}/root") / files.SHARED.relative_to("/")
    return files.shared_memory([], place=place, is_private=True)


def _has_our_mounts(pid: int) -> bool:
    try:
        return namespaces.has_our_mounts(pid)
    except FileNotFoundError:
        # Killed since the dump, which has its memory; of shared memory nothing can be told any more.
        return True


def mapped_files(process: RunProcess) -> dict[str, list[Any]]:
    """What must be there again where the image is restored."""
    assert process.pid is not None
    room = process.belongings.room
    return fitness.mapped_files(
        tree(process.pid),
        without=process.known_as,
        root=None if room is None else room.root,
        device=None if room is None else os.stat(room.own).st_dev,
    )


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

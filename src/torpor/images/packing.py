"""A draft becomes packs, beginning while CRIU still writes it.

    dumped      CRIU has written everything
    complete    the run's own files are there too

A thread reads the pages files behind CRIU and hands what is new to all cores; packs that are full are put into the store at
once. What is put of an image that comes to nothing is deleted again, or found by `strays`.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from torpor.images import tars
from torpor.images.delta import Cutter, Pages
from torpor.images.index import Index
from torpor.images.manifest import Content
from torpor.images.mapped import Mapped
from torpor.images.packs import Packer
from torpor.images.seal import Key
from torpor.images.shelf import Base
from torpor.images.workspace import Place
from torpor.objects import Objects, ObjectsDown

FILES = "files.tar"
"""The run's own files, beside CRIU's."""

_PUTS_AT_ONCE = 8
_LOOK_INTERVAL_S = 0.002
_WORTH_A_LOOK = 1 << 20


@dataclass
class Draft:
    """An image that is being written."""

    image_id: str
    place: Place
    packing: "asyncio.Task[Packing] | None" = None
    """what has been made of it while CRIU wrote, if it is followed"""
    base: str | None = None
    """what it was compared with meanwhile"""
    is_dumped: threading.Event = field(default_factory=threading.Event)
    is_complete: threading.Event = field(default_factory=threading.Event)

    @property
    def criu(self) -> Path:
        """An empty directory for CRIU."""
        return self.place.path / "criu"

    @property
    def files(self) -> Path:
        """Where the run's own files are to be packed; they may be left out."""
        return self.place.path / FILES

    def dumped(self) -> None:
        """CRIU has written everything; the run's own files may still be missing."""
        self.is_dumped.set()


class Abandoned(Exception):
    """Nobody wants this image any longer."""


class Packing:
    """One attempt at making packs of a draft."""

    def __init__(
        self,
        draft: Draft,
        objects: Objects,
        key: Key,
        index: Index,
        pool: ThreadPoolExecutor,
        *,
        base: Base | None,
        without: Collection[str],
    ) -> None:
        self.key = key
        self.base = base
        self.without = frozenset(without)
        self.puts = _Puts(objects, asyncio.get_running_loop())
        self.packer = Packer(key, pool, self.puts.put)
        self.cutter = Cutter(key, self.packer, index, base=base, without=self.without)
        self._draft = draft
        self._done: asyncio.Future[tuple[dict[str, Content], list[tuple[str, bytes]]]] | None = None

    def start(self, threads: ThreadPoolExecutor) -> None:
        """Go on in a thread until the draft is complete."""
        self._done = asyncio.get_running_loop().run_in_executor(threads, self._run)
        self._done.add_done_callback(lambda done: done.cancelled() or done.exception())  # It is told who asks for it.

    async def packed(self) -> tuple[dict[str, Content], list[tuple[str, bytes]]]:
        """Where all files are, when all packs but the last one are durable; and that one, which isn't stored yet."""
        assert self._done is not None
        files, last = await asyncio.shield(self._done)
        await self.puts.settled()
        return files, last

    async def undo(self) -> None:
        """The image has failed, or isn't wanted: forget its packs, if the store lets us. What stays is found by `strays`."""
        self.puts.abandon()
        if self._done is not None:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._done)
        await self.puts.undone([pack.id for pack in self.packer.packs])

    def _run(self) -> tuple[dict[str, Content], list[tuple[str, bytes]]]:
        directory, memory = self._draft.criu, dict[str, Pages]()
        is_whole = False
        while not is_whole:
            is_whole = self._draft.is_dumped.wait(_LOOK_INTERVAL_S)
            for name in sorted(os.listdir(directory)):
                if name.startswith("pages-"):
                    pages = memory.get(name) or memory.setdefault(name, Pages(directory / name))
                    size = pages.path.stat().st_size
                    if is_whole or size - pages.done - pages.seen >= _WORTH_A_LOOK:
                        self.cutter.memory(pages, size, is_whole=is_whole)
            self._check()
        files = {name: pages.content for name, pages in memory.items()}
        for name in sorted(os.listdir(directory)):
            if name not in files and not name.endswith(".log"):
                files[name] = self.cutter.plain(Mapped(directory / name))
        while not self._draft.is_complete.wait(1.0):
            self._check()
        if self._draft.files.exists():
            tar = Mapped(self._draft.files)
            files[FILES] = self.cutter.plain(tar, tars.large_members(tar.view))
        self.cutter.settle()
        return files, self.packer.finish()

    def _check(self) -> None:
        if self.puts.is_abandoned:
            raise Abandoned


class _Puts:
    """Packs on their way into the store, put from a thread that goes on gathering the next one."""

    def __init__(self, objects: Objects, loop: asyncio.AbstractEventLoop) -> None:
        self._objects = objects
        self._loop = loop
        self._room = threading.Semaphore(_PUTS_AT_ONCE)
        self._under_way: list[Future[None]] = []
        self.is_abandoned = False

    def put(self, name: str, data: bytes) -> None:
        """Called in a thread. It blocks when the store falls behind, and fails when the store has failed."""
        self._room.acquire()
        if self.is_abandoned:
            raise Abandoned
        for done in self._under_way:
            if done.done():
                done.result()
        done = asyncio.run_coroutine_threadsafe(self._put(name, data), self._loop)
        done.add_done_callback(lambda _: self._room.release())
        self._under_way.append(done)

    async def _put(self, name: str, data: bytes) -> None:
        await self._objects.put(name, data)

    async def settled(self) -> None:
        """All are durable."""
        await asyncio.gather(*(asyncio.wrap_future(done) for done in self._under_way))

    def abandon(self) -> None:
        """Put nothing more."""
        self.is_abandoned = True
        self._room.release()

    async def undone(self, packs: Collection[str]) -> None:
        """Delete these, once nothing is under way."""
        await asyncio.gather(*(asyncio.wrap_future(done) for done in self._under_way), return_exceptions=True)
        with contextlib.suppress(ObjectsDown):
            await self._objects.delete([f"packs/{pack_id}" for pack_id in packs])

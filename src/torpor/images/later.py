"""Memory that doesn't become a file: it is read where it is stored, when a process that was restored without it wants it.

Nothing else is different: every byte is authenticated before anybody gets it.

What a process waits for is fetched frame by frame. For the rest, longer parts of packs are fetched ahead, in the order of
the pages file: from a bucket one request for each megabyte would be slow.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from torpor.errors import ImageMissing
from torpor.images.lay import Wanted, opened, ranges
from torpor.images.manifest import Content, Frame
from torpor.images.pages import PageMap
from torpor.images.seal import Key
from torpor.images.shelf import Base
from torpor.objects import ObjectMissing, Objects, ObjectsDown

PATIENCE_S = 60.0
"""For so long a store that is down is asked again. Those who want the memory stand still meanwhile."""

_AHEAD = 3
"""Parts of packs that are fetched before they are wanted."""

_KEPT_PARTS = 6
_KEPT_FRAMES = 48


@dataclass
class _Part:
    """Of a pack, fetched as one."""

    pack_id: str
    start: int
    size: int
    frames: Sequence[Frame]


class Stored:
    """What is stored of one image. Read from any thread but that of the loop in which it was made."""

    def __init__(self, objects: Objects, key: Key, base: Base | None) -> None:
        self._objects = objects
        self._key = key
        self._base = base
        self._loop = asyncio.get_running_loop()
        self._expected: list[tuple[Content, Sequence[tuple[int, int, int]]]] = []
        self._planning = threading.Lock()
        self._lock = threading.Lock()
        self._parts: list[_Part] = []
        self._part_of: dict[tuple[str, int], int] = {}
        self._fetched: OrderedDict[int, Future[Any]] = OrderedDict()
        self._begun: set[int] = set()  # parts that were fetched once: what is wanted of them again is fetched alone
        self._opened: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def expect(self, content: Content, runs: Sequence[tuple[int, int, int]]) -> None:
        """These runs of this file will be read, roughly in this order."""
        self._expected.append((content, runs))

    def _plan(self) -> None:
        """What to fetch ahead. Done by the first who reads ahead, as it takes time and nobody waits for it."""
        wanted: dict[tuple[str, int], Wanted] = {}
        for content, runs in self._expected:
            for _, offset, size in runs:
                for frame, at, length in content.pieces(offset, size):
                    if frame is not None and self._at_hand(frame, at, length) is None:
                        wanted.setdefault((frame.pack.id, frame.number), Wanted(frame))
        self._expected.clear()
        order = {name: number for number, name in enumerate(wanted)}
        parts = [
            _Part(pack_id, start, size, [each.frame for each in some]) for pack_id, start, size, some in ranges(wanted)
        ]
        parts.sort(key=lambda part: min(order[part.pack_id, frame.number] for frame in part.frames))
        with self._lock:
            self._parts = parts
            for number, part in enumerate(parts):
                for frame in part.frames:
                    self._part_of[part.pack_id, frame.number] = number

    def read(self, content: Content, offset: int, size: int, *, hurry: bool) -> bytes:
        """A part of a file.

        Raises:
            ImageDamaged: it was changed, cut short or swapped, or (ImageMissing) isn't there.
            ObjectsDown: it could not be read for a long time.
        """
        if not hurry:
            with self._planning:
                if self._expected:
                    self._plan()
        found: list[Any] = []
        for frame, at, length in content.pieces(offset, size):
            if frame is None:
                found.append(bytes(length))
            elif (at_hand := self._at_hand(frame, at, length)) is not None:
                found.append(at_hand)
            else:
                found.append(self._content(frame, hurry)[at : at + length])
        return b"".join(found)

    def _at_hand(self, frame: Frame, offset: int, length: int) -> Any | None:
        return self._base.content(frame, offset, length) if self._base is not None else None

    def _content(self, frame: Frame, hurry: bool) -> Any:
        name = (frame.pack.id, frame.number)
        with self._lock:
            if name in self._opened:
                self._opened.move_to_end(name)
                return self._opened[name]
            number = self._part_of.get(name)
            fetched = self._fetched.get(number) if number is not None else None
            if number is not None and not hurry and (fetched is not None or number not in self._begun):
                fetched = self._fetch_from(number)
        if number is None or fetched is None or (hurry and not fetched.done()):
            part = _Part(frame.pack.id, frame.offset, frame.stored, [frame])
            fetched = asyncio.run_coroutine_threadsafe(self._fetch(part), self._loop)
        else:
            part = self._parts[number]
        content = opened(self._key, frame, fetched.result(), part.start)
        with self._lock:
            self._opened[name] = content
            while len(self._opened) > _KEPT_FRAMES:
                self._opened.popitem(last=False)
        return content

    def _fetch_from(self, first: int) -> Future[Any]:
        """This part, and those behind it before somebody waits for them."""
        for number in range(first, min(first + 1 + _AHEAD, len(self._parts))):
            if number not in self._begun:
                self._begun.add(number)
                coroutine = self._fetch(self._parts[number])
                self._fetched[number] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._fetched.move_to_end(first)
        while len(self._fetched) > _KEPT_PARTS:
            self._fetched.popitem(last=False)
        return self._fetched[first]

    async def _fetch(self, part: _Part) -> Any:
        end, pause_s = time.monotonic() + PATIENCE_S, 0.1
        while True:
            try:
                return memoryview(await self._objects.get_range(f"packs/{part.pack_id}", part.start, part.size))
            except ObjectMissing:
                raise ImageMissing(f"pack {part.pack_id} is not in the object store") from None
            except ObjectsDown:
                if time.monotonic() + pause_s > end:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 5.0)


@dataclass(frozen=True)
class Later:
    """The memory of one process of an image; CRIU can restore the process without these runs of it.

    Attributes:
        pid: in the image.
        runs: address, offset in the pages file, bytes.
    """

    pid: int
    runs: Sequence[tuple[int, int, int]]
    content: Content
    stored: Stored = field(repr=False)

    @property
    def size(self) -> int:
        """Of the pages file."""
        return self.content.size

    def read(self, offset: int, size: int, *, hurry: bool) -> bytes:
        """See `Stored.read`."""
        return self.stored.read(self.content, offset, size, hurry=hurry)


def put_off(map: PageMap, content: Content, stored: Stored) -> tuple[Later, Content]:
    """Split the memory of a process: what can come later, and the pages file with zeros there."""
    stored.expect(content, map.lazy)
    now = Content()
    for _, offset, size in map.lazy:
        _append(now, content, now.size, offset)
        now.append(None, 0, size)
    _append(now, content, now.size, content.size)
    pid = int(map.name.removeprefix("pagemap-").removesuffix(".img"))
    return Later(pid, map.lazy, content, stored), now


def _append(to: Content, content: Content, start: int, end: int) -> None:
    for frame, at, length in content.pieces(start, end - start):
        to.append(frame, at, length)

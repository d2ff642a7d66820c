"""New content becomes packs: gathered into frames, compressed and sealed by all cores at once, put while more comes."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from torpor import ids
from torpor.images import compression
from torpor.images.manifest import Frame, PackRef
from torpor.images.seal import Key, PackSeal

FRAME_BYTES = 1 << 20
"""What is compressed and sealed as one. Smaller ones compress worse, and each is a call; of larger ones, fewer at once."""

PACK_BYTES = 16 << 20
"""Content of one pack. A gigabyte is then some sixty objects."""

_UNDER_WAY = 3
"""Packs that may wait for their frames before more is gathered: what is held in memory."""


@dataclass
class _Open:
    pack: PackRef
    seal: PackSeal
    frames: list[tuple[Frame, Future[Any]]]
    raw: int = 0


class Packer:
    """Takes content, says at once where it will be, and makes packs of it."""

    def __init__(self, key: Key, pool: Executor, put: Callable[[str, bytes], None]) -> None:
        """`put` keeps a finished pack and returns soon; it may block to let the store catch up."""
        self._key = key
        self._pool = pool
        self._put = put
        self._frame: Frame | None = None
        self._parts: list[Any] = []
        self._size = 0
        self._filling: _Open | None = None
        self._closed: deque[_Open] = deque()
        self.packs: list[PackRef] = []

    def add(self, content: Any) -> tuple[Frame, int]:
        """Store this, at most FRAME_BYTES: which frame it will be in, and at which offset. It must stay as it is."""
        size = len(content)
        if self._frame is None or self._size + size > FRAME_BYTES:
            self._end_frame()
            self._frame = self._begin_frame()
        offset = self._size
        self._parts.append(content)
        self._size += size
        return self._frame, offset

    def finish(self) -> list[tuple[str, bytes]]:
        """No more comes: all but the last pack have been put; the last one, if there is one, is returned."""
        self._end_frame()
        self._end_pack()
        while len(self._closed) > 1:
            self._hand_over()
        return [self._assembled(self._closed.popleft())] if self._closed else []

    def _begin_frame(self) -> Frame:
        if self._filling is None:
            pack = PackRef(ids.new("pack"), self._key.id)
            self._filling = _Open(pack, self._key.pack(pack.id), [])
            self.packs.append(pack)
        return Frame(self._filling.pack, len(self._filling.frames), 0)

    def _end_frame(self) -> None:
        if self._frame is None:
            return
        filling = self._filling
        assert filling is not None
        frame, parts = self._frame, self._parts
        frame.raw = self._size
        filling.frames.append((frame, self._pool.submit(_sealed, filling.seal, frame, parts)))
        filling.raw += self._size
        self._frame, self._parts, self._size = None, [], 0
        if filling.raw + FRAME_BYTES > PACK_BYTES:
            self._end_pack()

    def _end_pack(self) -> None:
        if self._filling is not None:
            self._closed.append(self._filling)
            self._filling = None
        while self._closed and (
            len(self._closed) > _UNDER_WAY or all(done.done() for _, done in self._closed[0].frames)
        ):
            if len(self._closed) == 1:
                break  # It may be the last one, which goes together with the manifest.
            self._hand_over()

    def _hand_over(self) -> None:
        self._put(*self._assembled(self._closed.popleft()))

    def _assembled(self, each: _Open) -> tuple[str, bytes]:
        sealed: list[Any] = []
        for frame, done in each.frames:
            body = done.result()
            frame.offset, frame.stored = each.pack.size_bytes, len(body)
            each.pack.size_bytes += len(body)
            sealed.append(body)
        return f"packs/{each.pack.id}", b"".join(sealed) if len(sealed) > 1 else sealed[0]


def _sealed(seal: PackSeal, frame: Frame, parts: list[Any]) -> bytes:
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    frame.method, small = compression.squeezed(body)
    return seal.seal(frame.number, small, frame.told())


def opened(key: Key, frame: Frame, sealed: Any) -> Any:
    """The content of a frame.

    Raises:
        ImageDamaged: it was changed, cut short or swapped.
    """
    body = key.pack(frame.pack.id).open(frame.number, sealed, frame.told())
    return compression.restored(frame.method, body, frame.raw)

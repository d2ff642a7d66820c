"""What an image consists of: its files, and where each of their bytes is.

A file is a list of extents, one after the other: so many bytes of a frame from an offset on, or zeros. A frame is what was
compressed and sealed as one, up to a megabyte of pages; a pack is an object with several frames. The manifest names
the frames itself, also those of other images' packs: an image is read without anybody else's manifest.
"""

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from torpor.errors import ImageDamaged
from torpor.images import compression

NAME_BYTES = 16
"""of a page's or block's name"""

_FORMAT = 1
_ZEROS = 0xFFFFFFFF
_LONGEST = 1 << 30


@dataclass(eq=False)
class PackRef:
    """An object with frames."""

    id: str
    key_id: str
    size_bytes: int = 0
    """as stored; known when the pack is complete"""


@dataclass(eq=False, slots=True)
class Frame:
    """What was compressed and sealed as one."""

    pack: PackRef
    number: int
    """in its pack, from 0"""
    raw: int
    """bytes of content"""
    method: int = 0
    """how it is compressed"""
    offset: int = 0
    """in its pack"""
    stored: int = 0
    """bytes in its pack"""

    def told(self) -> bytes:
        """What a reader must know of it before it is opened; sealed along."""
        return self.raw.to_bytes(4, "little") + bytes([self.method])


Extent = tuple[Frame | None, int, int]
"""frame, or None for zeros; offset in its content; bytes"""


@dataclass
class Content:
    """The bytes of one file."""

    extents: list[Extent] = field(default_factory=list)
    size: int = 0
    _starts: list[int] | None = None

    def append(self, frame: Frame | None, offset: int, length: int) -> None:
        """So many bytes of this frame come next."""
        if self.extents:
            last, at, long = self.extents[-1]
            if last is frame and (frame is None or at + long == offset) and long + length <= _LONGEST:
                self.extents[-1] = (last, at, long + length)
                self.size += length
                return
        self.append_apart(frame, offset, length)

    def append_apart(self, frame: Frame | None, offset: int, length: int) -> int:
        """As `append`, but never joined with what is before; returns the number of this extent."""
        self.extents.append((frame, offset, length))
        self.size += length
        return len(self.extents) - 1

    def pieces(self, offset: int, length: int) -> Iterator[Extent]:
        """Where these bytes of the file are."""
        if self._starts is None:
            starts, at = list[int](), 0
            for _, _, long in self.extents:
                starts.append(at)
                at += long
            self._starts = starts  # Complete before another thread can see it.
        number = bisect_right(self._starts, offset) - 1
        while length:
            frame, at, long = self.extents[number]
            skip = offset - self._starts[number]
            piece = min(long - skip, length)
            yield frame, at + skip, piece
            offset, length, number = offset + piece, length - piece, number + 1


@dataclass
class Manifest:
    """An image."""

    image_id: str
    key_id: str
    base: str | None
    facts: dict[str, Any]
    files: dict[str, Content]
    created_at: float = 0.0
    blocks: list[tuple[bytes, Frame, int]] = field(default_factory=list)
    """names of blocks that were stored for this image, and where they are: for the index of whoever fetches it"""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(content.size for content in self.files.values())

    def frames(self) -> dict[tuple[str, int], Frame]:
        """All that are referred to, by pack and number. (The same frame may have come from several manifests.)"""
        seen = {frame for content in self.files.values() for frame, _, _ in content.extents if frame is not None}
        return {(frame.pack.id, frame.number): frame for frame in seen}

    def packs(self) -> dict[str, PackRef]:
        """All that are referred to."""
        return {frame.pack.id: frame.pack for frame in self.frames().values()}


class _File(msgspec.Struct, array_like=True):
    name: str
    size: int
    extents: bytes


class _Pack(msgspec.Struct, array_like=True):
    id: str
    size_bytes: int
    frames: list[tuple[int, int, int, int, int]]  # number, raw, method, offset, stored


class _Manifest(msgspec.Struct):
    format: int
    image_id: str
    key_id: str
    base: str | None
    created_at: float
    facts: dict[str, Any]
    packs: list[_Pack]
    files: list[_File]
    blocks: tuple[bytes, bytes, bytes]  # names, numbers of frames, offsets


def encode(manifest: Manifest) -> bytes:
    """The manifest as bytes, to be sealed."""
    frames = manifest.frames()
    packs: dict[str, _Pack] = {}
    numbers: dict[tuple[str, int], int] = {}
    for name in sorted(frames):
        frame = frames[name]
        numbers[name] = len(numbers)
        pack = packs.setdefault(frame.pack.id, _Pack(frame.pack.id, frame.pack.size_bytes, []))
        pack.frames.append((frame.number, frame.raw, frame.method, frame.offset, frame.stored))
    body = _Manifest(
        format=_FORMAT,
        image_id=manifest.image_id,
        key_id=manifest.key_id,
        base=manifest.base,
        created_at=manifest.created_at,
        facts=manifest.facts,
        packs=list(packs.values()),
        files=[_File(name, each.size, _columns(each, numbers)) for name, each in manifest.files.items()],
        blocks=(
            b"".join(name for name, _, _ in manifest.blocks),
            _bytes_of(array("I", [numbers[frame.pack.id, frame.number] for _, frame, _ in manifest.blocks])),
            _bytes_of(array("I", [offset for _, _, offset in manifest.blocks])),
        ),
    )
    return compression.whole(msgspec.msgpack.encode(body))


def decode(image_id: str, key_id: str, content: bytes) -> Manifest:
    """Read a manifest that was opened with this key.

    Raises:
        ImageDamaged: it is of a format that this version doesn't know, or says what can't be.
    """
    try:
        body = msgspec.msgpack.decode(compression.opened(content), type=_Manifest)
        if body.format != _FORMAT:
            raise ImageDamaged(f"image {image_id}: its format ({body.format}) is of a newer version of torpor")
        if (body.image_id, body.key_id) != (image_id, key_id):
            raise ValueError("it is another image's")
        frames: list[Frame] = []
        for pack in body.packs:
            ref = PackRef(pack.id, key_id, pack.size_bytes)
            frames += [Frame(ref, number, raw, how, at, stored) for number, raw, how, at, stored in pack.frames]
        files = {file.name: _content(file, frames) for file in body.files}
        blocks = _blocks(body, frames)
    except (msgspec.MsgspecError, ValueError, IndexError) as error:
        raise ImageDamaged(f"image {image_id}: its manifest can't be read ({error})") from None
    return Manifest(image_id, key_id, body.base, body.facts, files, body.created_at, blocks)


def _columns(content: Content, numbers: dict[tuple[str, int], int]) -> bytes:
    """Column by column, and offsets as the distance to where the extent before would go on: that compresses well."""
    which, where, lengths = array("I"), array("i"), array("I")
    expected = 0
    of_frame: dict[Frame | None, int] = {None: _ZEROS}
    for frame, offset, length in content.extents:
        number = of_frame.get(frame)
        if number is None:
            assert frame is not None
            number = of_frame[frame] = numbers[frame.pack.id, frame.number]
        which.append(number)
        where.append(offset - expected)
        lengths.append(length)
        expected = offset + length if frame is not None else 0
    return b"".join(_bytes_of(column) for column in (which, where, lengths))


def _bytes_of(column: "array[int]") -> bytes:
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _column(code: str, content: bytes) -> "array[int]":
    column = array(code)
    column.frombytes(content)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _blocks(body: _Manifest, frames: list[Frame]) -> list[tuple[bytes, Frame, int]]:
    names, which, where = body.blocks
    placed = zip(_column("I", which), _column("I", where), strict=True)
    return [(names[n * NAME_BYTES :][:NAME_BYTES], frames[frame], at) for n, (frame, at) in enumerate(placed)]


def _content(file: _File, frames: list[Frame]) -> Content:
    if "/" in file.name or file.name in ("", ".", "..") or len(file.extents) % 12:
        raise ValueError("a file that can't be")
    rows = len(file.extents) // 12
    columns = [_column(code, file.extents[n * rows * 4 :][: rows * 4]) for n, code in enumerate("IiI")]
    found = Content()
    expected = 0
    for which, where, length in zip(*columns, strict=True):
        frame = None if which == _ZEROS else frames[which]
        offset = expected + where
        if frame is not None and not 0 <= offset <= offset + length <= frame.raw:
            raise ValueError("an extent outside its frame")
        found.append_apart(frame, offset, length)
        expected = offset + length if frame is not None else 0
    if found.size != file.size:
        raise ValueError("a file whose parts are not its size")
    return found

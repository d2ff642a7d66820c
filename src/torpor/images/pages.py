"""CRIU's page maps: at which address each page of a `pages-*.img` was.

    pagemap-1.img           magic, magic; then messages, each behind its length: one head (which pages file), many entries
    pages-2.img             the pages that the entries tell of, one after the other, and nothing else

An entry is a run of pages from one address on. Only those that are present have their pages in the pages file. The same
goes for shared memory (`pagemap-shmem-*.img`), whose addresses are offsets.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

PAGE = 4096

_MAGICS = struct.pack("<II", 0x54564319, 0x56084025)
_IN_PARENT, _LAZY, _PRESENT = 1, 2, 4


@dataclass
class PageMap:
    """One pages file, and where its pages were."""

    name: str
    """of the map, such as `pagemap-1.img`: the same process of another image has the same one"""
    pages: str
    """of the pages file"""
    runs: list[tuple[int, int, int]] = field(default_factory=list)
    """address, offset in the pages file, bytes; in the order of the file"""
    lazy: list[tuple[int, int, int]] = field(default_factory=list)
    """those that CRIU can restore a process without: plain private memory"""

    @property
    def size(self) -> int:
        return self.runs[-1][1] + self.runs[-1][2] if self.runs else 0


def parse(name: str, content: bytes) -> PageMap:
    """Read one page map.

    Raises:
        ValueError: that is none, or one of a kind that we don't know.
    """
    if not content.startswith(_MAGICS):
        raise ValueError(f"{name} is no page map")
    messages = _messages(content, len(_MAGICS))
    head = dict(_fields(next(messages, b"")))
    found = PageMap(name, f"pages-{head.get(1, 0)}.img")
    offset = 0
    for message in messages:
        entry = dict(_fields(message))
        pages = entry.get(5) or entry.get(2, 0)
        flags = entry.get(4, 0)
        if entry.get(3) or flags & _IN_PARENT or (4 in entry and not flags & _PRESENT):
            continue  # Its pages are not in this file.
        found.runs.append((entry[1], offset, pages * PAGE))
        if flags & _LAZY:
            found.lazy.append(found.runs[-1])
        offset += pages * PAGE
    return found


def _messages(content: bytes, at: int) -> Iterator[bytes]:
    while at < len(content):
        if at + 4 > len(content):
            raise ValueError("cut short")
        (size,) = struct.unpack_from("<I", content, at)
        at += 4
        if at + size > len(content):
            raise ValueError("cut short")
        yield content[at : at + size]
        at += size


def _fields(message: bytes) -> Iterator[tuple[int, int]]:
    """The fields of a protobuf message that has numbers only."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7:
            raise ValueError("a field of another type")
        value, at = _varint(message, at)
        yield tag >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message):
            raise ValueError("cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7

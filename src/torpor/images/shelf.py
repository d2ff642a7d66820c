"""Bases at hand: the memory of warm images, mapped, so that what a freeze has in common with its base is found by comparing.

A base on the shelf was either published from here or fetched and verified. What lies in memory also serves to lay other
images; what lies on a disk, where it could rot unnoticed, serves for comparing only.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torpor.images.manifest import Content, Frame, Manifest
from torpor.images.mapped import Mapped
from torpor.images.pages import PageMap, page_maps
from torpor.images.workspace import Place, Workspace


@dataclass
class Memory:
    """One pages file of a base."""

    map: PageMap
    mapped: Mapped
    content: Content
    _runs: list[tuple[int, int, int]] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._runs = sorted(self.map.runs)
        self._starts = [address for address, _, _ in self._runs]

    def beside(self, address: int, size: int) -> Iterator[tuple[int, int | None]]:
        """Cut these addresses where the base begins or ends to have pages: bytes, and their offset in its pages file."""
        number = max(bisect_right(self._starts, address) - 1, 0)
        while size:
            while number < len(self._runs) and sum(self._runs[number][::2]) <= address:
                number += 1
            if number == len(self._runs) or self._runs[number][0] >= address + size:
                yield size, None
                return
            start, offset, length = self._runs[number]
            if start > address:
                yield start - address, None
                address, size = start, size - (start - address)
            piece = min(size, start + length - address)
            yield piece, offset + address - start
            address, size = address + piece, size - piece


class Base:
    """A warm image at hand."""

    def __init__(self, manifest: Manifest, place: Place) -> None:
        self.image_id = manifest.image_id
        self.key_id = manifest.key_id
        self.place = place
        maps = page_maps(place.path)
        self.memories = [Memory(each, Mapped(place.path / each.pages), manifest.files[each.pages]) for each in maps]
        self.packs = set(manifest.packs())
        self._where: dict[tuple[str, int], list[tuple[int, int, Any]]] = {}
        if place.in_memory:
            for memory in self.memories:
                at = 0
                for frame, offset, length in memory.content.extents:
                    if frame is not None:
                        view = memory.mapped.view[at : at + length]
                        self._where.setdefault((frame.pack.id, frame.number), []).append(
                            (offset, offset + length, view)
                        )
                    at += length
            for pieces in self._where.values():
                pieces.sort(key=lambda piece: piece[0])

    def like(self, map: PageMap) -> Memory | None:
        """The memory to compare this one with: of the same process, else of the first one, which all others forked from."""
        return next((each for each in self.memories if each.map.name == map.name), next(iter(self.memories), None))

    def content(self, frame: Frame, offset: int, length: int) -> Any | None:
        """This part of a frame, if it is in memory as a whole."""
        pieces = self._where.get((frame.pack.id, frame.number))
        if not pieces:
            return None
        start, end, view = pieces[max(bisect_right(pieces, offset, key=lambda piece: piece[0]) - 1, 0)]
        return view[offset - start : offset - start + length] if start <= offset and offset + length <= end else None


class Shelf:
    """The bases used last."""

    def __init__(self, workspace: Workspace, most: int = 4) -> None:
        self._workspace = workspace
        self._most = most
        self._bases: OrderedDict[str, Base] = OrderedDict()

    def get(self, image_id: str) -> Base | None:
        """This base, if it is at hand."""
        found = self._bases.get(image_id)
        if found is not None:
            self._bases.move_to_end(image_id)
        return found

    def put(self, base: Base) -> None:
        """Keep this one; the one used least makes room."""
        old = self._bases.pop(base.image_id, None)
        if old is not None:
            self._workspace.end(old.place)
        self._bases[base.image_id] = base
        while len(self._bases) > self._most:
            _, old = self._bases.popitem(last=False)
            self._workspace.end(old.place)

    def forget(self, image_id: str) -> None:
        """It is deleted."""
        old = self._bases.pop(image_id, None)
        if old is not None:
            self._workspace.end(old.place)

"""Bases at hand: the memory of warm images, mapped, so that what a freeze has in common with its base is found by comparing.

A base on the shelf was either published from here or fetched and verified. What lies in memory also serves to lay other
images; what lies on a disk, where it could rot unnoticed, serves for comparing only.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torpor.images import prints
from torpor.images.manifest import Content, Frame, Manifest
from torpor.images.mapped import Mapped
from torpor.images.pages import PAGE
from torpor.images.workspace import Place, Workspace


@dataclass
class Memory:
    """One pages file of a base."""

    mapped: Mapped
    content: Content


class Base:
    """A warm image at hand."""

    def __init__(self, manifest: Manifest, place: Place) -> None:
        self.image_id = manifest.image_id
        self.key_id = manifest.key_id
        self.place = place
        self.packs = set(manifest.packs())
        names = sorted(name for name in manifest.files if name.startswith("pages-"))
        self.memories = [Memory(Mapped(place.path / name), manifest.files[name]) for name in names]
        self.pages = _by_print(self.memories)
        """by their prints: a page that looks like this, and its offset; whether it is equal is to be compared"""
        self._where = _by_frame(self.memories) if place.in_memory else {}

    def content(self, frame: Frame, offset: int, length: int) -> Any | None:
        """This part of a frame, if it is in memory as a whole."""
        pieces = self._where.get((frame.pack.id, frame.number))
        if not pieces:
            return None
        start, end, view = pieces[max(bisect_right(pieces, offset, key=lambda piece: piece[0]) - 1, 0)]
        return view[offset - start : offset - start + length] if start <= offset and offset + length <= end else None


def _by_print(memories: list[Memory]) -> dict[int, tuple[Memory, int]]:
    found: dict[int, tuple[Memory, int]] = {}
    for memory in memories:
        words = prints.words(memory.mapped.view)
        for page in range(memory.mapped.size // PAGE):
            found.setdefault(prints.of(words, page), (memory, page * PAGE))
    found.pop(0, None)
    return found


def _by_frame(memories: list[Memory]) -> dict[tuple[str, int], list[tuple[int, int, Any]]]:
    found: dict[tuple[str, int], list[tuple[int, int, Any]]] = {}
    for memory in memories:
        at = 0
        for frame, offset, length in memory.content.extents:
            if frame is not None:
                view = memory.mapped.view[at : at + length]
                found.setdefault((frame.pack.id, frame.number), []).append((offset, offset + length, view))
            at += length
    for pieces in found.values():
        pieces.sort(key=lambda piece: piece[0])
    return found


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
        if old is not None and old.place.path != base.place.path:
            self._workspace.end(old.place)
        self._bases[base.image_id] = base
        while len(self._bases) > self._most:
            _, old = self._bases.popitem(last=False)
            self._workspace.end(old.place)

    def distrust(self, packs: Collection[str]) -> None:
        """Some of these packs are damaged: a base that has to do with them is fetched, and verified, before it is used again."""
        for image_id in [image_id for image_id, base in self._bases.items() if base.packs.intersection(packs)]:
            self.forget(image_id)

    def forget(self, image_id: str) -> None:
        """It is deleted."""
        old = self._bases.pop(image_id, None)
        if old is not None:
            self._workspace.end(old.place)

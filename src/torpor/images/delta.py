"""What of an image is new: compared with its base by address, with everything else by name.

    a page as in the base          a reference to where the base's page is
    sixteen pages, aligned         a reference to an equal block that somebody stored, else page by page
    a page                         a reference to an equal page that somebody stored, else stored
    zeros                          nothing

A gigabyte that isn't in the base has 16,384 blocks and 262,144 pages, and hashing costs a call each. So after the first
pages only blocks have names.

A reference keeps a whole pack alive and makes a thaw fetch from it. One to another image than the base must be worth that:
packs of which little is used are not referred to, and no more than a few.
"""

from collections.abc import Collection
from typing import Any

from blake3 import blake3

from torpor.images.index import Index, Named
from torpor.images.manifest import Content, Frame
from torpor.images.mapped import Mapped, runs
from torpor.images.packs import Packer
from torpor.images.pages import PAGE, PageMap
from torpor.images.seal import Key
from torpor.images.shelf import Base, Memory

BLOCK = 16 * PAGE

PAGES_NAMED = 16384
"""So many new pages of an image have names of their own: 64 MB."""

WORTH_A_PACK = 64 << 10
"""Bytes to save, for which a pack of another image is referred to."""

MOST_PACKS = 24
"""of other images than the base"""

_ZEROS = bytes(BLOCK)


class Cutter:
    """Turns the files of one image into references and new content."""

    def __init__(
        self, key: Key, packer: Packer, index: Index, *, base: Base | None, without: Collection[str] = ()
    ) -> None:
        self._naming = key.naming
        self._packer = packer
        self._index = index
        self._base = base
        self._without = without
        self._fresh: dict[bytes, tuple[Frame, int]] = {}
        self._found: dict[str, list[tuple[Content, int, Any]]] = {}
        self._pages_left = PAGES_NAMED
        self._base_packs = base.packs if base is not None else set[str]()

    def memory(self, map: PageMap, mapped: Mapped) -> Content:
        """A pages file."""
        content = Content()
        beside = self._base.like(map) if self._base is not None else None
        for address, offset, size in map.runs:
            if beside is None:
                self._differing(content, mapped.view, address, offset, size)
            else:
                self._compared(content, mapped, beside, address, offset, size)
        return content

    def plain(self, mapped: Mapped) -> Content:
        """Any other file."""
        content = Content()
        for at in range(0, mapped.size, BLOCK):
            view = mapped.view[at : at + BLOCK]
            self._named(content, view, self._name(view))
        return content

    def settle(self) -> None:
        """All files are cut: take back references that aren't worth it."""
        worth = sorted(self._found, key=lambda pack: -sum(len(view) for _, _, view in self._found[pack]))
        for rank, pack in enumerate(worth):
            found = self._found[pack]
            if rank >= MOST_PACKS or sum(len(view) for _, _, view in found) < WORTH_A_PACK:
                for content, number, view in found:
                    frame, offset = self._packer.add(view)
                    content.extents[number] = (frame, offset, len(view))

    def named(self) -> list[Named]:
        """What has been stored for this image, for the index once it is durable."""
        return [(name, frame, offset) for name, (frame, offset) in self._fresh.items()]

    def _compared(self, content: Content, mapped: Mapped, beside: Memory, address: int, offset: int, size: int) -> None:
        for length, there in beside.beside(address, size):
            if there is None:
                self._differing(content, mapped.view, address, offset, length)
            else:
                for equal, at, long in runs(mapped, offset, beside.mapped, there, length):
                    if equal:
                        self._like_base(content, mapped.view, beside, at, there + at - offset, long)
                    else:
                        self._differing(content, mapped.view, address + at - offset, at, long)
            address, offset = address + length, offset + length

    def _like_base(self, content: Content, view: Any, beside: Memory, at: int, there: int, size: int) -> None:
        for frame, offset, length in beside.content.pieces(there, size):
            if frame is None or frame.pack.id not in self._without:
                content.append(frame, offset, length)
            else:
                self._differing(content, view, 0, at, length)
            at += length

    def _differing(self, content: Content, view: Any, address: int, offset: int, size: int) -> None:
        """Pages that the base doesn't have there, block by block where whole blocks are."""
        end = offset + size
        while offset < end:
            step = min(BLOCK - address % BLOCK, end - offset)
            if step == BLOCK:
                self._block(content, view[offset : offset + BLOCK])
            else:
                for at in range(offset, offset + step, PAGE):
                    self._page(content, view[at : at + PAGE])
            address, offset = address + step, offset + step

    def _block(self, content: Content, view: Any) -> None:
        if _is_zeros(view):
            content.append(None, 0, BLOCK)
            return
        name = self._name(view)
        if self._pages_left <= 0:
            self._named(content, view, name)
            return
        if self._refer(content, view, name):
            return
        self._pages_left -= BLOCK // PAGE
        pages = [(page := view[at : at + PAGE], self._name(page)) for at in range(0, BLOCK, PAGE)]
        if any(self._known(each) for _, each in pages):
            for page, each in pages:
                self._named(content, page, each)
            return
        frame, offset = self._packer.add(view)
        content.append(frame, offset, BLOCK)
        self._fresh[name] = (frame, offset)
        for number, (_, each) in enumerate(pages):
            self._fresh[each] = (frame, offset + number * PAGE)

    def _page(self, content: Content, view: Any) -> None:
        if _is_zeros(view):
            content.append(None, 0, PAGE)
        else:
            self._pages_left -= 1
            self._named(content, view, self._name(view))

    def _named(self, content: Content, view: Any, name: bytes) -> None:
        if not self._refer(content, view, name):
            frame, offset = self._packer.add(view)
            content.append(frame, offset, len(view))
            self._fresh[name] = (frame, offset)

    def _refer(self, content: Content, view: Any, name: bytes) -> bool:
        """A reference to something equal, if we know of it."""
        place = self._known(name)
        if place is None:
            return False
        frame, offset = place
        if name in self._fresh or frame.pack.id in self._base_packs:
            content.append(frame, offset, len(view))
        else:
            number = content.append_apart(frame, offset, len(view))
            self._found.setdefault(frame.pack.id, []).append((content, number, view))
        return True

    def _known(self, name: bytes) -> tuple[Frame, int] | None:
        found = self._fresh.get(name) or self._index.find(name)
        return found if found is None or found[0].pack.id not in self._without else None

    def _name(self, view: Any) -> bytes:
        return blake3(view, key=self._naming).digest(16)


def _is_zeros(view: Any) -> bool:
    return view[0] == 0 and view[-1] == 0 and bytes(view) == _ZEROS[: len(view)]

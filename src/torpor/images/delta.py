"""What of an image is new: compared with its base by looking beside, with everything else by name.

    pages as in the base       references to where the base's pages are
    a block of other pages     a reference to an equal block that somebody stored, else page by page
    a page                     a reference to an equal page that somebody stored, else stored
    zeros                      nothing

CRIU writes the memory in the order of its addresses, and a process has much of it in the order that its base had. So the pages
file is read beside the base's: where they differ, the page may have changed (both go on), or the print of a page of ours says
where in the base to go on. Nothing is needed for that but the pages themselves, so it begins while CRIU is still at work: the
page map, with the addresses, is written last.

A gigabyte that isn't in the base has some 16,000 blocks and 262,144 pages, and hashing costs a call each. So after the first
pages only blocks have names.

A reference keeps a whole pack alive and makes a thaw fetch from it. One to another image than the base must be worth that:
packs of which little is used are not referred to, or only a few of them.
"""

from collections.abc import Collection, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from blake3 import blake3

from torpor.images import prints
from torpor.images.index import Index, Named
from torpor.images.manifest import NAME_BYTES, Content, Frame
from torpor.images.mapped import Mapped, memcmp
from torpor.images.packs import Packer
from torpor.images.pages import PAGE
from torpor.images.seal import Key
from torpor.images.shelf import Base, Memory

STEP = 16 * PAGE
"""What is compared at once."""

BLOCK = 64 << 10
"""of files that are not memory"""

WINDOW = 4 << 20
"""How much of a pages file is looked at at once."""

PAGES_NAMED = 4096
"""So many new pages of an image have names of their own: 16 MB."""

WORTH_A_PACK = 64 << 10
"""Bytes to save, for which a pack of another image is referred to."""

WELL_USED = 1 << 20
MOST_PACKS = 24
"""of other images than the base, of which less than WELL_USED is used"""

_LOST_AFTER = 4 * STEP
"""After so many pages that differ from the base it is not compared beside any longer, until a print says where."""

_ZEROS = bytes(BLOCK)
_ZERO_PAGE = Mapped(Path("/dev/zero"), size=PAGE)


class Pages:
    """How far one pages file has been looked at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = Content()
        self.done = 0
        """bytes that `content` tells of"""
        self.seen = 0
        """bytes after them that were looked at: new ones, whose block hasn't ended yet"""
        self.beside: Memory | None = None
        self.shift = 0
        """where the base goes on: offset there minus offset here"""
        self.differing = 0
        """bytes since the last page that was as in the base"""

    def address_beside(self, offset: int) -> int:
        """Where in memory the base has what goes with this offset of ours."""
        assert self.beside is not None
        return self.beside.mapped.address + offset + self.shift


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
        self._blocks: list[Named] = []
        self._found: dict[str, list[tuple[Content, int, Any]]] = {}
        self._pages_left = PAGES_NAMED
        self._base_packs = base.packs if base is not None else set[str]()

    def memory(self, pages: Pages, size: int, *, is_whole: bool) -> None:
        """Go on with a pages file that has this size by now."""
        while pages.done + pages.seen + PAGE <= size:
            length = min(size - pages.done, WINDOW) // PAGE * PAGE
            self._window(pages, Mapped(pages.path, pages.done, length))
        if is_whole and pages.done < size:
            rest = Mapped(pages.path, pages.done, size - pages.done).view
            self._block(pages.content, rest[: pages.seen])
            self._named(pages.content, rest[pages.seen :], self._name(rest[pages.seen :]))
            pages.done, pages.seen = size, 0

    def plain(self, mapped: Mapped, starts: Iterable[int] = ()) -> Content:
        """Any other file. A block begins at each of these offsets, and every BLOCK bytes after it."""
        content = Content()
        for start, end in pairwise([0, *starts, mapped.size]):
            for at in range(start, end, BLOCK):
                view = mapped.view[at : min(at + BLOCK, end)]
                self._named(content, view, self._name(view))
        return content

    def settle(self) -> None:
        """All files are cut: take back references that aren't worth it."""
        used = {pack: sum(len(view) for _, _, view in found) for pack, found in self._found.items()}
        little_used = sorted((pack for pack in used if used[pack] < WELL_USED), key=lambda pack: -used[pack])
        for rank, pack in enumerate(little_used):
            if rank >= MOST_PACKS or used[pack] < WORTH_A_PACK:
                for content, number, view in self._found[pack]:
                    frame, offset = self._packer.add(view)
                    content.extents[number] = (frame, offset, len(view))

    def named(self) -> list[Named]:
        """What has been stored for this image, for the index once it is durable."""
        return [(name, frame, offset) for name, (frame, offset) in self._fresh.items()]

    def blocks(self) -> list[Named]:
        """Of that, whole blocks: for the manifest, so that whoever fetches the image can tell without hashing it."""
        return self._blocks

    # ---- Memory -------------------------------------------------------------------------------------------------

    def _window(self, pages: Pages, window: Mapped) -> None:
        """Look at some more pages; a block that hasn't ended stays undone."""
        view, address, size = window.view, window.address, window.size
        words = prints.words(view)
        first, start, at = pages.done, 0, pages.seen
        known = self._base.pages if self._base is not None else {}

        def end_block() -> None:
            nonlocal start
            if at > start:
                self._block(pages.content, view[start:at])
            start = at

        def like_base(length: int) -> None:
            nonlocal start, at
            end_block()
            assert pages.beside is not None
            self._like_base(pages.content, view[at : at + length], pages.beside, first + at + pages.shift)
            pages.differing = 0
            at += length
            start = at

        while at < size:
            step = min(STEP, size - at, self._left_beside(pages, first + at))
            if step > 0 and not memcmp(address + at, pages.address_beside(first + at), step):
                like_base(step)
                continue
            stop = min(at + STEP, size) if step > 0 else size  # nowhere to compare it with: until a print says where
            while at < stop:
                is_beside = step > 0 and self._left_beside(pages, first + at) > 0
                if is_beside and not memcmp(address + at, pages.address_beside(first + at), PAGE):
                    like_base(PAGE)
                    continue
                print = prints.of(words, at // PAGE)
                if print in known and self._turns_up(pages, known[print], address + at, first + at):
                    like_base(PAGE)
                    break
                if print == 0 and not memcmp(address + at, _ZERO_PAGE.address, PAGE):
                    end_block()
                    pages.content.append(None, 0, PAGE)
                    at += PAGE
                    start = at
                    continue
                at += PAGE
                pages.differing += PAGE
                if prints.ends_block(print) or at - start >= prints.MOST_PAGES * PAGE:
                    end_block()
        pages.done, pages.seen = first + start, at - start

    def _left_beside(self, pages: Pages, offset: int) -> int:
        """How much the base has from the place on that goes with this offset of ours."""
        if pages.beside is None:
            return 0
        if pages.differing >= _LOST_AFTER:
            pages.beside = None
            return 0
        return pages.beside.mapped.size - offset - pages.shift

    def _turns_up(self, pages: Pages, found: tuple[Memory, int], address: int, offset: int) -> bool:
        """Whether this page of the base, which looks like ours, is equal; then it is compared beside from there on."""
        memory, there = found
        if memcmp(address, memory.mapped.address + there, PAGE):
            return False
        pages.beside, pages.shift = memory, there - offset
        return True

    def _like_base(self, content: Content, view: Any, beside: Memory, there: int) -> None:
        at = 0
        for frame, offset, length in beside.content.pieces(there, len(view)):
            if frame is None or frame.pack.id not in self._without:
                content.append(frame, offset, length)
            else:
                for first in range(at, at + length, BLOCK):
                    self._block(content, view[first : min(first + BLOCK, at + length)])
            at += length

    def _block(self, content: Content, view: Any) -> None:
        """New pages, at most MOST_PAGES."""
        if not len(view):
            return
        name = self._name(view)
        if len(view) == PAGE or self._pages_left <= 0:
            self._pages_left -= 1
            self._named(content, view, name)
            return
        if self._refer(content, view, name):
            return
        self._pages_left -= len(view) // PAGE
        pages = [(page := view[at : at + PAGE], self._name(page)) for at in range(0, len(view), PAGE)]
        if any(self._known(each) for _, each in pages):
            for page, each in pages:
                self._named(content, page, each)
            return
        self._store(content, view, name)
        frame, offset = self._fresh[name]
        for number, (_, each) in enumerate(pages):
            self._fresh[each] = (frame, offset + number * PAGE)

    # ---- Names --------------------------------------------------------------------------------------------------

    def _named(self, content: Content, view: Any, name: bytes) -> None:
        if not len(view) or self._refer(content, view, name):
            return
        if view[0] == view[-1] == 0 and bytes(view) == _ZEROS[: len(view)]:
            content.append(None, 0, len(view))
            return
        self._store(content, view, name)

    def _store(self, content: Content, view: Any, name: bytes) -> None:
        frame, offset = self._packer.add(view)
        content.append(frame, offset, len(view))
        self._fresh[name] = (frame, offset)
        if len(view) > PAGE:
            self._blocks.append((name, frame, offset))

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
        return blake3(view, key=self._naming).digest(NAME_BYTES)

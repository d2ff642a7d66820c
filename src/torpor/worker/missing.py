"""Which pages of one address space are yet to come, and where their contents are. Plain bookkeeping.

Kept in pieces: each is whole in one block of one pages image, since blocks are what is read at once.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """Addresses from `start` to `end`, whose contents begin at `offset` of the pages image."""

    start: int
    end: int
    offset: int

    @property
    def block(self) -> int:
        """The number of the block that has the contents."""
        return self.offset // BLOCK


def pieces(runs: Iterable[tuple[int, int, int]]) -> Iterator[Piece]:
    """Runs of pages (address, offset in the pages image, bytes), cut at the borders of blocks."""
    for address, offset, size in runs:
        at, end = offset, offset + size
        while at < end:
            stop = min(end, (at // BLOCK + 1) * BLOCK)
            start = address + at - offset
            yield Piece(start, start + stop - at, at)
            at = stop


class Missing:
    """The missing pieces of one address space.

    Example:
        >>> missing = Missing(pieces([(0x10000, 0, 0x4000)]))
        >>> _ = missing.drop(0x11000, 0x12000)
        >>> [(hex(piece.start), hex(piece.end), piece.offset) for piece in missing]
        [('0x10000', '0x11000', 0), ('0x12000', '0x14000', 8192)]
        >>> missing.move(0x13000, 0x50000, 0x1000)
        >>> missing.at(0x50123)
        Piece(start=327680, end=331776, offset=12288)
        >>> missing.at(0x13000) is None
        True
    """

    def __init__(self, found: Iterable[Piece]) -> None:
        self._pieces = sorted(found)
        self._by_block: dict[int, set[Piece]] = {}
        for piece in self._pieces:
            self._by_block.setdefault(piece.block, set()).add(piece)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def copy(self) -> "Missing":
        return Missing(self._pieces)

    def at(self, address: int) -> Piece | None:
        """The piece that `address` is in."""
        place = bisect_right(self._pieces, address, key=_start) - 1
        if place >= 0 and address < self._pieces[place].end:
            return self._pieces[place]
        return None

    def of_block(self, block: int) -> list[Piece]:
        return list(self._by_block.get(block, ()))

    def remove(self, piece: Piece) -> None:
        del self._pieces[bisect_left(self._pieces, piece.start, key=_start)]
        self._of(piece).discard(piece)
        if not self._of(piece):
            del self._by_block[piece.block]

    def add(self, piece: Piece) -> None:
        insort(self._pieces, piece)
        self._of(piece).add(piece)

    def drop(self, start: int, end: int) -> list[Piece]:
        """Nothing is missing any more from `start` to `end`; returns what was."""
        place = max(bisect_right(self._pieces, start, key=_start) - 1, 0)
        stop = bisect_left(self._pieces, end, key=_start)
        dropped: list[Piece] = []
        for piece in self._pieces[place:stop]:
            if piece.end <= start:
                continue
            self.remove(piece)
            first, last = max(piece.start, start), min(piece.end, end)
            for part in (_part(piece, piece.start, first), _part(piece, last, piece.end)):
                if part.start < part.end:
                    self.add(part)
            dropped.append(_part(piece, first, last))
        return dropped

    def move(self, start: int, to: int, length: int) -> None:
        """What was at `start` is at `to` now, missing as before."""
        for piece in self.drop(start, start + length):
            self.add(Piece(piece.start - start + to, piece.end - start + to, piece.offset))

    def _of(self, piece: Piece) -> set[Piece]:
        return self._by_block.setdefault(piece.block, set())


def _part(piece: Piece, start: int, end: int) -> Piece:
    return Piece(start, end, piece.offset + start - piece.start)


def _start(piece: Piece) -> int:
    return piece.start

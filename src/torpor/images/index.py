"""Which pages and blocks are stored already, by their names: what an image shares with others beside its base.

In memory only, and bounded: what it forgets, or never knew, is stored once more.
"""

from collections.abc import Collection, Iterable

from torpor.images.manifest import Frame

Named = tuple[bytes, Frame, int]
"""a name, and where what it names is: a frame, and the offset in its content"""

_MOST = 100_000
"""of each generation; about 20 MB"""


class Index:
    """Names of pages and blocks, and where they are. The names are hashes under a data key, so keys never mix."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._young: dict[bytes, tuple[Frame, int]] = {}
        self._old: dict[bytes, tuple[Frame, int]] = {}

    def find(self, name: bytes) -> tuple[Frame, int] | None:
        """Where it is, if anywhere."""
        found = self._young.get(name)
        if found is None:
            found = self._old.get(name)
            if found is not None:
                self._young[name] = found  # In use, so it outlives the next change of generations.
        return found

    def add(self, named: Iterable[Named]) -> None:
        """These are durably stored."""
        for name, frame, offset in named:
            self._young[name] = (frame, offset)
        if len(self._young) > self._most:
            self._old, self._young = self._young, {}

    def forget(self, packs: Collection[str]) -> None:
        """These are deleted, or about to be."""
        for generation in (self._young, self._old):
            for name, (frame, _) in list(generation.items()):
                if frame.pack.id in packs:
                    generation.pop(name, None)

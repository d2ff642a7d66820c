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
        self._forgotten: set[str] = set()

    def find(self, name: bytes) -> tuple[Frame, int] | None:
        """Where it is, if anywhere."""
        found = self._young.get(name)
        if found is None:
            found = self._old.get(name)
            if found is not None:
                self._young[name] = found  # In use, so it outlives the next change of generations.
        return found if found is None or found[0].pack.id not in self._forgotten else None

    def add(self, named: Iterable[Named]) -> None:
        """These are durably stored."""
        for name, frame, offset in named:
            self._young[name] = (frame, offset)
        if len(self._young) > self._most:
            self._old, self._young = self._young, {}
            still_named = {frame.pack.id for frame, _ in self._old.values()}
            self._forgotten &= still_named

    def forget(self, packs: Collection[str]) -> None:
        """These are deleted, or about to be: their names lead nowhere from now on, and go with their generation.

        Looking for them would take as long as the index is, and a worker deletes packs all day.
        """
        self._forgotten.update(packs)

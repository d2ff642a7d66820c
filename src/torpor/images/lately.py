"""Frames that were opened lately. Images of one version share them, and opening one takes longer than all else of a small thaw.

They are in memory only, bounded, and opened: each was authenticated when it was read, and the packs' names are never used again.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from torpor.images.manifest import Frame

MOST_BYTES = 48 << 20
OF_IMAGES_BELOW = 64 << 20
"""Larger images would only push out what many small ones share."""


class Lately:
    """The contents of frames, the one used last at the end. Used from several threads."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._lock = threading.Lock()
        self._frames: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._bytes = 0

    def get(self, frame: Frame) -> Any | None:
        """Its content, if it is still here."""
        name = (frame.pack.id, frame.number)
        with self._lock:
            content = self._frames.get(name)
            if content is not None:
                self._frames.move_to_end(name)
        return content

    def put(self, frame: Frame, content: Any) -> None:
        """Keep it for a while."""
        with self._lock:
            if self._frames.setdefault((frame.pack.id, frame.number), content) is content:
                self._bytes += len(content)
            while self._bytes > self.most_bytes:
                _, oldest = self._frames.popitem(last=False)
                self._bytes -= len(oldest)

    def forget(self, packs: Collection[str]) -> None:
        """These are deleted."""
        with self._lock:
            for name in [name for name in self._frames if name[0] in packs]:
                self._bytes -= len(self._frames.pop(name))

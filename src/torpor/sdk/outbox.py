"""What user code says of its run: changes of metadata, tags, parts of streams. And what it sees of its own metadata and tags.

A call puts its message here and has the door send it at once, whatever else the process is about to do: there is no thread of
ours that could do it later, and code that computes for an hour must not keep its progress to itself. The supervisor collects
(worker/relay.py). So nothing waits here but for a moment: while a signal's handler has interrupted the door, while the event
loop's thread is elsewhere, while a save point is made. What waits then travels in the image.

Seen from here a change has been made as soon as it was said. What others have changed comes with `Known`, which says how many of
our changes it knows of: the others are made once more on top of it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torpor.wire.operations import apply
from torpor.wire.runner import Append, Change, Known, Op, Part, RunContext, Target

MOST_OPEN = 5000
MOST_OPEN_BYTES = 8 << 20
"""So many changes that the server is not known to have are made again on top of what it has. When there are more we go by our own
view until it has them all."""
MANY = 1000
"""Threads that say more than the event loop's thread can send have to wait for it."""
WARN_AGAIN_S = 60.0

log = logging.getLogger("torpor")


class Outbox:
    """Of one run. Any thread may put something in; the door takes it out.

    Args:
        context: the run as it begins.

    Attributes:
        metadata: as user code has it. Never changed, only replaced.
        tags: the same.
    """

    def __init__(self, context: RunContext) -> None:
        self.metadata = context.metadata
        self.tags = list(context.tags)
        self._to_do: deque[Callable[[], None]] = deque()
        self._lock = threading.RLock()
        self._is_busy = False
        self._waiting: deque[Change | Append] = deque()
        self._open: deque[tuple[Change, int]] = deque()  # our own, not known to be at the server, and their sizes
        self._open_bytes = 0
        self._number = 0
        self._left = 0  # the last change that has left this process whole
        self._blind_until = 0
        self._seen = 0
        self._warn_at = 0.0

    @property
    def is_full(self) -> bool:
        """Whether more waits here than is good."""
        return len(self._waiting) > MANY

    def change(self, target: Target, op: Op | None = None, tags: Sequence[str] = (), *, size: int = 0) -> None:
        """Have metadata changed, or tags added. The size is that of the value, as JSON."""
        self._do(partial(self._say, target, op, list(tags), size))

    def warn_if_slow(self, has_room: bool) -> None:
        """Tell the author, now and then, what keeps the code waiting."""
        if not has_room and (now := time.monotonic()) >= self._warn_at:
            self._warn_at = now + WARN_AGAIN_S
            log.warning("the server takes parts of streams more slowly than they come: append() waits for it")

    def append(self, target: Target, key: str, part: Part) -> None:
        """Have something appended to a stream."""
        self._waiting.append(Append(target, key, part))

    def take(self) -> Change | Append | None:
        """What is to be sent next."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def has_left(self, message: Change | Append) -> None:
        """It was sent whole: no image of this process has it."""
        if isinstance(message, Change):
            self._left = max(self._left, message.number)

    def learn(self, known: Known) -> None:
        """The server's view of the run's own metadata and tags."""
        self._do(partial(self._take_over, known))
        for reason in known.refused:
            log.warning("%s", reason)

    def restored(self, context: RunContext) -> None:
        """Another life: the server has all that had left before, and perhaps more."""
        self._do(partial(self._begin_again, context))

    # -- one at a time, whoever asks ----------------------------------------------------------------------------------

    def _do(self, what: Callable[[], None]) -> None:
        self._to_do.append(what)
        is_done = False
        while not is_done:
            with self._lock:  # at least once, for another thread may just be doing it
                if self._is_busy:
                    return  # this is a signal's handler: the code that it has interrupted in here does it
                self._is_busy = True
                try:
                    while self._to_do:
                        self._to_do.popleft()()
                finally:
                    self._is_busy = False
            is_done = not self._to_do

    def _say(self, target: Target, op: Op | None, tags: list[str], size: int) -> None:
        self._number += 1
        change = Change(self._number, self._seen, target, op, tags)
        if target == "self":
            self._open.append((change, size))
            self._open_bytes += size
            self._make(change)
            if len(self._open) > MOST_OPEN or self._open_bytes > MOST_OPEN_BYTES:
                self._open.clear()
                self._open_bytes = 0
                self._blind_until = self._number
        self._waiting.append(change)

    def _take_over(self, known: Known) -> None:
        self._seen = known.number
        if known.through >= self._blind_until:
            self._close_up_to(known.through)
            self._begin_from(known.metadata, known.tags)

    def _begin_again(self, context: RunContext) -> None:
        self._seen = 0
        self._close_up_to(self._left)
        self._begin_from(context.metadata, context.tags)

    def _close_up_to(self, number: int) -> None:
        while self._open and self._open[0][0].number <= number:
            self._open_bytes -= self._open.popleft()[1]

    def _begin_from(self, metadata: dict[str, Any], tags: Sequence[str]) -> None:
        self.metadata, self.tags = metadata, list(tags)
        for change, _ in self._open:
            self._make(change)

    def _make(self, change: Change) -> None:
        if change.op is not None:
            self.metadata = apply(self.metadata, [change.op])
        self.tags = list(dict.fromkeys([*self.tags, *change.tags]))

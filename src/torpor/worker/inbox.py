"""What happens to one run, in order: what its process says, what the server says of it, what the clock says.

A process may say more than anybody can deal with. So what it has said and nobody has dealt with yet has a weight, and while that
is too much nothing more is read from it: it then stands in its own way, and in nobody else's. News of others always have a place.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torpor.wire import runner

ENOUGH = 8 << 20
"""More than this is not taken in ahead. A single message may be larger."""
EACH = 16 << 10
"""What a message weighs beside its bytes: it costs an answer, a request to the server, or a line in the story."""
KEPT = runner.Call | runner.Change | runner.Append
"""What weighs until it is dealt with, since many may be under way at once."""


@dataclass(frozen=True)
class _Heard:
    message: Any
    weight: int


class Inbox(asyncio.Queue[Any]):
    """Of one process.

    Args:
        on_light: called when more may be heard, after it was too much.
    """

    def __init__(self, on_light: Callable[[], None]) -> None:
        super().__init__()
        self._on_light = on_light
        self._weight = 0
        self._kept: dict[int, int] = {}
        self._was_heavy = False

    @property
    def is_heavy(self) -> bool:
        """Nothing more should be heard for now; `on_light` will be called."""
        self._was_heavy = self._was_heavy or self._weight > ENOUGH
        return self._was_heavy

    def hear(self, message: Any, size: int) -> None:
        """Take in what the process has said in so many bytes."""
        self._weight += size + EACH
        self.put_nowait(_Heard(message, size + EACH))

    def dealt_with(self, message: KEPT) -> None:
        """A request is answered, a change is stored. It weighs until then; other messages until they are taken out."""
        self._lighten(self._kept.pop(id(message), 0))

    def _get(self) -> Any:
        item = super()._get()
        if not isinstance(item, _Heard):
            return item
        if isinstance(item.message, KEPT):
            self._kept[id(item.message)] = item.weight
        else:
            self._lighten(item.weight)
        return item.message

    def _lighten(self, weight: int) -> None:
        self._weight -= weight
        if self._was_heavy and self._weight <= ENOUGH // 2:
            self._was_heavy = False
            self._on_light()

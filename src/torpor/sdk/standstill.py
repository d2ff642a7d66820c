"""How the doors have their run stand still: four functions, so that they need to know neither hooks nor freezing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torpor.wire.runner import Awoken


@dataclass(frozen=True)
class Standstill:
    """What the session does for a door while nothing of the run moves. Where the run stands is told by the door.

    Attributes:
        freeze: let a checkpoint of the waiting run be taken; None if that is not possible.
        save: let one be taken after which the run goes on, by this name. Calls back when no thread may read any more.
        come_back: connect again to a supervisor that has let go of us.
        resumed: call the hooks that are due after a restore that no `freeze` or `save` was in the middle of.
    """

    freeze: Callable[[list[dict[str, Any]]], Awoken | None]
    save: Callable[[str, list[dict[str, Any]], Callable[[], None]], Awoken]
    come_back: Callable[[], Awoken]
    resumed: Callable[[], None]

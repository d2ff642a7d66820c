"""What several who look are shown alike: read once for all of them.

Whoever asks while it is being read gets what the next reading finds, and all who wait for that one share it: so however many
pages are open on the same thing, one reading of it is under way at a time, and nobody is shown what was read before he asked.
Counts and sums are remembered besides, the longer the more it took to make them: so each takes at most a twentieth of a
connection's time, and where there is little to count it is as fresh as all else. An open page looks once more after that
(QUIET_S in live.py).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

from torpor.server.hub import Hub

T = TypeVar("T")

MOST_KEPT = 200
SHARE = 20
MOST_AGE_S = 5.0


@dataclass(eq=False)
class Kept:
    """Something that is shown, as it was at `read_at` (monotonic); it took so long to read."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    read_at: float = float("-inf")
    took_s: float = 0.0
    value: Any = None


async def shared(here: Hub, key: tuple[object, ...], make: Callable[[], Awaitable[T]], *, may_age: bool = False) -> T:
    """What `make` reads. `may_age`: or what it has read lately, for SHARE times as long as that took, at most MOST_AGE_S."""
    asked_at = monotonic()
    kept = here.shown.get(key) or _place(here, key)
    async with kept.lock:
        age_s = min(MOST_AGE_S, SHARE * kept.took_s) if may_age else 0.0
        if kept.read_at < asked_at - age_s:
            began = monotonic()
            kept.value = await make()
            kept.read_at, kept.took_s = began, monotonic() - began
        return kept.value


def remembered(here: Hub, key: tuple[object, ...]) -> Any:
    """What was read last, however long ago; None: nothing was."""
    kept = here.shown.get(key)
    return kept.value if kept else None


def _place(here: Hub, key: tuple[object, ...]) -> Kept:
    """For one more; what was read longest ago makes room."""
    if len(here.shown) >= MOST_KEPT:
        for old in sorted(here.shown, key=lambda each: here.shown[each].read_at)[: MOST_KEPT // 2]:
            if not here.shown[old].lock.locked():
                del here.shown[old]
    made = here.shown[key] = Kept()
    return made

"""Held or frozen: how long a run that waits stays in memory. Pure arithmetic; the clock is the caller's.

A wait that is nearly over is held, for a freeze and a thaw would cost more than the memory. A child run is given a moment.
After a freeze that failed the next try comes later each time: what stopped it may never go away.

When memory is short that changes: then waiting runs are frozen, the idlest first, even if an answer is near.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from torpor.config import Settings
from torpor.wire.http import OpenWait
from torpor.wire.runner import NewWait

LONGEST_RETRY_S = 600.0
SOON_OVER = {"run", "batch", "slot"}
"""Kinds of waits that may well be over in a moment: no deadline tells."""


class Hold:
    """When to freeze one run.

    Example:
        >>> Hold(Settings()).delay_s([OpenWait("wait_1", "time", 3600.0)], now=0.0)
        0.0
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._failures = 0
        self._not_before = 0.0

    def delay_s(self, waits: Iterable[OpenWait], *, now: float) -> float | None:
        """Seconds to hold before a freeze. None: do not freeze, an answer is near. `now` is monotonic."""
        waits = list(waits)
        if any(wait.due_in_s is not None and wait.due_in_s <= self._settings.hold_s for wait in waits):
            return None
        patience = self._settings.hold_child_s if any(wait.kind in SOON_OVER for wait in waits) else 0.0
        return max(patience, self._not_before - now, 0.0)

    def failed(self, *, now: float) -> float:
        """A freeze did not work. Returns the seconds until the next try."""
        delay = min(self._settings.freeze_retry_s * 2**self._failures, LONGEST_RETRY_S)
        self._failures += 1
        self._not_before = now + delay
        return delay

    def may_try(self, *, now: float) -> bool:
        """Whether nothing speaks against a freeze but that an answer may be near: the last one did not fail just now."""
        return now >= self._not_before

    def entered_new_wait(self) -> None:
        """The run has moved on: what stopped a freeze may be gone."""
        self._failures = 0
        self._not_before = 0.0


@dataclass(frozen=True)
class Held:
    """A run that waits in memory and could be frozen now. `idle_since` is by any clock that goes forward."""

    run_id: str
    idle_since: float
    rss_bytes: int


def first_to_leave(held: Iterable[Held], *, free_bytes: int, floor_bytes: int) -> list[str]:
    """Which runs to freeze so that `floor_bytes` of memory are free again: the idlest first, and no more than it takes.

    Example:
        >>> held = [Held("run_1", 20.0, 50), Held("run_2", 10.0, 50), Held("run_3", 30.0, 50)]
        >>> first_to_leave(held, free_bytes=30, floor_bytes=100)
        ['run_2', 'run_1']
    """
    leaving: list[str] = []
    for run in sorted(held, key=lambda run: run.idle_since):
        if free_bytes >= floor_bytes:
            break
        leaving.append(run.run_id)
        free_bytes += run.rss_bytes
    return leaving


def expected(wait: NewWait, *, now: datetime) -> OpenWait:
    """How a wait that was just entered will look to the engine, which is yet to be told of it."""
    due_in_s = wait.duration_s
    if wait.until is not None:
        due_in_s = (datetime.fromisoformat(wait.until) - now).total_seconds()
    if wait.timeout_s is not None:
        due_in_s = wait.timeout_s if due_in_s is None else min(due_in_s, wait.timeout_s)
    return OpenWait(wait.wait_id, wait.kind, due_in_s)  # pyright: ignore[reportArgumentType]

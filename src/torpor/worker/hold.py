"""Held or frozen: how long a run that waits stays in memory. Pure arithmetic; the clock is the caller's.

A wait that is nearly over is held, for a freeze and a thaw would cost more than the memory. A child run is given a moment.
After a freeze that failed the next try comes later each time: what stopped it may never go away.
"""

from collections.abc import Iterable
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

    def entered_new_wait(self) -> None:
        """The run has moved on: what stopped a freeze may be gone."""
        self._failures = 0
        self._not_before = 0.0


def expected(wait: NewWait, *, now: datetime) -> OpenWait:
    """How a wait that was just entered will look to the engine, which is yet to be told of it."""
    due_in_s = wait.duration_s
    if wait.until is not None:
        due_in_s = (datetime.fromisoformat(wait.until) - now).total_seconds()
    if wait.timeout_s is not None:
        due_in_s = wait.timeout_s if due_in_s is None else min(due_in_s, wait.timeout_s)
    return OpenWait(wait.wait_id, wait.kind, due_in_s)  # pyright: ignore[reportArgumentType]

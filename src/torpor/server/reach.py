"""Since when workers can renew their leases through this server: a lease runs out only by such time.

A server or database that was down for longer than a lease finds every lease run out, although the workers live and
knock. Nobody fell silent: they could not be heard. So does a server that was itself stopped, on a machine that slept,
for one.
"""

from datetime import datetime
from time import monotonic

from torpor.store.database import Database


class Reach:
    """How long server and database have been within reach without a break.

    Args:
        database: which says when it was last out of reach.
        longest_gap_s: who calls `held_s` does so more often than this while the server runs.
        now: the server takes requests from now on.
    """

    def __init__(self, database: Database, *, longest_gap_s: float, now: datetime) -> None:
        self._database = database
        self._longest_gap_s = longest_gap_s
        self._since = self._looked = monotonic()
        self._looked_at = now

    def held_s(self, now: datetime) -> float:
        """Seconds since the last break, by this look or a former one."""
        reading = monotonic()
        # By both clocks: the monotonic one stands still while a machine sleeps, the other may be set back.
        gap_s = max(reading - self._looked, (now - self._looked_at).total_seconds())
        if gap_s > self._longest_gap_s:
            self._since = reading
        self._looked, self._looked_at = reading, now
        return reading - max(self._since, self._database.reached_since)

"""Wall time, in one place. Verbs never read it: they are given `now`."""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where a process gets its `now` from. Tests pass their own."""

    def now(self) -> datetime:
        """The instant, aware, in UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

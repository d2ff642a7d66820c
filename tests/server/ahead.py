"""A clock for servers, so that nobody waits for what takes hours."""

from datetime import UTC, datetime, timedelta


class Ahead:
    """It is ahead of the machine's by so much: `hubs[0].clock = Ahead(hours=2)`."""

    def __init__(self, **ahead: float) -> None:
        self._ahead = timedelta(**ahead)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

"""How times, durations and sizes are written on pages."""

from datetime import UTC, datetime, timedelta

from torpor.figures import size

__all__ = ["millis", "since", "size", "span", "stamp"]


def span(ms: float | None) -> str:
    """A length of time, two units at most.

    >>> span(240), span(12_300), span(252_000), span(4 * 86_400_000)
    ('240 ms', '12.3 s', '4 m 12 s', '4 d 0 h')
    """
    if ms is None:
        return "–"
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    seconds = int(ms / 1000)
    for unit, name, below, below_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= unit:
            return f"{seconds // unit} {name} {seconds % unit // below} {below_name}"
    return f"{seconds} s"


def since(at: datetime, now: datetime) -> str:
    """How long ago, or in how long, in one unit; live.js goes on counting.

    >>> at = datetime(2026, 3, 1, tzinfo=UTC)
    >>> since(at, at + timedelta(minutes=5)), since(at, at - timedelta(hours=2))
    ('5 m ago', 'in 2 h')
    """
    seconds = (now - at).total_seconds()
    length = abs(seconds)
    if length < 1:
        return "now"
    unit, name = next((unit, name) for unit, name in _UNITS if length >= unit)
    told = f"{int(length // unit)} {name}"
    return f"{told} ago" if seconds > 0 else f"in {told}"


_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def stamp(at: datetime) -> str:
    """As HTML has it, with milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def millis(length: timedelta) -> float:
    return length / timedelta(milliseconds=1)

"""Instants as text and as deadlines."""

from datetime import UTC, datetime, timedelta

LATEST = datetime(9999, 1, 1, tzinfo=UTC)
"""A deadline beyond it is this: `wait.for_(days=10**7)` is never due, which is what was asked for."""


def to_iso(at: datetime) -> str:
    """As the wire spells it: UTC, with a Z."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def from_iso(text: str | None) -> datetime | None:
    """An aware instant; text without an offset is UTC. None for nothing and for what is no instant."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def after(now: datetime, seconds: float) -> datetime:
    """That long from now, at most `LATEST`."""
    # `not <` rather than `>=`: a NaN from a client's division is no reason to fail, nor to be due at once.
    if not seconds < (LATEST - now).total_seconds():
        return LATEST
    return now + timedelta(seconds=max(seconds, 0.0))

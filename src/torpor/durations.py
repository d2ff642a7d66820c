"""Durations and instants as people and programs write them: `"6h"`, `"2h30m"`, `90`, `"2026-03-01T07:00:00Z"`.

One parser for server, SDK and command line, so that `delay="1w"` means the same wherever it is written.
"""

import math
import re
from datetime import UTC, datetime, timedelta

_SECONDS = {"w": 604_800, "d": 86_400, "hr": 3_600, "h": 3_600, "m": 60, "s": 1}
_PART = re.compile(r"(\d+(?:\.\d+)?)(w|d|hr|h|m|s)")
_LONGEST_S = 100 * 365 * 86_400
"""A century. More is a slip of the keyboard, and a date beyond year 9999 can't be stored."""


def parse_duration(value: str | float | timedelta) -> timedelta:
    """A length of time: units w, d, h (or hr), m, s after each other, or a number of seconds, or a timedelta.

    Raises:
        ValueError: it can't be read, is negative, or is longer than a century.

    >>> parse_duration("2h30m")
    datetime.timedelta(seconds=9000)
    >>> parse_duration(1.5)
    datetime.timedelta(seconds=1, microseconds=500000)
    """
    match value:
        case timedelta():
            seconds = value.total_seconds()
        case str():
            seconds = _read(value)
        case bool():
            raise ValueError(f"{value!r} is not a duration: write a number of seconds, or text such as '2h30m'")
        case _:
            seconds = float(value)
    if math.isnan(seconds) or seconds < 0:
        raise ValueError(f"a duration can't be negative: {value!r}")
    if seconds > _LONGEST_S:
        raise ValueError(f"{value!r:.60} is longer than a hundred years")
    return timedelta(seconds=seconds)


def write_duration(value: str | float | timedelta) -> str:
    """A length of time as the API takes it: text, in seconds.

    Raises:
        ValueError: as `parse_duration`.

    >>> write_duration("2h30m"), write_duration(1.5)
    ('9000s', '1.5s')
    """
    return f"{parse_duration(value).total_seconds():.3f}".rstrip("0").rstrip(".") + "s"


def _read(text: str) -> float:
    bare = text.replace(" ", "").lower()
    parts = _PART.findall(bare)
    if not parts or "".join(number + unit for number, unit in parts) != bare:
        raise ValueError(
            f"{text!r:.60} is not a duration: write one such as '30s', '2h30m' or '1w' (units: w, d, h, m, s)"
        )
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_instant(value: str | float | datetime) -> datetime:
    """A point in time, in UTC: ISO 8601 (taken as UTC when it names no zone), or milliseconds since 1970.

    Raises:
        ValueError: it can't be read.

    >>> parse_instant("2026-03-01T07:00:00+01:00").isoformat()
    '2026-03-01T06:00:00+00:00'
    """
    try:
        match value:
            case datetime():
                instant = value
            case bool():
                raise ValueError
            case str() if not value.strip().isdigit():
                instant = datetime.fromisoformat(value.strip())
            case _:
                instant = datetime.fromtimestamp(float(value) / 1000, UTC)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{value!r:.60} is not a date: write one such as '2026-03-01T07:00:00Z'") from None


def parse_when(value: str | float | timedelta | datetime, *, now: datetime) -> datetime:
    """A point in time given as a date, or as a duration from now (a bare number is seconds from now).

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, datetime):
        return parse_instant(value)
    if isinstance(value, str) and re.match(r"\d{4}-\d\d", value.strip()):
        return parse_instant(value)
    try:
        return now + parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{error}; or give a date such as '2026-03-01T07:00:00Z'") from None

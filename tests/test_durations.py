"""Durations and instants are read the same way everywhere."""

from datetime import UTC, datetime, timedelta

import pytest

from torpor.durations import parse_duration, parse_instant, parse_when

NOW = datetime(2026, 3, 1, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30s", 30),
        ("2h30m", 9000),
        ("2h 30m", 9000),
        ("1hr", 3600),
        ("1w", 604_800),
        ("1.5s", 1.5),
        (90, 90),
        (0.25, 0.25),
        (timedelta(minutes=1), 60),
    ],
)
def test_a_duration_is_units_after_each_other_or_seconds(written: str | float | timedelta, seconds: float) -> None:
    assert parse_duration(written) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "written", ["", "h", "5", "5x", "1h-5m", "-5s", -1, float("nan"), float("inf"), True, "999999w"]
)
def test_what_is_no_duration_is_said_to_be_none(written: str | float) -> None:
    with pytest.raises(ValueError, match=r"duration|hundred years"):
        parse_duration(written)


def test_an_instant_is_iso_or_milliseconds_and_always_utc() -> None:
    assert parse_instant("2026-03-01T08:00:00+01:00") == NOW
    assert parse_instant("2026-03-01T07:00:00Z") == NOW
    assert parse_instant("2026-03-01T07:00:00") == NOW
    assert parse_instant(str(int(NOW.timestamp() * 1000))) == NOW
    assert parse_instant("2026-03-01") == datetime(2026, 3, 1, tzinfo=UTC)
    for wrong in ("soon", "9" * 40, "", False):
        with pytest.raises(ValueError, match="not a date"):
            parse_instant(wrong)


def test_a_duration_or_a_date_says_when() -> None:
    assert parse_when("1h", now=NOW) == NOW + timedelta(hours=1)
    assert parse_when(60, now=NOW) == NOW + timedelta(minutes=1)
    assert parse_when("2026-04-01T00:00:00Z", now=NOW) == datetime(2026, 4, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="or give a date"):
        parse_when("tomorrow", now=NOW)

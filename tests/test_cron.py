"""When patterns come true: known cases of changing clocks, and any pattern compared with a walk through every second."""

import contextlib
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torpor.cron import Pattern, Window, timezones

NEW_YORK, BERLIN, LORD_HOWE = "America/New_York", "Europe/Berlin", "Australia/Lord_Howe"


KNOWN = {
    # New York: on 2026-03-08 clocks go from 02:00 to 03:00, on 2026-11-01 from 02:00 back to 01:00.
    "a time that is jumped over comes at the end of the jump": (
        *("30 2 * * *", NEW_YORK, "2026-03-07 00:00"),
        ["03-07 02:30:00-05", "03-08 03:00:00-04", "03-09 02:30:00-04"],
    ),
    "several times in one jump come once": (
        *("0,30 2 * * *", NEW_YORK, "2026-03-08 00:00"),
        ["03-08 03:00:00-04", "03-09 02:00:00-04", "03-09 02:30:00-04"],
    ),
    "a jumped-over time and the end of the jump come once": (
        *("0 2-3 * * *", NEW_YORK, "2026-03-08 00:00"),
        ["03-08 03:00:00-04", "03-09 02:00:00-04", "03-09 03:00:00-04"],
    ),
    "a time that comes twice is taken once, the first": (
        *("30 1 * * *", NEW_YORK, "2026-10-31 12:00"),
        ["11-01 01:30:00-04", "11-02 01:30:00-05"],
    ),
    "every hour is every hour, in spring": (
        *("0 * * * *", NEW_YORK, "2026-03-08 00:30"),
        ["03-08 01:00:00-05", "03-08 03:00:00-04", "03-08 04:00:00-04"],
    ),
    "every hour is every hour, in autumn": (
        *("0 * * * *", NEW_YORK, "2026-11-01 00:30"),
        ["11-01 01:00:00-04", "11-01 01:00:00-05", "11-01 02:00:00-05"],
    ),
    "every quarter is every quarter, in spring": (
        *("*/15 * * * *", NEW_YORK, "2026-03-08 01:20"),
        ["03-08 01:30:00-05", "03-08 01:45:00-05", "03-08 03:00:00-04", "03-08 03:15:00-04"],
    ),
    "every quarter is every quarter, in autumn": (
        *("*/15 * * * *", NEW_YORK, "2026-11-01 01:20"),
        ["11-01 01:30:00-04", "11-01 01:45:00-04", "11-01 01:00:00-05", "11-01 01:15:00-05", "11-01 01:30:00-05"],
    ),
    "six fields obey the same rules, in spring": (
        *("15 30 2 * * *", NEW_YORK, "2026-03-07 12:00"),
        ["03-08 03:00:00-04", "03-09 02:30:15-04"],
    ),
    "six fields obey the same rules, in autumn": (
        *("15 30 1 * * *", NEW_YORK, "2026-10-31 12:00"),
        ["11-01 01:30:15-04", "11-02 01:30:15-05"],
    ),
    "seconds go on over a jump": (
        *("*/30 * * * * *", NEW_YORK, "2026-03-08 01:59:10"),
        ["03-08 01:59:30-05", "03-08 03:00:00-04", "03-08 03:00:30-04"],
    ),
    # Berlin: on 2026-03-29 from 02:00 to 03:00, on 2026-10-25 from 03:00 back to 02:00.
    "Berlin in spring": (
        *("30 2 * * *", BERLIN, "2026-03-28 12:00"),
        ["03-29 03:00:00+02", "03-30 02:30:00+02"],
    ),
    "Berlin in autumn": (
        *("30 2 * * *", BERLIN, "2026-10-24 12:00"),
        ["10-25 02:30:00+02", "10-26 02:30:00+01"],
    ),
    "every two hours over a jump": (
        *("0 */2 * * *", BERLIN, "2026-03-28 23:00"),
        ["03-29 00:00:00+01", "03-29 04:00:00+02", "03-29 06:00:00+02"],
    ),
    "weekdays at seven stay at seven": (
        *("0 7 * * MON-FRI", BERLIN, "2026-03-27 06:00"),
        ["03-27 07:00:00+01", "03-30 07:00:00+02"],
    ),
    # Lord Howe: half an hour. On 2026-04-05 from 02:00 back to 01:30, on 2026-10-04 from 02:00 to 02:30.
    "half an hour forward": (
        *("15 2 * * *", LORD_HOWE, "2026-10-03 12:00"),
        ["10-04 02:30:00+11", "10-05 02:15:00+11"],
    ),
    "half an hour forward, every third hour": (
        *("0 */3 * * *", LORD_HOWE, "2026-10-04 00:00"),
        ["10-04 03:00:00+11", "10-04 06:00:00+11"],
    ),
    "half an hour back, every quarter": (
        *("*/15 * * * *", LORD_HOWE, "2026-04-05 01:40"),
        ["04-05 01:45:00+11", "04-05 01:30:00+1030", "04-05 01:45:00+1030", "04-05 02:00:00+1030"],
    ),
    "a day that never was": (  # Samoa went over the date line
        *("0 12 * * *", "Pacific/Apia", "2011-12-29 13:00"),
        ["12-31 00:00:00+14", "12-31 12:00:00+14"],
    ),
    # The calendar.
    "a leap day": (
        *("0 0 29 2 *", "UTC", "2026-01-01 00:00"),
        ["02-29 00:00:00+00", "02-29 00:00:00+00"],
    ),
    "the last day of each month": (
        *("0 0 L * *", BERLIN, "2028-01-15 00:00"),
        ["01-31 00:00:00+01", "02-29 00:00:00+01", "03-31 00:00:00+02"],
    ),
    "the last Friday of each month": (
        *("0 0 * * 5L", "UTC", "2026-01-01 00:00"),
        ["01-30 00:00:00+00", "02-27 00:00:00+00", "03-27 00:00:00+00"],
    ),
    "day of month or day of week": (
        *("0 0 1 * MON", "UTC", "2026-01-01 00:00"),
        ["01-05 00:00:00+00", "01-12 00:00:00+00"],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_cases(name: str) -> None:
    """C3: IANA zones over changes of the clock, `L`, names, and six fields (BB20)."""
    cron, zone, after, expected = KNOWN[name]
    # `%z` of half hours has its minutes; of whole hours they are cut off.
    found = [
        tick.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M:%S%z")
        for tick in Pattern.read(cron, zone).upcoming(
            datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC), len(expected)
        )
    ]
    assert found == [each if each[-5] in "+-" else each + "00" for each in expected]


# -- any pattern ------------------------------------------------------------------------------------------------------

CHANGES = {
    NEW_YORK: ["2026-03-08T07:00:00Z", "2026-11-01T06:00:00Z"],
    BERLIN: ["2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z"],
    LORD_HOWE: ["2026-04-04T15:00:00Z", "2026-10-03T15:30:00Z"],
    "Africa/Casablanca": ["2026-02-15T02:00:00Z"],
    "UTC": ["2026-02-28T23:30:00Z"],
}


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    value = st.integers(low, high)
    return st.one_of(
        st.just("*"),
        st.integers(2, max(2, (high - low) // 2)).map(lambda step: f"*/{step}"),
        value.map(str),
        st.lists(value, min_size=2, max_size=3, unique=True).map(lambda some: ",".join(map(str, some))),
        st.tuples(value, value).map(lambda pair: f"{min(pair)}-{max(pair)}"),
    )


def allowed(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for term in field.split(","):
        base, _, step = term.partition("/")
        first, _, last = (f"{low}-{high}" if base == "*" else base).partition("-")
        found |= set(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


@st.composite
def places(draw: st.DrawFn) -> tuple[str, datetime]:
    zone = draw(st.sampled_from(sorted(CHANGES)))
    change = datetime.fromisoformat(draw(st.sampled_from(CHANGES[zone])))
    return zone, change + timedelta(seconds=draw(st.integers(-5 * 3600, 3600)))


@settings(max_examples=100, deadline=None)
@given(fields(0, 59), fields(0, 59), fields(0, 23), places())
def test_any_pattern_ticks_as_a_walk_through_every_second_finds(
    second: str, minute: str, hour: str, place: tuple[str, datetime]
) -> None:
    """C3: ticks strictly increase and match in local time; over a change none is lost, and none is made up."""
    zone_name, start = place
    zone = ZoneInfo(zone_name)
    end = start + timedelta(hours=4)
    pattern = Pattern.read(f"{second} {minute} {hour} * * *", zone_name)
    wanted = allowed(second, 0, 59), allowed(minute, 0, 59), allowed(hour, 0, 23)
    names_times = not minute.startswith("*") and not hour.startswith("*")

    def matches(local: datetime) -> bool:
        return local.second in wanted[0] and local.minute in wanted[1] and local.hour in wanted[2]

    expected: list[datetime] = []
    at = start
    while (at := at + timedelta(seconds=1)) <= end:
        local = at.astimezone(zone)
        if names_times:
            before = (at - timedelta(seconds=1)).astimezone(zone)
            jump = local.replace(tzinfo=None) - before.replace(tzinfo=None) - timedelta(seconds=1)
            skipped = range(int(jump.total_seconds()))
            was_jumped = any(matches(before + timedelta(seconds=1 + each)) for each in skipped)
            if (matches(local) and not local.fold) or was_jumped:
                expected.append(at)
        elif matches(local):
            expected.append(at)
    found = []
    for tick in pattern.ticks(start):
        if tick > end:
            break
        found.append(tick)
    assert found == expected
    assert pattern.newest(start, end) == (expected[-1] if expected else None)


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cron", "told"),
    [
        ("61 * * * *", "(field minute: 61 is more than 59)"),
        ("* * 0 * *", "(field day of month: 0 is less than 1)"),
        ("* * * *", "(4 fields: write five"),
        ("0 0 1 1 * * 2026", "(7 fields: write five"),
        ("", "(0 fields: write five"),
        ("0 7 * * MON-FRY", "(field day of week: FRY is not a number, or one of SUN, MON,"),
        ("0 0 0 1 XII *", "(field month: XII is not a number, or one of JAN, FEB,"),
        ("5-1 * * * *", "(field minute: 5-1 runs backwards)"),
        ("*/0 * * * *", "(field minute: the step of */0 should be a whole number from 1, not 0)"),
        ("1,,2 * * * *", "(field minute: there is nothing before or after a comma)"),
        ("0 0 ? * *", "(field day of month: ? is not understood here; write *)"),
        ("0 0 * * L", "(field day of week: L: L follows the number of a day, as in 5L)"),
        ("0 0 * * MON#6", "(field day of week: MON#6: the number after # is 1 to 5)"),
        ("0 0 30 2 *", "(field day of month: none of these months has that day)"),
        ("@noon", "(there is no such name; there are: @hourly, @daily,"),
    ],
)
def test_a_wrong_pattern_is_told_by_its_field(cron: str, told: str) -> None:
    """C3: which field, what is wrong, what would be right."""
    with pytest.raises(ValueError, match=r"^Invalid cron expression: ") as caught:
        Pattern.read(cron)
    assert told in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789*/-,#?L ABCFIMNORUW@é²"), max_size=24))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    """C3: nothing but a ValueError comes of it."""
    with contextlib.suppress(ValueError):
        pattern = Pattern.read(text)
        assert pattern.explain()
        pattern.next(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Europe/Berln", "did you mean Europe/Berlin?"),
        ("berlin", "did you mean Europe/Berlin?"),
        ("utc", "did you mean UTC?"),
        ("New York", "did you mean America/New_York?"),
        ("../../etc/passwd", "write one such as 'Europe/Berlin'"),
        ("", "write one such as 'Europe/Berlin'"),
    ],
)
def test_a_wrong_zone_is_told_with_one_that_is_near(name: str, told: str) -> None:
    """C3: IANA names only, and the one that was meant."""
    with pytest.raises(ValueError, match=r"^Invalid IANA timezone: ") as caught:
        Pattern.read("* * * * *", name)
    assert told in str(caught.value)


def test_names_for_common_patterns() -> None:
    assert Pattern.read("@daily").cron == "0 0 * * *"
    assert Pattern.read(" 0  7 * * mon-fri ").cron == "0 7 * * MON-FRI"


def test_every_zone_can_be_used() -> None:
    """C2: those that are listed are there, also on a machine without zones of its own."""
    for name in timezones():
        assert Pattern.read("0 0 * * *", name).next(datetime(2026, 1, 1, tzinfo=UTC))


def test_a_rare_tick_is_found_at_once() -> None:
    """A fifth Monday in February comes every 28 years."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert Pattern.read("* 0 * 2 MON#5", BERLIN).next(start) == datetime(2044, 2, 28, 23, tzinfo=UTC)
    assert Pattern.read("0 0 */15 * MON#4").next(start) is None


def test_a_place_in_a_window_belongs_to_its_schedule() -> None:
    """C5: deterministic, within the window, and spread evenly."""
    window, tick = Window.read("1000s"), datetime(2026, 1, 1, tzinfo=UTC)
    shifts = [window.shift(f"sched_{number}", tick, None).total_seconds() for number in range(1000)]
    assert shifts == [window.shift(f"sched_{number}", tick, None).total_seconds() for number in range(1000)]
    assert all(0 <= shift < 1000 for shift in shifts)
    assert 450 < sum(shifts) / 1000 < 550
    assert Window.read("50%").shift("sched_1", tick, tick + timedelta(seconds=10)) < timedelta(seconds=5)

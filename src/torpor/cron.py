"""Cron patterns in time zones: are they right, when do they come true, what do they mean in words.

Five fields (minute, hour, day of month, month, day of week), or six with seconds first. What happens when clocks change
is Debian cron's rule, which people mean without knowing it:

* a pattern that names hours and minutes (neither starts with `*`) comes true once for each time that it names. A time
  which clocks jump over is moved to the end of the jump; of a time that comes twice the first is taken;
* any other pattern goes by the clock on the wall: every quarter of an hour is a quarter of an hour, also over a change.

cronsim knows patterns and calendars. Changes of the clock are dealt with here, since it has rules for five fields only,
and loses ticks where clocks change by half an hour (`0 */3 * * *` in Australia/Lord_Howe).
"""

import difflib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from itertools import islice
from typing import ClassVar
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from torpor.durations import parse_duration

SECOND = timedelta(seconds=1)
LONGEST_WINDOW_S = 86_400.0

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True)
class Pattern:
    """A cron pattern that has been checked, in a zone that there is. Made by `read`.

    >>> weekdays = Pattern.read("0 7 * * MON-FRI", "Europe/Berlin")
    >>> weekdays.next(datetime(2026, 3, 27, 12, tzinfo=UTC)).isoformat()  # a Friday; clocks change on Sunday
    '2026-03-30T05:00:00+00:00'
    >>> weekdays.explain()
    'At 07:00 on Monday through Friday'
    """

    cron: str
    timezone: str

    @classmethod
    def read(cls, cron: str, timezone: str = "UTC") -> "Pattern":
        """Check a pattern and a zone.

        Raises:
            ValueError: one of them is wrong; the message says where, and what would be right.
        """
        zone = _checked_zone(timezone)
        return cls(_checked_cron(cron), zone)

    @cached_property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def next(self, after: datetime) -> datetime | None:
        """The first tick after that instant, in UTC; None if there is none within fifty years."""
        return next(self.ticks(after), None)

    def upcoming(self, after: datetime, count: int = 5) -> list[datetime]:
        """The next ticks after that instant."""
        return list(islice(self.ticks(after), count))

    def newest(self, since: datetime, until: datetime) -> datetime | None:
        """The newest tick after `since` that is not after `until`, found without walking through all between."""
        found = self.next(since)
        if found is None or found > until:
            return None
        # Ticks are whole seconds. The tick after `low` is not after `until`; the one after `high` is.
        low, high = int(since.timestamp()), int(until.timestamp())
        while high - low > 1:
            middle = (low + high) // 2
            tick = self.next(datetime.fromtimestamp(middle, UTC))
            if tick is not None and tick <= until:
                low, found = middle, tick
            else:
                high = middle
        return found

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """All ticks after that instant, in UTC, each later than the one before."""
        *_, minute, hour, _, _, _ = self.cron.split()
        names_times = not minute.startswith("*") and not hour.startswith("*")
        return self._named_times(after) if names_times else self._wall_times(after)

    def explain(self) -> str:
        """The pattern in words."""
        return CronSim(self.cron, datetime(2000, 1, 1)).explain()

    def _named_times(self, after: datetime) -> Iterator[datetime]:
        newest = after
        for local in CronSim(self.cron, after.astimezone(self.zone).replace(tzinfo=None)):
            at = self._existing(local)
            if at > newest:  # several times in one jump are moved to the same instant
                newest = at
                yield at

    def _existing(self, local: datetime) -> datetime:
        """The first instant at which clocks show this, or have jumped over it."""
        while True:
            at = local.replace(tzinfo=self.zone).astimezone(UTC)
            if at.astimezone(self.zone).replace(tzinfo=None) == local:
                return at
            local = local.replace(second=0) + timedelta(minutes=1)

    def _wall_times(self, after: datetime) -> Iterator[datetime]:
        """Between two changes of the clock local time is UTC and an offset: the pattern is followed in each such piece."""
        begin = at = after
        while True:
            offset = self._offset(at)
            for local in CronSim(self.cron, (begin + offset).replace(tzinfo=None)):
                tick = (local - offset).replace(tzinfo=UTC)
                horizon = min(tick, at + timedelta(days=2))
                if change := self._change(at, horizon, offset):
                    begin, at = change - SECOND, change
                    break
                if horizon < tick:
                    # Nothing matches between: no clock was ever moved by more than a day. Go on shortly before it.
                    begin = at = tick - timedelta(hours=25)
                    break
                yield tick
                at = tick
            else:
                return

    def _offset(self, at: datetime) -> timedelta:
        offset = at.astimezone(self.zone).utcoffset()
        assert offset is not None
        return offset

    def _change(self, low: datetime, high: datetime, offset: timedelta) -> datetime | None:
        """The first instant of another offset, if clocks change after `low` and not after `high`."""
        if self._offset(high) == offset:
            return None
        first, last = int(low.timestamp()), int(high.timestamp())
        while last - first > 1:
            middle = (first + last) // 2
            if self._offset(datetime.fromtimestamp(middle, UTC)) == offset:
                first = middle
            else:
                last = middle
        return datetime.fromtimestamp(last, UTC)


# -- is it right? -----------------------------------------------------------------------------------------------------


def timezones() -> list[str]:
    """Every zone that there is, UTC first."""
    return ["UTC", *sorted(_zones() - {"UTC"})]


@lru_cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones() - {"localtime"})


def _checked_zone(name: str) -> str:
    if name in _zones():
        return name
    by_folded = {zone.casefold().rpartition("/")[2]: zone for zone in sorted(_zones(), reverse=True)}
    by_folded |= {zone.casefold(): zone for zone in _zones()}
    near = difflib.get_close_matches(name.casefold().replace(" ", "_"), by_folded, n=1, cutoff=0.6)
    hint = f" did you mean {by_folded[near[0]]}?" if near else " write one such as 'Europe/Berlin'"
    raise ValueError(f"Invalid IANA timezone: {name!r}{hint}")


def _checked_cron(text: str) -> str:
    cron = " ".join(text.upper().split())
    if cron.startswith("@"):
        if alias := ALIASES.get(cron.lower()):
            return alias
        raise _wrong(text, f"there is no such name; there are: {', '.join(ALIASES)}")
    fields = cron.split()
    if len(fields) not in (5, 6):
        raise _wrong(
            text,
            f"{len(fields)} field{'s' * (len(fields) != 1)}: write five (minute, hour, day of month, month, day of week), "
            "or six with seconds first",
        )
    for field, part in zip(_Field.ALL[-len(fields) :], fields, strict=True):
        for term in part.split(","):
            if why := field.trouble(term):
                raise _wrong(text, f"field {field.name}: {why}")
    try:
        CronSim(cron, datetime(2000, 1, 1))
    except CronSimError as error:
        if error.args[0] == "Bad day-of-month":  # each field by itself is right
            raise _wrong(text, "field day of month: none of these months has that day") from None
        raise _wrong(text, str(error)) from None
    return cron


def _wrong(text: str, why: str) -> ValueError:
    return ValueError(f"Invalid cron expression: {text!r} ({why})")


@dataclass(frozen=True)
class _Field:
    """What may stand in a field, to say what is wrong: cronsim only says which field is."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    ALL: ClassVar[tuple["_Field", ...]]

    def trouble(self, term: str) -> str | None:
        """What is wrong with one of a field's comma-separated terms."""
        if not term:
            return "there is nothing before or after a comma"
        if term == "?":
            return "? is not understood here; write *"
        base, slash, step = term.partition("/")
        if slash and (not step.isdecimal() or int(step) == 0):
            return f"the step of {term} should be a whole number from 1, not {step or 'nothing'}"
        if base == "*" or (self.name == "day of month" and base in ("L", "LW")):
            return None
        if self.name == "day of week":
            day, hash_, nth = base.partition("#")
            if hash_:
                return self._value(day) or (None if nth in tuple("12345") else f"{base}: the number after # is 1 to 5")
            if base.endswith("L"):
                day = base[:-1]
                return None if day in tuple("01234567") else f"{base}: L follows the number of a day, as in 5L"
        first, dash, last = base.partition("-")
        why = self._value(first) or (self._value(last) if dash else None)
        if why is None and dash and self._number(first) > self._number(last):
            return f"{base} runs backwards"
        return why

    def _value(self, text: str) -> str | None:
        if text in self.names:
            return None
        if not text.isdecimal():
            wanted = f"a number, or one of {', '.join(self.names)}" if self.names else "a number"
            return f"{text or 'nothing'} is not {wanted}"
        if int(text) > self.high:
            return f"{text} is more than {self.high}"
        return f"{text} is less than {self.low}" if int(text) < self.low else None

    def _number(self, text: str) -> int:
        return self.names.index(text) + self.low if text in self.names else int(text)


_Field.ALL = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")),
    _Field("day of week", 0, 7, ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")),
)

# -- windows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """How far ticks may be moved, so that not everything happens on the hour: by so many seconds, or by so much of the
    time until the next tick. A schedule has its own place in it, and so keeps its distance from one tick to the next."""

    seconds: float = 0.0
    percent: float = 0.0

    @classmethod
    def read(cls, text: str | None) -> "Window":
        """`"30m"`, `"10%"`; `"0"` and nothing mean: exactly on time.

        Raises:
            ValueError: it is neither, or longer than a day.

        >>> Window.read("30m"), Window.read("10%")
        (Window(seconds=1800.0, percent=0.0), Window(seconds=0.0, percent=10.0))
        """
        bare = (text or "0").strip()
        if bare in ("0", "none"):
            return cls()
        if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", bare):
            percent = float(match[1])
            if percent > 100:
                raise ValueError(f"window: {bare} is more than 100%")
            return cls(percent=percent)
        try:
            seconds = parse_duration(bare).total_seconds()
        except ValueError as error:
            raise ValueError(f"window: {error}; or a part of the time between ticks, such as '10%'") from None
        if seconds > LONGEST_WINDOW_S:
            raise ValueError(f"window: {bare} is longer than 24h")
        return cls(seconds=seconds)

    def shift(self, schedule_id: str, tick: datetime, following: datetime | None) -> timedelta:
        """By how much this schedule's tick is moved: always the same place in the window, which its id decides."""
        length_s = self.seconds
        if self.percent and following is not None:
            length_s = self.percent / 100 * (following - tick).total_seconds()
        place = int.from_bytes(hashlib.sha256(schedule_id.encode()).digest()[:6], "big") / 2**48
        return timedelta(milliseconds=int(1000 * length_s * place))

"""Which ticks of a schedule become runs, when each is fired, and what the task gets. Nothing here reads or writes a row."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Literal

import msgspec

from torpor import ids
from torpor.cron import Pattern, Window
from torpor.engine.instants import to_iso
from torpor.engine.payload import PayloadMisfit, fit
from torpor.store.records import Schedule, Task

SECOND = timedelta(seconds=1)
GRACE = timedelta(seconds=10)
"""A tick that is not later than this is on time, whatever is done about late ones. Servers look every five seconds."""
STEP = 20
"""So many ticks of one schedule are fired in one transaction."""
MOST_CAUGHT_UP = 1000
"""With catch_up "all" no more ticks than this are made up for: the newest."""
NEVER_AGAIN = "this pattern never comes true again"


def pattern_of(schedule: Schedule) -> Pattern | None:
    """None: this machine doesn't know the zone (any more), or the pattern never was right."""
    try:
        return Pattern.read(schedule.cron, schedule.timezone)
    except ValueError:
        return None


def run_of_tick(schedule_id: str, tick: datetime) -> str:
    """The id of the one run that this tick can have."""
    digest = hashlib.sha256(f"{schedule_id}\0{to_iso(tick)}".encode()).digest()
    return ids.made_of("run", digest)


@dataclass(frozen=True, slots=True)
class TickPlan:
    """What is due: the ticks to fire now, in order; the next one; what to say of those that are passed over."""

    ticks: list[datetime]
    next_tick: datetime | None
    problem: str | None = None


def plan_ticks(schedule: Schedule, pattern: Pattern, now: datetime) -> TickPlan:
    """Which ticks of a schedule whose next one is due become runs, and which is next then."""
    tick = schedule.next_tick_at
    assert tick is not None
    problem = None
    if now - fire_at(schedule, pattern, tick) > GRACE:  # nobody was there
        first, tick = tick, _first_made_up_for(schedule, pattern, tick, now)
        if tick != first:
            problem = f"ticks from {to_iso(first)} on came while no server was there (catch-up: {schedule.catch_up})"
        if schedule.catch_up == "none" and now - fire_at(schedule, pattern, tick) > GRACE:
            problem = f"the tick of {to_iso(tick)} came while no server was there (catch-up: none)"
            return TickPlan([], pattern.next(tick), problem)
    ticks: list[datetime] = []
    following: datetime | None = tick
    while following and len(ticks) < STEP and fire_at(schedule, pattern, following) <= now:
        ticks.append(following)
        following = pattern.next(following)
    return TickPlan(ticks, following, problem)


def _first_made_up_for(schedule: Schedule, pattern: Pattern, first: datetime, now: datetime) -> datetime:
    """Of the ticks that are due, the first that may still become a run."""
    if schedule.catch_up == "all":
        return _newest_thousand(pattern, first, now)
    return _newest_due(schedule, pattern, first, now)


def _newest_due(schedule: Schedule, pattern: Pattern, first: datetime, now: datetime) -> datetime:
    """The newest tick whose time to fire has come; `first`, which is due, if there is no newer one."""
    window = Window.read(schedule.window_text)
    until = now - window.shift(schedule.id, now, None)
    newest = pattern.newest(first, until) or first
    if newest > first and fire_at(schedule, pattern, newest) > now:  # moved by a part of the time until the next
        newest = pattern.newest(first, newest - SECOND) or first
    return newest


def _newest_thousand(pattern: Pattern, first: datetime, now: datetime) -> datetime:
    """The tick from which on at most MOST_CAUGHT_UP are left; `first` if there are no more than that."""

    def too_many(since: datetime) -> bool:
        ticks = list(islice(pattern.ticks(since), MOST_CAUGHT_UP + 1))
        return len(ticks) > MOST_CAUGHT_UP and ticks[-1] <= now

    low, high = first - SECOND, now
    if not too_many(low):
        return first
    while high - low > SECOND:
        middle = low + (high - low) / 2
        low, high = (middle, high) if too_many(middle) else (low, middle)
    return pattern.next(high) or first


def fire_at(schedule: Schedule, pattern: Pattern, tick: datetime) -> datetime:
    window = Window.read(schedule.window_text)
    return tick + window.shift(schedule.id, tick, pattern.next(tick) if window.percent else None)


# -- what the task gets -----------------------------------------------------------------------------------------------


def tick_payload(
    schedule_id: str,
    kind: Literal["DECLARATIVE", "IMPERATIVE"],
    pattern: Pattern,
    tick: datetime,
    *,
    last_tick_at: datetime | None = None,
    external_id: str | None = None,
) -> str:
    """A tick as the task gets it, as JSON."""
    fields: dict[str, Any] = {
        "type": kind,
        "timestamp": to_iso(tick),
        "lastTimestamp": last_tick_at and to_iso(last_tick_at),
        "timezone": pattern.timezone,
        "scheduleId": schedule_id,
        "externalId": external_id,
        "upcoming": [to_iso(each) for each in pattern.upcoming(tick)],
    }
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None}).decode()


def fitting(task: Task | None, tick: str) -> str | PayloadMisfit | None:
    """The tick, if the task takes it; nothing, if it can do without."""
    if task is None or task.parameters == "named":
        return tick if task is None else fit(task, None)
    fits = fit(task, tick)
    return fit(task, None) if isinstance(fits, PayloadMisfit) else fits

"""Schedules: when the clock triggers a task, and that each tick does so once.

A schedule has one next tick. Whichever server comes first when it is due locks the row, triggers, and writes the tick
after that, in one transaction. The run's id is made from the schedule's id and the tick: no crash, no clock that is set
back and no second server can make a second run of one tick.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Literal

import msgspec

from torpor import ids
from torpor.cron import Pattern, Window
from torpor.engine import read
from torpor.engine.complete import FIRE_LIMIT, FiredTimers
from torpor.engine.draft import TriggerRequest, UnknownTask
from torpor.engine.events import announce
from torpor.engine.instants import to_iso
from torpor.engine.near import near
from torpor.engine.outcomes import Unknown
from torpor.engine.payload import PayloadMisfit, fit
from torpor.engine.room import QueueFull
from torpor.engine.trigger import Triggered, trigger
from torpor.store.database import Transaction
from torpor.store.records import Schedule, Task
from torpor.wire.http import VersionReport

SECOND = timedelta(seconds=1)
GRACE = timedelta(seconds=10)
"""A tick that is not later than this is on time, whatever is done about late ones. Servers look every five seconds."""
STEP = 20
"""So many ticks of one schedule are fired in one transaction."""
MOST_CAUGHT_UP = 1000
"""With catch_up "all" no more ticks than this are made up for: the newest."""
NEVER_AGAIN = "this pattern never comes true again"

CATCH_UP = ("none", "last", "all")


@dataclass(frozen=True, slots=True)
class ScheduleRequest:
    """When to trigger what. `catch_up` says which ticks that nobody was there for still become runs."""

    task_id: str
    cron: str
    timezone: str = "UTC"
    window: str | None = None
    catch_up: str = "last"
    deduplication_key: str | None = None
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The schedule as it is now. `is_new`: made by this call."""

    schedule: Schedule
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class ScheduleMisfit:
    """It can't be scheduled so: which field of the request is wrong, and why (422). Nothing has changed."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class TooManySchedules:
    """There would be so many that were made through the API. Nothing has changed."""

    count: int


@dataclass(frozen=True, slots=True)
class DeclaredInCode:
    """This schedule is declared above its task: only a new version changes or removes it (422)."""

    task_id: str


# -- make and change --------------------------------------------------------------------------------------------------


async def create_schedule(
    tx: Transaction, environment_id: str, request: ScheduleRequest, *, most: int | None = None, now: datetime
) -> Scheduled | ScheduleMisfit | UnknownTask | TooManySchedules:
    """Make a schedule, or change the one that has this deduplication key: what the request leaves out is reset.

    For the API. There are `most` at most, those declared in code aside.
    """
    plan = await _checked(tx, environment_id, request, now=now)
    if not isinstance(plan, Pattern):
        return plan
    if most is not None and (count := await _count_with(tx, environment_id, request.deduplication_key)) > most:
        return TooManySchedules(count)
    row = await tx.fetchrow(
        """insert into schedules (id, environment_id, task_id, kind, deduplication_key, external_id, cron, timezone,
                                  window_text, catch_up, created_at, updated_at)
           values ($1, $2, $3, 'imperative', $4, $5, $6, $7, $8, $9, $10, $10)
           on conflict (environment_id, deduplication_key) where deduplication_key is not null
               do update set updated_at = schedules.updated_at
           returning *""",
        ids.new("sched"),
        environment_id,
        request.task_id,
        request.deduplication_key,
        request.external_id,
        plan.cron,
        plan.timezone,
        request.window,
        request.catch_up,
        now,
    )
    found = Schedule.of(row)
    is_new = found.created_at == now and found.next_tick_at is None
    return Scheduled(await _write(tx, found, request, plan, now=now), is_new)


async def _count_with(tx: Transaction, environment_id: str, deduplication_key: str | None) -> int:
    """How many were made through the API, with this one. Who makes one waits for others who do."""
    await tx.execute("select from environments where id = $1 for no key update", environment_id)
    others = await tx.fetchval(
        """select count(*) from schedules where environment_id = $1 and kind = 'imperative'
               and deduplication_key is distinct from $2""",
        environment_id,
        deduplication_key,
    )
    is_there = await tx.fetchval(
        "select true from schedules where environment_id = $1 and deduplication_key = $2",
        environment_id,
        deduplication_key,
    )
    return 0 if is_there else (others or 0) + 1


async def update_schedule(
    tx: Transaction, environment_id: str, schedule_id: str, request: ScheduleRequest, *, now: datetime
) -> Scheduled | ScheduleMisfit | UnknownTask | DeclaredInCode | Unknown:
    """Change a schedule; what the request leaves out is reset. For the API."""
    found = await _locked(tx, environment_id, schedule_id)
    if not isinstance(found, Schedule):
        return found
    if found.kind == "declared":
        return DeclaredInCode(found.task_id)
    plan = await _checked(tx, environment_id, request, now=now)
    if not isinstance(plan, Pattern):
        return plan
    return Scheduled(await _write(tx, found, request, plan, now=now))


async def delete_schedule(
    tx: Transaction, environment_id: str, schedule_id: str, *, now: datetime
) -> Scheduled | DeclaredInCode | Unknown:
    """Remove a schedule; its runs stay. For the API."""
    found = await _locked(tx, environment_id, schedule_id)
    if not isinstance(found, Schedule):
        return found
    if found.kind == "declared":
        return DeclaredInCode(found.task_id)
    await tx.execute("delete from schedules where id = $1", schedule_id)
    await announce(tx, "schedules")
    return Scheduled(found)


async def activate_schedule(
    tx: Transaction, environment_id: str, schedule_id: str, *, now: datetime
) -> Scheduled | Unknown:
    """Let it tick again, from now on: what would have been meanwhile is not made up for. For the API."""
    found = await _locked(tx, environment_id, schedule_id)
    if not isinstance(found, Schedule) or found.is_active:
        return Scheduled(found) if isinstance(found, Schedule) else found
    return Scheduled(await _put(tx, replace(found, is_active=True), now=now))


async def deactivate_schedule(
    tx: Transaction, environment_id: str, schedule_id: str, *, now: datetime
) -> Scheduled | Unknown:
    """Let it rest until it is activated. A schedule that is declared in code rests over new versions, too. For the API."""
    found = await _locked(tx, environment_id, schedule_id)
    if not isinstance(found, Schedule) or not found.is_active:
        return Scheduled(found) if isinstance(found, Schedule) else found
    return Scheduled(await _put(tx, replace(found, is_active=False, next_tick_at=None), now=now))


async def declare_schedules(tx: Transaction, environment_id: str, report: VersionReport, *, now: datetime) -> None:
    """A version's declared schedules are those that count: made, changed or removed. For register_version.

    One whose pattern and zone are as before keeps its next tick, so a deployment at seven does not lose the tick of seven.
    """
    rows = await tx.fetch(
        """select * from schedules where environment_id = $1 and kind = 'declared' order by id for no key update""",
        environment_id,
    )
    known = {schedule.task_id: schedule for schedule in map(Schedule.of, rows)}
    declared = {task.id: task.schedule for task in report.tasks if task.schedule}
    gone = [schedule.id for task_id, schedule in known.items() if task_id not in declared]
    await tx.execute("delete from schedules where id = any($1::text[])", gone)
    for task_id, wanted in sorted(declared.items()):
        request = ScheduleRequest(task_id, wanted.cron, wanted.timezone, wanted.window, wanted.catch_up)
        schedule = known.get(task_id)
        if schedule is None:
            row = await tx.fetchrow(
                """insert into schedules (id, environment_id, task_id, kind, cron, timezone, catch_up, created_at, updated_at)
                   values ($1, $2, $3, 'declared', $4, $5, 'last', $6, $6)
                   on conflict (environment_id, task_id) where kind = 'declared'
                       do update set updated_at = schedules.updated_at
                   returning *""",
                ids.new("sched"),
                environment_id,
                task_id,
                wanted.cron,
                wanted.timezone,
                now,
            )
            schedule = Schedule.of(row)
        checked = _readable(request)
        if isinstance(checked, ScheduleMisfit):  # the decorator refuses these: another version of it was at work
            spoiled = replace(schedule, cron=wanted.cron, timezone=wanted.timezone, next_tick_at=None)
            await _put(tx, replace(spoiled, problem=checked.message, problem_at=now), now=now)
        else:
            await _write(tx, schedule, request, checked, now=now)


async def _locked(tx: Transaction, environment_id: str, schedule_id: str) -> Schedule | Unknown:
    row = await tx.fetchrow(
        "select * from schedules where id = $1 and environment_id = $2 for no key update", schedule_id, environment_id
    )
    return Schedule.of(row) if row else Unknown()


async def _checked(
    tx: Transaction, environment_id: str, request: ScheduleRequest, *, now: datetime
) -> Pattern | ScheduleMisfit | UnknownTask:
    pattern = _readable(request)
    if isinstance(pattern, ScheduleMisfit):
        return pattern
    if pattern.next(now) is None:
        return ScheduleMisfit("cron", f"Invalid cron expression: {request.cron!r} (it never comes true)")
    task = await read.task(tx, environment_id, request.task_id)
    if task is None:
        if await tx.fetchval("select accepts_unknown_tasks from environments where id = $1", environment_id):
            return pattern
        tasks = await read.tasks(tx, environment_id)
        return UnknownTask(near(request.task_id, [each.id for each in tasks]))
    example = tick_payload("sched_1234", "IMPERATIVE", pattern, now, external_id=request.external_id)
    if isinstance(_payload(task, example), PayloadMisfit):
        return ScheduleMisfit(
            "task",
            f'task "{request.task_id}" can\'t be scheduled: it should take a ScheduleTick, or be callable with nothing',
        )
    return pattern


def _readable(request: ScheduleRequest) -> Pattern | ScheduleMisfit:
    field = "cron"
    try:
        Pattern.read(request.cron)
        field = "timezone"
        pattern = Pattern.read(request.cron, request.timezone)
        field = "window"
        Window.read(request.window)
    except ValueError as error:
        return ScheduleMisfit(field, str(error))
    if request.catch_up not in CATCH_UP:
        return ScheduleMisfit("catchUp", f"catchUp: {request.catch_up!r} is not one of {', '.join(CATCH_UP)}")
    return pattern


async def _write(
    tx: Transaction, found: Schedule, request: ScheduleRequest, pattern: Pattern, *, now: datetime
) -> Schedule:
    """The schedule as requested. Its next tick stays, unless it is a tick of another pattern."""
    is_same = (found.cron, found.timezone) == (pattern.cron, pattern.timezone)
    wanted = replace(
        found,
        task_id=request.task_id,
        external_id=request.external_id,
        cron=pattern.cron,
        timezone=pattern.timezone,
        window_text=request.window,
        catch_up=request.catch_up,
        next_tick_at=found.next_tick_at if is_same else None,
    )
    if wanted == found and found.next_tick_at is not None:
        return found
    return await _put(tx, replace(wanted, problem=None, problem_at=None), now=now)


async def _put(tx: Transaction, schedule: Schedule, *, now: datetime) -> Schedule:
    """Write all that can be changed of a schedule, with a next tick if it is active and hasn't one; tell the timers."""
    tick = fire = None
    if schedule.is_active and (pattern := _pattern(schedule)):
        tick = schedule.next_tick_at or pattern.next(now)
        fire = tick and _fire_at(schedule, pattern, tick)
        if tick is None:
            schedule = replace(schedule, problem=NEVER_AGAIN, problem_at=now)
    schedule = replace(schedule, next_tick_at=tick, next_fire_at=fire, updated_at=now)
    await tx.execute(
        """update schedules set task_id = $2, external_id = $3, cron = $4, timezone = $5, window_text = $6,
               catch_up = $7, is_active = $8, next_tick_at = $9, next_fire_at = $10, problem = $11, problem_at = $12,
               updated_at = $13
           where id = $1""",
        schedule.id,
        schedule.task_id,
        schedule.external_id,
        schedule.cron,
        schedule.timezone,
        schedule.window_text,
        schedule.catch_up,
        schedule.is_active,
        schedule.next_tick_at,
        schedule.next_fire_at,
        schedule.problem,
        schedule.problem_at,
        now,
    )
    if fire:
        await tx.notify("timer", due_at=to_iso(fire))
    await announce(tx, "schedules")
    return schedule


def _pattern(schedule: Schedule) -> Pattern | None:
    """None: this machine doesn't know the zone (any more), or the pattern never was right."""
    try:
        return Pattern.read(schedule.cron, schedule.timezone)
    except ValueError:
        return None


# -- fire -------------------------------------------------------------------------------------------------------------


async def fire_schedules(
    tx: Transaction,
    *,
    limit: int = FIRE_LIMIT,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    now: datetime,
) -> FiredTimers:
    """Trigger the tasks of all schedules whose next tick has come. For the server's loop, in as many servers as there are.

    `only` these ids of schedules, and without those to `skip`: for one that fails whenever it is fired. Call again at
    once while `count` is not 0: a schedule that makes up for many ticks does so in steps.
    """
    await _pull_back(tx, now=now)
    rows = await tx.fetch(
        """select * from schedules
           where is_active and next_fire_at <= $1 and ($3::text[] is null or id = any($3)) and not id = any($4::text[])
           order by next_fire_at, id limit $2 for no key update skip locked""",
        now,
        limit,
        only,
        skip,
    )
    for row in rows:
        await _fire(tx, Schedule.of(row), now=now)
    return FiredTimers(len(rows), await next_tick(tx, skip))


async def due_schedules(
    tx: Transaction, *, limit: int = FIRE_LIMIT, skip: Collection[str] = (), now: datetime
) -> list[str]:
    """The ids of what `fire_schedules` would fire: to fire each by itself. Changes nothing."""
    rows = await tx.fetch(
        """select id from schedules where is_active and next_fire_at <= $1 and not id = any($3::text[])
           order by next_fire_at, id limit $2""",
        now,
        limit,
        skip,
    )
    return [row["id"] for row in rows]


async def next_tick(tx: Transaction, skip: Collection[str] = ()) -> datetime | None:
    """When the next schedule is to be fired; it may be past, while somebody else is firing it."""
    return await tx.fetchval(
        "select min(next_fire_at) from schedules where is_active and next_fire_at is not null and not id = any($1::text[])",
        skip,
    )


async def _pull_back(tx: Transaction, *, now: datetime) -> None:
    """A clock that ran ahead has fired ticks which are yet to come, and set the next one far off: count from now again.

    What was fired ahead is not fired again when its time comes: the run is there.
    """
    rows = await tx.fetch(
        """select * from schedules where is_active and last_tick_at > $1
           order by last_tick_at limit 100 for no key update skip locked""",
        now + GRACE,
    )
    for schedule in map(Schedule.of, rows):
        await tx.execute("update schedules set last_tick_at = null where id = $1", schedule.id)
        await _put(tx, replace(schedule, next_tick_at=None), now=now)


async def _fire(tx: Transaction, schedule: Schedule, *, now: datetime) -> None:
    pattern = _pattern(schedule)
    if pattern is None:
        problem = f"{schedule.cron!r} in {schedule.timezone} can't be read any more"
        await _put(tx, replace(schedule, next_tick_at=None, problem=problem, problem_at=now), now=now)
        return
    plan = plan_ticks(schedule, pattern, now)
    task = await read.task(tx, schedule.environment_id, schedule.task_id)
    last_at, last_run, problem = schedule.last_tick_at, schedule.last_run_id, plan.problem
    for index, tick in enumerate(plan.ticks):
        # Runs line up by when they were made: a microsecond keeps these in order.
        at = now + timedelta(microseconds=index)
        made = await _trigger(tx, schedule, pattern, task, tick, last_at, now=at)
        if isinstance(made, Triggered):
            last_at, last_run = tick, made.run_id
        else:
            problem = f"the tick of {to_iso(tick)} made no run: {made}"
    if plan.next_tick is None:
        problem = NEVER_AGAIN
    await tx.execute(
        """update schedules set next_tick_at = $2, next_fire_at = $3, last_tick_at = $4, last_run_id = $5,
               problem = coalesce($6, problem), problem_at = case when $6::text is null then problem_at else $7 end
           where id = $1""",
        schedule.id,
        plan.next_tick,
        plan.next_tick and _fire_at(schedule, pattern, plan.next_tick),
        last_at,
        last_run,
        problem,
        now,
    )


async def _trigger(
    tx: Transaction,
    schedule: Schedule,
    pattern: Pattern,
    task: Task | None,
    tick: datetime,
    last_tick_at: datetime | None,
    *,
    now: datetime,
) -> Triggered | str:
    """The run of a tick, or in words why there is none."""
    kind = "DECLARATIVE" if schedule.kind == "declared" else "IMPERATIVE"
    payload = tick_payload(
        schedule.id, kind, pattern, tick, last_tick_at=last_tick_at, external_id=schedule.external_id
    )
    fitting = _payload(task, payload)
    if isinstance(fitting, PayloadMisfit):
        return f"task {schedule.task_id!r} takes neither a ScheduleTick nor nothing"
    request = TriggerRequest(
        task_id=schedule.task_id, payload=fitting, run_id=run_of_tick(schedule.id, tick), schedule_id=schedule.id
    )
    match await trigger(tx, schedule.environment_id, request, now=now):
        case Triggered() as made:
            return made
        case UnknownTask():
            return f"the current version has no task {schedule.task_id!r}"
        case QueueFull(queue=queue, limit=limit):
            return f"queue {queue!r} is full ({limit} runs)"
        case other:
            return f"it was refused ({other})"


def run_of_tick(schedule_id: str, tick: datetime) -> str:
    """The id of the one run that this tick can have."""
    digest = hashlib.sha256(f"{schedule_id}\0{to_iso(tick)}".encode()).digest()
    return ids.made_of("run", digest)


# -- which ticks ------------------------------------------------------------------------------------------------------


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
    if now - _fire_at(schedule, pattern, tick) > GRACE:  # nobody was there
        first, tick = tick, _first_made_up_for(schedule, pattern, tick, now)
        if tick != first:
            problem = f"ticks from {to_iso(first)} on came while no server was there (catch-up: {schedule.catch_up})"
        if schedule.catch_up == "none" and now - _fire_at(schedule, pattern, tick) > GRACE:
            problem = f"the tick of {to_iso(tick)} came while no server was there (catch-up: none)"
            return TickPlan([], pattern.next(tick), problem)
    ticks: list[datetime] = []
    following: datetime | None = tick
    while following and len(ticks) < STEP and _fire_at(schedule, pattern, following) <= now:
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
    if newest > first and _fire_at(schedule, pattern, newest) > now:  # moved by a part of the time until the next
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


def _fire_at(schedule: Schedule, pattern: Pattern, tick: datetime) -> datetime:
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


def _payload(task: Task | None, tick: str) -> str | PayloadMisfit | None:
    """The tick, if the task takes it; nothing, if it can do without."""
    if task is None or task.parameters == "named":
        return tick if task is None else fit(task, None)
    fitting = fit(task, tick)
    return fit(task, None) if isinstance(fitting, PayloadMisfit) else fitting

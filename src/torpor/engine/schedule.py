"""Schedules: made and changed, by the API and by what code declares. Their ticks are fired by fire_schedules.py."""

from dataclasses import dataclass, replace
from datetime import datetime

from torpor import ids
from torpor.cron import Pattern, Window
from torpor.engine import read
from torpor.engine.draft import UnknownTask
from torpor.engine.events import announce
from torpor.engine.instants import to_iso
from torpor.engine.near import near
from torpor.engine.outcomes import Unknown
from torpor.engine.payload import PayloadMisfit
from torpor.engine.ticks import NEVER_AGAIN, fire_at, fitting, pattern_of, tick_payload
from torpor.store.database import Transaction
from torpor.store.records import Schedule
from torpor.wire.http import VersionReport

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
    return Scheduled(await put(tx, replace(found, is_active=True), now=now))


async def deactivate_schedule(
    tx: Transaction, environment_id: str, schedule_id: str, *, now: datetime
) -> Scheduled | Unknown:
    """Let it rest until it is activated. A schedule that is declared in code rests over new versions, too. For the API."""
    found = await _locked(tx, environment_id, schedule_id)
    if not isinstance(found, Schedule) or not found.is_active:
        return Scheduled(found) if isinstance(found, Schedule) else found
    return Scheduled(await put(tx, replace(found, is_active=False, next_tick_at=None), now=now))


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
            await put(tx, replace(spoiled, problem=checked.message, problem_at=now), now=now)
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
    if isinstance(fitting(task, example), PayloadMisfit):
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
    return await put(tx, replace(wanted, problem=None, problem_at=None), now=now)


async def put(tx: Transaction, schedule: Schedule, *, now: datetime) -> Schedule:
    """Write all that can be changed of a schedule, with a next tick if it is active and hasn't one; tell the timers."""
    tick = fire = None
    if schedule.is_active and (pattern := pattern_of(schedule)):
        tick = schedule.next_tick_at or pattern.next(now)
        fire = tick and fire_at(schedule, pattern, tick)
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

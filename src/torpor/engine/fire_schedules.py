"""The clock triggers tasks: each tick once, whoever comes first.

A schedule has one next tick. Whichever server comes first when it is due locks the row, triggers, and writes the tick
after that, in one transaction. The run's id is made from the schedule's id and the tick: no crash, no clock that is set
back and no second server can make a second run of one tick.
"""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

from torpor.cron import Pattern
from torpor.engine import read
from torpor.engine.complete import FIRE_LIMIT, FiredTimers
from torpor.engine.draft import TriggerRequest, UnknownTask
from torpor.engine.instants import to_iso
from torpor.engine.payload import PayloadMisfit
from torpor.engine.room import QueueFull
from torpor.engine.schedule import put
from torpor.engine.ticks import GRACE, NEVER_AGAIN, fire_at, fitting, pattern_of, plan_ticks, run_of_tick, tick_payload
from torpor.engine.trigger import Triggered, trigger
from torpor.store.database import Transaction
from torpor.store.records import Schedule, Task


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
        await put(tx, replace(schedule, next_tick_at=None), now=now)


async def _fire(tx: Transaction, schedule: Schedule, *, now: datetime) -> None:
    pattern = pattern_of(schedule)
    if pattern is None:
        problem = f"{schedule.cron!r} in {schedule.timezone} can't be read any more"
        await put(tx, replace(schedule, next_tick_at=None, problem=problem, problem_at=now), now=now)
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
        plan.next_tick and fire_at(schedule, pattern, plan.next_tick),
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
    payload_of_run = fitting(task, payload)
    if isinstance(payload_of_run, PayloadMisfit):
        return f"task {schedule.task_id!r} takes neither a ScheduleTick nor nothing"
    request = TriggerRequest(
        task_id=schedule.task_id, payload=payload_of_run, run_id=run_of_tick(schedule.id, tick), schedule_id=schedule.id
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

"""Schedules: when the clock triggers which task, in words and instants; rest and wake them, make, change and remove them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import Response

from torpor import cron, engine, ids
from torpor.dashboard.page import go, part, render
from torpor.engine import read
from torpor.engine.schedule import CATCH_UP
from torpor.server import auth, paging, sessions
from torpor.server.errors import Refused, not_found
from torpor.server.hub import hub
from torpor.store.records import Schedule

PAGE_SIZE = 50
UPCOMING = 5
CATCHES_UP = {
    "none": "drop them",
    "last": "make up for the last one",
    "all": "make up for all of them",
}
"""What is done about ticks that nobody was there for, in words. Its keys are those of the engine."""
assert set(CATCHES_UP) == set(CATCH_UP)


@dataclass(frozen=True, slots=True)
class Row:
    """A schedule, its pattern in words, and its next ticks with what clocks show there."""

    schedule: Schedule
    words: str
    upcoming: list[tuple[datetime, str]]

    @classmethod
    def of(cls, schedule: Schedule, now: datetime) -> "Row":
        try:
            pattern = cron.Pattern.read(schedule.cron, schedule.timezone)
        except ValueError:  # its problem says so
            return cls(schedule, "", [])
        ticks = pattern.upcoming(now, UPCOMING) if schedule.is_active else []
        told = [
            (tick, tick.astimezone(pattern.zone).strftime("%a %-d %b %Y, %H:%M:%S").removesuffix(":00"))
            for tick in ticks
        ]
        return cls(schedule, pattern.explain(), told)

    @property
    def is_declared(self) -> bool:
        return self.schedule.kind == "declared"


async def show(request: Request) -> Response:
    here = hub(request)
    page, size = paging.read_number(request.query_params, PAGE_SIZE)
    async with here.database.transaction() as tx:
        found = await read.schedules(tx, auth.environment(request).id, page, size)
    now = here.clock.now()
    values: dict[str, Any] = {"rows": [Row.of(schedule, now) for schedule in found.items], "found": found}
    return render(request, "schedules.html", block="table" if part(request) == "schedules" else None, **values)


# -- rest, wake, remove -----------------------------------------------------------------------------------------------


async def activate(request: Request) -> Response:
    return await _done(request, engine.activate_schedule)


async def deactivate(request: Request) -> Response:
    return await _done(request, engine.deactivate_schedule)


async def delete(request: Request) -> Response:
    return await _done(request, engine.delete_schedule)


async def _done(request: Request, verb: Any) -> Response:
    here, schedule_id = hub(request), request.path_params["schedule_id"]
    async with here.database.transaction() as tx:
        outcome = await verb(tx, auth.environment(request).id, schedule_id, now=here.clock.now())
    if problem := _problem(outcome, ""):
        raise Refused(422, problem)
    return go(request, "/schedules")


# -- make and change --------------------------------------------------------------------------------------------------

BLANK = {"task": "", "cron": "", "timezone": "UTC", "window": "", "catch_up": "last", "external_id": "", "key": ""}


async def new(request: Request) -> Response:
    """The form of a new one; `?task=` names its task."""
    return await _form(request, None, BLANK | {"task": request.query_params.get("task", "")})


async def create(request: Request) -> Response:
    """Without a key of its own each form makes another schedule; with one it is made once."""
    here, fields = hub(request), await sessions.form(request)
    asked = _asked(fields, fields.get("key", "").strip() or ids.new("key"))
    most = here.settings.max_schedules or None
    async with here.database.transaction() as tx:
        outcome = await engine.create_schedule(tx, auth.environment(request).id, asked, most=most, now=here.clock.now())
    if problem := _problem(outcome, asked.task_id, most):
        return await _form(request, None, _given(fields), problem)
    return go(request, "/schedules")


async def edit(request: Request) -> Response:
    """The form of one that is there; of one that is declared in code what it says, to read."""
    found = await _known(request)
    given = {
        "task": found.task_id,
        "cron": found.cron,
        "timezone": found.timezone,
        "window": found.window_text or "",
        "catch_up": found.catch_up,
        "external_id": found.external_id or "",
        "key": found.deduplication_key or "",
    }
    return await _form(request, found, given)


async def change(request: Request) -> Response:
    here, fields, found = hub(request), await sessions.form(request), await _known(request)
    asked = _asked(fields)
    async with here.database.transaction() as tx:
        outcome = await engine.update_schedule(tx, auth.environment(request).id, found.id, asked, now=here.clock.now())
    if problem := _problem(outcome, asked.task_id):
        return await _form(request, found, _given(fields) | {"key": found.deduplication_key or ""}, problem)
    return go(request, "/schedules")


async def _known(request: Request) -> Schedule:
    async with hub(request).database.transaction() as tx:
        found = await read.schedule(tx, auth.environment(request).id, request.path_params["schedule_id"])
    if found is None:
        raise not_found()
    return found


def _given(fields: ImmutableMultiDict[str, str]) -> dict[str, str]:
    return {name: fields.get(name, "") for name in BLANK}


def _asked(fields: ImmutableMultiDict[str, str], key: str | None = None) -> engine.ScheduleRequest:
    given = {name: value.strip() for name, value in _given(fields).items()}
    return engine.ScheduleRequest(
        task_id=given["task"],
        cron=given["cron"],
        timezone=given["timezone"] or "UTC",
        window=given["window"] or None,
        catch_up=given["catch_up"] or "last",
        deduplication_key=key,
        external_id=given["external_id"] or None,
    )


def _problem(outcome: object, task_id: str, most: int | None = None) -> str | None:
    """Why it can't be; None: it is done."""
    match outcome:
        case engine.Scheduled():
            return None
        case engine.ScheduleMisfit(message=message):
            return message
        case engine.UnknownTask(near=near):
            return f"There is no task {task_id!r}" + (f"; did you mean {', '.join(near)}?" if near else ".")
        case engine.TooManySchedules(count=count):
            return f"There may be {most} schedules besides those in code; this would make {count}."
        case engine.DeclaredInCode(task_id=declared):
            return f"This schedule is declared in code, above task {declared!r}: change it there, or let it rest here."
        case engine.Unknown():
            raise not_found()
        case _:
            raise AssertionError(outcome)


async def _form(
    request: Request, found: Schedule | None, given: dict[str, str], problem: str | None = None
) -> Response:
    here = hub(request)
    async with here.database.transaction() as tx:
        tasks = [task.id for task in await read.tasks(tx, auth.environment(request).id)]
    values = {
        "found": Row.of(found, here.clock.now()) if found else None,
        "given": given,
        "tasks": tasks,
        "timezones": cron.timezones(),
        "catches_up": CATCHES_UP,
        "problem": problem,
    }
    block = "now" if part(request) == "now" else None
    return render(request, "schedule.html", block=block, status=422 if problem else 200, **values)

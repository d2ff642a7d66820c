"""Schedules: made, listed, looked at, changed, put to rest and removed; and the time zones that there are."""

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor import cron, engine
from torpor.engine import read
from torpor.server import paging, render
from torpor.server.auth import Keyed
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused, not_found
from torpor.server.hub import hub
from torpor.server.options import read_key
from torpor.store.records import Environment

DEFAULT_SIZE = 20

router = APIRouter()


class ScheduleBody(msgspec.Struct, rename="camel"):
    task: str
    cron: str
    deduplication_key: Any = None
    external_id: str | None = None
    timezone: str | None = None
    window: str | None = None
    catch_up: str | None = None


_schedule_body = msgspec.json.Decoder(ScheduleBody)


@router.post("/api/v1/schedules")
async def create(request: Request, environment: Keyed) -> Response:
    """The same deduplication key is the same schedule: it is changed, and what the body leaves out is reset."""
    here = hub(request)
    body = decode(await read_body(request), _schedule_body)
    key = read_key("deduplicationKey", body.deduplication_key)
    if key is None:
        raise Refused(
            422,
            "deduplicationKey is missing: name the schedule, so that making it again changes it instead of doubling it",
        )
    now = here.clock.now()
    async with here.database.transaction() as tx:
        outcome = await engine.create_schedule(
            tx, environment.id, _asked(body, key), most=here.settings.max_schedules or None, now=now
        )
    if isinstance(outcome, engine.TooManySchedules):
        most = here.settings.max_schedules
        told = f"at most {most} schedules may be made through the API; there would be {outcome.count}"
        raise Refused(422, told, limit=most, value=outcome.count)
    return _told(outcome, environment, body.task, now)


@router.get("/api/v1/schedules")
async def listing(request: Request, environment: Keyed) -> Response:
    here = hub(request)
    page, size = paging.read_number(request.query_params, DEFAULT_SIZE)
    async with here.database.transaction() as tx:
        found = await read.schedules(tx, environment.id, page, size)
    now = here.clock.now()
    return reply(paging.numbered_reply([render.schedule(one, environment, now) for one in found.items], found))


@router.get("/api/v1/schedules/{schedule_id}")
async def retrieve(request: Request, schedule_id: str, environment: Keyed) -> Response:
    here = hub(request)
    async with here.database.transaction() as tx:
        found = await read.schedule(tx, environment.id, schedule_id)
    if found is None:
        raise not_found()
    return reply(render.schedule(found, environment, here.clock.now()))


@router.put("/api/v1/schedules/{schedule_id}")
async def update(request: Request, schedule_id: str, environment: Keyed) -> Response:
    """What the body leaves out is reset; the deduplication key stays."""
    here = hub(request)
    body = decode(await read_body(request), _schedule_body)
    now = here.clock.now()
    async with here.database.transaction() as tx:
        found = await read.schedule(tx, environment.id, schedule_id)
        if found and body.deduplication_key not in (None, found.deduplication_key):
            raise Refused(422, "deduplicationKey: a schedule keeps its key; make another one, and delete this")
        outcome = await engine.update_schedule(tx, environment.id, schedule_id, _asked(body), now=now)
    return _told(outcome, environment, body.task, now)


@router.delete("/api/v1/schedules/{schedule_id}")
async def delete(request: Request, schedule_id: str, environment: Keyed) -> Response:
    here = hub(request)
    now = here.clock.now()
    async with here.database.transaction() as tx:
        outcome = await engine.delete_schedule(tx, environment.id, schedule_id, now=now)
    _told(outcome, environment, "", now)
    return reply({"id": schedule_id})


@router.post("/api/v1/schedules/{schedule_id}/activate")
async def activate(request: Request, schedule_id: str, environment: Keyed) -> Response:
    here = hub(request)
    now = here.clock.now()
    async with here.database.transaction() as tx:
        outcome = await engine.activate_schedule(tx, environment.id, schedule_id, now=now)
    return _told(outcome, environment, "", now)


@router.post("/api/v1/schedules/{schedule_id}/deactivate")
async def deactivate(request: Request, schedule_id: str, environment: Keyed) -> Response:
    here = hub(request)
    now = here.clock.now()
    async with here.database.transaction() as tx:
        outcome = await engine.deactivate_schedule(tx, environment.id, schedule_id, now=now)
    return _told(outcome, environment, "", now)


@router.get("/api/v1/timezones")
async def timezones(request: Request) -> Response:
    """No key: these are nobody's secret."""
    without_utc = paging.flag(request.query_params, "excludeUtc")
    return reply({"timezones": cron.timezones()[1:] if without_utc else cron.timezones()})


def _asked(body: ScheduleBody, deduplication_key: str | None = None) -> engine.ScheduleRequest:
    return engine.ScheduleRequest(
        task_id=body.task,
        cron=body.cron,
        timezone="UTC" if body.timezone is None else body.timezone,
        window=body.window,
        catch_up="last" if body.catch_up is None else body.catch_up,
        deduplication_key=deduplication_key,
        external_id=body.external_id,
    )


def _told(outcome: object, environment: Environment, task_id: str, now: Any) -> Response:
    """The schedule as it is now; else the refusal that fits the outcome."""
    match outcome:
        case engine.Scheduled(schedule=schedule):
            return reply(render.schedule(schedule, environment, now))
        case engine.ScheduleMisfit(field=field, message=message):
            raise Refused(422, message, param=field)
        case engine.UnknownTask(near=near):
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise Refused(422, f'Task not found: "{task_id}"{hint}', near=list(near))
        case engine.DeclaredInCode(task_id=task_id):
            raise Refused(
                422,
                f'this schedule is declared in code, above task "{task_id}": change it there, or deactivate it here',
            )
        case engine.Unknown():
            raise not_found()
        case _:
            raise AssertionError(outcome)

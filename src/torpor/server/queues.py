"""Queues and the environment: look, list, pause, and set limits while running."""

from functools import partial
from typing import Any
from urllib.parse import unquote

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor.engine import queues, read
from torpor.engine.near import near
from torpor.server import auth, paging
from torpor.server.auth import Keyed
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused
from torpor.server.hub import hub
from torpor.store.database import Transaction
from torpor.store.records import Environment

MOST = 100_000

router = APIRouter()


class QueueBody(msgspec.Struct):
    type: str = "any"
    action: str | None = None
    concurrencyLimit: Any = None


class EnvironmentBody(msgspec.Struct):
    concurrencyLimit: int | msgspec.UnsetType | None = msgspec.UNSET
    burstFactor: float | msgspec.UnsetType = msgspec.UNSET
    maxQueued: int | msgspec.UnsetType | None = msgspec.UNSET
    acceptsUnknownTasks: bool | msgspec.UnsetType = msgspec.UNSET
    paused: bool | msgspec.UnsetType = msgspec.UNSET


_queue_body = msgspec.json.Decoder(QueueBody)
_environment_body = msgspec.json.Decoder(EnvironmentBody)


@router.get("/api/v1/queues")
async def listing(request: Request, environment: Keyed) -> Response:
    page, size = paging.read_number(request.query_params, 25)
    async with hub(request).database.transaction() as tx:
        found = await read.queues(tx, environment.id, page=page, size=size)
    return reply(paging.numbered_reply([_shown(view) for view in found.items], found))


@router.post("/api/v1/queues/{name:path}/pause")
async def pause(request: Request, name: str, environment: Keyed) -> Response:
    """Pause it, or (`action: resume`) go on."""
    body = await _body(request)
    if body.action not in ("pause", "resume"):
        raise Refused(422, f'action: "pause" or "resume" is needed, not {body.action!r}')
    verb = queues.pause if body.action == "pause" else queues.unpause
    return await _changed(request, environment, name, body.type, verb)


@router.post("/api/v1/queues/{name:path}/concurrency/override")
async def override(request: Request, name: str, environment: Keyed) -> Response:
    body = await _body(request)
    limit = body.concurrencyLimit
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= MOST:
        raise Refused(422, f"concurrencyLimit: a whole number from 0 to {MOST} is needed, not {limit!r}")
    by = auth.caller(request).person
    return await _changed(request, environment, name, body.type, partial(queues.override, by=by), limit)


@router.post("/api/v1/queues/{name:path}/concurrency/reset")
async def reset(request: Request, name: str, environment: Keyed) -> Response:
    body = await _body(request)
    return await _changed(request, environment, name, body.type, queues.reset)


@router.get("/api/v1/queues/{name:path}")
async def retrieve(request: Request, name: str, environment: Keyed) -> Response:
    async with hub(request).database.transaction() as tx:
        view = await _known(tx, environment, name, request.query_params.get("type", "any"))
    return reply(_shown(view))


@router.get("/api/v1/environment")
async def show_environment(request: Request, environment: Keyed) -> Response:
    return reply(_environment(environment))


@router.post("/api/v1/environment")
async def change_environment(request: Request, environment: Keyed) -> Response:
    """Set what is named; the rest stays."""
    here, body = hub(request), decode(await read_body(request), _environment_body)
    _check_environment(body)
    names = {
        "concurrencyLimit": "concurrency_limit",
        "burstFactor": "burst_factor",
        "maxQueued": "max_queued",
        "acceptsUnknownTasks": "accepts_unknown_tasks",
        "paused": "is_paused",
    }
    given = {name: getattr(body, told) for told, name in names.items()}
    changes = {name: value for name, value in given.items() if value is not msgspec.UNSET}
    async with here.database.transaction() as tx:
        changed = await queues.configure(tx, environment.id, **changes, now=here.clock.now())
    return reply(_environment(changed))


def _check_environment(body: EnvironmentBody) -> None:
    for name in ("concurrencyLimit", "maxQueued"):
        value = getattr(body, name)
        if isinstance(value, int) and not 0 <= value < 2**31:
            raise Refused(422, f"{name}: a whole number from 0, or null for no limit, is needed, not {value}")
    if not isinstance(body.burstFactor, msgspec.UnsetType) and not 1 <= body.burstFactor <= 100:
        raise Refused(422, f"burstFactor: a number from 1 to 100 is needed, not {body.burstFactor}")


async def _body(request: Request) -> QueueBody:
    return decode(await read_body(request) or b"{}", _queue_body)


async def _changed(
    request: Request, environment: Environment, name: str, kind: str, verb: Any, *values: Any
) -> Response:
    here = hub(request)
    async with here.database.transaction() as tx:
        view = await _known(tx, environment, name, kind)
        outcome = await verb(tx, environment.id, view.queue.id, *values, now=here.clock.now())
        assert isinstance(outcome, queues.Changed), "queues are never deleted"
    return reply(_shown(read.QueueView(outcome.queue, view.queued, view.running)))


async def _known(tx: Transaction, environment: Environment, name: str, kind: str) -> read.QueueView:
    """The queue by id, or by the name that clients use: a task's without `task/`; a slash may come encoded twice."""
    name = unquote(name)
    match kind:
        case "any":
            view = await read.queue(tx, environment.id, id=name, name=name)
            view = view or await read.queue(tx, environment.id, name=queues.own_queue(name))
        case "id":
            view = await read.queue(tx, environment.id, id=name)
        case "task":
            view = await read.queue(tx, environment.id, name=queues.own_queue(name.removeprefix("task/")))
        case "custom":
            view = await read.queue(tx, environment.id, name=name)
        case _:
            raise Refused(422, f'type: "id", "task", "custom" or nothing is needed, not {kind!r}')
    if view is None:
        names = [each.removeprefix("task/") for each in await read.queue_names(tx, environment.id)]
        similar = near(name, names)
        hint = f"; did you mean {', '.join(similar)}?" if similar else ""
        raise Refused(404, f"queue-not-found: there is no queue {name!r}{hint}", code="queue-not-found")
    return view


def _shown(view: read.QueueView) -> dict[str, Any]:
    queue = view.queue
    is_own = queue.kind == queues.OF_TASK
    limit = queue.concurrency_limit if queue.override_limit is None else queue.override_limit
    return {
        "id": queue.id,
        "name": queue.name.removeprefix("task/") if is_own else queue.name,
        "type": queue.kind,
        "running": view.running,
        "queued": view.queued,
        "paused": queue.is_paused,
        "concurrencyLimit": limit,
        "concurrency": {
            "current": limit,
            "base": queue.concurrency_limit,
            "override": queue.override_limit,
            "overriddenAt": queue.overridden_at,
            "overriddenBy": queue.overridden_by,
        },
    }


def _environment(environment: Environment) -> dict[str, Any]:
    return {
        "project": environment.project,
        "slug": environment.slug,
        "concurrencyLimit": environment.concurrency_limit,
        "burstFactor": environment.burst_factor,
        "maxQueued": environment.max_queued,
        "acceptsUnknownTasks": environment.accepts_unknown_tasks,
        "paused": environment.is_paused,
    }

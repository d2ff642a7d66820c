"""Deployments, to be read: the versions that workers have reported. Each is deployed, as one that fails is never registered."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor.engine import Page, read
from torpor.server import paging, render
from torpor.server.auth import Keyed
from torpor.server.bodies import reply
from torpor.server.errors import not_found
from torpor.server.hub import hub
from torpor.store.records import Deployment

STATUSES = ("PENDING", "INSTALLING", "BUILDING", "DEPLOYING", "DEPLOYED", "FAILED", "CANCELED", "TIMED_OUT")
DEFAULT_SIZE = 20

router = APIRouter()


@router.get("/api/v1/deployments")
async def listing(request: Request, environment: Keyed) -> Response:
    """Newest first. With `status`, those that have it: none but DEPLOYED."""
    here, query = hub(request), request.query_params
    wanted = paging.statuses(query, STATUSES, "status")
    since, until = paging.between(query, here.clock.now(), since="from", until="to", period="period")
    page = paging.read_page(query, DEFAULT_SIZE)
    if wanted is not None and "DEPLOYED" not in wanted:
        return reply({"data": [], "pagination": {}})
    async with here.database.transaction() as tx:
        found = await read.deployments(tx, environment.id, since, until, page)
    return reply(paging.page_reply([render.deployment(each) for each in found.items], found))


@router.get("/api/v1/deployments/current")
async def current(request: Request, environment: Keyed) -> Response:
    """The version that new runs get."""
    async with hub(request).database.transaction() as tx:
        found = await read.current_deployment(tx, environment.id)
    return reply(_shown(found))


@router.get("/api/v1/deployments/latest")
async def latest(request: Request, environment: Keyed) -> Response:
    """The version that was first seen last; an older one may be current again."""
    async with hub(request).database.transaction() as tx:
        found = await read.deployments(tx, environment.id, page=Page(1))
    return reply(_shown(found.items[0] if found.items else None))


@router.get("/api/v1/deployments/{deployment_id}")
async def retrieve(request: Request, deployment_id: str, environment: Keyed) -> Response:
    """One of them, with the ids of its tasks, as long as they are kept."""
    async with hub(request).database.transaction() as tx:
        found = await read.deployment(tx, environment.id, deployment_id)
        task_ids = await read.task_ids(tx, environment.id, found.version) if found else []
    return reply(_shown(found) | {"tasks": task_ids})


def _shown(found: Deployment | None) -> dict[str, Any]:
    if found is None:
        raise not_found()
    return render.deployment(found)

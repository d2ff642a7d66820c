"""Bulk actions: cancel or replay many runs, chosen by a filter or named. The servers work them off (bulk_work.py)."""

from dataclasses import replace
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.engine import read_bulk
from torpor.server import auth, paging, render, run_filter
from torpor.server.auth import Keyed
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused, not_found
from torpor.server.hub import hub
from torpor.server.repeats import id_for

MAX_NAME = 255

router = APIRouter()


class BulkBody(msgspec.Struct, forbid_unknown_fields=True):
    action: str
    filter: dict[str, Any] | None = None
    runIds: list[str] | None = None  # the wire's names
    name: str | None = None
    targetRegion: str | None = None
    preview: bool = False


_bulk_body = msgspec.json.Decoder(BulkBody)


@router.post("/api/v1/bulk-actions")
async def create(request: Request, environment: Keyed) -> Response:
    """202 with its id. `preview`: 200 with how many runs it would have, and nothing is done."""
    here, body = hub(request), decode(await read_body(request), _bulk_body)
    now = here.clock.now()
    where = None if body.filter is None else run_filter.of_body(body.filter, now)
    asked = replace(_read(body, where), by=auth.caller(request).person, bulk_id=id_for(request, "bulk", environment.id))
    async with here.database.transaction() as tx:
        if body.preview:
            return reply({"count": await engine.count_bulk(tx, environment.id, asked)})
        made = await engine.create_bulk(tx, environment.id, asked, now=now)
    return reply({"id": made.bulk_id}, 202)


def _read(body: BulkBody, where: engine.RunFilter | None) -> engine.BulkRequest:
    """400 for what can't be meant."""
    if body.action not in ("cancel", "replay"):
        raise Refused(400, f'action: "cancel" or "replay", not {body.action!r}')
    if (where is None) == (body.runIds is None):
        raise Refused(400, "exactly one of filter and runIds is needed")
    if body.runIds is not None and not 1 <= len(body.runIds) <= engine.MAX_NAMED:
        told = f"runIds: from 1 to {engine.MAX_NAMED}, not {len(body.runIds)}; a filter can choose more"
        raise Refused(400, told, limit=engine.MAX_NAMED, value=len(body.runIds))
    if body.name is not None and len(body.name) > MAX_NAME:
        raise Refused(400, f"name: at most {MAX_NAME} characters", limit=MAX_NAME, value=len(body.name))
    if body.targetRegion is not None:
        raise Refused(422, "targetRegion is not supported: a replay gets the size of machine that its run had")
    return engine.BulkRequest(body.action, where, body.runIds, body.name or None)


@router.get("/api/v1/bulk-actions")
async def listing(request: Request, environment: Keyed) -> Response:
    async with hub(request).database.transaction() as tx:
        found = await read_bulk.bulk_actions(tx, environment.id, paging.read_page(request.query_params))
    return reply(paging.page_reply([render.bulk_action(one) for one in found.items], found))


@router.get("/api/v1/bulk-actions/{bulk_id}")
async def retrieve(request: Request, bulk_id: str, environment: Keyed) -> Response:
    """With the first runs that failed, and why."""
    async with hub(request).database.transaction() as tx:
        found = await read_bulk.bulk_action(tx, environment.id, bulk_id)
        if found is None:
            raise not_found()
        problems = await read_bulk.problems(tx, bulk_id) if found.failed else []
    failures = [{"runId": run_id, "error": problem} for run_id, problem in problems]
    return reply(render.bulk_action(found) | ({"failures": failures} if failures else {}))


@router.post("/api/v1/bulk-actions/{bulk_id}/abort")
async def abort(request: Request, bulk_id: str, environment: Keyed) -> Response:
    """200 too when it was over before. What was done stays done; after the answer no more is."""
    here = hub(request)
    async with here.database.transaction() as tx:
        outcome = await engine.abort_bulk(tx, environment.id, bulk_id, now=here.clock.now())
    if isinstance(outcome, engine.Unknown):
        raise not_found()
    return reply({"id": bulk_id})

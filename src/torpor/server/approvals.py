"""Approvals: what runs ask of people, and the answers. Each is a wait token with a title; its answer is the token's value."""

from dataclasses import replace
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor.engine import TokenView, read_approvals
from torpor.server import auth, offload, paging, render
from torpor.server.auth import Keyed
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import not_found
from torpor.server.hub import Hub, hub
from torpor.server.waitpoints import complete_with

router = APIRouter()


@router.get("/api/v1/approvals")
async def listing(request: Request, environment: Keyed) -> Response:
    """Those that wait first."""
    here = hub(request)
    async with here.database.transaction() as tx:
        found = await read_approvals.approvals(tx, environment.id, paging.read_page(request.query_params))
    return reply(paging.page_reply([await _shown(here, view) for view in found.items], found))


@router.get("/api/v1/approvals/{token_id}")
async def retrieve(request: Request, token_id: str, environment: Keyed) -> Response:
    return reply(await _known(hub(request), environment.id, token_id))


class AnswerBody(msgspec.Struct):
    by: str | None = None
    comment: str | None = None


_answer_body = msgspec.json.Decoder(AnswerBody)


@router.post("/api/v1/approvals/{token_id}/approve")
async def approve(request: Request, token_id: str, environment: Keyed) -> Response:
    """The approval as it is then: the first answer wins, and a later one sees which it was."""
    return await _answer(request, token_id, environment.id, approved=True)


@router.post("/api/v1/approvals/{token_id}/reject")
async def reject(request: Request, token_id: str, environment: Keyed) -> Response:
    return await _answer(request, token_id, environment.id, approved=False)


async def _answer(request: Request, token_id: str, environment_id: str, *, approved: bool) -> Response:
    here, body = hub(request), decode(await read_body(request), _answer_body)
    by = auth.caller(request).person or body.by
    await answer(here, environment_id, token_id, approved=approved, by=by, comment=body.comment)
    return reply(await _known(here, environment_id, token_id))


async def answer(
    here: Hub, environment_id: str, token_id: str, *, approved: bool, by: str | None, comment: str | None
) -> None:
    """Answer an approval; one that has its answer stays as it is. 404: there is none."""
    await _known(here, environment_id, token_id)
    said = {"approved": approved, "by": by, "comment": comment}
    data = msgspec.json.encode({name: value for name, value in said.items() if value is not None})
    await complete_with(here, token_id, data)


async def _known(here: Hub, environment_id: str, token_id: str) -> dict[str, Any]:
    async with here.database.transaction() as tx:
        view = await read_approvals.approval(tx, environment_id, token_id)
    if view is None:
        raise not_found()
    return await _shown(here, view)


async def _shown(here: Hub, view: TokenView) -> dict[str, Any]:
    return render.approval(here, replace(view, token=await offload.whole_token(here, view.token)))

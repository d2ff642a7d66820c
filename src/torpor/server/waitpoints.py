"""Wait tokens: made, listed, looked at, and completed: with a key, with the public token that each comes with, or by whoever
has the callback URL.

An approval is a token with a title and a context; its answer is the token's value, `{"approved": …, "by"?, "comment"?}`.
"""

from dataclasses import replace
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.durations import parse_duration, parse_when
from torpor.engine import read
from torpor.server import auth, offload, paging, render, signing
from torpor.server.auth import Keyed
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused, not_found
from torpor.server.hub import Hub, hub
from torpor.server.options import read_key, read_tags
from torpor.server.repeats import id_for

router = APIRouter()


class TokenBody(msgspec.Struct, rename="camel"):
    timeout: Any = None
    idempotency_key: Any = None
    idempotency_key_ttl: Any = msgspec.field(name="idempotencyKeyTTL", default=None)
    tags: Any = None
    title: str | None = None
    context: Any = None


class CompletionBody(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw(b"null")


_token_body = msgspec.json.Decoder(TokenBody)
_completion_body = msgspec.json.Decoder(CompletionBody)
_anything = msgspec.json.Decoder()


@router.post("/api/v1/waitpoints/tokens")
async def create(request: Request, environment: Keyed) -> Response:
    here = hub(request)
    body = decode(await read_body(request), _token_body)
    now = here.clock.now()
    try:
        timeout_at = None if body.timeout is None else parse_when(body.timeout, now=now)
        key_ttl = None if body.idempotency_key_ttl is None else parse_duration(body.idempotency_key_ttl)
    except (ValueError, TypeError) as error:
        raise Refused(422, str(error)) from None
    asked = engine.TokenRequest(
        waitpoint_id=id_for(request, "waitpoint", environment.id),
        timeout_at=timeout_at,
        tags=read_tags("tags", body.tags, here.settings),
        idempotency_key=read_key("idempotencyKey", body.idempotency_key),
        idempotency_key_ttl_s=key_ttl.total_seconds() if key_ttl else None,
        title=body.title,
        context=body.context,
    )
    async with here.database.transaction() as tx:
        made = await engine.create_token(tx, environment.id, asked, now=now)
    assert isinstance(made, engine.TokenCreated)  # stale is for those who ask with a lease
    token_id = made.waitpoint_id
    is_cached = made.is_cached and token_id != asked.waitpoint_id  # else it is this very call, said twice
    granted = (f"write:waitpoints:{token_id}",)
    headers = signing.headers(here, auth.caller(request), granted, lifetime_s=signing.OF_A_WAIT_TOKEN_S)
    told = {"id": token_id, "isCached": is_cached, "url": render.token_url(here, token_id)}
    return reply(told | {"publicAccessToken": headers["x-trigger-jwt"]}, headers=headers)


_LIST_FILTERS = frozenset(
    f"filter[{name}]"
    for name in ("status", "idempotencyKey", "tags", "createdAt][from", "createdAt][to", "createdAt][period")
)


@router.get("/api/v1/waitpoints/tokens")
async def listing(request: Request, environment: Keyed) -> Response:
    here = hub(request)
    query = request.query_params
    paging.refuse_filters(query, _LIST_FILTERS)
    since, until = paging.created_between(query, here.clock.now())
    wanted = read.TokenFilter(
        status=paging.statuses(query, set(render.TOKEN_STATUS.values())),
        tags=paging.several(query, "filter[tags]"),
        idempotency_key=query.get("filter[idempotencyKey]"),
        created_from=since,
        created_to=until,
    )
    async with here.database.transaction() as tx:
        found = await read.tokens(tx, environment.id, wanted, paging.read_page(query))
    return reply(paging.page_reply([render.token_in_list(here, view) for view in found.items], found))


@router.get("/api/v1/waitpoints/tokens/{token_id}")
async def retrieve(request: Request, token_id: str, environment: Keyed) -> Response:
    here = hub(request)
    async with here.database.transaction() as tx:
        view = await read.token(tx, environment.id, token_id)
    if view is None:
        raise not_found()
    view = replace(view, token=await offload.whole_token(here, view.token))
    return reply(render.token_whole(here, view))


@router.post("/api/v1/waitpoints/tokens/{token_id}/complete")
async def complete(request: Request, token_id: str, environment: Keyed) -> Response:
    """The first value wins; a later one is answered the same and changes nothing. An approval that is answered with a personal
    token is that person's, whatever the answer says."""
    here, person = hub(request), auth.caller(request).person
    body = decode(await read_body(request), _completion_body)
    data = bytes(body.data)
    value = decode(data, _anything)  # a raw member is skipped unread, and what is kept must be whole
    async with here.database.transaction() as tx:
        view = await read.token(tx, environment.id, token_id)
    if view is None:
        raise not_found()
    if person is not None and view.token.title is not None and isinstance(value, dict) and "approved" in value:
        data = msgspec.json.encode({**value, "by": person})
    return await complete_with(here, token_id, data)


@router.post("/api/v1/waitpoints/tokens/{token_id}/callback/{given_hash}")
async def callback(request: Request, token_id: str, given_hash: str) -> Response:
    """For webhooks: the URL is the permission. A body that isn't JSON counts as `{}`."""
    here = hub(request)
    body = await read_body(request)
    try:
        _anything.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        body = b"{}"
    return await complete_with(here, token_id, body)


async def complete_with(here: Hub, token_id: str, data: bytes) -> Response:
    """Complete a token whose right to be completed has been checked."""
    name = None
    if len(data) > here.settings.offload_bytes:
        async with here.database.transaction() as tx:
            environment_id = await tx.fetchval("select environment_id from waitpoints where id = $1", token_id)
        name = await offload.stow(here, environment_id, token_id, "output", data) if environment_id else None
    async with here.database.transaction() as tx:
        outcome = await engine.complete_waitpoint(
            tx, token_id, output=data.decode(), output_object=name, by=_answerer(data), now=here.clock.now()
        )
    if isinstance(outcome, engine.Unknown):
        raise not_found()
    return reply({"success": True})


def _answerer(data: bytes) -> str | None:
    """Who answered, when the value of an approval says so: for the run's story."""
    value = _anything.decode(data)
    by = value.get("by") if isinstance(value, dict) and "approved" in value else None
    return by[:200] if isinstance(by, str) else None

"""Public tokens by this server: for whoever has a key, and in the headers of replies.

A client with a secret key signs by itself, once it knows which environment the key opens. One with a scoped key asks for
the token, and gets no more than the key may do.
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.durations import parse_duration
from torpor.server import auth, public_tokens, scopes
from torpor.server.auth import Caller, Keyed, Kind
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused
from torpor.server.hub import Hub, hub
from torpor.store.database import Transaction
from torpor.store.records import Environment

LIFETIME_S = 15 * 60.0
OF_A_RUN_S = OF_A_BATCH_S = 3600.0
OF_A_WAIT_TOKEN_S = 24 * 3600.0
"""How long the tokens are good that come with a reply."""

router = APIRouter()


class TokenBody(msgspec.Struct, rename="camel"):
    scopes: Any = None
    expiration_time: Any = None
    one_time_use: bool = False
    realtime: dict[str, Any] | None = None


class ClaimsBody(msgspec.Struct, rename="camel"):
    claims: dict[str, Any] | None = None
    expiration_time: Any = None


_token_body = msgspec.json.Decoder(TokenBody)
_claims_body = msgspec.json.Decoder(ClaimsBody)


@router.post("/api/v1/auth/jwt/claims")
async def claims(request: Request, environment: Keyed) -> Response:
    """What a client puts into the tokens that it signs itself."""
    return reply(_claims(auth.caller(request)))


@router.post("/api/v1/auth/public-tokens")
async def public_token(request: Request, environment: Keyed) -> Response:
    """`{"token"}` with these scopes; 403 when they exceed the key's."""
    body = decode(await read_body(request), _token_body)
    return _minted(request, body.scopes, body.expiration_time, body.one_time_use, body.realtime)


@router.post("/api/v1/auth/jwt")
async def jwt(request: Request, environment: Keyed) -> Response:
    """The same in an older spelling."""
    body = decode(await read_body(request), _claims_body)
    asked = body.claims or {}
    if not isinstance(asked.get("otu", False), bool | None):
        raise Refused(400, f"claims.otu: true or false, not {asked['otu']!r}")
    return _minted(request, asked.get("scopes"), body.expiration_time, asked.get("otu") is True, asked.get("realtime"))


def _minted(request: Request, wanted: Any, expires: Any, is_one_time: bool, realtime: Any) -> Response:
    here, caller = hub(request), auth.caller(request)
    granted = scopes.check("scopes", wanted)
    if excess := scopes.exceeding(caller.scopes, granted):
        raise Refused(
            403,
            f"this key may not give away what it doesn't have: {', '.join(excess)}",
            code="unauthorized",
            param="scopes",
            type="authorization",
        )
    now = here.clock.now()
    token = public_tokens.signed(
        _secret(here, caller),
        caller.environment.id,
        granted,
        key_id=caller.key_id,
        expires_at=_end(expires, here.settings.max_public_token_s, now),
        now=now,
        is_one_time=is_one_time,
        skipped_columns=_skipped(realtime),
    )
    return reply({"token": token})


def headers(
    here: Hub, caller: Caller, granted: Collection[str], *, lifetime_s: float, tasks: Collection[str] | None = None
) -> dict[str, str]:
    """`x-trigger-jwt` and its claims: what lets the caller, or somebody it trusts, see what has just been made."""
    now = here.clock.now()
    token = public_tokens.signed(
        _secret(here, caller),
        caller.environment.id,
        granted,
        key_id=caller.key_id,
        expires_at=now + timedelta(seconds=lifetime_s),
        now=now,
        tasks=tasks,
    )
    return {"x-trigger-jwt": token, "x-trigger-jwt-claims": msgspec.json.encode(_claims(caller)).decode()}


def for_a_run(here: Hub, environment: Environment, granted: Collection[str], *, lifetime_s: float) -> str:
    """A token for something that a run has made. Workers have no key, so no key is behind it: it is good until its end."""
    now = here.clock.now()
    return public_tokens.signed(
        here.master_keys.derive(auth.signing(environment.id))[0],
        environment.id,
        granted,
        key_id=environment.id,
        expires_at=now + timedelta(seconds=lifetime_s),
        now=now,
    )


async def use_once(tx: Transaction, caller: Caller, used_for: str) -> None:
    """Use up a one-time token for this run or batch, if the caller has one; 422 when it was used for another."""
    if caller.kind is Kind.ONE_TIME:
        assert caller.token is not None
        if not await engine.use_token(tx, caller.token.identity, used_for, caller.token.expires_at):
            raise Refused(422, "this token was good for one use, and was used")


def _claims(caller: Caller) -> dict[str, Any]:
    return {"sub": caller.environment.id, "pub": True}


def _secret(here: Hub, caller: Caller) -> bytes:
    return here.master_keys.derive(auth.signing(caller.key_id))[0]


def _end(value: Any, longest_s: float, now: datetime) -> datetime:
    """`"2h"`, or seconds since 1970; 400 when it is over, or more than `longest_s` off."""
    try:
        if value is None:
            end = now + timedelta(seconds=min(LIFETIME_S, longest_s))
        elif isinstance(value, str):
            end = now + parse_duration(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            end = datetime.fromtimestamp(value, UTC)
        else:
            raise ValueError("a duration such as 2h, or seconds since 1970")
    except (ValueError, OverflowError, OSError) as error:
        raise Refused(400, f"expirationTime: {error}") from None
    if end < now + timedelta(seconds=1):
        raise Refused(400, "expirationTime: it is over already")
    if end > now + timedelta(seconds=longest_s):
        told = f"expirationTime: at most {longest_s:g} s from now"
        raise Refused(400, told, limit=longest_s, value=(end - now).total_seconds())
    return end


def _skipped(realtime: Any) -> list[str]:
    columns = realtime.get("skipColumns", []) if isinstance(realtime, dict) else [] if realtime is None else None
    if not isinstance(columns, list) or not all(isinstance(one, str) for one in columns) or len(columns) > 100:
        raise Refused(400, 'realtime: {"skipColumns": ["payload"]}')
    return columns

"""Accounts of the dashboard, for whoever has a secret key: list, make, remove; and links that sign a browser in, once."""

import secrets
from datetime import datetime
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.server import auth, passwords, sessions
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused, not_found
from torpor.server.hub import Hub, hub
from torpor.store.records import Account

MAX_NAME = 200

router = APIRouter()


class AccountBody(msgspec.Struct):
    name: str
    password: str


_account_body = msgspec.json.Decoder(AccountBody)


@router.get("/api/v1/accounts")
async def listing(request: Request) -> Response:
    auth.require_own(request)
    async with hub(request).database.transaction() as tx:
        found = await engine.accounts(tx)
    return reply({"data": [_shown(account) for account in found]})


@router.post("/api/v1/accounts")
async def create(request: Request) -> Response:
    auth.require_own(request)
    body = decode(await read_body(request), _account_body)
    made = await create_account(hub(request), body.name, body.password)
    if isinstance(made, str):
        raise Refused(422, made)
    return reply(_shown(made))


@router.delete("/api/v1/accounts/{account_id}")
async def remove(request: Request, account_id: str) -> Response:
    """Whoever is signed in to it is signed out."""
    auth.require_own(request)
    async with hub(request).database.transaction() as tx:
        outcome = await engine.remove_account(tx, account_id)
    if isinstance(outcome, engine.Unknown):
        raise not_found()
    return reply({"id": account_id})


@router.post("/api/v1/sign-in-links")
async def sign_in_link(request: Request) -> Response:
    auth.require_own(request)
    url, expires_at = await new_link(hub(request))
    return reply({"url": url, "expiresAt": expires_at})


async def create_account(here: Hub, name: str, password: str) -> Account | str:
    """The new account, or why there can't be one."""
    name = name.strip()
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        return f"name: 1 to {MAX_NAME} printable characters; an e-mail address is a good one"
    if problem := passwords.problem(password):
        return problem
    password_hash = await passwords.hashed(password)
    async with here.database.transaction() as tx:
        made = await engine.create_account(tx, name, password_hash, now=here.clock.now())
    return "name: there is an account of this name" if isinstance(made, engine.NameTaken) else made


async def new_link(here: Hub, then: str = "") -> tuple[str, datetime]:
    """A link that signs one browser in, once, and until when it does. Whoever is given it may do everything.

    Args:
        then: the page that it leads to; without it the runs.
    """
    token = secrets.token_urlsafe(24)
    async with here.database.transaction() as tx:
        expires_at = await engine.make_link(tx, sessions.hash_of(token), now=here.clock.now())
    return f"{here.public_url}/sign-in/{token}" + (f"?next={then}" if then else ""), expires_at


async def first_link(here: Hub) -> str | None:
    """Where there is no account yet, a link behind which the first one is made."""
    async with here.database.transaction() as tx:
        if await engine.accounts(tx):
            return None
    return (await new_link(here, then="/account"))[0]


def _shown(account: Account) -> dict[str, Any]:
    return {"id": account.id, "name": account.name, "createdAt": account.created_at}

"""Keys, also those of persons: list, make, rotate, revoke. And the data keys that checkpoints are sealed with: list, rotate.

The text of a key is in the reply that makes it, and nowhere else.
"""

import hashlib
import secrets
import string
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine, ids
from torpor.durations import parse_duration, parse_when
from torpor.errors import ConfigError
from torpor.server import auth, render, scopes
from torpor.server.auth import Keyed
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused, not_found
from torpor.server.hub import Hub, hub
from torpor.server.master_keys import MasterKeys
from torpor.store.records import ApiKey, DataKey, Environment

OVERLAP_S = 24 * 3600.0
LONGEST_OVERLAP_S = 30 * 24 * 3600.0
MAX_NAME = 128
PERSONAL, OF_WORKERS = "tr_pat_", "tr_wrk_"
_LETTERS = string.ascii_letters + string.digits

router = APIRouter()


class KeyBody(msgspec.Struct, rename="camel"):
    name: str
    scopes: list[str] | None = None
    expires: Any = None
    personal: bool = False
    worker: bool = False


class RotateBody(msgspec.Struct):
    overlap: Any = None


_key_body = msgspec.json.Decoder(KeyBody)
_rotate_body = msgspec.json.Decoder(RotateBody)


@router.get("/api/v1/whoami")
async def whoami(request: Request, environment: Keyed) -> Response:
    """What the request came with, and whose it is."""
    here, caller = hub(request), auth.caller(request)
    async with here.database.transaction() as tx:
        [key] = [each for each in await engine.api_keys(tx, environment.id) if each.id == caller.key_id]
    person = {} if caller.person is None else {"person": caller.person}
    told = {"kind": caller.kind, **person, "project": environment.project, "environment": environment.slug}
    return reply({**told, "key": render.api_key(key, caller.key_id, here.clock.now())})


@router.get("/api/v1/keys")
async def listing(request: Request, environment: Keyed) -> Response:
    """All keys of the environment, also those that were over within a month; never what they are."""
    here = hub(request)
    async with here.database.transaction() as tx:
        found = await engine.api_keys(tx, environment.id)
    now, yours = here.clock.now(), auth.caller(request).key_id
    return reply({"data": [render.api_key(key, yours, now) for key in found]})


@router.post("/api/v1/keys")
async def create(request: Request, environment: Keyed) -> Response:
    """A key, with `key`, its text, this once. With scopes it is a scoped key; `personal`, the token of whom it is named for;
    `worker`, one for workers."""
    here, body = hub(request), decode(await read_body(request), _key_body)
    text, key = await make(here, environment, body)
    return reply({**render.api_key(key, "", here.clock.now()), "key": text})


@router.post("/api/v1/keys/{key_id}/rotate")
async def rotate(request: Request, key_id: str, environment: Keyed) -> Response:
    """Another key like this one, with its text this once; this one holds beside it for the overlap."""
    here, body = hub(request), decode(await read_body(request), _rotate_body)
    text, key, replaced = await make_another(here, environment, key_id, body.overlap)
    now, yours = here.clock.now(), auth.caller(request).key_id
    return reply({**render.api_key(key, yours, now), "key": text, "replaces": render.api_key(replaced, yours, now)})


@router.post("/api/v1/keys/{key_id}/revoke")
async def revoke(request: Request, key_id: str, environment: Keyed) -> Response:
    """The key is worth nothing from now on."""
    here = hub(request)
    key = await end_key(here, environment, key_id)
    return reply(render.api_key(key, auth.caller(request).key_id, here.clock.now()))


async def make(here: Hub, environment: Environment, body: KeyBody, by: str | None = None) -> tuple[str, ApiKey]:
    """A key as it is asked for: its text, and what is kept of it. 400 or 422 for what can't be.

    Args:
        by: the person who asks, where one is known.
    """
    now = here.clock.now()
    if not 0 < len(body.name) <= MAX_NAME or "\0" in body.name:
        raise Refused(422, f"name: a text of 1 to {MAX_NAME} characters is needed")
    if body.personal and body.scopes is not None:
        raise Refused(422, "scopes: a personal token has none, it may do what its person may")
    if body.worker and (body.personal or body.scopes is not None):
        raise Refused(422, "worker: a worker token has no scopes and no person, it lets in workers")
    allowed = None if body.scopes is None else scopes.check("scopes", body.scopes)
    expires_at = _end(body.expires, now)
    text, new = made(
        here.master_keys,
        environment.slug,
        body.name,
        allowed,
        expires_at,
        is_personal=body.personal,
        is_worker=body.worker,
    )
    async with here.database.transaction() as tx:
        done = await engine.create_key(tx, environment.id, replace(new, created_by=by), now=now)
    return text, done.key


async def make_another(
    here: Hub, environment: Environment, key_id: str, overlap: Any, by: str | None = None
) -> tuple[str, ApiKey, ApiKey]:
    """Another key instead of this one: its text, what is kept of it, and this one as it is now. 404 or 422 if there is nothing
    to rotate."""
    now, overlap_s = here.clock.now(), _overlap_s(overlap)
    text = ""

    def like(old: ApiKey) -> engine.NewApiKey:
        nonlocal text
        name = _ROTATED if old.is_configured else old.name
        text, new = made(
            here.master_keys,
            environment.slug,
            name,
            old.scopes,
            old.expires_at,
            is_personal=old.is_personal,
            is_worker=old.is_worker,
        )
        return replace(new, created_by=by)

    async with here.database.transaction() as tx:
        done = await engine.rotate_key(tx, environment.id, key_id, like, overlap_s=overlap_s, now=now)
    match done:
        case engine.KeyMade(key=key, replaced=replaced):
            assert replaced is not None
            return text, key, replaced
        case engine.KeyIsOver():
            raise Refused(422, "this key is over: make another one")
        case engine.Unknown():
            raise not_found()


async def end_key(here: Hub, environment: Environment, key_id: str) -> ApiKey:
    """This key, which is worth nothing from now on. 422 for the last one that could make others."""
    async with here.database.transaction() as tx:
        done = await engine.revoke_key(tx, environment.id, key_id, now=here.clock.now())
    match done:
        case engine.KeyRevoked(key=key):
            here.hear("keys", {})  # this server needn't wait for the announcement
            return key
        case engine.LastKey():
            raise Refused(
                422,
                "this is the only secret key that is valid: without it nobody could make another. "
                "Rotate it without an overlap instead",
            )
        case engine.Unknown():
            raise not_found()


_ROTATED = "instead of TORPOR_SECRET_KEY"


def made(
    masters: MasterKeys,
    slug: str,
    name: str,
    allowed: list[str] | None,
    expires_at: datetime | None,
    *,
    is_personal: bool = False,
    is_worker: bool = False,
) -> tuple[str, engine.NewApiKey]:
    """A fresh key: its text, and what is kept of it. Only the hash, if nobody signs with it: clients do with a
    secret key."""
    beginning, length = f"tr_{slug}_" + ("" if allowed is None else "sk_"), 24
    if is_personal or is_worker:
        beginning, length = OF_WORKERS if is_worker else PERSONAL, 40
    text = beginning + "".join(secrets.choice(_LETTERS) for _ in range(length))
    sealed = masters.seal(_hash(text), text) if allowed is None and not (is_personal or is_worker) else None
    return text, engine.NewApiKey(
        ids.new("apikey"),
        _hash(text),
        name,
        f"{beginning}…{text[-4:]}",
        allowed,
        sealed.wrapped if sealed else None,
        sealed.master if sealed else None,
        expires_at,
        is_personal,
        is_worker=is_worker,
    )


def configured(masters: MasterKeys, text: str) -> engine.NewApiKey:
    """What is kept of the key that the server's setting names.

    Raises:
        ConfigError: it can't be an environment's secret key.
    """
    for beginning, kind in ((PERSONAL, "personal"), (OF_WORKERS, "worker")):
        if text.startswith(beginning):
            raise ConfigError(
                f"TORPOR_SECRET_KEY is a {kind} token ({beginning}…): a server needs the secret key of its environment"
            )
    sealed = masters.seal(_hash(text), text)
    # Of one that somebody has made up by hand four letters may be a good part.
    hint = f"…{text[-4:]}" if len(text) >= 24 else ""
    return engine.NewApiKey(
        ids.new("apikey"), _hash(text), "TORPOR_SECRET_KEY", hint, sealed=sealed.wrapped, master=sealed.master
    )


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _end(value: Any, now: datetime) -> datetime | None:
    if value is None:
        return None
    try:
        end = parse_when(value, now=now)
    except (ValueError, TypeError) as error:
        raise Refused(422, f"expires: {error}") from None
    if end <= now:
        raise Refused(422, "expires: it is over already")
    return end


def _overlap_s(value: Any) -> float:
    if value is None:
        return OVERLAP_S
    try:
        overlap = parse_duration(value)
    except (ValueError, TypeError) as error:
        raise Refused(422, f"overlap: {error}") from None
    if overlap > timedelta(seconds=LONGEST_OVERLAP_S):
        raise Refused(422, f"overlap: at most 30 days, not {value!r}")
    return overlap.total_seconds()


# -- data keys --------------------------------------------------------------------------------------------------------


@router.get("/api/v1/data-keys")
async def data_keys(request: Request, environment: Keyed) -> Response:
    """The data keys that checkpoints are sealed with; never what they are."""
    async with hub(request).database.transaction() as tx:
        found = await engine.data_keys(tx, environment.id)
    return reply({"data": [render.data_key(key) for key in found]})


@router.post("/api/v1/data-keys/rotate")
async def rotate_data_key(request: Request, environment: Keyed) -> Response:
    """Workers seal with a new key from their next heartbeat on; what is sealed already stays as it is, and readable."""
    new, found = await make_data_key(hub(request), environment)
    return reply({"id": new, "data": [render.data_key(key) for key in found]})


async def make_data_key(here: Hub, environment: Environment) -> tuple[str, list[DataKey]]:
    """Another one to seal with: its id, and all there are then."""
    new = here.master_keys.make()
    async with here.database.transaction() as tx:
        await engine.rotate_data_key(tx, environment.id, new, now=here.clock.now())
        return new.id, await engine.data_keys(tx, environment.id)

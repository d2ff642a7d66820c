"""Who asks: by a secret key, a personal token, a scoped key, a public token, or a token of workers.

What each route takes is declared in `access.py`, and looked at before its handler runs; handlers ask here on whose behalf
they work. Secrets are looked up by hash or compared in constant time; nothing secret is logged or said in an error.
"""

import hashlib
import hmac
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from torpor import engine
from torpor.engine import read
from torpor.errors import ConfigError
from torpor.server import environments, public_tokens, scopes, sessions
from torpor.server.errors import Refused
from torpor.server.hub import KEY_MEMORY_S, Hub, KeyRing, hub
from torpor.server.public_tokens import PublicToken
from torpor.store.records import ApiKey, Environment
from torpor.wire.http import OF_ENVIRONMENT, OF_PROJECT

CALLBACKS = "callback URLs of wait tokens"
NOT_OURS = "the key is not one of this server's, or it is not valid any more"


class Kind(StrEnum):
    """What a request can carry. The names are those of the documentation."""

    SECRET = "secret key"
    PERSONAL = "personal token"
    SCOPED = "scoped key"
    PUBLIC = "public token"
    ONE_TIME = "one-time token"
    WORKER = "worker token"
    SESSION = "session"
    HASH = "hash in the URL"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request is handled."""

    environment: Environment
    kind: Kind
    key_id: str = ""  # the key, or the one that its token was made with
    scopes: tuple[str, ...] | None = None  # None: everything
    token: PublicToken | None = None
    person: str | None = None  # whose personal token it is: who does what is done
    former_name: str | None = None  # by which a worker comes, if its environment is called otherwise by now

    @property
    def repeats(self) -> tuple[str, ...]:
        """What tells this caller's repeated requests from others': strangers with tokens share an environment."""
        return () if self.token is None else (self.token.identity.hex(),)

    def did(self, what: str) -> str:
        """Who did it, as far as that is known: for a story."""
        return f"{what} through the API" if self.person is None else f"{what} by {self.person}"

    def may(self, *wanted: str) -> bool:
        """Whether one of these scopes is granted."""
        return self.scopes is None or scopes.grants_any(self.scopes, wanted)

    def require(self, *wanted: str) -> None:
        """403 unless one of these scopes is granted."""
        if not self.may(*wanted):
            raise forbidden(self, wanted)


def forbidden(caller: Caller, wanted: Iterable[str]) -> Refused:
    """In the shape that the official client knows."""
    needed = " or ".join(wanted)
    return Refused(
        403,
        f"this {caller.kind} may not do that: it lacks the scope {needed}",
        code="unauthorized",
        param="access_token",
        type="authorization",
    )


# -- for handlers -----------------------------------------------------------------------------------------------------


def caller(request: Request) -> Caller:
    """Whom `access.admit` has let in."""
    return request.scope["caller"]


def environment(request: Request) -> Environment:
    """The environment that the request is about."""
    return caller(request).environment


async def worker_environment(request: Request) -> Environment:
    """The environment that this worker serves."""
    assert caller(request).kind is Kind.WORKER
    return caller(request).environment


Keyed = Annotated[Environment, Depends(environment)]
"""A parameter of a route that is asked on behalf of an environment."""


# -- for access.py ----------------------------------------------------------------------------------------------------


async def identified(request: Request) -> Caller:
    """Whose key or token the request carries; 401 without one that is valid."""
    here, text = hub(request), _bearer(request)
    found = await (_of_token(here, text) if public_tokens.looks_like(text) else _of_key(here, text))
    if found is None:
        raise Refused(401, NOT_OURS)
    return found


async def identified_worker(request: Request) -> Caller:
    """A worker; 401 unless the request carries the worker token of the server, or one of its environment."""
    here = hub(request)
    token, wanted = _bearer(request), here.settings.worker_token
    of_one = None
    if not wanted or not hmac.compare_digest(token.encode(), wanted.encode()):
        of_one = await _of_key(here, token)
        if of_one is None or of_one.kind is not Kind.WORKER:
            raise Refused(401, "the worker token is not this server's, or it is not valid any more")
    project = request.headers.get(OF_PROJECT, engine.PROJECT)
    slug = request.headers.get(OF_ENVIRONMENT, engine.ENVIRONMENT)
    place = engine.address(project, slug)
    found = None if "/" in slug else await environments.at(here, place) or await environments.formerly(here, place)
    if found is None:
        of = "" if project == engine.PROJECT else f" in a project {project[:40]!r}"
        raise Refused(401, f"this server has no environment {slug[:40]!r}{of} for workers")
    if of_one is not None and of_one.environment.id != found.id:
        theirs = environments.address(of_one.environment)
        raise Refused(
            401, f"this worker token is for the environment {theirs}, and the worker says that it serves {place[:80]}"
        )
    former_name = None if environments.address(found) == place else place
    return Caller(found, Kind.WORKER, of_one.key_id if of_one else "", former_name=former_name)


async def check_run_of_worker(request: Request, run_id: str) -> None:
    """403 for a run of another environment than that whose token the worker has. The server's own token is good for all."""
    asker = caller(request)
    if asker.key_id:
        async with hub(request).database.transaction() as tx:
            its = await read.environment_of_run(tx, run_id)
        if its not in (None, asker.environment.id):
            raise Refused(403, "this worker token is for another environment than the run's")


async def check_worker_itself(request: Request, worker_id: str) -> None:
    """403 for a worker of another environment than that whose token it has."""
    asker = caller(request)
    if asker.key_id:
        async with hub(request).database.transaction() as tx:
            its = await tx.fetchval("select environment_id from workers where id = $1", worker_id)
        if its not in (None, asker.environment.id):
            raise Refused(
                403,
                "this worker token is for another environment than the worker has served: give it a TORPOR_DATA_DIR of its own",
            )


async def identified_browser(request: Request) -> Caller:
    """A browser that is signed in; see sessions.py and environments.py for what is raised else."""
    session = await sessions.identified(request)
    found = await environments.looked_at(request, session)
    request.scope["session"] = replace(session, of=environments.address(found))
    return Caller(found, Kind.SESSION, person=session.name)


def require_own(request: Request) -> None:
    """403 unless the key is of the server's own environment: what belongs to no environment is looked after there."""
    if not engine.is_own(environment(request)):
        raise Refused(403, f"this takes a secret key of the server's own environment, {engine.ENVIRONMENT}")


async def _of_key(here: Hub, text: str) -> Caller | None:
    """Looked up by hash; remembered for a few seconds, so that a hot path costs no query. Misses aren't remembered."""
    key_hash, now = hashlib.sha256(text.encode()).digest(), here.clock.now()
    remembered = here.keys.get(key_hash)
    if remembered and time.monotonic() - remembered[0] < KEY_MEMORY_S:
        _, key, environment = remembered
    else:
        here.keys.pop(key_hash, None)
        changed = here.keys_changed
        async with here.database.transaction() as tx:
            found = await engine.key_by_hash(tx, key_hash)
            if found is None:
                return None
            key, environment = found
            if engine.is_valid(key, now):
                await engine.touch_key(tx, key, now=now)
        if changed == here.keys_changed:
            here.keys[key_hash] = (time.monotonic(), key, environment)
    if not engine.is_valid(key, now):
        return None
    if key.is_worker:
        return Caller(environment, Kind.WORKER, key.id)
    if key.is_personal:
        return Caller(environment, Kind.PERSONAL, key.id, person=key.name)
    if key.scopes is None:
        return Caller(environment, Kind.SECRET, key.id)
    return Caller(environment, Kind.SCOPED, key.id, tuple(key.scopes))


async def _of_token(here: Hub, text: str) -> Caller | None:
    """By the key that the token says it was made with, or else by one of those that a client can sign with."""
    claimed, now = public_tokens.claimed(text), here.clock.now()
    if claimed is None:
        return None
    ring = await _ring(here, claimed.environment_id)
    if ring is None:
        return None
    if claimed.key_id == claimed.environment_id:  # by a server, for what a run has made
        token = public_tokens.verified(text, here.master_keys.derive(signing(claimed.environment_id)), now)
        return _with(token, ring.environment, claimed.environment_id) if token else None
    for key, secret in ring.keys:
        if not engine.is_valid(key, now) or claimed.key_id not in (None, key.id):
            continue
        if claimed.key_id is None:
            secrets: Collection[bytes] = (secret,) if secret else ()
        else:
            secrets = here.master_keys.derive(signing(key.id))
        token = public_tokens.verified(text, secrets, now)
        if token is None:
            continue
        if not ring.touched.issuperset({key.id}):
            ring.touched.add(key.id)
            async with here.database.transaction() as tx:
                await engine.touch_key(tx, key, now=now)
        return _with(token, ring.environment, key.id)
    return None


def _with(token: PublicToken, environment: Environment, key_id: str) -> Caller:
    kind = Kind.ONE_TIME if token.is_one_time else Kind.PUBLIC
    return Caller(environment, kind, key_id, token.scopes, token)


async def _ring(here: Hub, environment_id: str) -> KeyRing | None:
    """The keys of an environment, with what clients sign with; remembered like a key."""
    ring = here.rings.get(environment_id)
    if ring and time.monotonic() - ring.looked_at < KEY_MEMORY_S:
        return ring
    here.rings.pop(environment_id, None)
    changed = here.keys_changed
    async with here.database.transaction() as tx:
        environment = await read.environment_or_none(tx, environment_id)
        if environment is None:
            return None
        found = await engine.api_keys(tx, environment_id)
    now = here.clock.now()
    keys = [(key, _opened(here, key)) for key in found if engine.is_valid(key, now)]
    ring = KeyRing(time.monotonic(), environment, keys)
    if changed == here.keys_changed:
        here.rings[environment_id] = ring
    return ring


def _opened(here: Hub, key: ApiKey) -> bytes:
    """What clients sign with; nothing where they don't, or where the master key is lost (start-up has said so)."""
    try:
        return here.master_keys.open(key).encode() if key.sealed else b""
    except ConfigError:
        return b""


def signing(key_id: str) -> str:
    """For what the secret is derived with which a server signs tokens on behalf of this key's holders."""
    return f"public tokens of {key_id}"


def _bearer(request: Request) -> str:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Refused(401, "a key is needed: send it as `Authorization: Bearer <key>`")
    return secret.strip()


def callback_hash(here: Hub, token_id: str) -> str:
    """What makes the callback URL of a wait token unguessable: only who has the master key can make it."""
    return _hash_of(here.master_keys.derive(CALLBACKS)[0], token_id)


def matches_callback(here: Hub, token_id: str, given_hash: str) -> bool:
    """Whether a server made this URL: with a master key that we still have, or, as older ones did, with the secret key."""
    secrets = here.master_keys.derive(CALLBACKS)
    if here.settings.secret_key:
        secrets.append(here.settings.secret_key.encode())
    given = given_hash.encode()
    return any(hmac.compare_digest(given, _hash_of(secret, token_id).encode()) for secret in secrets)


def _hash_of(secret: bytes, token_id: str) -> str:
    return hmac.new(secret, b"waitpoint callback " + token_id.encode(), hashlib.sha256).hexdigest()

"""Who may ask. Two kinds of bearer: an environment's secret key, and the token that workers and server share.

Each route states which it takes: `environment` or `worker_environment`, as a FastAPI dependency or called as the first
thing. Both answer with the environment that the request is about. Secrets are compared as hashes or in constant time,
kept nowhere, and never logged.
"""

import hashlib
import hmac
import time
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from torpor.engine import read
from torpor.server.errors import Refused
from torpor.server.hub import KEY_MEMORY_S, Hub, hub
from torpor.store.records import Environment


async def environment(request: Request) -> Environment:
    """The environment whose secret key the request carries; 401 without one."""
    found = await environment_of_key(hub(request), _bearer(request))
    if found is None:
        raise Refused(401, "the secret key is not one of this server's")
    return found


async def worker_environment(request: Request) -> Environment:
    """The environment that this server's workers serve; 401 unless the request carries the worker token."""
    here = hub(request)
    token = _bearer(request)
    if not here.settings.worker_token or not hmac.compare_digest(token.encode(), here.settings.worker_token.encode()):
        raise Refused(401, "the worker token is not this server's")
    found = await environment_of_key(here, here.settings.secret_key or "")
    if found is None:
        raise Refused(401, "this server has no environment for workers: it was started without a secret key")
    return found


Keyed = Annotated[Environment, Depends(environment)]
"""A parameter of a route that takes a secret key."""


async def environment_of_key(here: Hub, key: str) -> Environment | None:
    """Looked up by hash; remembered for a few seconds, so that a hot path costs no query. Misses aren't remembered."""
    if not key:
        return None
    key_hash = hashlib.sha256(key.encode()).digest()
    remembered = here.keys.get(key_hash)
    if remembered and time.monotonic() - remembered[0] < KEY_MEMORY_S:
        return remembered[1]
    async with here.database.transaction() as tx:
        found = await read.environment_by_key(tx, key_hash)
    if found is None:
        here.keys.pop(key_hash, None)
    else:
        here.keys[key_hash] = (time.monotonic(), found)
    return found


def _bearer(request: Request) -> str:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Refused(401, "a key is needed: send it as `Authorization: Bearer <key>`")
    return secret.strip()


def callback_hash(here: Hub, token_id: str) -> str:
    """What makes the callback URL of a wait token unguessable: only this server's key can make it."""
    key = (here.settings.secret_key or "").encode()
    return hmac.new(key, b"waitpoint callback " + token_id.encode(), hashlib.sha256).hexdigest()

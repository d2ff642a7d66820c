"""URLs that carry their own permission: to put one object into the store, or to get one out of it, for a short while.

    /api/v1/objects/<environment>/<name>/<signature>?until=<seconds since 1970>[&bytes=<at most so many>]

This server serves them itself, whatever the store is. A bucket could be asked for such a URL too, but its PUT bounds no
size, its content type is the uploader's word, and the bucket would have to be in reach of browsers. Here what comes in
is read as any other payload is, and refused as one.

All parts of a URL are signed, its query as it is written, together with the method, by secrets that are derived from the master
keys: servers that share those take each other's URLs, and nothing of them is stored. Who sees such a URL may use it; so
they are short-lived, and never logged.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request

from torpor.server.hub import Hub, hub

GOOD_FOR_S = 15 * 60
PURPOSE = "presigned URLs"


@dataclass(frozen=True, slots=True)
class Grant:
    """What one URL permits; `terms` is its query."""

    method: str
    environment_id: str
    name: str
    terms: str

    def signature(self, secret: bytes) -> str:
        # As JSON: no part can run over into the next one.
        parts = msgspec.json.encode([self.method, self.environment_id, self.name, self.terms])
        return hmac.new(secret, parts, hashlib.sha256).hexdigest()

    def is_over(self, now: datetime) -> bool:
        return now.timestamp() >= int(dict(parse_qsl(self.terms))["until"])


def to_put(request: Request, environment_id: str, name: str, *, max_bytes: int) -> str:
    """The URL by which an object of that name can be put, with at most so many bytes."""
    return _url(request, "PUT", environment_id, name, f"&bytes={max_bytes}")


def to_get(request: Request, environment_id: str, name: str) -> str:
    """The URL by which that object can be read."""
    return _url(request, "GET", environment_id, name)


def _url(request: Request, method: str, environment_id: str, name: str, more_terms: str = "") -> str:
    here = hub(request)
    until = int(here.clock.now().timestamp()) + GOOD_FOR_S
    grant = Grant(method, environment_id, name, f"until={until}{more_terms}")
    signature = grant.signature(here.master_keys.derive(PURPOSE)[0])
    # Without a setting, as the client itself has reached us.
    base = (here.settings.public_url or str(request.base_url)).rstrip("/")
    return f"{base}/api/v1/objects/{environment_id}/{name}/{signature}?{grant.terms}"


def admits(request: Request) -> bool:
    """Whether this request came by such a URL that has not run out."""
    here, path = hub(request), request.path_params
    terms = request.scope["query_string"].decode("latin-1")
    grant = Grant(request.method, path["environment_id"], path["name"], terms)
    return permits(here, grant, path["given_hash"], here.clock.now())


def permits(here: Hub, grant: Grant, signature: str, now: datetime) -> bool:
    """Whether a server that shares a master key with this one has given this away, and it has not run out."""
    given = signature.encode()
    secrets = here.master_keys.derive(PURPOSE)
    # The signature first: what was not signed is not looked into.
    if not any(hmac.compare_digest(given, grant.signature(secret).encode()) for secret in secrets):
        return False
    return not grant.is_over(now)

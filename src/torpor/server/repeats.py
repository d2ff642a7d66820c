"""A call that comes again because its answer was lost makes the same thing, not a second one.

The official client and ours send one `x-trigger-request-idempotency-key` per logical call and repeat it when they try
again. The id of what is made is derived from it, so the second call meets the first one's row: nothing to remember,
and nothing that another server of the fleet could not know.
"""

import hashlib

from starlette.requests import Request

from torpor import ids
from torpor.server.errors import Refused

HEADER = "x-trigger-request-idempotency-key"


def id_for(request: Request, kind: str, *scope: str) -> str:
    """An id of this kind: the same one for a repeated call in this scope, else a fresh one."""
    key = request.headers.get(HEADER)
    if not key:
        return ids.new(kind)
    if len(key) > 2048:
        raise Refused(400, f"{HEADER}: at most 2048 characters")
    digest = hashlib.sha256("\0".join((kind, *scope, key)).encode()).digest()
    return ids.made_of(kind, digest)

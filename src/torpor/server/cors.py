"""Which pages may ask this server: those of every origin, where a browser has business; nowhere else.

That is where public tokens are taken, presigned URLs, and the list of time zones. A token stands in a header that a
page has to set, so no cookie of a visitor's is ever used, and every origin may be let in. A preflight is answered without a key.
"""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torpor.server.access import ROUTES
from torpor.server.auth import Kind

ALLOWED = (
    "authorization, content-type, trigger-version, x-trigger-source, x-trigger-client, x-trigger-branch, "
    "x-trigger-api-version, x-trigger-realtime-streams-version, x-trigger-request-idempotency-key, "
    "x-trigger-electric-version, last-event-id, timeout-seconds, x-trigger-stream-start, x-part-id, traceparent, "
    "tracestate"
)
EXPOSED = (
    "x-trigger-jwt, x-trigger-jwt-claims, electric-offset, electric-handle, electric-schema, electric-cursor, "
    "electric-up-to-date, x-stream-version, x-session-settled, x-ratelimit-limit, x-ratelimit-remaining, "
    "x-ratelimit-reset, retry-after"
)
MAX_AGE_S = 7200
_MANY = re.compile(r"\{(task_id|stream_key)\}")
"""Parts of a path that may hold slashes."""


def browsable() -> list[str]:
    """The routes where a browser has business."""
    return [
        name
        for name, access in ROUTES.items()
        if Kind.PUBLIC in access.takes or " /api/v1/objects/" in name or name == "GET /api/v1/timezones"
    ]


class Cors:
    """Middleware around the whole application, so that pages can read refusals as well."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = [
            (method, compile_path(_MANY.sub(r"{\1:path}", path))[0])
            for method, path in (name.split(" ", 1) for name in browsable())
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        if "origin" not in headers:
            await self._app(scope, receive, send)
            return
        wanted = headers.get("access-control-request-method")
        is_preflight = scope["method"] == "OPTIONS" and wanted is not None
        method = wanted if is_preflight else scope["method"]
        if not any(method == each and pattern.fullmatch(scope["path"]) for each, pattern in self._open):
            await self._app(scope, receive, send)
        elif is_preflight:
            allowed = {"access-control-allow-methods": method, "access-control-allow-headers": ALLOWED}
            told = {"access-control-allow-origin": "*", "access-control-max-age": str(MAX_AGE_S), **allowed}
            await Response(status_code=204, headers=told)(scope, receive, send)
        else:

            async def send_openly(message: Message) -> None:
                if message["type"] == "http.response.start":
                    answer = MutableHeaders(scope=message)
                    answer["access-control-allow-origin"] = "*"
                    answer["access-control-expose-headers"] = EXPOSED
                await send(message)

            await self._app(scope, receive, send_openly)

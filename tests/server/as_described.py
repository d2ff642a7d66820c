"""Holds what the servers of a test take and answer against what the OpenAPI document says of them.

Every answer of every test is looked at: its status must be one of those that are told for its route, and its body must have the
told fields, of the told types, and no others. Of every request that was carried out, the parameters and the body must be such as
are told: what a client of ours or the official one sends is not forbidden by the document. The types are those that the
document's schemas are made from; reading as one of them takes some microseconds, where a schema would take milliseconds.
"""

from functools import cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torpor.server import access
from torpor.server.described import document
from torpor.server.described.operation import JSON, Operation, Refusal, refusals_of

OPERATIONS: dict[str, Operation] = dict(document.operations())
REFUSAL = msgspec.json.Decoder(Refusal)


class AsDescribed:
    """Middleware around a server's whole application. `misfits` gets a line for each answer that isn't as told."""

    def __init__(self, app: ASGIApp, misfits: list[str]) -> None:
        self._app = app
        self._misfits = misfits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, headers, body, asked = 0, Headers(), bytearray(), bytearray()

        async def listen() -> Message:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def look(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], Headers(raw=message["headers"])
            elif headers.get("content-type") == JSON:
                body.extend(message.get("body", b""))
            await send(message)

        await self._app(scope, listen, look)
        route = scope.get("route")
        name = access.name(scope["method"], route.path) if route else ""
        name = name if name in access.ROUTES else ""
        if "/worker/" in name or (name and access.ROUTES[name].is_page):
            return
        wrong = misfit(name, scope["method"], status, headers, bytes(body))
        if not wrong and name and status < 300:
            wrong = forbidden(OPERATIONS[name], scope, bytes(asked))
        if wrong:
            self._misfits.append(f"{name or scope['path']}: {wrong}")


def misfit(name: str, method: str, status: int, headers: Headers, body: bytes) -> str | None:
    """What isn't as told. Without a name: of a path or a method that there isn't, or a browser's preflight."""
    if not name or (method, status) == ("HEAD", 405):
        return (
            None
            if status in (404, 405) or (status, method) == (204, "OPTIONS")
            else f"{status}, and there is no such route"
        )
    operation = OPERATIONS.get(name)
    if operation is None:
        return "the route is not described"
    answer = operation.answers.get(status)
    if answer is None and status not in refusals_of(name, operation):
        return f"{status} is not told: {body[:300]!r}"
    media = JSON if answer is None else answer.media
    if answer is not None and answer.type is None and not body:
        return None
    if headers.get("content-type", "").partition(";")[0] != media:
        return f"{status} as {headers.get('content-type')!r} instead of {media}"
    if method == "HEAD" or media != JSON:
        return None
    try:
        (REFUSAL if answer is None else _decoder(name, status)).decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return f"{status} has another shape: {error}; {body[:300]!r}"
    return None


def forbidden(operation: Operation, scope: Scope, body: bytes) -> str | None:
    """What was taken though it isn't told: a parameter or a body."""
    known = {one.name for one in operation.query}
    for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
        if name not in known and not name.startswith("x-schemathesis-"):  # which asks whether what is unknown does harm
            return f"the parameter {name!r} was taken, and is not told"
    if operation.body is None or operation.body.type is Any or not body.strip():
        return None
    kind = operation.body.media
    try:
        for text in body.splitlines() if kind.endswith("ndjson") else [body]:
            if kind in (JSON, "application/x-ndjson") and text.strip():
                msgspec.json.decode(text, type=operation.body.type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return f"a body was taken that should not be one: {error}; {body[:300]!r}"
    return None


@cache
def _decoder(name: str, status: int) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(OPERATIONS[name].answers[status].type)

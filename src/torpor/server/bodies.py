"""Reading request bodies and writing JSON replies: bounded, with msgspec, and never confused by an absent body.

The official client sends `Content-Type: application/json` with every request, also those without a body, so the header
says nothing: an empty body is `{}`.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from torpor.server.errors import Refused
from torpor.server.hub import hub
from torpor.wire.http import MAX_BODY_BYTES

WORKER_LIMIT = MAX_BODY_BYTES
"""Bytes in a worker's message: an output is not cut by the border inside the platform."""

T = TypeVar("T")


async def read_body(request: Request, limit: int | None = None) -> bytes:
    """The whole body; 413 as soon as it is known to be too long: for public requests, than the setting says."""
    limit = hub(request).settings.max_request_bytes if limit is None else limit
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise Refused(
            413, f"the request has {announced} bytes; at most {limit} are taken", limit=limit, value=int(announced)
        )
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise Refused(
                    413, f"the request has more than {limit} bytes, which are the most that are taken", limit=limit
                )
    except ClientDisconnect:
        raise Refused(400, "the request ended before its body did") from None
    return bytes(body)


async def hung_up(receive: Receive) -> None:
    """Until the client is gone. For requests whose body was read, or has none: what comes of one is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as the decoder's type; 400 that names the field when it isn't."""
    try:
        return decoder.decode(body or b"{}")
    except msgspec.ValidationError as error:
        raise Refused(400, f"the request doesn't fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"Invalid JSON: {error}") from None


_ENCODER = msgspec.json.Encoder()


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON reply. Instants become ISO 8601 with `Z`; who builds `value` leaves absent fields out."""
    return Response(_ENCODER.encode(value), status, headers, "application/json")

"""Server-sent events: an answer that goes on, in which a client that is cut off knows where it was.

How such an answer ends tells the client what to do. A clean end means that there is no more, and it stops. When the server
stops there is more: then the connection is cut, and the client comes again, to another server, with the number of the last
event that it has.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from torpor.server.bodies import hung_up

CUT = "torpor.is_cut_on_stop"
"""In the scope of a request whose connection is to be cut when the server stops."""
KEEP_ALIVE_S = 15.0
STILL_HERE = b": still here\n\n"
UNTIL_CUT_S = 2.0
"""Who stops the server cuts at once; what has come in between cuts itself off then."""


class Cut(Exception):
    """There would be more, but not from this server."""


class EventStream(Response):
    """Sends what the generator yields; ends at once when the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        self._events = events
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache, no-transform", "x-accel-buffering": "no", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[CUT] = True
        sending, left = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(hung_up(receive))
        try:
            await asyncio.wait({sending, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, left):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({sending, left})
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        except Cut:
            await asyncio.sleep(UNTIL_CUT_S)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

"""Connections: what uvicorn's own don't bound, since a request isn't one before its head is whole.

Nobody has shown a key by then. Whoever sends a head without end would fill the server's memory, and whoever opens connections
and says nothing, or a letter now and then, would hold them all. Bodies are bounded where they are read (bodies.py).
"""

from asyncio import BaseTransport, TimerHandle
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Of a request line and its headers; what came with the end of them in one piece is not counted."""
HEAD_S = 30.0
"""How long a head may take, on a new connection, and from its first letter on an old one."""
REFUSED = {
    400: ("Bad Request", "this is not HTTP/1.1 as it should be"),
    408: ("Request Timeout", f"the request's head did not come within {HEAD_S:g} s"),
    431: ("Request Header Fields Too Large", f"the request line and its headers have at most {MAX_HEAD_BYTES} bytes"),
}


class Connection(HttpToolsProtocol):
    """One connection of one client."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._head_bytes = 0
        self._is_in_head = True
        self._deadline: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # pyright: ignore[reportArgumentType]
        self._deadline = self.loop.call_later(HEAD_S, self._refuse, 408)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431)
            elif self._deadline is None:
                self._deadline = self.loop.call_later(HEAD_S, self._refuse, 408)

    def on_message_begin(self) -> None:
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # what trails a body is of no use, and may be of any length
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._forget_deadline()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """As every refusal, where uvicorn would send plain text."""
        self._refuse(400)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing to warn of: what asks for a WebSocket is answered as if it did not."""

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int) -> None:
        """And close. Nothing is written into an answer that has begun: what is wrong then is the request behind it."""
        self._forget_deadline()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            phrase, why = REFUSED[status]
            body = msgspec.json.encode({"error": why})
            head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

"""How the worker asks again when an answer was lost."""

import asyncio

import msgspec
import pytest

from torpor.wire import http as wire
from torpor.worker.link import Link

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_message_that_is_made_anew_says_at_each_try_what_is_true_then():
    """The engine tells by a request's number which replies to earlier ones are lost; so no two tries may share one."""
    heard: list[wire.DequeueRequest] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        heard.append(msgspec.json.decode(await reader.readexactly(length), type=wire.DequeueRequest))
        if len(heard) == 3:  # before: the connection breaks
            body = msgspec.json.encode(wire.DequeueReply([]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
        writer.close()

    numbers = iter(range(1, 10))
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    link = Link(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "token", "default", "dev")
    try:
        reply = await link.send_anew(
            "dequeue",
            lambda: wire.DequeueRequest("w1", "i1", 1, [], True, number=next(numbers), holding=[]),
            wire.DequeueReply,
        )
    finally:
        await link.close()
        server.close()
    assert reply.assignments == []
    assert [asked.number for asked in heard] == [1, 2, 3]

"""What comes over a connection that is no request, or one that never ends, costs the server nothing and others no time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import httpx2
import msgspec
import pytest
from facts import PATIENCE_S
from fake_worker import KEY, FakeWorker

from torpor.server import connections

pytestmark = pytest.mark.anyio

BEARER = f"host: x\r\nauthorization: Bearer {KEY}\r\n".encode()
TRIGGER = b"POST /api/v1/tasks/echo/trigger HTTP/1.1\r\n" + BEARER
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
async def url(lasting_url: str) -> str:
    """One server for all: they are about their connections."""
    return lasting_url


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    where = urlsplit(url)
    assert where.port
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answered(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of an answer after which the server hangs up."""
    head, _, body = (await asyncio.wait_for(reader.read(), PATIENCE_S)).partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        TRIGGER + CHUNKED + b"ZZ\r\n{}\r\n",
        TRIGGER + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        TRIGGER + b"content-length: 2\r\n" + CHUNKED + b"0\r\n\r\n",
        TRIGGER + b"content-length: -2\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n" + BEARER + b"\r\n",
    ],
)
async def test_what_is_hardly_http_is_400_in_the_one_shape(url: str, sent: bytes) -> None:
    async with connected(url) as (reader, writer):
        writer.write(sent)
        status, body = await answered(reader)
    assert (status, [*msgspec.json.decode(body)]) == (400, ["error"])


async def test_a_body_that_breaks_off_or_breaks_makes_no_run(url: str, worker: FakeWorker) -> None:
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
        before = (await http.get(f"{url}/api/v1/runs")).json()["data"]
        for rest in (b"", b"QQ\r\n"):
            async with connected(url) as (reader, writer):
                writer.write(TRIGGER + CHUNKED + b'd\r\n{"payload": 1\r\n')
                await writer.drain()
                if rest:
                    writer.write(rest)
                    assert (await answered(reader))[0] == 400
        assert (await http.get(f"{url}/api/v1/runs")).json()["data"] == before


@pytest.mark.parametrize(
    "part",
    [
        lambda n: b"x-long: " + b"a" * n,
        lambda n: b"".join(b"x-%d: y\r\n" % i for i in range(n // 8)),
        lambda n: b"a" * n,
    ],
    ids=["one long header", "many headers", "no header at all"],
)
async def test_a_head_without_end_is_cut_off(url: str, part: Callable[[int], bytes]) -> None:
    """Some megabytes are on their way before the sender hears of it."""
    piece, sent = part(100_000), 0
    async with connected(url) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        with suppress(ConnectionError):
            while sent < 50_000_000 and not reader.at_eof():
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
    assert sent < 50_000_000


async def test_who_does_not_come_to_the_end_of_a_head_is_sent_away(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    for begun in (b"", b"GET /healthz HTTP/1.1\r\nhost: x\r\n"):
        async with connected(url) as (reader, writer):
            writer.write(begun)
            assert (await answered(reader))[0] == 408
    # On an old connection from its first letter on; while nothing comes, it is idle, which is something else.
    monkeypatch.setattr(connections, "HEAD_S", 3600)
    async with connected(url) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b'"ok"}')
        monkeypatch.setattr(connections, "HEAD_S", 0.3)
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        assert (await answered(reader))[0] == 408


async def test_a_slow_body_is_served_in_its_time_and_holds_up_nobody(
    url: str, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b'{"payload": "slow"}'
    async with connected(url) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b'"ok"}')
        monkeypatch.setattr(connections, "HEAD_S", 0.3)  # for the head that comes whole
        writer.write(TRIGGER + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body))
        for letter in body:
            writer.write(bytes([letter]))
            await writer.drain()
            await asyncio.sleep(0.03)
            if letter == body[5]:
                async with httpx2.AsyncClient() as http:
                    assert (await http.get(f"{url}/healthz")).status_code == 200
        assert (await answered(reader))[0] == 200


async def test_a_request_for_a_websocket_is_answered_as_any_other(url: str) -> None:
    upgrade = (
        b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: YQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    async with connected(url) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + upgrade)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")

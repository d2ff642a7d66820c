"""Triggers outside of runs share a client, and so its connection."""

import asyncio
import gc
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from torpor import create_token, sync, task
from torpor.sdk import kept_client
from torpor.sdk.runs import Run


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections

    def setup(self) -> None:
        super().setup()
        assert isinstance(self.server, Server)
        self.server.connections += 1

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer()

    def _answer(self) -> None:
        assert isinstance(self.server, Server)
        self.server.keys.append(self.headers["authorization"].removeprefix("Bearer "))
        body = b'{"id": "run_1", "url": "http://x", "isCached": false, "status": "QUEUED"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    connections = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys: list[str] = []


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("TORPOR_API_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("TORPOR_SECRET_KEY", "tr_dev_a")
        yield server
        kept_client._close_all()
        server.shutdown()
        thread.join()


@task
def nap() -> None: ...


def test_blocking_calls_share_one_connection(server: Server) -> None:
    for _ in range(3):
        nap.sync.trigger()
    sync.create_token()
    Run("run_1", "nap").sync.retrieve()
    assert (len(server.keys), server.connections) == (5, 1)


def test_awaited_calls_share_one_connection_in_each_loop_and_close_it(server: Server) -> None:
    async def several() -> None:
        await asyncio.gather(nap.trigger(), nap.trigger())  # at once: two connections
        before = server.connections
        for _ in range(3):
            await nap.trigger()
        await create_token()
        await Run("run_1", "nap").retrieve()
        assert server.connections == before <= 2

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)  # a socket that nobody closed
        asyncio.run(several())
        server.connections = 0
        asyncio.run(several())
        gc.collect()
    assert not any(kept_client._async_clients.values())


def test_another_key_has_another_client(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    nap.sync.trigger()
    monkeypatch.setenv("TORPOR_SECRET_KEY", "tr_dev_b")
    nap.sync.trigger()
    monkeypatch.setenv("TORPOR_SECRET_KEY", "tr_dev_a")
    nap.sync.trigger()
    assert server.keys == ["tr_dev_a", "tr_dev_b", "tr_dev_a"]
    assert server.connections == 2


def test_a_forked_child_has_a_client_of_its_own(server: Server) -> None:
    async def trigger_around_a_fork() -> None:
        await nap.trigger()
        if (child := os.fork()) == 0:
            status = 1
            try:
                asyncio._set_running_loop(None)
                nap.sync.trigger()
                asyncio.run(_trigger())
                status = 0
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert status == 0
        await nap.trigger()

    async def _trigger() -> None:
        await nap.trigger()

    nap.sync.trigger()
    asyncio.run(trigger_around_a_fork())
    nap.sync.trigger()
    assert (len(server.keys), server.connections) == (6, 4)


def test_a_connection_that_the_server_has_closed_is_made_anew(server: Server) -> None:
    nap.sync.trigger()
    (client,) = kept_client._clients.values()
    pool = client._http._transport._pool  # pyright: ignore[reportAttributeAccessIssue]
    stream = pool.connections[0]._connection._network_stream
    stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    nap.sync.trigger()
    assert (len(server.keys), server.connections) == (2, 2)

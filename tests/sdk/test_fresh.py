"""Connections of real libraries to real servers: none is open at a freeze, and each client works after it.

Between a run and its server there is a relay that knows how many connections are open, and can cut them, as a restore does.
"""

import asyncio
import contextlib
import http.server
import importlib
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fake_supervisor import Supervisor

import torpor.sync
from scratch_postgres import ScratchPostgres
from torpor import app, checkpoint, task, wait
from torpor.sdk import fresh
from torpor.wire.runner import Answer, StayingAwake, Suspend

pytest.importorskip("psycopg_pool", reason="the extra `programs` has the libraries")


class Relay:
    """Passes bytes on, and knows what is open."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.total = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def open(self) -> int:
        return len(self._pairs)

    def cut(self) -> None:
        """End all connections, as a restore does: the peers aren't asked."""
        for pair in list(self._pairs):
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if isinstance(self._target, str):
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._target)
            else:
                far = socket.create_connection(self._target)
            self.total += 1
            pair = (near, far)
            self._pairs.append(pair)
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self._pass_on, args=(source, sink, pair), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, pair: Any) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for each in pair:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(ValueError):
            self._pairs.remove(pair)


class _Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"<ListAllMyBucketsResult/>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


class _Redis(socketserver.StreamRequestHandler):
    """As much of a Redis as a client needs that only pings."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            words: list[bytes] = []
            for _ in range(int(line[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:length])
            self.wfile.write(b"+PONG\r\n" if words[0].upper() == b"PING" else b"+OK\r\n")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL, by unix socket."""
    server = ScratchPostgres(tmp_path_factory.mktemp("postgres"))
    yield asyncio.run(server.start())
    asyncio.run(server.destroy())


@pytest.fixture(scope="module")
def served() -> Iterator[dict[str, tuple[str, int]]]:
    servers = {
        "http": http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages),
        "redis": socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Redis),
    }
    for server in servers.values():
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {name: server.server_address for name, server in servers.items()}  # pyright: ignore[reportReturnType]
    for server in servers.values():
        server.shutdown()
        server.server_close()


@pytest.fixture
def relay(request: pytest.FixtureRequest, postgres: str, served: dict[str, tuple[str, int]]) -> Iterator[Relay]:
    """To the server that the test's client (its parameter) talks to."""
    kind = request.node.callspec.params["client"].server
    parts = urlsplit(postgres)
    unix = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
    one = Relay(unix if kind == "postgres" else served[kind])
    yield one
    one.close()


class Client:
    """How a library is used: a function of the relay's port that gives a context in which `use` may be called repeatedly."""

    def __init__(self, server: str, is_async: bool, make: Callable[[int], Any]) -> None:
        self.server, self.is_async, self.make = server, is_async, make
        self.name = make.__name__


CLIENTS: list[Client] = []


def client(server: str, is_async: bool = False) -> Callable[[Callable[[int], Any]], Callable[[int], Any]]:
    def add(make: Callable[[int], Any]) -> Callable[[int], Any]:
        CLIENTS.append(Client(server, is_async, make))
        return make

    return add


@client("http")
@contextlib.contextmanager
def httpx_sync(port: int) -> Iterator[Callable[[], Any]]:
    import httpx

    with httpx.Client() as made:
        yield lambda: made.get(f"http://127.0.0.1:{port}/").status_code


@client("http", is_async=True)
@contextlib.asynccontextmanager
async def httpx_async(port: int) -> AsyncIterator[Callable[[], Any]]:
    import httpx

    async with httpx.AsyncClient() as made:

        async def use() -> int:
            answers = await asyncio.gather(*(made.get(f"http://127.0.0.1:{port}/") for _ in range(3)))
            return answers[0].status_code

        yield use


@client("http")
@contextlib.contextmanager
def httpx2_sync(port: int) -> Iterator[Callable[[], Any]]:
    import httpx2

    with httpx2.Client() as made:
        yield lambda: made.get(f"http://127.0.0.1:{port}/").status_code


@client("http")
@contextlib.contextmanager
def requests_session(port: int) -> Iterator[Callable[[], Any]]:
    import requests

    with requests.Session() as made:
        yield lambda: made.get(f"http://127.0.0.1:{port}/").status_code


@client("http")
@contextlib.contextmanager
def boto3_client(port: int) -> Iterator[Callable[[], Any]]:
    import boto3

    made: Any = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    yield lambda: made.list_buckets()["ResponseMetadata"]["HTTPStatusCode"]
    made.close()


@client("redis")
@contextlib.contextmanager
def redis_sync(port: int) -> Iterator[Callable[[], Any]]:
    import redis

    with redis.Redis(port=port, protocol=2) as made:
        yield lambda: 200 if made.ping() else 0


@client("redis", is_async=True)
@contextlib.asynccontextmanager
async def redis_async(port: int) -> AsyncIterator[Callable[[], Any]]:
    import redis.asyncio

    async with redis.asyncio.Redis(port=port, protocol=2) as made:

        async def use() -> int:
            return 200 if all(await asyncio.gather(*(made.ping() for _ in range(3)))) else 0

        yield use


@client("postgres")
@contextlib.contextmanager
def psycopg_pool_sync(port: int) -> Iterator[Callable[[], Any]]:
    import psycopg_pool

    with psycopg_pool.ConnectionPool(_conninfo(port), min_size=2, max_size=3, timeout=60) as made:

        def use() -> int:
            with made.connection() as connection:
                row = connection.execute("select 200").fetchone()
                return row[0] if row else 0

        made.wait()
        yield use


@client("postgres", is_async=True)
@contextlib.asynccontextmanager
async def psycopg_pool_async(port: int) -> AsyncIterator[Callable[[], Any]]:
    import psycopg_pool

    async with psycopg_pool.AsyncConnectionPool(_conninfo(port), min_size=2, max_size=3, timeout=60) as made:

        async def use() -> int:
            async with made.connection() as connection:
                row = await (await connection.execute("select 200")).fetchone()
                return row[0] if row else 0

        await made.wait()
        yield use


@client("postgres", is_async=True)
@contextlib.asynccontextmanager
async def asyncpg_pool(port: int) -> AsyncIterator[Callable[[], Any]]:
    import asyncpg

    async with asyncpg.create_pool(
        host="127.0.0.1", port=port, user="torpor", database="torpor", ssl=False, min_size=2, max_size=3
    ) as made:

        async def use() -> int:
            return (await asyncio.gather(*(made.fetchval("select 200") for _ in range(3))))[0]

        yield use


@client("postgres")
@contextlib.contextmanager
def sqlalchemy_engine(port: int) -> Iterator[Callable[[], Any]]:
    import sqlalchemy

    made = sqlalchemy.create_engine(f"postgresql+psycopg://torpor@127.0.0.1:{port}/torpor?sslmode=disable")

    def use() -> int:
        with made.connect() as connection:
            return connection.execute(sqlalchemy.text("select 200")).scalar_one()

    yield use
    made.dispose()


@client("postgres", is_async=True)
@contextlib.asynccontextmanager
async def sqlalchemy_async_engine(port: int) -> AsyncIterator[Callable[[], Any]]:
    import sqlalchemy
    from sqlalchemy.ext.asyncio import create_async_engine

    made = create_async_engine(f"postgresql+asyncpg://torpor@127.0.0.1:{port}/torpor", connect_args={"ssl": False})

    async def use() -> int:
        async with made.connect() as connection:
            return (await connection.execute(sqlalchemy.text("select 200"))).scalar_one()

    yield use
    await made.dispose()


def _conninfo(port: int) -> str:
    return f"host=127.0.0.1 port={port} user=torpor dbname=torpor sslmode=disable"


ALL = pytest.mark.parametrize("client", CLIENTS, ids=lambda each: each.name)


def working(client: Client, port: int, pause: str) -> Any:
    """A task that uses the client three times, and pauses in between."""

    @task
    async def work() -> list[int]:
        seen: list[int] = []
        async with client.make(port) as use:
            for _ in range(3):
                seen.append(await use())
                await (wait.for_(hours=1) if pause == "wait" else checkpoint("paused"))
        return seen

    @task
    def work_blocking() -> list[int]:
        seen: list[int] = []
        with client.make(port) as use:
            for _ in range(3):
                seen.append(use())
                torpor.sync.wait.for_(hours=1) if pause == "wait" else torpor.sync.checkpoint("paused")
        return seen

    return work if client.is_async else work_blocking


def eventually(true: Callable[[], bool], told: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, told()
        time.sleep(0.01)


@ALL
def test_nothing_is_open_while_the_run_is_frozen_and_the_client_works_after_it(
    supervisor: Supervisor, client: Client, relay: Relay
) -> None:
    supervisor.start(working(client, relay.port, "wait"))
    for restored in (True, True, False):
        waits = [new for new in supervisor.expect_idle().waits if new.duration_s == 3600]
        assert relay.open > 0
        supervisor.suspend()
        eventually(lambda: relay.open == 0, lambda: f"{relay.open} are open\n{supervisor.output()}")
        supervisor.wake(Answer(waits[0].wait_id, "completed"), restored=restored)
    assert supervisor.output_of_run() == [200] * 3
    assert "could not be looked after" not in supervisor.output()


@pytest.fixture(scope="module")
def loaded() -> None:
    """The libraries, in this process: those that are forked from it have them, as those of a zygote do."""
    for name in (
        "asyncpg",
        "boto3",
        "httpx",
        "httpx2",
        "psycopg_pool",
        "redis.asyncio",
        "requests",
        "sqlalchemy.ext.asyncio",
    ):
        importlib.import_module(name)


@ALL
@pytest.mark.usefixtures("loaded")
def test_a_save_point_leaves_connections_open_and_a_restored_process_drops_them(
    supervisor: Supervisor, client: Client, relay: Relay
) -> None:
    supervisor.start(working(client, relay.port, "save"))
    supervisor.save_point()
    opened = relay.open
    assert opened > 0
    supervisor.wake(restored=False, saved="c")
    supervisor.save_point()
    assert relay.total == relay.open == opened  # the same ones
    relay.cut()
    eventually(lambda: relay.open == 0, lambda: relay.open)
    supervisor.wake(restored=True, saved="c")
    supervisor.save_point()
    supervisor.wake(restored=False, saved="c")
    assert supervisor.output_of_run() == [200] * 3


ON_POSTGRES = [each for each in CLIENTS if each.server == "postgres"]


@pytest.mark.parametrize(
    "client", [each for each in CLIENTS if each.name == "psycopg_pool_async"], ids=lambda each: each.name
)
def test_a_switch_leaves_them_as_they_are(supervisor: Supervisor, client: Client, relay: Relay) -> None:
    work = working(client, relay.port, "wait")
    work.drops_connections = False
    supervisor.start(work)
    supervisor.expect_idle()
    opened = relay.open
    supervisor.suspend()
    assert relay.open == opened > 0
    assert app.drops_connections is None


@pytest.mark.parametrize("client", [Client("postgres", False, lambda port: None)], ids=["any"])
@pytest.mark.parametrize(
    "kind", ["psycopg", "psycopg_pool", "asyncpg", "asyncpg_pool", "sqlalchemy", "sqlalchemy_async"]
)
def test_a_transaction_keeps_the_run_in_memory_and_is_named(
    supervisor: Supervisor, client: Client, relay: Relay, kind: str
) -> None:
    import asyncpg
    import psycopg
    import psycopg_pool
    import sqlalchemy
    from sqlalchemy.ext.asyncio import create_async_engine

    at = {"host": "127.0.0.1", "port": relay.port, "user": "torpor", "database": "torpor", "ssl": False}
    url = f"torpor@127.0.0.1:{relay.port}/torpor"

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        if kind == "psycopg":
            async with await psycopg.AsyncConnection.connect(_conninfo(relay.port)) as connection:
                await connection.execute("select 1")
                yield
        elif kind == "psycopg_pool":
            async with psycopg_pool.AsyncConnectionPool(_conninfo(relay.port)) as pool, pool.connection():
                yield
        elif kind == "asyncpg":
            connection = await asyncpg.connect(**at)
            async with connection.transaction():
                yield
            await connection.close()
        elif kind == "asyncpg_pool":
            async with asyncpg.create_pool(**at, min_size=1) as pool, pool.acquire():
                yield
        elif kind == "sqlalchemy":
            with sqlalchemy.create_engine(f"postgresql+psycopg://{url}?sslmode=disable").connect() as connection:
                connection.execute(sqlalchemy.text("select 1"))
                yield
        else:
            engine = create_async_engine(f"postgresql+asyncpg://{url}", connect_args={"ssl": False})
            async with engine.connect() as connection:
                await connection.execute(sqlalchemy.text("select 1"))
                yield
            await engine.dispose()

    @task
    async def work() -> str:
        async with opened():
            await wait.for_(hours=1)
        await wait.for_(hours=2)
        return "done"

    supervisor.start(work)
    waits = supervisor.expect_idle().waits
    supervisor.send(Suspend())
    told = supervisor.expect(StayingAwake)
    assert not told.moved
    library = {"p": "psycopg", "a": "asyncpg", "s": "SQLAlchemy"}[kind[0]]
    assert any(library in reason for reason in told.reasons), told.reasons
    assert relay.open >= 1
    supervisor.answer(next(new.wait_id for new in waits if new.duration_s == 3600))
    waits = supervisor.expect_idle().waits
    supervisor.suspend()
    supervisor.wake(Answer(next(new.wait_id for new in waits if new.duration_s == 7200), "completed"))
    assert supervisor.output_of_run() == "done"


@pytest.mark.parametrize("client", ON_POSTGRES, ids=lambda each: each.name)
def test_timers_that_only_look_after_pools_wake_nobody(supervisor: Supervisor, client: Client, relay: Relay) -> None:
    supervisor.start(working(client, relay.port, "wait"))
    (new,) = supervisor.expect_idle().waits  # and no alarm
    assert new.duration_s == 3600


def test_an_sqlite_in_memory_is_left_alone(supervisor: Supervisor) -> None:
    import sqlalchemy

    @task
    def work() -> int:
        engine = sqlalchemy.create_engine("sqlite://")
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("create table t as select 42 as n"))
        torpor.sync.wait.for_(hours=1)
        with engine.begin() as connection:
            return connection.execute(sqlalchemy.text("select n from t")).scalar_one()

    supervisor.start(work)
    (new,) = supervisor.expect_idle().waits
    supervisor.suspend()
    supervisor.wake(Answer(new.wait_id, "completed"))
    assert supervisor.output_of_run() == 42


def test_pools_over_a_unix_socket_are_dropped_too(supervisor: Supervisor, postgres: str) -> None:
    """A unix connection can't be in an image at all."""
    import psycopg_pool

    @task
    def work() -> int:
        with psycopg_pool.ConnectionPool(postgres, min_size=1) as pool:
            pool.wait()
            torpor.sync.wait.for_(hours=1)
            with pool.connection() as connection:
                row = connection.execute("select 7").fetchone()
                return row[0] if row else 0

    supervisor.start(work)
    (new,) = supervisor.expect_idle().waits
    supervisor.suspend()
    supervisor.wake(Answer(new.wait_id, "completed"))
    assert supervisor.output_of_run() == 7


def test_objects_are_known_from_before_and_after_a_library_is_loaded(tmp_path: Path) -> None:
    """As in a zygote: the hook comes first, and none of the libraries is loaded by it."""
    code = """
import sys
from torpor.sdk import fresh, refresh
before = set(sys.modules)
refresh.before_user_code()
names = ("httpcore", "httpx", "urllib3", "redis", "psycopg", "psycopg_pool", "asyncpg", "sqlalchemy")
assert not set(names) & set(sys.modules)
import httpx, redis, requests, sqlalchemy, psycopg_pool, asyncpg, urllib3
import inspect, gc
gc.freeze()
made = [httpx.Client(), redis.Redis(), requests.Session(), sqlalchemy.create_engine("sqlite://"), urllib3.PoolManager()]
print(sorted(library.name for library in fresh.LIBRARIES if library.is_used))
assert "class ConnectionPool" in inspect.getsource(sys.modules["redis.connection"])
assert type(redis.__spec__.loader).__module__ == type(requests.__spec__.loader).__module__
assert {name for library in fresh.LIBRARIES for name in library.objects} == {
    f"{module}.{name}"
    for library in fresh.LIBRARIES
    for module, names in library.classes.items() if module in sys.modules
    for name in names
}
made.clear()
gc.collect()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == "['SQLAlchemy', 'httpx', 'redis', 'urllib3']\n"


def test_what_goes_wrong_within_a_library_is_logged_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import urllib3

    fresh.watch()
    manager = urllib3.PoolManager()

    def fail() -> None:
        raise RuntimeError("changed by a new version")

    monkeypatch.setattr(manager, "clear", fail)
    fresh.drop(None)
    assert "connections of urllib3 could not be looked after" in caplog.text

"""A real server on a database of its own for each test, and a real client to it."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
from as_described import AsDescribed
from fake_worker import KEY, TOKEN, FakeWorker, Start
from fastapi import FastAPI
from npm_packages import installed
from shape_reader import Follow, ShapeReader, reading

from scratch_postgres import ScratchPostgres, create_database, drop_database
from torpor.clock import Clock
from torpor.config import Settings
from torpor.sdk.async_client import AsyncClient
from torpor.server import auth, feeds, loops, realtime, runs, streams, tails
from torpor.server import serve as serving
from torpor.server.app import create_app
from torpor.server.hub import Hub
from torpor.server.serve import serve
from torpor.server.workers import worker as for_workers
from torpor.store.database import Database
from torpor.store.embedded import EmbeddedPostgres

_numbers = itertools.count(1)

_misfits: list[str] = []
_spare: list[FastAPI] = []
"""Applications of servers that have ended: making one takes 45 ms, and all that it has of its server is the hub."""

LONG_S = 3600.0
"""How long a lease holds where nothing is said: a worker here renews none, and whoever it waits for may take a minute."""


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one Postgres for all tests here."""
    server = ScratchPostgres(tmp_path_factory.mktemp("postgres"))
    yield asyncio.run(server.start())
    asyncio.run(server.destroy())


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A Postgres that this test may stop; it has not been started."""
    server = EmbeddedPostgres(tmp_path / "postgres")
    yield server
    await server.destroy()


@pytest.fixture
async def database_url(postgres: str, used: list[str]) -> str:
    """A database of its own, migrated."""
    used.append(await create_database(postgres, f"server{next(_numbers)}"))
    return used[-1]


@pytest.fixture
async def bare_url(postgres: str, used: list[str]) -> str:
    """A database without a table."""
    used.append(await create_database(postgres, f"server{next(_numbers)}", like="template0"))
    return used[-1]


@pytest.fixture(scope="session")
def _all_used() -> list[str]:
    return []


@pytest.fixture
async def used(_all_used: list[str]) -> list[str]:
    """The databases of this test. Those of the ones before are dropped: their servers have ended by now."""
    for each in _all_used:
        await drop_database(each)
    _all_used.clear()
    return _all_used


@contextmanager
def watched(hubs: list[Hub]) -> Iterator[None]:
    """In the end, a fault for each answer of servers made in here that the OpenAPI document does not tell of.

    `hubs` gets that of each server.
    """
    made: list[FastAPI] = []

    def create_watched(settings: Settings, database: Database, clock: Clock) -> FastAPI:
        if _spare:
            app = _spare.pop()
            app.state.hub = Hub(settings, database, clock)
        else:
            app = create_app(settings, database, clock)
            app.add_middleware(AsDescribed, misfits=_misfits)
        made.append(app)
        hubs.append(app.state.hub)
        return app

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "create_app", create_watched)
        yield
    _spare.extend(app for app in made if app.state.hub.wakeups.is_closed)
    told = "\n".join(dict.fromkeys(_misfits))
    _misfits.clear()
    assert not told, told


@pytest.fixture
def hubs() -> Iterator[list[Hub]]:
    """What the handlers of each server share, in the order in which the test has started them: facts that no answer tells."""
    hubs: list[Hub] = []
    with watched(hubs):
        yield hubs


@pytest.fixture
def by_word_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing looks again by itself after a while: whoever is held hears of what he waits for, or is held for ever."""
    for module in (runs, streams, tails, feeds, for_workers):
        monkeypatch.setattr(module, "SWEEP_S", LONG_S)
    for module, name in (
        (for_workers, "LONGEST_HOLD_S"),
        (realtime, "HOLD_S"),
        (loops, "LONGEST_SLEEP_S"),
        (auth, "KEY_MEMORY_S"),
    ):
        monkeypatch.setattr(module, name, LONG_S)


@pytest.fixture
async def start(tmp_path: Path, hubs: list[Hub]) -> AsyncIterator[Start]:
    """Starts servers: `url = await start(database_url, lease_s=1)`. All are stopped in the end."""
    async with AsyncExitStack() as started:

        async def start_one(database_url: str, **settings: object) -> str:
            values = {"port": 0, "secret_key": KEY, "worker_token": TOKEN, "data_dir": tmp_path / "data"}
            values |= {"lease_s": LONG_S, **settings}
            url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            stop = asyncio.Event()
            settings_ = Settings(**values)  # pyright: ignore[reportArgumentType]
            task = asyncio.create_task(serve(settings_, database_url, stop=stop, ready=url.set_result))

            async def end() -> None:
                stop.set()
                await task

            await asyncio.wait({task, url}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            started.push_async_callback(end)
            return await url

        yield start_one


@pytest.fixture(scope="module")
async def lasting_url(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A server for all tests of a file that don't mind each other."""
    data_dir = tmp_path_factory.mktemp("data")
    settings = Settings(port=0, secret_key=KEY, worker_token=TOKEN, data_dir=data_dir, lease_s=LONG_S)
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    with watched([]):
        database_url = await create_database(postgres, f"server{next(_numbers)}")
        task = asyncio.create_task(serve(settings, database_url, stop=stop, ready=url.set_result))
        await asyncio.wait({task, url}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield await url
        stop.set()
        await task


@pytest.fixture
async def url(start: Start, database_url: str) -> str:
    """A server."""
    return await start(database_url)


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url, KEY) as client:
        yield client


@pytest.fixture
async def worker(url: str) -> AsyncIterator[FakeWorker]:
    """A worker that is up, with the tasks `echo` and `mail/send`."""
    worker = FakeWorker(url)
    await worker.come_up()
    yield worker
    await worker.close()


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The official client in its newest version, with what pages need."""
    return installed("newest")


@pytest.fixture
async def follow(url: str) -> AsyncIterator[Follow]:
    """Readers of realtime feeds, on connections of their own."""
    async with reading(url) as http:
        yield lambda path, **query: ShapeReader(http, url, path, **query)

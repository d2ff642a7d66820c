"""A server for commands that need a real one."""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import fresh_database

from scratch_postgres import ScratchPostgres
from torpor.config import Settings
from torpor.server.serve import serve
from torpor.store.embedded import EmbeddedPostgres

KEY = "tr_dev_" + "k" * 24


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = ScratchPostgres(tmp_path_factory.mktemp("postgres"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.destroy())


@pytest.fixture
def url(postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server, which commands find by the environment."""
    told: list[str] = []
    is_up, stop = threading.Event(), asyncio.Event()
    database_url = fresh_database(postgres, f"cli{next(_numbers)}")

    async def run() -> None:
        settings = Settings(port=0, secret_key=KEY, worker_token="w", data_dir=tmp_path / "data")
        try:
            await serve(settings, database_url, stop=stop, ready=lambda at: (told.append(at), is_up.set()))
        finally:
            is_up.set()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert is_up.wait(60)
    monkeypatch.setenv("TORPOR_API_URL", told[0])
    monkeypatch.setenv("TORPOR_SECRET_KEY", KEY)
    yield told[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()

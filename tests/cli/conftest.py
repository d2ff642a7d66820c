"""A server for commands that need a real one."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from torpor.config import Settings
from torpor.server.serve import serve
from torpor.store.embedded import EmbeddedPostgres

KEY = "tr_dev_" + "k" * 24


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server, which commands find by the environment."""
    told: list[str] = []
    is_up, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        postgres = EmbeddedPostgres(tmp_path / "postgres")
        settings = Settings(port=0, secret_key=KEY, worker_token="w", data_dir=tmp_path / "data")
        try:
            await serve(settings, await postgres.start(), stop=stop, ready=lambda at: (told.append(at), is_up.set()))
        finally:
            is_up.set()
            await postgres.destroy()

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

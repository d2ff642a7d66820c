"""A real server in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fake_worker import KEY, TOKEN

from torpor.config import Settings
from torpor.server.serve import serve


@asynccontextmanager
async def serving(database_url: str, data_dir: Path, **given: object) -> AsyncIterator[str]:
    """A server, until the end of the block: its URL."""
    values = {"port": 0, "secret_key": KEY, "worker_token": TOKEN, "data_dir": data_dir, **given}
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    task = asyncio.create_task(serve(Settings(**values), database_url, stop=stop, ready=url.set_result))  # pyright: ignore[reportArgumentType]
    await asyncio.wait({task, url}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield await url
    finally:
        stop.set()
        await task

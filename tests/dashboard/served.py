"""A real server in this process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fake_worker import KEY, TOKEN

from torpor.config import Settings
from torpor.server.serve import serve


@asynccontextmanager
async def serving(
    database_url: str, data_dir: Path, newcomer: Callable[[str], object] | None = None, **given: object
) -> AsyncIterator[str]:
    """A server, until the end of the block: its URL."""
    values = {"port": 0, "secret_key": KEY, "worker_token": TOKEN, "data_dir": data_dir, **given}
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    settings = Settings(**values)  # pyright: ignore[reportArgumentType]
    task = asyncio.create_task(serve(settings, database_url, stop=stop, ready=url.set_result, newcomer=newcomer))
    await asyncio.wait({task, url}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield await url
    finally:
        stop.set()
        await task

"""One real server for all tests here, with a history worth looking at, and a real browser that is signed in to it."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from browser import chromium
from facts import PATIENCE_S
from history import History, Site, lived_in, on_site
from playwright.async_api import Browser, BrowserContext, Page, expect

from scratch_postgres import ScratchPostgres, create_database

expect.set_options(timeout=PATIENCE_S * 1000)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = ScratchPostgres(tmp_path_factory.mktemp("postgres"))
    yield asyncio.run(server.start())
    asyncio.run(server.destroy())


@pytest.fixture(scope="session")
async def history(postgres: str, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> History:
    """Some days' work, made once: each file of tests has a copy of it."""
    made = History(postgres, await create_database(postgres, "history"), tmp_path_factory.mktemp("data"))
    async with on_site(made.url, made.data_dir) as site:
        await lived_in(site)
        made.worker = site.worker.worker_id, site.worker.instance_id
    return made


@pytest.fixture(scope="module")
async def site(history: History) -> AsyncIterator[Site]:
    """A server whose runs tell of some days' work. What other files of tests do, it doesn't see."""
    async with on_site(await history.copied(), history.data_dir) as site:
        site.worker.worker_id, site.worker.instance_id = history.worker
        yield site


@pytest.fixture(scope="session")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.fixture
async def context(browser: Browser, site: Site) -> AsyncIterator[BrowserContext]:
    async with site.signed_in(browser) as context:
        yield context


@pytest.fixture
async def page(context: BrowserContext) -> Page:
    return await context.new_page()

"""One real server for all tests here, with a history worth looking at, and a real browser that is signed in to it."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from browser import chromium
from history import History, Site, lived_in, on_site
from playwright.async_api import Browser, BrowserContext, Page, expect

from scratch_postgres import ScratchPostgres, create_database

expect.set_options(timeout=20_000)


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
    """A browser that is signed in, and that may not break: no error of a script, nothing that the policy forbids."""
    context = await browser.new_context(base_url=site.url, viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("console", lambda said: complaints.append(said.text) if "Content Security Policy" in said.text else None)
    await site.sign_in(context)
    yield context
    await context.close()
    assert complaints == []


@pytest.fixture
async def page(context: BrowserContext) -> Page:
    return await context.new_page()

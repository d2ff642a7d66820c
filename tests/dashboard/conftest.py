"""One real server for all tests here, with a history worth looking at, and a real browser that is signed in to it."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from browser import chromium
from fake_worker import KEY, FakeWorker
from history import Site, lived_in
from playwright.async_api import Browser, BrowserContext, Page, expect
from served import serving

from torpor.sdk.async_client import AsyncClient
from torpor.store.embedded import EmbeddedPostgres

expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    yield asyncio.run(server.start())
    asyncio.run(server.destroy())


@pytest.fixture(scope="session")
async def site(postgres: str, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A server whose runs tell of some days' work."""
    async with serving(postgres, tmp_path_factory.mktemp("data"), lease_s=3600) as url:
        async with AsyncClient(url, KEY) as client:
            worker = FakeWorker(url)
            database = await asyncpg.connect(postgres)
            site = Site(url, client, worker, database)
            await lived_in(site)
            yield site
            await database.close()
            await worker.close()


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

"""The hooks of @trigger.dev/react-hooks, unchanged, in a real page of another origin than the server."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from browser import Served, bundle, chromium
from facts import PATIENCE_S
from fake_worker import FakeWorker, manifest
from hands import append
from playwright.async_api import Browser, Page, expect

from torpor.sdk.async_client import AsyncClient
from torpor.wire import http as wire
from torpor.wire.runner import NewWait, Op

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def page_url(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the bundled page is."""
    directory = tmp_path_factory.mktemp("page")
    bundle("page.jsx", node_modules, directory)
    served = Served(directory)
    yield served.origin
    served.close()


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page that may not break."""
    page = await browser.new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    yield page
    await page.close()
    assert broken == []


async def opened(page: Page, page_url: str, **given: object) -> None:
    """The page with what it may do, as its back end would have given it."""
    await page.goto(f"{page_url}/#{quote(json.dumps(given))}")


async def shows(page: Page, line: str, text: str) -> None:
    """Until this line of the page has this text."""
    await expect(page.locator(f"#{line} td")).to_have_text(text, timeout=PATIENCE_S * 1000)


@pytest.mark.timeout(400)
async def test_a_page_orders_follows_and_approves(
    url: str, client: AsyncClient, worker: FakeWorker, page: Page, page_url: str
) -> None:
    await worker.come_up([manifest("order")])
    token = await client.create_token(timeout="1h")
    order = await client.create_public_token(["trigger:tasks:order"], one_time=True)
    orders = await client.create_public_token(["read:tags:shop"])
    await opened(page, page_url, baseURL=url, order=order, orders=orders, approve=token)
    await page.get_by_role("button", name="Order a lamp").click()
    await shows(page, "statuses", "QUEUED")
    await shows(page, "payload", '{"item":"lamp","when":"1970-01-01T00:00:00.000Z"}')

    run = await worker.take()
    await shows(page, "statuses", "QUEUED → DEQUEUED")
    await worker.start(run)
    await shows(page, "statuses", "QUEUED → DEQUEUED → EXECUTING")
    await append(worker, run, "tokens", msgspec.Raw(b'"a"'), msgspec.Raw(b'{"b":1}'))
    await shows(page, "stream", '["a",{"b":1}]')
    packed = wire.MetadataReport(run.lease, 1, [Op("set", "packed", True)])
    await worker.say(f"runs/{run.run_id}/metadata", packed, wire.MetadataReply)
    await shows(page, "metadata", '{"packed":true}')
    await page.get_by_role("button", name="Remark").click()
    assert msgspec.json.decode((await worker.hear(run, "remarks")).data) == "in blue, please"

    await worker.block(run, NewWait("wait_1", "token", waitpoint_id=token["id"]))
    await shows(page, "statuses", "QUEUED → DEQUEUED → EXECUTING → WAITING")
    await page.get_by_role("button", name="Approve").click()
    await shows(page, "approval", "approved")
    (answer,) = (await worker.collect(run, "wait_1")).answers
    await shows(page, "statuses", "QUEUED → DEQUEUED → EXECUTING → WAITING → EXECUTING")
    await worker.finish(run, answer.output)
    await shows(page, "statuses", "QUEUED → DEQUEUED → EXECUTING → WAITING → EXECUTING → COMPLETED")
    await shows(page, "output", '{"approved":true,"by":"Ada"}')
    await shows(page, "polled", "COMPLETED")
    await shows(page, "tagged", "order COMPLETED")
    await shows(page, "afterwards", 'COMPLETED {"tokens":["a",{"b":1}]}')


@pytest.mark.timeout(400)
async def test_a_page_follows_a_batch_and_is_told_what_it_may_not_see(
    url: str, client: AsyncClient, worker: FakeWorker, page: Page, page_url: str
) -> None:
    made = await client.batch_trigger("echo", [1, 2])
    reader = await client.create_public_token([f"read:batch:{made['id']}"])
    given = {"id": made["id"], "publicAccessToken": reader}
    once = await client.create_public_token(["trigger:tasks:echo"], one_time=True)
    await opened(page, page_url, baseURL=url, batch=given, orders=reader, once=once)
    await shows(page, "batch", "echo QUEUED, echo QUEUED")
    for run in await worker.dequeue(wait_s=5):
        await worker.start(run)
        await worker.finish(run)
    await shows(page, "batch", "echo COMPLETED, echo COMPLETED")
    await expect(page.locator("#tagged td")).to_contain_text("403", timeout=PATIENCE_S * 1000)
    await page.get_by_role("button", name="Echo").click()
    run = await worker.take_and_start()
    await worker.finish(run, run.payload)
    await shows(page, "once", "Echo COMPLETED hello")

"""The page of queues: what stands in them and why, and that people can pause and limit them."""

import pytest
from fake_worker import manifest
from history import MARKUP, Site
from playwright.async_api import Locator, Page, expect

from torpor.wire.runner import QueueManifest

pytestmark = pytest.mark.anyio


async def row_of(page: Page, site: Site, name: str) -> Locator:
    queue = await site.client.queue(name)
    return page.locator(f"tr[id={queue['id']}]")


async def cell(row: Locator, name: str) -> Locator:
    return row.locator(f"td[data-name='{name}']")


async def test_a_queue_is_paused_and_resumed_by_keys_alone(site: Site, page: Page) -> None:
    await page.goto("/")
    await page.keyboard.type("gq")
    await page.wait_for_url("**/queues")
    row = await row_of(page, site, "invoices/chase")
    await expect(row).to_be_visible()
    await row.get_by_role("button", name="Pause").focus()
    await page.keyboard.press("Enter")
    await expect(row).to_contain_text("Paused")
    assert (await site.client.queue("invoices/chase"))["paused"] is True
    run = await site.client.trigger("invoices/chase")
    try:
        await expect(await cell(row, "Queued")).to_have_text("1")  # without loading the page again
        await expect(await cell(row, "Held up by")).to_have_text("it is paused")
        own = await page.context.new_page()
        await own.goto(f"/runs/{run['id']}")  # where it is told, too, and can be ended
        await expect(own.get_by_role("heading", name="Its queue is paused")).to_be_visible()
        await own.get_by_role("button", name="Resume invoices/chase").click()
        await expect(own.get_by_role("heading", name="Its queue is paused")).to_have_count(0)
        assert own.url.endswith(run["id"])
        await own.close()
    finally:
        await site.client.cancel(run["id"])
    await page.reload()
    await expect(row.get_by_role("button", name="Pause")).to_be_visible()
    assert (await site.client.queue("invoices/chase"))["paused"] is False


async def test_a_limit_is_set_says_by_whom_and_is_reset(site: Site, page: Page) -> None:
    await page.goto("/queues")
    row = await row_of(page, site, "invoices/chase")
    await row.locator("summary").click()
    await row.get_by_role("spinbutton").fill("0")
    await site.client.trigger("mail/send", delay="1h")  # the page is refreshed meanwhile
    await row.get_by_role("button", name="Set").click()
    limit = await cell(row, "Limit")
    await expect(limit).to_contain_text("instead of none, by operator")
    run = await site.client.trigger("invoices/chase")
    try:
        await expect(await cell(row, "Held up by")).to_have_text("its limit")
    finally:
        await site.client.cancel(run["id"])
    await row.locator("summary").click()
    await row.get_by_role("button", name="Reset to none").click()
    await expect(limit).to_have_text("none")


async def test_names_with_markup_stay_text(site: Site, page: Page) -> None:
    name = f"q {MARKUP}"
    tasks = [manifest(each["id"]) for each in (await site.client.tasks())]
    await site.worker.come_up(tasks, [QueueManifest(name, 2)])
    await page.goto("/queues")
    await expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    await expect(page.locator("main img, main b")).to_have_count(0)

"""The pages of batches: how far one has come, live, and which items could not become runs."""

import pytest
from history import MARKUP, Site
from playwright.async_api import Page, expect

pytestmark = pytest.mark.anyio


async def test_a_batch_fills_its_bar_as_its_runs_end(site: Site, page: Page) -> None:
    batch_id = (await site.client.batch_trigger("invoices/chase", [1, 2, 3]))["id"]
    await page.goto("/")
    await page.keyboard.type("gb")
    row = page.locator(f"tr[id={batch_id}]")
    await expect(row).to_contain_text("0 of 3")
    await row.get_by_role("link").focus()
    await page.keyboard.press("Enter")
    bar = page.locator("svg.whole")
    await expect(bar).to_have_attribute("aria-label", "3 queued")
    for given in await site.worker.dequeue(5):
        await site.worker.start(given)
        if bytes(given.payload) == b"2":
            await site.worker.fail(given, "no", retryable=False)
        else:
            await site.worker.finish(given)
    await expect(bar).to_have_attribute("aria-label", "2 completed, 1 failed")  # without loading the page again
    await expect(page.locator(".sums")).to_contain_text("3 of 3")
    await page.get_by_role("link", name="Its runs").click()
    await expect(page.get_by_role("table").locator("tbody tr")).to_have_count(3)


async def test_items_without_a_run_say_why_and_stay_text(site: Site, page: Page) -> None:
    batch_id = (await site.client.batch_trigger(MARKUP, [1, 2]))["id"]
    await page.goto("/batches?status=ABORTED")
    await page.locator(f"tr[id={batch_id}]").get_by_role("link").click()
    table = page.get_by_role("table", name="Items that could not become runs")
    await expect(table.locator("tbody tr")).to_have_count(2)
    await expect(table).to_contain_text(f'Task not found: "{MARKUP}"')
    await expect(page.locator("main img, main b:text('bold')")).to_have_count(0)

"""The page of checkpoints: what is frozen, where it stands, what it waits for, and what it takes."""

import pytest
from history import MARKUP, Site
from playwright.async_api import Page, expect

from torpor import ids
from torpor.wire import http as wire
from torpor.wire.runner import NewWait

pytestmark = pytest.mark.anyio


async def test_a_frozen_run_shows_up_with_where_it_stands_and_what_it_takes(site: Site, page: Page) -> None:
    await page.goto("/")
    await page.keyboard.type("gc")
    await page.wait_for_url("**/checkpoints")
    await site.client.trigger("orders/process")
    (given,) = await site.worker.dequeue(5, free=1)
    await site.worker.start(given)
    await site.worker.block(given, NewWait("w1", "time", until="2030-12-24T18:00:00Z"))
    stored = wire.StoredCheckpoint(ids.new("checkpoint"), 8 << 20, new_bytes=2 << 20, shared_bytes=6 << 20)
    place = {"task": "main", "file": f"app/{MARKUP}.py", "line": 41, "source": f'await wait.until("{MARKUP}")'}
    report = wire.SuspendReport(given.lease, stored, [place])
    await site.worker.say(f"runs/{given.run_id}/suspend", report, wire.LeaseReply)
    row = page.locator(f"tr[id={stored.id}]")  # it comes without loading the page again
    for told in ("Frozen", f"app/{MARKUP}.py:41", f'await wait.until("{MARKUP}")', "time", "8.0 MiB", "2.0 MiB"):
        await expect(row).to_contain_text(told)
    await expect(row.get_by_role("img", name="75 % shared with others")).to_be_visible()
    await expect(page.locator("main img, main b:text('bold')")).to_have_count(0)
    await row.get_by_role("link").first.click()
    await page.wait_for_url(f"**/runs/{given.run_id}")

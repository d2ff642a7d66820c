"""Logs: lines of all runs, searched, live, and never anything but text."""

from datetime import UTC, datetime

import pytest
from history import Site
from playwright.async_api import Page, expect

from torpor.engine import read_logs
from torpor.engine.read_logs import LogFilter, search_logs
from torpor.store.database import Database

pytestmark = pytest.mark.anyio


async def test_lines_are_found_by_text_level_task_and_run(page: Page) -> None:
    await page.goto("/logs")
    await page.keyboard.press("/")
    await page.keyboard.type("NO RATE")
    await expect(page.locator("[data-row]", has_text="pricing")).to_have_count(0)
    await expect(page.locator("[data-row]").first).to_contain_text("no rate for CHF")
    await expect(page.locator("[data-row]").first).to_contain_text("order=4711")
    await page.get_by_label("Level").select_option("debug")
    await expect(page.get_by_text("No line fits")).to_be_visible()
    await page.get_by_role("link", name="Clear").click()
    await page.wait_for_url("**/logs")  # with all of its scripts
    link = page.locator("[data-row] a").first
    run_id = (await link.get_attribute("href") or "").removeprefix("/runs/")
    await page.get_by_label("Run", exact=True).fill(run_id)
    await page.keyboard.press("Enter")
    await expect(page.locator("[data-row]")).to_have_count(3)


async def test_a_percent_sign_is_no_wildcard(page: Page) -> None:
    await page.goto("/logs?q=%25")
    await expect(page.get_by_text("No line fits")).to_be_visible()


async def test_markup_in_a_line_stays_text(page: Page) -> None:
    await page.goto("/logs?q=onerror")
    await expect(page.locator(".line").first).to_contain_text("<img src=x onerror=alert(1)><b>bold</b>")
    assert await page.locator("main img, main .line p > b").count() == 0


async def test_new_lines_come_by_themselves_and_pages_go_back(page: Page, site: Site) -> None:
    await page.goto("/logs")
    await expect(page.locator("[data-live-sign].is-on")).to_be_visible()
    run_id = await site.database.fetchval("select run_id from logs order by id desc limit 1")
    await site.database.execute(
        """insert into logs (run_id, lease, first_byte, nth, at, level, message, attributes, stream)
           values ($1, 1, 9000, 0, $2, 'info', 'just now', '{}', 'log')""",
        run_id,
        datetime.now(UTC),
    )
    await site.client.trigger("mail/send", delay="1h")  # wakes the page
    await expect(page.locator("[data-row]").first).to_contain_text("just now")
    await page.get_by_role("link", name="Older").click()
    await expect(page.locator("[data-row]").first).to_be_visible()
    await expect(page.get_by_text("just now")).to_have_count(0)


async def test_a_search_stops_after_some_steps_and_goes_on_from_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_logs, "STEP", 20)
    monkeypatch.setattr(read_logs, "STEPS", 5)
    environment_id = await site.database.fetchval("select id from environments limit 1")
    assert isinstance(environment_id, str)
    total = await site.database.fetchval("select count(*) from logs where message like 'pricing order%'")
    database = await Database.connect(site.database_url)
    found, before, pages = 0, None, 0
    try:
        while True:
            async with database.transaction() as tx:
                lines = await search_logs(tx, environment_id, LogFilter(text="pricing order"), before=before, size=1000)
            found, before, pages = found + len(lines.items), lines.next, pages + 1
            if before is None:
                break
    finally:
        await database.close()
    assert found == total
    assert pages > 1

"""The page of schedules: what the clock triggers, in words; made, changed, let rest and removed there."""

import pytest
from history import MARKUP, Site
from playwright.async_api import Locator, Page, expect

pytestmark = pytest.mark.anyio


async def made(site: Site, key: str, cron: str = "0 7 * * MON-FRI", **given: str) -> str:
    """A schedule; its id."""
    found = await site.client.create_schedule("reports/weekly", cron, deduplication_key=key, **given)  # pyright: ignore[reportArgumentType]
    return found["id"]


def row_of(page: Page, schedule_id: str) -> Locator:
    return page.locator(f"tr[id={schedule_id}]")


async def test_a_schedule_tells_in_words_when_it_ticks(site: Site, page: Page) -> None:
    row = row_of(page, await made(site, "words", tz="Europe/Berlin", window="10m"))
    await page.goto("/schedules")
    await expect(row).to_contain_text("At 07:00 on Monday through Friday")
    await expect(row).to_contain_text("Europe/Berlin, within 10m")
    await row.locator("summary").click()
    await expect(row.locator("ol li")).to_have_count(5)
    await expect(row.locator("ol li").first).to_contain_text(", 07:00")  # as clocks show it there


async def test_a_schedule_is_made_and_changed_in_a_form_that_says_what_is_wrong(site: Site, page: Page) -> None:
    await page.goto("/schedules")
    await page.get_by_role("link", name="New schedule").first.click()
    await page.get_by_label("Task").select_option("orders/process")
    await page.get_by_label("Pattern").fill("61 * * * *")
    await page.get_by_label("Time zone").fill("Asia/Tokyo")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("field minute: 61 is more than 59")
    await expect(page.get_by_label("Time zone")).to_have_value("Asia/Tokyo")  # nothing is lost
    await page.get_by_label("Pattern").fill("30 6 * * *")
    await page.get_by_label("Its name elsewhere").fill("user_1")
    await page.keyboard.press("Enter")
    row = page.locator("tr", has_text="user_1")
    await expect(row).to_contain_text("At 06:30 every day")
    await row.get_by_role("link", name="Change").click()
    await page.get_by_label("Pattern").fill("@hourly")
    await page.get_by_role("button", name="Change").click()
    await expect(row).to_contain_text("0 * * * *")
    await expect(row).to_contain_text("Asia/Tokyo")


async def test_what_a_schedule_is_called_stays_text(site: Site, page: Page) -> None:
    schedule_id = await made(site, f"key {MARKUP}", external_id=MARKUP)
    for path in ("/schedules", f"/schedules/{schedule_id}"):
        await page.goto(path)
        await expect(page.locator("main img, main b")).to_have_count(0)
    await expect(page.get_by_text(f"key {MARKUP}")).to_be_visible()

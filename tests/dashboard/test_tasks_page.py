"""The pages of tasks: what stands where in the code, what it does, and what became of it."""

import re

import pytest
from history import TASKS, Site
from orders import open_shop
from playwright.async_api import Page, expect

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def shop(site: Site) -> Site:
    return await open_shop(site)


async def test_each_task_is_told_in_a_line(shop: Site, page: Page) -> None:
    await shop.client.pause_queue("agents/research")
    await page.goto("/tasks")
    lines = page.locator("tr[data-row]")
    await expect(lines).to_have_count(len(TASKS) + 4)
    line = lines.filter(has_text="agents/research")
    await expect(line.locator(".name")).to_contain_text("tasks.py:1")
    await expect(line.locator(".now")).to_contain_text("3 frozen")
    await expect(line.locator(".now")).to_contain_text("Queue paused")
    await shop.client.resume_queue("agents/research")
    await expect(line.locator(".how")).to_contain_text("3 attempts")
    ended = await shop.database.fetch(
        """select state, count(*) as count from runs where task_id = 'agents/research'
           and created_at > date_trunc('hour', now()) - interval '23 hours' group by state"""
    )
    counts = {row["state"]: row["count"] for row in ended}
    failed = sum(counts.get(state, 0) for state in ("failed", "crashed", "timed_out", "system_failure"))
    told = f"{counts['completed']} completed and {failed} failed"
    await expect(line.get_by_role("img", name=told)).to_be_visible()


async def test_a_search_is_in_the_address_and_goes_through_descriptions(shop: Site, page: Page) -> None:
    await page.goto("/tasks")
    await page.keyboard.press("/")
    await page.keyboard.type("pick ship")
    await expect(page.locator("tr[data-row]")).to_have_count(1)
    await expect(page).to_have_url(re.compile(r"/tasks\?q=pick.+ship$"))
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("orders/fulfil")
    for told in ("Pick, pack and ship an order.", "warehouse", "medium-1x", "10 m 0 s", "carrier has confirmed"):
        await expect(page.locator("main")).to_contain_text(told)
    await expect(page.get_by_label("JSON schema of the payload")).to_contain_text('"Customer"')


async def test_what_happens_is_seen_without_a_reload(shop: Site, page: Page) -> None:
    await page.goto("/tasks/orders/label")
    await expect(page.locator("#doings")).to_contain_text("It has not run yet")
    await page.evaluate("window.wasHere = true")
    run = await shop.client.trigger("orders/label", "heavy")
    await expect(page.locator("tr[data-row]")).to_contain_text("Queued")
    await expect(page.locator("#doings .strip")).to_contain_text("1 queued")
    await shop.client.cancel(run["id"])
    await expect(page.locator("tr[data-row]")).to_contain_text("Canceled")
    assert await page.evaluate("window.wasHere")


async def test_a_task_that_is_not_there_is_told_with_its_like(shop: Site, page: Page) -> None:
    response = await page.goto("/tasks/orders/fulfill")
    assert response
    assert response.status == 404
    await expect(page.get_by_role("alert")).to_contain_text("Did you mean orders/fulfil")


async def test_a_browser_that_is_nowhere_is_shown_the_way_back(page: Page) -> None:
    for path, status in (("/nowhere/at/all", 404), ("/variables/import", 405)):
        response = await page.goto(path)
        assert response
        assert response.status == status
        assert (await page.request.get(path)).headers["content-type"] == "application/json"  # who asks for no page
    await page.get_by_role("link", name="To the runs").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Runs")

"""The page of runs: what it shows, how it is filtered, and what is done with what is ticked."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from fake_worker import manifest
from history import MARKUP, TASKS, Site
from playwright.async_api import Browser, Page, expect

pytestmark = pytest.mark.anyio


def rows(page: Page):
    return page.locator("tr[data-row]")


async def test_what_happens_is_seen_without_a_reload(site: Site, page: Page) -> None:
    await page.goto("/")
    await page.evaluate("window.wasHere = true")
    made = await site.client.trigger("orders/process", {"order": 1}, tags=["seen-live"])
    row = page.locator(f"#{made['id']}")
    await expect(row.locator(".badge")).to_have_text("Queued")
    taken = await site.worker.take_and_start()
    await expect(row.locator(".badge")).to_have_text("Running")
    await site.worker.finish(taken, "done")
    await expect(row.locator(".badge")).to_have_text("Completed")
    assert await page.evaluate("window.wasHere")


async def test_filters_are_in_the_address(site: Site, page: Page) -> None:
    await page.goto("/")
    await page.get_by_placeholder("Run id, task or tag").fill("agents/")
    await expect(page).to_have_url(re.compile(r"\?q=agents%2F"))
    await expect(rows(page).first).to_contain_text("agents/research")
    await expect(page.locator("tr[data-row] .task").filter(has_not_text="agents/research")).to_have_count(0)
    await page.locator("summary", has_text="State").click()
    await page.get_by_role("checkbox", name="Frozen").check()
    await expect(rows(page)).to_have_count(3)
    asked = parse_qs(urlsplit(page.url).query)
    assert asked == {"q": ["agents/"], "state": ["suspended"]}
    await page.reload()
    await expect(rows(page)).to_have_count(3)
    await page.get_by_role("link", name="Clear").click()
    await expect(page).to_have_url(f"{site.url}/")


async def test_pages_go_both_ways(page: Page) -> None:
    await page.goto("/")
    first = await rows(page).first.get_attribute("id")
    await page.get_by_role("link", name="Older").click()
    await expect(page).to_have_url(re.compile("after="))
    assert await rows(page).first.get_attribute("id") != first
    await page.get_by_role("link", name="Newer").click()
    await expect(page).to_have_url(re.compile("before="))
    assert await rows(page).first.get_attribute("id") == first


async def test_what_cannot_be_a_filter_is_told(page: Page) -> None:
    for wrong in ("state=novel", "period=soon", "from=yesterday"):
        response = await page.goto(f"/?{wrong}")
        assert response
        assert response.status == 400
        await expect(page.get_by_role("alert")).to_be_visible()


async def test_ticked_runs_are_canceled_after_a_question(site: Site, page: Page) -> None:
    made = [(await site.client.trigger("invoices/chase", delay="1h"))["id"] for _ in range(3)]
    await page.goto("/")
    for run_id in made[:2]:
        await page.get_by_label(f"Tick {run_id}").check()
    await page.get_by_role("button", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Cancel 2 runs?")
    await dialog.get_by_role("button", name="No").click()
    await page.get_by_role("button", name="Cancel").click()
    await dialog.get_by_role("button", name="Cancel").click()
    await expect(page.locator(".note")).to_contain_text("Canceled 2 of 2.")
    assert [(await site.client.run(run_id))["status"] for run_id in made] == ["CANCELED", "CANCELED", "DELAYED"]


async def test_all_that_fit_are_replayed_and_nothing_else(site: Site, page: Page) -> None:
    for _ in range(2):
        await site.client.trigger("mail/send", tags=["again"], delay="1h")
    await page.goto("/?tag=again")
    await expect(rows(page)).to_have_count(2)
    await page.get_by_label("Tick all on this page").check()
    await page.get_by_label("all that fit the filters").check()
    await page.get_by_role("button", name="Replay").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Replay all runs that fit the filters?")
    await page.get_by_role("dialog").get_by_role("button", name="Replay").click()
    await expect(page.locator(".note")).to_contain_text("Replayed 2 of 2.")
    await expect(rows(page)).to_have_count(2)
    again = [run["id"] async for run in site.client.runs(tag="again")]
    assert len(again) == 4
    for run_id in again:
        await site.client.cancel(run_id)


async def test_what_users_name_stays_text(site: Site, page: Page) -> None:
    """Tasks, tags, versions, queues, and what is searched for."""
    await site.worker.come_up([manifest(name) for name in (*TASKS, MARKUP)])
    made = await site.client.trigger(MARKUP, tags=[MARKUP, "</td><script>alert(1)</script>"])
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await page.goto("/")
    row = page.locator(f"#{made['id']}")
    await expect(row.locator(".task")).to_have_text(MARKUP)
    await expect(row.locator(".tag").first).to_have_text(MARKUP)
    await expect(row.locator("b, img, script")).to_have_count(0)
    await row.locator(".tag").first.click()
    await expect(page.locator(f"#{made['id']}")).to_be_visible()
    await page.goto(f"/?q={'%22%3E'}<script>alert(1)</script>&version={MARKUP}&from=%3Cb%3E")
    assert dialogs == []
    await site.client.cancel(made["id"])
    await site.worker.come_up([manifest(name) for name in TASKS])


async def test_the_theme_is_chosen_and_kept(page: Page) -> None:
    ink = "getComputedStyle(document.body).color"
    await page.goto("/")
    by_day = await page.evaluate(ink)
    await page.get_by_role("button", name="Dark").click()
    by_night = await page.evaluate(ink)
    assert by_night != by_day
    await page.reload()
    assert await page.evaluate(ink) == by_night


async def test_pages_can_be_read_without_scripts(browser: Browser, site: Site) -> None:
    context = await browser.new_context(base_url=site.url, java_script_enabled=False)
    await site.sign_in(context)
    page = await context.new_page()
    await page.goto("/?state=suspended&task=agents/research")
    await expect(rows(page)).to_have_count(3)
    await expect(page.get_by_role("button", name="Filter")).to_be_visible()
    await context.close()

"""Open pages: what others change is told to them, each kind of it; and nothing is taken from under somebody's hands."""

import asyncio

import httpx2
import pytest
from browser import ELSEWHERE
from fake_worker import manifest
from history import TASKS, Site
from playwright.async_api import BrowserContext, Page, expect
from sse import Events

pytestmark = pytest.mark.anyio


KINDS = {
    *("queues", "environment", "schedules", "variables", "tokens"),
    *("keys", "batches", "workers", "tasks", "bulk"),
}


async def change_all(site: Site) -> None:
    """One change of each kind of thing that pages show, as somebody else makes it."""
    client = site.client
    await client.pause_queue("mail/send")
    await client.resume_queue("mail/send")
    await client.environment(max_queued=1000)
    made = await client.create_schedule("mail/send", "0 7 * * *", deduplication_key="fresh")
    await client.delete_schedule(made["id"])
    await client.set_variable("FRESH", "1")
    await client.unset_variable("FRESH")
    await client.complete_token((await client.create_token())["id"])
    key = await client.create_key("fresh", scopes=["read:runs"])
    await client.revoke_key(key["id"])
    await client.batch_trigger("mail/send", [])
    await site.worker.come_up([manifest(name) for name in TASKS])
    run = await client.trigger("mail/send", delay="1h")
    await client.bulk_cancel(run_ids=[run["id"]])


async def test_each_kind_of_change_is_told(site: Site) -> None:
    told: set[str] = set()
    async with httpx2.AsyncClient(base_url=site.url, timeout=60) as http:
        await http.post(await site.link())
        async with http.stream("GET", "/live") as response:
            events = Events(response)
            changing = asyncio.create_task(change_all(site))
            while not told >= KINDS:
                event = await events.event()
                assert event
                told |= {*event[1].split()} if event[0] == "changed" else set()
            await changing
    assert told == KINDS


async def test_pages_of_what_is_no_run_are_fresh_too(site: Site, page: Page, context: BrowserContext) -> None:
    made = await site.client.create_schedule("mail/send", "0 7 * * *", deduplication_key="watched")
    try:
        await page.goto("/variables")
        limits, schedule = await context.new_page(), await context.new_page()
        await limits.goto("/limits")
        await schedule.goto(f"/schedules/{made['id']}")
        await page.get_by_label("Name").fill("HALF_WRITTEN")
        await site.client.set_variable("SET_ELSEWHERE", "1")
        await expect(page.get_by_role("row", name="SET_ELSEWHERE")).to_be_visible()
        await expect(page.get_by_label("Name")).to_have_value("HALF_WRITTEN")
        await site.client.unset_variable("SET_ELSEWHERE")
        await expect(page.get_by_role("row", name="SET_ELSEWHERE")).to_have_count(0)
        await site.client.environment(max_queued=4321)
        await expect(limits.get_by_role("row", name="Waiting in a queue")).to_contain_text("4,321")
        await site.client.deactivate_schedule(made["id"])
        await expect(schedule.locator("#now")).to_contain_text("it rests")
    finally:
        await site.client.delete_schedule(made["id"])
        await site.client.environment(max_queued=None)


async def test_no_row_moves_while_somebody_is_at_it(site: Site, page: Page, context: BrowserContext) -> None:
    """A button that is held down, a text that is marked, an open menu, a question: the other window is fresh meanwhile. Then the
    mouse rests on a row: what is new waits until it has left, or is asked for, and rows change in their places, also while the
    mouse is where that is asked for."""
    other = await context.new_page()
    await page.goto("/")
    await other.goto("/")
    row = (await site.client.trigger("mail/send", delay="1h"))["id"]
    held = page.locator("[data-held]")
    for hold, let_go, rest, leave in (
        (page.mouse.down, page.mouse.up, held.hover, held.click),
        (
            lambda: page.evaluate("getSelection().selectAllChildren(document.querySelector('tr[data-row] .run'))"),
            lambda: page.evaluate("getSelection().empty()"),
            page.locator("tr[data-row] .when").first.hover,
            lambda: page.mouse.move(5, 5),
        ),
        (
            lambda: page.keyboard.press("?"),
            lambda: page.keyboard.press("Escape"),
            page.locator("tr[data-row] .when").first.hover,
            lambda: page.mouse.move(5, 5),
        ),
    ):
        await page.locator(f"#{row} .when").hover()
        await hold()
        made = (await site.client.trigger("mail/send", delay="1h"))["id"]
        await expect(other.locator(f"#{made}")).to_be_visible()
        assert await page.locator(f"#{made}").count() == 0
        await let_go()
        await expect(held).to_have_text("1 new row: show")
        await rest()
        await site.client.cancel(row)
        await expect(page.locator(f"#{row} .badge")).to_have_text("Canceled")
        assert await page.locator("tr[data-row]").first.get_attribute("id") == row
        await leave()
        await expect(page.locator("tr[data-row]").first).to_have_attribute("id", made)
        await expect(held).to_be_hidden()
        row = made
    await site.client.cancel(row)


async def test_what_is_ticked_focused_and_scrolled_to_stays(site: Site, page: Page) -> None:
    made = [(await site.client.trigger("mail/send", delay="1h"))["id"] for _ in range(2)]
    await page.goto("/")
    await page.get_by_label(f"Tick {made[0]}").check()
    await page.get_by_label("all that fit the filters").check()
    await page.locator("[data-bulk-bar]").get_by_role("button", name="Replay").focus()
    await page.evaluate("scrollTo(0, 700)")
    await page.mouse.move(5, 5)
    at = "(id) => document.getElementById(id).getBoundingClientRect().top"
    row = await page.locator("tr[data-row]").nth(20).get_attribute("id")
    was = await page.evaluate(at, row)
    # What is sent in the very moment of a refresh has the ticks as well.
    await page.evaluate("""() => document.addEventListener("htmx:afterSwap", () => {
      (window.seen ??= []).push(document.querySelectorAll("[data-bulk] input[name=run]:checked").length);
    })""")
    later = await site.client.trigger("mail/send", delay="1h")
    await expect(page.locator(f"#{later['id']}")).to_be_attached()
    assert set(await page.evaluate("window.seen")) == {1}
    assert await page.evaluate(at, row) == was
    assert await page.evaluate("document.activeElement.textContent") == "Replay"
    await expect(page.get_by_label("all that fit the filters")).to_be_checked()
    await expect(page.locator("[data-bulk-bar]")).to_contain_text("1 ticked")
    for run_id in (*made, later["id"]):
        await site.client.cancel(run_id)


async def test_a_row_that_the_keyboard_is_in_is_not_taken_away(site: Site, page: Page) -> None:
    made = (await site.client.trigger("mail/send", delay="1h"))["id"]
    await page.goto("/?state=delayed")
    await page.keyboard.press("j")
    await site.client.cancel(made)
    await expect(page.locator("[data-held]")).to_have_text("This has changed: show")
    assert await page.evaluate("document.activeElement.closest('tr').id") == made
    await page.keyboard.press("/")
    await expect(page.locator(f"#{made}")).to_have_count(0)


async def test_more_windows_than_a_browser_has_connections(site: Site, context: BrowserContext) -> None:
    """Also over plain HTTP from another machine."""
    url = site.url.replace("127.0.0.1", ELSEWHERE)
    windows = [await context.new_page() for _ in range(8)]
    await windows[0].goto((await site.link()).replace(site.url, url))
    await windows[0].get_by_role("button", name="Sign in").click()
    await expect(windows[0]).to_have_url(f"{url}/")
    for window in windows:
        await window.goto(f"{url}/variables")
    assert not await windows[0].evaluate("isSecureContext")
    await site.client.set_variable("EVERYWHERE", "1")
    for window in windows:
        await expect(window.get_by_role("row", name="EVERYWHERE")).to_be_visible()
    await site.client.unset_variable("EVERYWHERE")
    for window in windows:
        await window.close()

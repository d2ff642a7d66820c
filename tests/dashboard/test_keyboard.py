"""All that the dashboard does, done by pressing keys; each stop of the Tab key on the way has a name and is seen."""

from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from browser import ELSEWHERE
from history import Site
from playwright.async_api import BrowserContext, Error, Page, expect
from stories import Teller

from torpor.dashboard.app import routes
from torpor.wire.runner import NewWait

pytestmark = pytest.mark.anyio

STOP = """() => {
  const at = document.activeElement;
  const label = at.ariaLabel ?? [...(at.labels ?? [])].map((each) => each.textContent.trim()).join(" ");
  const { outlineStyle, outlineWidth } = getComputedStyle(at);
  const isSeen = at.matches("body, #content") || outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
  return [(label || at.textContent).trim().replace(/\\s+/g, " "), isSeen];
}"""
"""What the focus is at, and whether people see that it is there."""
MOST_STOPS = 90
PASSWORD = "correct horse battery"


@dataclass
class Act:
    """On this page go to each stop by Tab: its name is enough to press Enter there, with `=` a text is written into it, or a
    choice made; `^` begins keys that are pressed where one is. Then this can be read, and couldn't before; with `!` the other way
    round, and with `=` before, too. Where there is no such text, the page comes anew."""

    page: str
    stops: list[str]
    told: str


async def stop_of(page: Page) -> tuple[str, bool]:
    try:
        return await page.evaluate(STOP)
    except Error:  # a link has just been followed
        await page.wait_for_load_state()
        return await page.evaluate(STOP)


async def walk(page: Page, name: str) -> None:
    """Tab until a stop whose name begins so."""
    for _ in range(MOST_STOPS):
        told, is_seen = await stop_of(page)
        assert is_seen, f"nobody sees that the focus is at {told[:60]!r}"
        if told.startswith(name):
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"no way to {name!r} on {page.url}")


async def perform(page: Page, act: Act) -> None:
    if act.page:
        await page.goto(act.page)
        await page.keyboard.press("Tab")
        if (await stop_of(page))[0] == "Skip to content":
            await page.keyboard.press("Enter")
    await page.wait_for_load_state()
    shown, told = expect(page.locator("body"), str(act)), act.told.lstrip("!=")
    before, after = shown.not_to_contain_text, shown.to_contain_text
    if act.told.startswith("!"):
        before, after = after, before
    if not told:
        async with page.expect_event("load"):
            await press(page, act)
    else:
        if not act.told.startswith("="):
            await before(told)
        await press(page, act)
        await after(told)


async def press(page: Page, act: Act) -> None:
    for stop in act.stops:
        if stop.startswith("^"):
            await page.keyboard.press(stop[1:])
            continue
        name, writes, text = stop.partition("=")
        await walk(page, name)
        if not writes:
            await page.keyboard.press("Enter")
            continue
        if await page.evaluate("document.activeElement.matches('input, textarea')"):
            await page.keyboard.press("Control+a")
        await page.keyboard.type(text)


async def another_browser(page: Page) -> BrowserContext:
    """Whose session can be ended here."""
    assert page.context.browser
    return await page.context.browser.new_context()


@pytest.mark.timeout(400)
async def test_each_action_is_reached_and_done_by_keys_alone(site: Site, page: Page) -> None:
    """Whoever adds a form gives it a line here."""
    teller, client = Teller(site), site.client
    await teller.come_up()
    asks = (await client.create_token(title="Send it?"))["id"]
    given = await teller.begin("reports/weekly", {"week": 9})
    await teller.freeze(given, NewWait("w", "token", waitpoint_id=asks))
    run = f"/runs/{given.run_id}"
    waits = (await client.trigger("orders/process", {"to": "grace"}, delay="1h", tags=["by-keys"]))["id"]
    for title in ("Keep it?", "Pay it?", None):
        await client.create_token(title=title)
    await site.sign_in(await another_browser(page))
    elsewhere = (await site.link()).replace("127.0.0.1", ELSEWHERE)
    posted: set[str] = set()
    page.on("request", lambda request: posted.add(urlsplit(request.url).path) if request.method == "POST" else None)
    for act in (
        Act("/?tag=by-keys", ["^j", "^x", "^b", "Cancel", "No"], "1 ticked"),
        Act("", ["^b", "Replay", "Replay"], "Replayed 1 of 1."),
        Act("/", ["^/", "Search=by-keys", "State", "Delayed= ", "^Escape", "^?", "^Escape"], "!vip"),
        Act(run, ["Fork…", "What it is answered=rejected", "^Escape", "Replay…", "^Escape"], "=Send it?"),
        Act("", ["Fork…", "What it is answered=approved", "Fork"], "fork of"),
        Act(run, ["Replay…", 'Payload, as JSON={"week": 10}', "Replay"], "replay of"),
        Act(run, ["Zoom in", "Timeline of this run", "^0", "^ArrowDown"], "Wait for Send it?"),
        Act(run, ["Comment=go ahead", "Approve"], "!it asks a person"),
        Act(f"/runs/{waits}", ["Cancel", "Cancel"], "Canceled"),
        Act("/waiting", ["Comment=yes", "Approve"], "Approved"),
        Act("/waiting", ["Reject"], "Rejected"),
        Act("/waiting", ['Value, as JSON={"paid": true}', "Complete"], "Completed"),
        Act("/queues", ["Pause orders/process"], "Paused"),
        Act("", ["^Enter"], "!Paused"),  # the focus is where it was
        Act("", ["Limit of orders/process", "Runs that may work at once=7", "Set"], "instead of none"),
        Act("", ["Limit of orders/process", "Reset to none"], "!instead of none"),
        Act("", ["Pause orders/process"], "Paused"),
        Act("/schedules/new", ["Task=orders", "Pattern=0 8 * * *", "^Enter"], "At 08:00"),
        Act("/schedules", ["^j", "Change", "Pattern=0 9 * * *", "Change"], "At 09:00"),
        Act("", ["Deactivate"], "Rests"),
        Act("", ["Activate"], "!Rests"),
        Act("", ["Delete", "Delete"], "No schedule yet"),
        Act("/test/orders/process", ["Run orders/process"], "Triggered"),
        Act("", ["Resume orders/process"], "!Its queue is paused"),
        Act("/variables", ["Name=BY_KEYS", "Value=1", "Set"], "BY_KEYS"),
        Act("/variables", ["Text of a .env=TOO=1", "Import"], "TOO"),
        Act("/variables", ["Delete BY_KEYS", "Delete"], "!BY_KEYS"),
        Act("/keys", ["Name=by keys", "Make"], "Keep it now"),
        Act("/keys", ["Revoke by keys", "Revoke"], "1 that is over"),
        Act("/keys", ["Make a new one", "Make a new one"], "for reading since"),
        Act("/workers", ["Drain", "Drain"], "Leaving"),
        Act("/account", ["End"], "!End"),
        Act("/account", ["Name=ada", f"Password={PASSWORD}", "Create account"], "ada"),
        Act("/environments", ["Name=staging", "Make"], "This is its first secret key"),
        Act("/environments", ["Rename staging", "New name=stage", "Rename"], "stage"),
        Act("/environments", ["Project=shop", "Its first environment=dev", "Begin"], "This is its first secret key"),
        Act("/environments", ["Rename the project shop", "New name=store", "Rename"], "store"),
        Act("/limits", ["Environment:", "stage", "Dark"], "Environment: default/stage"),
        Act("/environments?environment=dev", ["Delete stage", "Delete"], "!stage"),
        Act("/limits", ["Sign out"], "Forgotten?"),
        Act("/sign-in", ["Name=ada", f"Password={PASSWORD}", "Sign in"], "Runs"),
        Act("/account", [f"Old password={PASSWORD}", f"New password={PASSWORD}!", "Change password"], ""),
        Act("/account", ["Sign out everywhere", "Sign out everywhere"], "Forgotten?"),
        Act(elsewhere, ["Sign in"], "Runs"),
    ):
        await perform(page, act)
    forms = [route for route in routes if "POST" in (route.methods or ())]
    assert [route.path for route in forms if not any(route.path_regex.match(path) for path in posted)] == []

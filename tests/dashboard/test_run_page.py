"""The page of one run: what it shows, what can be done there, and that it goes on by itself."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from history import MARKUP, on_site
from looks import shuts_nobody_out
from playwright.async_api import Browser, BrowserContext, Page, Response, expect
from stories import STANDS, Teller

from scratch_postgres import create_database
from torpor.wire import http as wire
from torpor.wire.runner import NewWait, TaskError

pytestmark = pytest.mark.anyio

LINES = 10_000


@pytest.fixture(scope="module")
async def teller(postgres: str, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Teller]:
    """A server of its own, since its worker takes whatever run comes next."""
    async with on_site(await create_database(postgres, "run_page"), tmp_path_factory.mktemp("data")) as site:
        teller = Teller(site)
        await teller.come_up()
        yield teller


@pytest.fixture
async def context(browser: Browser, teller: Teller) -> AsyncIterator[BrowserContext]:
    async with teller.site.signed_in(browser) as context:
        yield context


@pytest.fixture
async def page(context: BrowserContext) -> Page:
    return await context.new_page()


async def open_run(page: Page, run_id: str) -> None:
    await page.goto(f"/runs/{run_id}")
    await expect(page.locator("[data-timeline]")).to_have_attribute("data-ready", "")


def badge(page: Page) -> Any:
    return page.locator("#top .run-sub .badge")


async def end(teller: Teller, run_id: str) -> None:
    """So that no other test's worker is handed it."""
    await teller.site.client.cancel(run_id)


async def end_all(teller: Teller, run_id: str) -> None:
    """The same for its children."""
    await end(teller, run_id)
    for child in await teller.database.fetch("select id from runs where parent_run_id = $1", run_id):
        await end(teller, child["id"])


# -- what it shows ----------------------------------------------------------------------------------------------------


async def test_a_frozen_run_says_where_it_stands_and_goes_on_when_it_is_approved(teller: Teller, page: Page) -> None:
    """Freeze and thaw are seen without loading anything again."""
    await open_run(page, (given := await teller.begin("reports/weekly", {"week": 48})).run_id)
    await expect(badge(page)).to_have_text("Running")
    token = (await teller.site.client.create_token(timeout="1d", title="Send it?"))["id"]
    await teller.freeze(given, NewWait("w", "token", waitpoint_id=token))
    await expect(badge(page)).to_have_text("Frozen")
    await expect(page.locator(".standing")).to_contain_text(STANDS[0]["source"])
    await expect(page.locator(".standing")).to_contain_text("app/reports.py:41")
    await page.get_by_placeholder("Comment").fill("go ahead")
    await page.get_by_role("button", name="Approve").click()
    await expect(badge(page)).to_have_text("Thawing")
    await page.locator(".tl-frozen").hover()
    told = page.locator("[data-told]")
    await expect(told).to_contain_text("Frozen")
    await expect(told).not_to_contain_text("thawed")
    thawed = await teller.thaw()
    assert msgspec.json.decode(thawed.answers[0].output)["approved"] is True
    assert msgspec.json.decode(thawed.answers[0].output)["comment"] == "go ahead"
    await expect(badge(page)).to_have_text("Running")
    await teller.worker.finish(thawed, {"sent": 1204})
    await expect(badge(page)).to_have_text("Completed")
    await expect(page.get_by_label("Output", exact=True).last).to_contain_text('"sent": 1204')
    await expect(told).to_contain_text("thawed in 38 ms on worker_")  # what is told of a bar follows it


async def test_a_rejection_is_told_to_the_run(teller: Teller, page: Page) -> None:
    given = await teller.begin("echo")
    token = (await teller.site.client.create_token(title="Really?"))["id"]
    await teller.freeze(given, NewWait("w", "token", waitpoint_id=token))
    await open_run(page, given.run_id)
    await page.get_by_role("button", name="Reject").click()
    await expect(badge(page)).to_have_text("Thawing")
    thawed = await teller.thaw()
    assert msgspec.json.decode(thawed.answers[0].output)["approved"] is False
    await teller.worker.finish(thawed)


async def test_a_token_is_completed_with_any_value_and_told_what_is_none(teller: Teller, page: Page) -> None:
    given = await teller.begin("echo")
    token = (await teller.site.client.create_token())["id"]
    await teller.freeze(given, NewWait("w", "token", waitpoint_id=token))
    await open_run(page, given.run_id)
    await page.get_by_placeholder("Value, as JSON").fill("{oops")
    await page.get_by_role("button", name="Complete").click()
    await expect(page.get_by_role("alert")).to_contain_text("The value is not JSON")
    await page.get_by_placeholder("Value, as JSON").fill('{"ok": 1}')
    await page.get_by_role("button", name="Complete").click()
    await expect(badge(page)).to_have_text("Thawing")
    thawed = await teller.thaw()
    assert msgspec.json.decode(thawed.answers[0].output) == {"ok": 1}
    await teller.worker.finish(thawed)


async def test_a_failed_run_shows_its_error_with_the_lines_of_the_code_and_its_cause(
    teller: Teller, page: Page
) -> None:
    await open_run(page, await teller.broken())
    await expect(page.locator(".failure").first).to_contain_text("KeyError: 'CHF'")
    await expect(page.locator(".trace-source").last).to_contain_text('rates[line["currency"]] for line in lines')
    await expect(page.locator(".failure").last).to_contain_text("rates.example did not answer")
    await expect(page.locator(".tl-failed")).to_have_count(2)  # both attempts
    await page.get_by_role("button", name="Replay with edited payload…").click()
    await page.get_by_role("dialog").get_by_role("button", name="Close").click()
    await page.get_by_role("link", name="All runs that failed like this").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("KeyError")


async def test_a_run_that_can_not_be_frozen_says_why_and_is_approved_there_all_the_same(
    teller: Teller, page: Page
) -> None:
    """One task of its code asks a person, another one reads from a connection: it works."""
    given = await teller.begin("echo")
    token = (await teller.site.client.create_token(title="Go?"))["id"]
    blockers = ["task 'poll' awaits asyncio.StreamReader.read"]
    report = wire.BlockReport(given.lease, [NewWait("w", "token", waitpoint_id=token)], blockers=blockers)
    await teller.worker.say(f"runs/{given.run_id}/block", report, wire.BlockReply)
    await open_run(page, given.run_id)
    await expect(badge(page)).to_have_text("Running")
    await expect(page.locator(".why-held")).to_contain_text(blockers[0])
    await page.get_by_role("button", name="Approve").click()
    await expect(page.locator(".standing")).to_have_count(0)
    await teller.worker.finish(given)


async def test_markup_stays_text_wherever_users_write(teller: Teller, page: Page) -> None:
    asked: list[str] = []
    page.on("dialog", lambda dialog: asked.append(dialog.message))
    run_id = await teller.hostile()
    await open_run(page, run_id)
    assert await page.locator("main :is(img, b b)").count() == 0
    for place in (
        ".standing .places",
        ".standing .waits",
        "#facts .json >> nth=0",
        "[aria-labelledby=streams-title]",
        ".story",
        ".saved",
        ".run-sub",
    ):
        await expect(page.locator(place).first).to_contain_text("<img src=x onerror")
    await page.locator(".tl-mark").first.hover()
    await page.locator("[data-stage]").focus()
    for _ in range(4):
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("ArrowRight")
    assert await page.locator("main :is(img, svg img, .tl-told *)").count() == 0
    failed = await teller.begin("echo", MARKUP)
    report = wire.FinishReport(failed.lease, "failed", error=wire_error(), retryable=False)
    await teller.worker.say(f"runs/{failed.run_id}/finish", report, wire.LeaseReply)
    await open_run(page, failed.run_id)
    await expect(page.locator(".failure")).to_contain_text(MARKUP)
    assert await page.locator("main img").count() == 0
    assert asked == []
    await end(teller, run_id)


def wire_error() -> Any:
    return TaskError(MARKUP, MARKUP, f'  File "{MARKUP}", line 1, in {MARKUP}\n    {MARKUP}\n')


async def test_large_json_is_folded_and_files_are_whole(teller: Teller, page: Page) -> None:
    given = await teller.begin("echo", {"rows": list(range(3000))})
    await teller.say(given, 0, ("warning", "low on ink"), printer=7)
    await open_run(page, given.run_id)
    await expect(page.get_by_text("of JSON")).to_be_visible()
    fetched = await page.request.get(f"/runs/{given.run_id}/packets/payload")
    assert await fetched.json() == {"rows": list(range(3000))}
    assert "attachment" in fetched.headers["content-disposition"]
    async with page.expect_download() as download:
        await page.get_by_role("link", name="Download logs").click()
    text = Path(await (await download.value).path()).read_text()
    assert "warning  low on ink  printer=7\n" in text
    await teller.worker.finish(given)


# -- what people do ---------------------------------------------------------------------------------------------------


async def test_a_run_is_replayed_with_an_edited_payload(teller: Teller, page: Page) -> None:
    given = await teller.begin("echo", {"order": 1})
    await teller.worker.finish(given)
    await open_run(page, given.run_id)
    await page.get_by_role("button", name="Replay…").click()
    dialog = page.get_by_role("dialog", name="Replay with this payload")
    await dialog.get_by_role("textbox").fill('{"order": 2,}')
    await dialog.get_by_role("button", name="Replay").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("is not JSON")
    await dialog.get_by_role("textbox").fill('{"order": 2}')
    await dialog.get_by_role("button", name="Replay").click()
    await page.wait_for_url(lambda url: "/runs/run_" in url and given.run_id not in url)
    again = await teller.worker.take_and_start()
    assert json.loads(bytes(again.payload)) == {"order": 2}
    await expect(page.locator(".relatives")).to_contain_text("replay of")
    await teller.worker.finish(again)


async def test_a_run_is_forked_from_a_checkpoint_with_another_answer(teller: Teller, page: Page) -> None:
    given = await teller.begin("echo")
    token = (await teller.site.client.create_token(title="Yes or no?"))["id"]
    await teller.freeze(given, NewWait("w", "token", waitpoint_id=token))
    await open_run(page, given.run_id)
    await page.get_by_role("button", name="Fork from here…").click()
    dialog = page.get_by_role("dialog", name="Fork from a checkpoint")
    await expect(dialog.get_by_label("Where it goes on")).to_contain_text(f"app/reports.py:41 {STANDS[0]['source']}")
    await dialog.get_by_label("What it is answered").select_option("rejected")
    await dialog.get_by_role("button", name="Fork").click()
    await page.wait_for_url(lambda url: "/runs/run_" in url and given.run_id not in url)
    await expect(page.locator(".relatives")).to_contain_text("fork of")
    fork = await teller.thaw()
    assert fork.run_id in page.url
    assert msgspec.json.decode(fork.answers[0].output)["approved"] is False
    await teller.worker.finish(fork)
    await end(teller, given.run_id)


async def test_a_form_without_its_token_and_a_run_that_is_not_there_are_refused(teller: Teller, page: Page) -> None:
    given = await teller.begin("echo")
    for verb in ("cancel", "replay", "fork", "answer"):
        answer = await page.request.post(f"/runs/{given.run_id}/{verb}", form={"payload": "1"})
        assert answer.status == 403, verb
    assert (await page.request.get("/runs/run_none")).status == 404
    assert (await page.request.get(f"/runs/{given.run_id}/packets/secrets")).status == 404
    assert (await page.request.get(f"/runs/{given.run_id}/timeline?lines=x")).status == 400
    assert (await teller.site.client.run(given.run_id))["status"] == "EXECUTING"
    await teller.worker.finish(given)


# -- the timeline -----------------------------------------------------------------------------------------------------


async def test_days_of_waiting_do_not_squash_the_work(teller: Teller, page: Page) -> None:
    run_id = await teller.asks()
    await open_run(page, run_id)
    await expect(page.locator(".tl-break").first).to_be_visible()
    await expect(page.locator(".tl-hidden", has_text="7 h")).to_be_visible()
    widths = await page.locator(".tl-working").evaluate_all("all => all.map(bar => bar.getBoundingClientRect().width)")
    assert widths
    assert min(widths) > 8
    await expect(page.locator(".tl-link", has_text="reports/chapter")).to_have_count(2)
    await end_all(teller, run_id)


async def test_the_keyboard_goes_through_all_of_it(teller: Teller, page: Page) -> None:
    run_id = await teller.broken()
    await open_run(page, run_id)
    told = page.locator("[data-told]")
    stage = page.get_by_role("application", name="Timeline of this run")
    for _ in range(40):  # as far as Tab takes to it
        await page.keyboard.press("Tab")
        if await stage.evaluate("stage => stage === document.activeElement"):
            break
    await expect(stage).to_be_focused()
    await expect(told).to_contain_text("Queued")
    await page.keyboard.press("ArrowDown")
    await expect(told).to_contain_text("Attempt 1: failed, KeyError: 'CHF'")
    await page.keyboard.press("ArrowRight")
    await expect(told).to_contain_text("Attempt 2: failed")
    await page.keyboard.press("ArrowDown")
    await expect(told).to_contain_text("no rate for CHF")
    await page.keyboard.press("Enter")
    assert await page.evaluate("(t => t.view[1] - t.view[0])(document.querySelector('[data-timeline]').timeline)") < 0.5
    await page.keyboard.press("0")
    await expect(page.locator(".tl-failed")).to_have_count(2)


async def test_ten_thousand_lines_are_drawn_as_far_as_they_are_in_view(teller: Teller, page: Page) -> None:
    """Bounded by the width of the screen, not by the run; so a frame is drawn in a fraction of what people notice."""
    await open_run(page, await teller.long(LINES))
    held = await page.evaluate("document.querySelector('[data-timeline]').timeline.model.lines.rows.length")
    assert held == LINES
    assert await page.locator(".tl *").count() < 1000
    await page.locator("[data-stage]").focus()
    await page.keyboard.press("ArrowDown")
    for _ in range(14):
        await page.keyboard.press("+")
    await page.keyboard.press("End")
    await expect(page.locator("[data-told]")).to_contain_text(f"line {LINES} of the work")
    assert await page.locator(".tl *").count() < 1000


async def test_a_long_story_shows_its_beginning_and_its_newest_part_and_is_paged_through(
    teller: Teller, page: Page
) -> None:
    run_id, given = await teller.endless(events=6000, lines=21_000)
    await open_run(page, run_id)
    parts = page.locator("[data-parts]")
    await expect(parts).to_contain_text("Not shown of the lines of output: 11,000 after the beginning.")
    await expect(parts).to_contain_text("Not shown of the entries of the story: 1,003 after the beginning.")
    await expect(page.locator(".tl-skipped")).to_have_count(2)
    story = page.locator(".story")
    await expect(story).to_contain_text("triggered")
    await expect(story).to_contain_text("line 21000 of the work")
    await page.get_by_role("link", name="Show earlier ones").click()
    await expect(story).not_to_contain_text("line 21000 of the work")
    await expect(story).to_contain_text("left out here")
    await page.get_by_role("link", name="Back to the newest lines").click()

    lines = parts.locator("[data-part=lines]")
    await lines.get_by_role("button", name="Earlier").click()
    await expect(lines).to_contain_text("1,200 after the beginning, 9,800 at the end")
    await lines.get_by_role("button", name="Later").click()
    await expect(lines).to_contain_text("11,000 after the beginning.")
    assert await page.evaluate("document.querySelector('[data-timeline]').timeline.model.lines.rows.length") == 10_000

    # What comes now is followed without asking for any of it again.
    news: list[Response] = []
    page.on("response", lambda got: news.append(got) if "/timeline?" in got.url else None)
    await teller.say(given, 9_000_000, ("warning", "the newest line"))
    await expect(page.locator(".tl")).to_contain_text("10,001 lines")
    told = [await each.json() for each in news]
    assert [line[3] for each in told for line in each["lines"]["rows"]] == ["the newest line"]
    assert [each for each in told if len(each["story"]["bars"]) >= 5] == []
    await expect(story).to_contain_text("the newest line")
    await teller.worker.finish(given)
    await expect(badge(page)).to_have_text("Completed")
    await expect(page.locator(".tl-tone-end")).to_have_count(1)


# -- how it looks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["frozen", "failed", "hostile"])
async def test_it_shuts_nobody_out_and_fits(teller: Teller, page: Page, tmp_path: Path, name: str) -> None:
    tells = {"frozen": teller.asks, "failed": teller.broken, "hostile": teller.hostile}
    run_id = await tells[name]()
    await open_run(page, run_id)
    await shuts_nobody_out(page, f"run-{name}", tmp_path)
    if name == "hostile":
        await end(teller, run_id)
    elif name == "frozen":
        await end_all(teller, run_id)

"""Errors: what failed in the same way stands together, and leads to where it did."""

from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.async_api import Page, expect

from torpor.dashboard.failure import failures
from torpor.dashboard.fingerprints import grouped, masked
from torpor.engine.read_failures import Failure
from torpor.engine.states import RunState

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("order 4711 is gone", "order … is gone"),
        ("no user 'Ada' of \"b-7\"", "no user '…' of \"…\""),
        ("run_4kq2 and 6ba7b810-9dad-11d1-80b4-00c04fd430c8 of ada@example.com", "… and … of …"),
        ("took 12.5 s", "took … s"),
        ("nothing to mask", "nothing to mask"),
    ],
)
def test_what_differs_each_time_is_masked(message: str, told: str) -> None:
    assert masked(message) == told


@pytest.mark.parametrize(("messages", "told"), [(["'prise'", "'prise'"], "'prise'"), (["'prise'", "'amont'"], "'…'")])
def test_a_message_that_was_always_the_same_is_told_as_it_was(messages: list[str], told: str) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    failed = [Failure("run_1", "order", "v1", RunState.FAILED, at, "KeyError", message, "") for message in messages]
    assert [group.told for group in grouped(failed)] == [told]


def test_members_of_a_group_and_causes_stand_below_what_they_belong_to() -> None:
    def error(name: str, message: str = "", *causes: Any) -> dict[str, Any]:
        return {"name": name, "message": message, "causes": list(causes)}

    cause = error("KeyError", "'CHF'")
    group = error(
        "ExceptionGroup", "two (2 sub-exceptions)", error("OSError"), error("ValueError", "", cause), error("TypeError")
    )
    assert [(each.depth, each.how, each.name) for each in failures(error("Failed", "", group))] == [
        (0, "", "Failed"),
        (1, "caused by", "ExceptionGroup"),
        (2, "caused by", "OSError"),
        (2, "1 of 2", "ValueError"),
        (3, "caused by", "KeyError"),
        (2, "2 of 2", "TypeError"),
    ]


async def test_failures_of_one_kind_are_one_row_that_opens_them(page: Page) -> None:
    await page.goto("/errors")
    row = page.locator("[data-row]", has_text="KeyError").first
    await expect(row).to_contain_text("app/prices.py:9 in price")
    await row.get_by_role("link").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("KeyError")
    await expect(page.locator(".trace .source").last).to_contain_text('rates[line["currency"]]')
    await expect(page.locator(".trace").last).to_contain_text("caused by ConnectionError rates.example did not answer")
    await expect(page.locator(".error-runs [data-row]")).not_to_have_count(0)


async def test_markup_in_an_error_stays_text(page: Page) -> None:
    await page.goto("/errors?q=onerror")
    link = page.locator(".what a").first
    await expect(link).to_contain_text("<img src=x onerror=alert(")
    await link.click()
    await expect(page.locator(".trace .source")).to_contain_text("<b>bold</b>")
    assert await page.locator("main img[src], main .trace b b").count() == 0


async def test_it_is_searched_and_gone_through_by_keyboard(page: Page) -> None:
    await page.goto("/errors")
    await page.keyboard.press("/")
    await page.keyboard.type("mail.py")
    await expect(page.locator("[data-row]", has_text="KeyError")).to_have_count(0)
    await expect(page).to_have_url("/errors?q=mail.py&period=24h")
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Refused")


async def test_failed_runs_are_replayed_from_here(page: Page) -> None:
    await page.goto("/errors?q=refused")
    await page.locator(".what a").first.click()
    await page.locator(".error-runs [data-row] input").first.check()
    await page.get_by_role("button", name="Replay").click()
    await page.get_by_role("dialog").get_by_role("button", name="Replay").click()
    await page.wait_for_url("/?bulk=*")


async def test_a_period_without_such_a_failure_says_so(page: Page) -> None:
    answer = await page.goto("/errors/0123456789abcdef")
    assert answer
    assert answer.status == 404
    await expect(page.get_by_text("no run has failed like this in the last 24 hours")).to_be_visible()

"""Variables and limits: set, imported and deleted by hand; a secret is never shown."""

import pytest
from history import Site
from playwright.async_api import Page, expect

from torpor.config import Settings
from torpor.dashboard.limits import GROUPS
from torpor.server.inventory import limits_of

pytestmark = pytest.mark.anyio


async def test_they_are_set_shown_unless_secret_and_deleted(page: Page, site: Site) -> None:
    await page.goto("/variables")
    await page.get_by_label("Name").fill("GREETING")
    await page.get_by_label("Value").fill("<b>hello</b>")
    await page.get_by_role("button", name="Set").click()
    await expect(page.get_by_role("row", name="GREETING")).to_contain_text("<b>hello</b>")
    await page.get_by_label("Text of a .env file").fill("TOKEN='s3cr3t'\n# no\nexport OTHER=also-s3cr3t")
    await page.get_by_label("All are secret").check()
    await page.get_by_role("button", name="Import").click()
    await expect(page.get_by_role("row", name="TOKEN")).to_contain_text("secret")
    assert "s3cr3t" not in await page.content()
    await page.get_by_role("button", name="Delete GREETING").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("row", name="GREETING")).to_have_count(0)


async def test_what_cannot_be_set_is_told_without_its_value(page: Page) -> None:
    await page.goto("/variables")
    await page.get_by_label("Name").fill("LD_PRELOAD")
    await page.get_by_label("Value").fill("s3cr3t-value")
    await page.get_by_role("button", name="Set").click()
    await expect(page.get_by_role("alert")).to_contain_text("LD_PRELOAD: it can't be set")
    assert "s3cr3t-value" not in await page.content()


def test_each_limit_has_a_line_and_each_setting_is_one() -> None:
    limits = [limit for group in GROUPS.values() for limit in group]
    assert {limit.name for limit in limits} == {*limits_of(Settings(), None)}
    settings = {limit.setting for limit in limits if limit.setting} - {"environment"}
    assert [setting for setting in settings if not hasattr(Settings(), setting)] == []


async def test_a_limit_is_shown_with_what_is_taken_of_it_and_its_setting(site: Site, page: Page) -> None:
    await site.client.set_variable("TAKES_ONE", "1")
    await page.goto("/limits")
    row = page.get_by_role("row", name="A request, its payload")
    await expect(row).to_contain_text("3.0 MiB")
    await expect(row).to_contain_text("TORPOR_MAX_REQUEST_BYTES")
    taken = await site.database.fetchval("select count(*) from env_vars")
    await expect(page.get_by_role("row", name="Variables").locator(".taken").first).to_have_text(str(taken))

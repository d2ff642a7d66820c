"""Keys: made, rotated and revoked by hand; the text of one is on one page, once."""

import httpx2
import pytest
from fake_worker import KEY, TOKEN
from history import Site
from playwright.async_api import Page, expect

from torpor.errors import Unauthorized
from torpor.sdk.async_client import AsyncClient

pytestmark = pytest.mark.anyio


async def opens(site: Site, key: str) -> bool:
    async with AsyncClient(site.url, key) as client:
        try:
            await client.whoami()
        except Unauthorized:
            return False
    return True


async def make(page: Page, name: str, kind: str = "Secret key", scopes: str = "", ends: str = "") -> str:
    """Make a key on the page; its text."""
    await page.goto("/keys")
    form = page.locator("form", has=page.get_by_role("button", name="Make", exact=True))
    await form.get_by_label("Name").fill(name)
    await form.get_by_label("Kind").select_option(kind)
    if scopes:
        await form.get_by_label("Scopes").fill(scopes)
    await form.get_by_label("Ends").fill(ends)
    await form.get_by_role("button", name="Make").click()
    await expect(page.get_by_role("row", name=name)).to_have_count(1)
    return await page.locator("[data-key-text]").inner_text()


async def test_a_key_is_shown_by_the_answer_that_makes_it_and_never_again(page: Page, site: Site) -> None:
    async with page.expect_response(lambda response: response.request.method == "POST") as posted:
        text = await make(page, "<b>the web shop</b>")
    assert (await (await posted.value).all_headers())["cache-control"] == "no-store"
    assert await opens(site, text)
    row = page.get_by_role("row", name="the web shop")
    await expect(row).to_contain_text("<b>the web shop</b>")
    await expect(row).to_contain_text(f"tr_dev_…{text[-4:]}")
    await expect(row).to_contain_text("by operator")
    await expect(page.locator("pre", has_text="TRIGGER_SECRET_KEY")).to_contain_text(
        f"TRIGGER_API_URL={site.url}\nTRIGGER_SECRET_KEY={text}"
    )
    [told] = [key for key in await site.client.api_keys() if "web shop" in key["name"]]
    assert told["createdBy"] == "operator"
    for address in ("/keys", "/keys?key=" + told["id"]):
        await page.goto(address)
        assert text not in await page.content()
    for never in (KEY, TOKEN):
        assert never not in await page.content()


async def test_the_button_copies_the_key(page: Page, site: Site) -> None:
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = await make(page, "copied")
    await page.get_by_role("button", name="Copy the key").click()
    await expect(page.locator("#said")).to_have_text("Copied")
    assert await page.evaluate("navigator.clipboard.readText()") == text
    await page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    await page.get_by_role("button", name="Copy for Python").click()
    await expect(page.get_by_role("button", name="Copy for Python")).to_have_text("copied")
    await page.goto("/variables")
    await page.get_by_label("Text of a .env file").press("Control+v")
    await expect(page.get_by_label("Text of a .env file")).to_have_value(
        f"TORPOR_API_URL={site.url}\nTORPOR_SECRET_KEY={text}"
    )


async def test_a_key_is_rotated_without_overlap_and_revoked_when_it_was_asked_for(page: Page, site: Site) -> None:
    old = await make(page, "nightly", "Scoped key", "read:runs\ntrigger:tasks:import", "90d")
    await expect(page.get_by_role("row", name="nightly")).to_contain_text("trigger:tasks:import")
    await page.get_by_label("Rotate nightly").click()
    row = page.get_by_role("row", name="nightly")
    await row.get_by_label("The old one holds").select_option("not at all")
    await row.get_by_role("button", name="Make another").click()
    await expect(page.get_by_role("heading", name="Scoped key “nightly”")).to_be_visible()
    new = await page.locator("[data-key-text]").inner_text()
    assert (new.startswith("tr_dev_sk_"), await opens(site, old), await opens(site, new)) == (True, False, True)
    await page.get_by_role("button", name="Revoke nightly").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("shut out at once")
    await dialog.get_by_role("button", name="No").click()
    assert await opens(site, new)
    await page.get_by_role("button", name="Revoke nightly").click()
    await dialog.get_by_role("button", name="Revoke").click()
    await expect(page.get_by_role("row", name="nightly")).to_have_count(0)
    assert not await opens(site, new)
    await page.get_by_text("that are over").click()
    await expect(page.locator(".over")).to_contain_text(f"nightly tr_dev_sk_…{new[-4:]}")


async def test_the_last_secret_key_cannot_be_revoked(page: Page, site: Site) -> None:
    for key in await site.client.api_keys():
        if key["isValid"] and not key["isYours"]:
            await site.client.revoke_key(key["id"])
    await make(page, "Ada", "Personal token")
    await expect(page.locator("pre", has_text="torpor login")).to_be_visible()
    row = page.get_by_role("row", name="TORPOR_SECRET_KEY")
    await expect(row).to_contain_text("the only one")
    await expect(row.get_by_role("button", name="Revoke")).to_be_disabled()
    await row.get_by_role("button", name="Revoke").evaluate(
        """(button, id) => { const form = document.querySelector("form[action$='/revoke']");
        form.action = `/keys/${id}/revoke`; form.submit(); }""",
        next(key["id"] for key in await site.client.api_keys() if key["isYours"]),
    )
    await expect(page.get_by_role("alert")).to_contain_text("the only secret key that is valid")
    assert await opens(site, KEY)


async def test_what_cannot_be_made_is_told_and_kept_in_the_form(page: Page) -> None:
    await page.goto("/keys")
    for kind, scopes, ends, told in (
        ("Scoped key", "", "90d", "a list of one scope or more is needed"),
        ("Scoped key", "read", "", "'read' is no scope"),
        ("Secret key", "", "soon", "expires: "),
    ):
        await page.get_by_label("Name").fill("misfit")
        await page.get_by_label("Kind").select_option(kind)
        if scopes:
            await page.get_by_label("Scopes").fill(scopes)
        await page.get_by_label("Ends").fill(ends)
        await page.get_by_role("button", name="Make", exact=True).click()
        await expect(page.get_by_role("alert")).to_contain_text(told)
        await expect(page.get_by_label("Name")).to_have_value("misfit")
        await expect(page.get_by_label("Ends")).to_have_value(ends)
    await expect(page.get_by_role("row", name="misfit")).to_have_count(0)


async def test_nobody_makes_a_key_from_another_site(site: Site) -> None:
    async with httpx2.AsyncClient(timeout=60) as http:
        response = await http.post(f"{site.url}/keys", data={"name": "x", "kind": "secret"})
        assert (response.status_code, response.headers["location"]) == (303, "/sign-in")
    assert "x" not in [key["name"] for key in await site.client.api_keys()]

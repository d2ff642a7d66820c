"""The page of what waits: what is asked of people is answered there."""

import pytest
from history import MARKUP, Site
from playwright.async_api import Page, expect

from torpor.wire.runner import NewWait

pytestmark = pytest.mark.anyio


async def ask(site: Site, title: str | None, **given: object) -> str:
    """A token; its id."""
    made = await site.client.create_token(timeout="3d", title=title, **given)  # pyright: ignore[reportArgumentType]
    return made["id"]


async def test_a_run_asks_and_goes_on(site: Site, page: Page) -> None:
    token = await ask(site, "Refund order 4711?", context={"order": 4711, "total": "€ 129"})
    run = await site.client.trigger("orders/process", {"order": 4711})
    taken = await site.worker.take_and_start()
    await page.goto("/waiting")
    asked = page.locator(f"#{token}")
    await expect(asked).to_contain_text("no run waits for it yet")
    await site.worker.block(taken, NewWait("w1", "token", waitpoint_id=token))
    await site.worker.suspend(taken)
    row = page.locator(f"#{run['id']}")
    await expect(row).to_contain_text("Frozen")
    await expect(row.locator(".for")).to_have_text("Refund order 4711?")
    await expect(asked).to_contain_text("orders/process")
    await asked.get_by_text("Context").click()
    await expect(asked.locator(".json")).to_contain_text("4711")
    await asked.get_by_placeholder("Comment").fill("a good customer")
    await site.client.trigger("orders/process", delay="1h")  # the page is refreshed meanwhile
    await asked.get_by_role("button", name="Approve").click()
    await expect(page.locator(".note")).to_contain_text("Approved: Refund order 4711?, by operator.")
    await expect(asked).to_have_count(0)
    output = (await site.client.token(token))["output"]
    assert "a good customer" in str(output)
    (taken,) = await site.worker.dequeue(5)
    await site.worker.start(taken, ["w1"])
    await site.worker.finish(taken, "refunded")
    await expect(row).to_have_count(0)


async def test_the_first_answer_wins(site: Site, page: Page) -> None:
    token = await ask(site, "Ship it?")
    # The page doesn't come to know: it can load nothing but whole pages.
    await page.route(
        "**/*", lambda route: route.abort() if "hx-request" in route.request.headers else route.continue_()
    )
    await page.goto("/waiting")
    asked = page.locator(f"#{token}")
    await site.client.approve(token, True, by="Grace")
    await asked.get_by_role("button", name="Reject").click()
    await expect(page.locator(".note")).to_contain_text("Approved: Ship it?, by Grace.")


async def test_a_token_is_completed_with_json(site: Site, page: Page) -> None:
    token = await ask(site, None)
    await page.goto("/waiting")
    asked = page.locator(f"#{token}")
    await asked.get_by_role("textbox").fill('{"paid": tru')
    await asked.get_by_role("button", name="Complete").click()
    await expect(page.get_by_role("alert")).to_contain_text("This is no JSON")
    await page.go_back()
    await asked.get_by_role("textbox").fill('{"paid": true}')
    await asked.get_by_role("button", name="Complete").click()
    await expect(page.locator(".note")).to_contain_text(f"Completed: {token}")
    assert (await site.client.token(token))["status"] == "COMPLETED"


async def test_what_is_asked_stays_text(site: Site, page: Page) -> None:
    token = await ask(site, MARKUP, context={MARKUP: [MARKUP]}, tags=[MARKUP])
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await page.goto("/waiting")
    asked = page.locator(f"#{token}")
    await expect(asked.get_by_role("heading")).to_have_text(MARKUP)
    await expect(asked.locator(".tag")).to_have_text(MARKUP)
    await asked.get_by_text("Context").click()
    await expect(asked.locator(".json")).to_contain_text(MARKUP.replace('"', '\\"'))
    await expect(asked.locator("img, b")).to_have_count(0)
    await asked.get_by_placeholder("Comment").fill(MARKUP)
    await asked.get_by_role("button", name="Reject").click()
    await expect(page.locator(".note b")).to_have_text(MARKUP)
    assert dialogs == []


async def test_there_is_nothing_to_answer_where_there_is_no_token(site: Site, page: Page) -> None:
    await page.goto("/waiting")
    token = await page.locator("input[name=csrf]").first.get_attribute("value")
    for action in ("approve", "reject", "complete"):
        response = await page.request.post(
            f"/waiting/waitpoint_none/{action}", form={"csrf": token or ""}, max_redirects=0
        )
        assert response.status == 404

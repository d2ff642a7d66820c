"""The page that tests a task: a form made from its signature, and a run of it."""

import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from history import MARKUP, Site
from orders import open_shop
from playwright.async_api import Page, expect

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def shop(site: Site) -> Site:
    return await open_shop(site)


async def newest(shop: Site) -> dict[str, Any]:
    """The run that the browser has just been sent to."""
    row = await shop.database.fetchrow("select * from runs order by created_at desc limit 1")
    assert row
    return dict(row)


async def goes_to_its_run(page: Page, shop: Site) -> dict[str, Any]:
    await expect(page).to_have_url(re.compile(r"/runs/run_\w+$"))
    run = await newest(shop)
    assert page.url.endswith(run["id"])
    return run


async def test_a_form_is_filled_in_by_keyboard_alone(shop: Site, page: Page) -> None:
    await page.goto("/test/orders/fulfil")
    keys = page.keyboard
    await page.get_by_label("order*", exact=True).focus()
    await keys.type("4711")
    await keys.press("Tab")
    await keys.type("Ada")
    await page.get_by_role("button", name="Add to items").focus()
    await keys.press("Enter")
    sku = page.get_by_label("sku*", exact=True)
    await expect(sku).to_be_focused()
    await keys.type("book")
    await keys.press("Tab")
    await page.get_by_role("button", name="Remove items[0]").wait_for()
    await page.get_by_label("speed").select_option("express")
    await page.get_by_label("gift").select_option("true")
    await page.get_by_role("button", name="Set billing").press("Enter")
    billed = page.get_by_role("group", name="billing").get_by_label("name*")
    await expect(billed).to_be_focused()
    await billed.fill("Grace")
    await page.get_by_role("group", name="billing").get_by_label("born").fill("1906-12-09")
    await page.get_by_label("notes").fill('["fragile", 1]')
    await page.get_by_label("order*", exact=True).press("Enter")
    run = await goes_to_its_run(page, shop)
    assert json.loads(run["payload"]) == {
        "order": 4711,
        "customer": {"name": "Ada"},
        "items": [{"sku": "book"}],
        "speed": "express",
        "gift": True,
        "billing": {"name": "Grace", "born": "1906-12-09"},
        "notes": ["fragile", 1],
    }
    assert run["is_test"]


async def test_what_is_wrong_is_told_where_it_is_and_nothing_is_lost(shop: Site, page: Page) -> None:
    before = (await newest(shop))["id"]
    await page.goto("/test/orders/fulfil")
    order, delay, tags = page.get_by_label("order*", exact=True), page.get_by_label("Delay"), page.get_by_label("Tags")
    await order.fill("12x")
    await page.get_by_label("notes").fill('{"a": ')
    await delay.fill("soon")
    await tags.fill("eu, vip")
    await page.get_by_role("button", name="Run orders/fulfil").last.click()
    await expect(page.get_by_role("alert")).to_contain_text("No run was made")
    await expect(page.get_by_label("notes")).to_have_accessible_description(re.compile("is not JSON"))
    await expect(delay).to_have_accessible_description(re.compile("not a duration"))
    await expect(order).to_have_value("12x")
    await expect(tags).to_have_value("eu, vip")
    await page.get_by_label("notes").fill("")
    await delay.fill("1h")
    await page.get_by_role("button", name="Run orders/fulfil").last.click()
    await expect(order).to_have_accessible_description('should be a whole number, not "12x"')
    await expect(page.get_by_label("name*", exact=True)).to_have_accessible_description("is missing")
    await expect(order).to_be_focused()
    assert (await newest(shop))["id"] == before
    await order.fill("12")
    await page.get_by_label("name*", exact=True).fill("Ada")
    await page.get_by_role("button", name="Run orders/fulfil").last.click()
    run = await goes_to_its_run(page, shop)
    assert (run["tags"], run["state"]) == (["eu", "vip"], "delayed")


async def test_both_views_say_the_same(shop: Site, page: Page) -> None:
    await page.goto("/test/orders/fulfil")
    await page.evaluate("window.wasHere = true")
    await page.get_by_label("order*", exact=True).fill("7")
    await page.get_by_label("Tags").fill("kept")
    await page.get_by_role("button", name="JSON").click()
    written = page.get_by_label("Payload as JSON")
    assert json.loads(await written.input_value()) == {"order": 7, "customer": {}, "items": []}
    await written.fill('{"order": 8, "customer": {"name": "Ada"}, "items": [{"sku": "x"}, 5], "discount": null}')
    await page.get_by_role("button", name="Form").click()
    await expect(page.get_by_label("order*", exact=True)).to_have_value("8")
    await expect(page.get_by_label("2*", exact=True)).to_have_value("5")  # no item: it is JSON in its place
    await expect(page.get_by_label("Tags")).to_have_value("kept")
    await page.get_by_role("button", name="JSON").click()
    assert '"discount": null' in await written.input_value()
    await written.fill("{")
    await page.get_by_role("button", name="Form").click()
    await expect(page.get_by_role("alert")).to_contain_text("is not JSON")
    await expect(written).to_have_value("{")
    assert await page.evaluate("window.wasHere")


async def test_all_options_are_carried_out_without_scripts_too(shop: Site, page: Page) -> None:
    form: dict[str, str | float | bool] = {
        "o.delay": "2h",
        "o.ttl": "30m",
        "o.tags": "a,b ,, c",
        "o.idempotencyKey": "once",
        "o.idempotencyKeyTTL": "1h",
        "o.queue": "warehouse",
        "o.concurrencyKey": "c7",
        "o.priority": "10m",
        "o.machine": "large-1x",
        "o.maxAttempts": "2",
        "o.maxDuration": "5m",
        "o.lockToVersion": "v1",
        "o.metadata": '{"k": [1]}',
    }
    await page.goto("/test/orders/close")
    token = await page.locator("input[name=csrf]").first.get_attribute("value")
    form["csrf"] = token or ""
    response = await page.request.post("/test/orders/close", form=form, max_redirects=0)
    assert response.status == 303
    run = await newest(shop)
    assert response.headers["location"] == f"/runs/{run['id']}"
    names = ("tags", "idempotency_key", "queue", "concurrency_key", "priority_s", "ttl_s", "preset", "max_attempts")
    assert [run[name] for name in names] == [["a", "b", "c"], "once", "warehouse", "c7", 600, 1800, "large-1x", 2]
    assert (run["max_duration_s"], run["locked_version"], run["is_test"]) == (300, "v1", False)
    assert json.loads(run["metadata"]) == {"k": [1]}
    wrong = {**form, "o.maxAttempts": "?", "o.metadata": "?", "o.priority": "?", "o.delay": "?"}
    response = await page.request.post("/test/orders/close", form=wrong)
    text = await response.text()
    assert (response.status, text.count('class="wrong"')) == (422, 4)
    assert (await page.request.post("/test/orders/close", form={**form, "csrf": ""})).status == 403
    for do in ("add:/x/y", "drop:/items/9", "add:/order/x"):
        given: dict[str, str | float | bool] = {"csrf": token or "", "view": "form", "has": "", "do": do}
        assert (await page.request.post("/test/orders/fulfil", form=given)).status == 400
    assert (await page.request.get("/test/orders/fulfill")).status == 404


async def test_a_recent_payload_is_begun_with(shop: Site, page: Page) -> None:
    await shop.client.trigger("orders/fulfil", {"order": 99, "customer": {"name": "Ada"}, "items": []}, delay="1h")
    await page.goto("/tasks")
    await page.get_by_role("link", name="Test orders/fulfil").click()
    await page.get_by_role("link", name='{"order":99').first.click()
    await expect(page.get_by_label("order*", exact=True)).to_have_value("99")
    await expect(page.get_by_label("name*", exact=True)).to_have_value("Ada")


async def test_what_users_wrote_stays_text(shop: Site, page: Page) -> None:
    said: list[str] = []
    page.on("dialog", lambda dialog: said.append(dialog.message))
    task_id = f"orders/{MARKUP}"
    for path in ("/tasks/", "/test/"):
        await page.goto(path + quote(task_id))
        await expect(page.get_by_role("heading", level=1)).to_contain_text(MARKUP)
        await expect(page.locator("main img:not([role]), main b")).to_have_count(0)
    field = page.get_by_label(f"{MARKUP}*", exact=True)
    await field.fill(MARKUP)
    await page.get_by_label("a.b/~").fill(MARKUP)
    await page.get_by_label("Tags").fill(MARKUP)
    await page.get_by_label("Delay").fill(MARKUP)
    await page.get_by_label("Tags").press("Enter")
    await expect(page.get_by_role("alert")).to_be_visible()
    await expect(field).to_have_value(MARKUP)
    await page.get_by_label("a.b/~").fill('"y"')
    await page.get_by_label("Delay").fill("1h")
    await page.get_by_label("Tags").press("Enter")
    run = await goes_to_its_run(page, shop)
    assert json.loads(run["payload"]) == {MARKUP: MARKUP, "a.b/~": "y"}
    await page.goto("/tasks?q=" + quote(MARKUP))
    await expect(page.locator("tr[data-row]")).to_have_count(1)
    await expect(page.locator("main img, main b")).to_have_count(0)
    assert said == []

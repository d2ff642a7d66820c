"""Several environments on one server: each page shows one, says which, and changes nothing of another."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from fake_worker import FakeWorker, manifest
from history import TASKS, Site
from playwright.async_api import Page, expect
from test_looks import PAGES

from torpor.errors import Forbidden, NotFound
from torpor.sdk.async_client import AsyncClient

pytestmark = pytest.mark.anyio

OF_DEV = (*TASKS, "Refund order 4711", "run_", "batch_", "sched_", "checkpoint_", "worker_")
"""What tells of runs, tasks and workers that the history of dev is full of."""


@asynccontextmanager
async def browser_of(site: Site) -> AsyncIterator[httpx2.AsyncClient]:
    """What asks for pages as a browser does that is signed in."""
    async with httpx2.AsyncClient(
        base_url=site.url, headers={"accept": "text/html"}, follow_redirects=True, timeout=60
    ) as http:
        await http.post(await site.link())
        yield http


async def token_of(http: httpx2.AsyncClient, url: str) -> str:
    """What the forms of a page carry."""
    [token] = set(re.findall(r'name="csrf" value="([^"]+)"', (await http.get(url)).text))
    return token


@pytest.fixture(scope="module")
async def prod(site: Site) -> AsyncIterator[AsyncClient]:
    """A client of another environment, made in the dashboard, with a worker that brings it one task."""
    async with browser_of(site) as http:
        csrf = await token_of(http, "/environments")
        answer = await http.post("/environments", data={"csrf": csrf, "name": "prod"})
    assert answer.headers["cache-control"] == "no-store"
    [key] = re.findall(r"data-key-text>([^<]+)<", answer.text)
    worker = FakeWorker(site.url, environment="prod")
    assert (await worker.come_up([manifest("payouts/send")])).environment == "prod"
    async with AsyncClient(site.url, key) as client:
        yield client
    await worker.close()


@pytest.fixture(scope="module")
async def twin(site: Site) -> AsyncIterator[tuple[AsyncClient, FakeWorker]]:
    """A client of an environment that is called as the server's own, in another project; and its worker, which has its tasks."""
    async with browser_of(site) as http:
        csrf = await token_of(http, "/environments")
        answer = await http.post("/environments", data={"csrf": csrf, "begun": "shop", "name": "dev"})
    [key] = re.findall(r"data-key-text>([^<]+)<", answer.text)
    worker = FakeWorker(site.url, environment="dev", project="shop")
    await worker.come_up([manifest("orders/process"), manifest("shop/only")])
    async with AsyncClient(site.url, key) as client:
        yield client, worker
    await worker.close()


async def test_an_environment_is_made_with_a_key_of_its_own(prod: AsyncClient, site: Site) -> None:
    told = await prod.whoami()
    assert (told["environment"], told["key"]["createdBy"]) == ("prod", "operator")
    assert told["key"]["hint"].startswith("tr_prod_…")
    assert [task["id"] for task in await prod.tasks()] == ["payouts/send"]
    assert "payouts/send" not in [task["id"] for task in await site.client.tasks()]
    async with browser_of(site) as http:
        csrf = await token_of(http, "/environments")
        for fields, why in (
            ({"name": "prod"}, "there is an environment prod in default already"),
            ({"name": "Prod!"}, "small letters, digits"),
            ({"name": "prod", "project": "ship"}, "there is no project ship"),
            ({"name": "prod", "begun": "default"}, "there is a project default already"),
        ):
            answer = await http.post("/environments", data={"csrf": csrf, **fields})
            assert (answer.status_code, why in answer.text) == (422, True)


async def test_what_belongs_to_no_environment_takes_a_key_of_the_servers_own(
    twin: tuple[AsyncClient, FakeWorker],
) -> None:
    """Its name alone isn't enough."""
    client, _ = twin
    for refused in (client.accounts(), client.create_sign_in_link(), client.create_account("mallory", "x" * 12)):
        with pytest.raises(Forbidden, match="a secret key of the server's own environment"):
            await refused


async def test_nothing_is_mixed_between_environments_of_one_name_in_two_projects(
    twin: tuple[AsyncClient, FakeWorker], site: Site
) -> None:
    (theirs, worker), ours = twin, site.client
    assert [(await each.whoami())["project"] for each in (ours, theirs)] == ["default", "shop"]
    assert {task["id"] for task in await theirs.tasks()} == {"orders/process", "shop/only"}
    await theirs.set_variable("OF_SHOP", "1")
    assert "OF_SHOP" not in [each["name"] for each in await ours.variables()]
    once = {"idempotency_key": "once", "concurrency_key": "ada"}
    here, there = [(await each.trigger("orders/process", delay="1h", **once))["id"] for each in (ours, theirs)]
    assert here != there
    for of_one in (ours.run(there), theirs.run(here), theirs.cancel(here)):
        with pytest.raises(NotFound):
            await of_one
    assert await worker.dequeue() == []
    now = (await theirs.trigger("shop/only"))["id"]
    assert [given.run_id for given in await worker.dequeue(5)] == [now]
    # A token that one has signed says nothing of the other, though it names the same run.
    async with AsyncClient(site.url, await theirs.create_public_token([f"read:runs:{here}"])) as stranger:
        with pytest.raises(NotFound):
            await stranger.run(here)
    for each, run in ((ours, here), (theirs, there)):
        await each.cancel(run)


async def test_a_worker_of_an_environment_that_there_is_not_is_turned_away(site: Site) -> None:
    worker = FakeWorker(site.url, environment="staging", project="shop")
    answer = await worker.post("hello", {})
    assert (answer.status_code, "no environment 'staging' in a project 'shop'" in answer.text) == (401, True)
    await worker.close()


async def test_no_page_shows_anything_of_another_environment(
    prod: AsyncClient, twin: tuple[AsyncClient, FakeWorker], site: Site
) -> None:
    async with browser_of(site) as http:
        for url in {url.partition("?")[0] for url in PAGES.values()} - {
            "/tasks/orders/process",
            "/test/orders/process",
        }:
            page = await http.get(url, params={"environment": "prod"})
            assert page.status_code == 200, url
            shown = re.sub(r"<(pre|script)\b.*?</\1>|Own key|TORPOR_\w+", "", page.text, flags=re.DOTALL)
            allowed = ("worker_",) if url in ("/workers", "/queues") else ()
            assert [each for each in OF_DEV if each in shown and each not in allowed] == [], url
            assert " · default/prod · Torpor</title>" in page.text
            assert 'class="is-production"' in page.text
            assert 'class="is-production"' not in (await http.get(url, params={"environment": "dev"})).text


async def test_nothing_of_another_environment_is_read_or_changed_by_its_id(
    twin: tuple[AsyncClient, FakeWorker], site: Site
) -> None:
    client, database = site.client, site.database
    run = (await client.trigger("orders/process", delay="1h"))["id"]
    token = (await client.create_token(title="Pay?"))["id"]
    schedule = (await client.create_schedule("orders/process", "0 3 * * *", deduplication_key="nightly"))["id"]
    key = (await client.create_key("a key of dev"))["id"]
    queue = await database.fetchval("select id from queues where name = 'task/orders/process'")
    pages = [f"/runs/{run}", *(f"/runs/{run}/{part}" for part in ("timeline", "log", "packets/payload"))]
    pages += [f"/schedules/{schedule}"]
    forms = [f"/runs/{run}/{verb}" for verb in ("cancel", "replay", "fork", "answer")]
    forms += [f"/waiting/{token}/{verb}" for verb in ("approve", "reject", "complete")]
    forms += [f"/schedules/{schedule}", f"/schedules/{schedule}/deactivate", f"/schedules/{schedule}/delete"]
    forms += [f"/queues/{queue}/pause", f"/queues/{queue}/limit", f"/keys/{key}/revoke"]
    before = await _state(site)
    async with browser_of(site) as http:
        csrf = await token_of(http, "/?environment=shop/dev")
        for url in pages:
            assert (await http.get(url, params={"environment": "shop/dev"})).status_code == 404, url
        assert (await http.get("/live", params={"environment": "shop/dev", "run": run})).status_code == 404
        for url in forms:
            answer = await http.post(url, data={"csrf": csrf, "value": "1", "limit": "0", "payload": "{}"})
            assert answer.status_code in (400, 404, 422), url
        forged = "dev." + csrf.partition(".")[2]
        assert (await http.post(f"/runs/{run}/cancel", data={"csrf": forged})).status_code == 403
    assert await _state(site) == before


async def _state(site: Site) -> list[str | None]:
    """All that a form might have changed."""
    tables = ("runs", "waitpoints", "schedules", "queues")
    texts = [f"select md5(string_agg({table}::text, '' order by id)) from {table}" for table in tables]
    return [await site.database.fetchval(text) for text in texts] + [
        await site.database.fetchval("select count(*)::text from api_keys where revoked_at is null")
    ]


async def test_the_address_says_the_environment_and_links_stay_in_it(
    page: Page, prod: AsyncClient, twin: tuple[AsyncClient, FakeWorker], site: Site
) -> None:
    there = (await prod.trigger("payouts/send"))["id"]
    await page.goto("/")
    await expect(page).to_have_url(f"{site.url}/?environment=dev")
    await page.get_by_text("Environment: default/dev").press("Enter")
    await page.locator("[href='/?environment=shop/dev']").press("Enter")
    await expect(page).to_have_url(f"{site.url}/?environment=shop/dev")
    await page.get_by_role("link", name="Tasks").click()
    await expect(page.get_by_role("link", name="shop/only", exact=True)).to_be_visible()
    await expect(page).to_have_url(f"{site.url}/tasks?environment=shop/dev")
    await page.goto("/")
    await expect(page).to_have_url(f"{site.url}/?environment=shop/dev")
    await page.get_by_text("Environment: shop/dev").press("Enter")
    await page.get_by_role("link", name="prod", exact=True).press("Enter")
    await expect(page).to_have_url(f"{site.url}/?environment=prod")
    await page.get_by_role("searchbox").fill("pay")
    await expect(page).to_have_url(re.compile("q=pay.*environment=prod"))
    await page.get_by_role("link", name="payouts/send").first.click()
    await expect(page).to_have_url(f"{site.url}/runs/{there}?environment=prod")
    await page.goto("/queues")  # out of nowhere: what was looked at last
    await expect(page).to_have_url(f"{site.url}/queues?environment=prod")
    other = await page.context.new_page()
    await other.goto("/queues?environment=dev")
    await page.get_by_role("link", name="payouts/send").click()
    await expect(page).to_have_url(re.compile(r"queue=task%2Fpayouts%2Fsend.*environment=prod"))
    await other.goto(f"/runs/{there}")  # an id says whose it is
    await expect(other).to_have_url(f"{site.url}/runs/{there}?environment=prod")


async def test_a_form_acts_where_its_page_was_whatever_another_tab_looks_at(
    page: Page, prod: AsyncClient, site: Site
) -> None:
    await page.goto("/variables?environment=dev")
    other = await page.context.new_page()
    await other.goto("/variables?environment=prod")
    await page.get_by_label("Name").fill("OF_DEV")
    await page.get_by_role("button", name="Set").click()
    await expect(page.get_by_role("row", name="OF_DEV")).to_be_visible()
    await expect(page).to_have_url(f"{site.url}/variables?environment=dev")
    await other.reload()
    await expect(other.get_by_role("heading", name="No variable yet")).to_be_visible()
    assert (await prod.variables(), [each["name"] for each in await site.client.variables()]) == ([], ["OF_DEV"])


async def test_an_environment_is_renamed_and_deleted_on_its_page(page: Page, site: Site) -> None:
    made = await site.client.create_environment("trial", project="lab", new_project=True)
    await page.goto("/environments?environment=lab/trial")
    await page.get_by_label("Rename the project lab").click()
    await page.get_by_label("New name").locator("visible=true").fill("field")
    await page.get_by_role("button", name="Rename").locator("visible=true").click()
    await expect(page).to_have_url(f"{site.url}/environments?environment=field/trial")
    await page.get_by_label("Rename field/trial").click()
    await page.get_by_label("New name").locator("visible=true").fill("check")
    await page.get_by_role("button", name="Rename").locator("visible=true").click()
    await expect(page).to_have_url(f"{site.url}/environments?environment=field/check")
    async with AsyncClient(site.url, made["key"]) as client:
        await client.environment(accepts_unknown_tasks=True)
        run = await client.trigger("unknown")
        await page.get_by_role("button", name="Delete field/check").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await expect(page.get_by_text("field/check has 1 run that has not ended")).to_be_visible()
        await client.cancel(run["id"])
    await page.get_by_role("button", name="Delete field/check").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page).to_have_url(re.compile(r"/environments(\?environment=dev)?$"))
    await expect(page.get_by_role("button", name="Delete field/check")).to_have_count(0)

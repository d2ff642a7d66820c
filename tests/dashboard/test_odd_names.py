"""Whatever somebody has named, said or been given stays text: on every page, at the width of a phone, and in every link."""

from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from fake_worker import FakeWorker, manifest
from history import TASKS, Site
from playwright.async_api import BrowserContext, Page, expect

from torpor import ids
from torpor.dashboard.app import routes
from torpor.wire import http as wire
from torpor.wire.runner import NewWait, QueueManifest, TaskError

pytestmark = pytest.mark.anyio

ODD = "<img src=x onerror=alert(1)>\"'`{{7*7777}}</script><b>\u202e\n😀\\ javascript:alert(1) ?a=1&b=2#c %2e"
LONG = ODD + "w" * 30_000
TASK = "a/../b c?d=e&f#g%20<b>\"'{{7*7777}}\u202e😀" + "n" * 80
QUEUE = 'odd/<b>?&#"' + "q" * 60
VERSION = 'v<b>1?&#"' + "v" * 60


def fail(given: wire.Assignment) -> wire.FinishReport:
    trace = f'Traceback (most recent call last):\n  File "{ODD[:60]}{"f" * 300}", line 1, in {ODD[:40]}\n    {LONG}\n'
    return wire.FinishReport(
        given.lease, "failed", error=TaskError(ODD, LONG, trace, [TaskError(LONG, ODD)]), retryable=False
    )


async def come_up(worker: FakeWorker) -> None:
    intro = wire.Introduction(worker.worker_id, worker.instance_id, ODD + "h" * 200, 10, True, {})
    intro.facts = dict.fromkeys(("criu", "trust", "no_freeze_reason", "python"), ODD) | {"networks": [ODD]}
    intro.facts["isolation"] = {"level": ODD, "missing": [{"what": ODD, "why": LONG, "fix": ODD}]}
    intro.labels = {"a": "<b>" + "l" * 100}
    await worker.say("hello", intro, wire.Welcome)
    field: dict[str, Any] = {"type": "string", "title": ODD, "description": LONG, "default": ODD}
    task = manifest(TASK, {"type": "object", "title": ODD, "properties": {ODD: field, "~a/b": field}})
    task = msgspec.structs.replace(task, file=ODD, doc=LONG, queue=QueueManifest(QUEUE, 5))
    report = wire.VersionReport(worker.worker_id, VERSION, [task, *(manifest(name) for name in TASKS)])
    await worker.say("versions", report, wire.VersionAccepted)


async def take(worker: FakeWorker) -> wire.Assignment:
    asked = wire.DequeueRequest(worker.worker_id, worker.instance_id, 1, [VERSION], True, 5)
    (given,) = (await worker.say("dequeue", asked, wire.DequeueReply)).assignments
    await worker.start(given)
    return given


@pytest.fixture(scope="module")
async def odd(site: Site) -> list[str]:
    """One of everything, of such names: the addresses of the pages that show it."""
    client, worker = site.client, site.worker
    await come_up(worker)
    tags = [("<b>\"'{{7*7777}}?a&b#c%\u202e" + "t" * 128)[:128], "javascript:alert(1)"]
    payload = {ODD: LONG, "~a/b": ODD}
    options: dict[str, Any] = {"tags": tags, "metadata": {ODD: ODD}}
    await client.trigger(TASK, payload, **options, concurrency_key=ODD, idempotency_key=ODD)
    waiting = await take(worker)
    token = await client.create_token(title=ODD, context={ODD: LONG}, tags=tags, timeout="1h")
    await client.create_token(tags=tags)
    await worker.block(waiting, NewWait("w", "token", waitpoint_id=token["id"]))
    places = [{"task": ODD, "file": LONG, "line": ODD, "source": LONG}]
    saved = wire.StoredCheckpoint(ids.new("checkpoint"), 1000, dump_ms=5.0)
    await worker.say(
        f"runs/{waiting.run_id}/suspend", wire.SuspendReport(waiting.lease, saved, places), wire.LeaseReply
    )
    await client.trigger(TASK, payload, **options)
    failed = await take(worker)
    line = wire.LogLine("2026-03-01T07:00:00Z", ODD, LONG, {ODD: LONG})
    await worker.say(f"runs/{failed.run_id}/logs", wire.LogReport(failed.lease, 0, [line]), dict)
    await worker.say(f"runs/{failed.run_id}/finish", fail(failed), wire.LeaseReply)
    await client.trigger(TASK, payload, **options)
    done = await take(worker)
    await worker.finish(done, {ODD: LONG})
    batch = await client.batch_trigger(TASK, [1], idempotency_key=ODD)
    schedule = await client.create_schedule(TASK, "0 7 * * *", deduplication_key=ODD, external_id=ODD)
    await client.set_variable("ODD", LONG[:10_000])
    await client.approve((await client.create_token(title=ODD))["id"], by=ODD, comment=ODD)
    pages = [route.path for route in routes if "GET" in (route.methods or ()) and "{" not in route.path]
    pages = [path for path in pages if path not in ("/live", "/sign-in")]
    pages += [f"/runs/{each.run_id}" for each in (waiting, failed, done)]
    return [*pages, f"/batches/{batch['id']}", f"/schedules/{schedule['id']}", "/errors?period=1h"]


async def test_it_stays_text_and_within_the_page(odd: list[str], page: Page) -> None:
    shown: list[str] = []
    page.on("dialog", lambda dialog: shown.append(dialog.message))
    page.on("response", lambda response: shown.append(response.url) if response.status >= 500 else None)
    await page.set_viewport_size({"width": 390, "height": 800})
    found: dict[str, Any] = {}
    for path in odd:
        await page.goto(path)
        found[path] = await page.evaluate(
            """() => [
                ...(document.documentElement.scrollWidth > 390
                    ? [...document.querySelectorAll("body *")].filter((each) => each.getBoundingClientRect().right > 390)
                    : []).map((each) => `too wide: ${each.outerHTML.slice(0, 80)}`).slice(0, 9),
                ...[...document.querySelectorAll("main img, main script, main b b, [onerror]")].map((each) => each.outerHTML),
                ...[...document.querySelectorAll("a[href^='javascript' i]")].map((each) => each.outerHTML),
                document.body.innerText.includes("54439") && "a template in a template",
            ].filter(Boolean)"""
        )
    assert [f"{path}: {each}" for path, told in found.items() for each in told] == []
    assert shown == []


async def test_each_link_leads_to_what_it_names(odd: list[str], page: Page, context: BrowserContext) -> None:
    await page.goto("/tasks")
    row = page.get_by_role("row").filter(has_text="a/b c?d=e&f#g%20")
    hrefs = await row.locator("a").evaluate_all("links => links.map((each) => each.href)")
    await page.goto("/queues")
    row = page.get_by_role("row").filter(has_text="odd/<b>")
    hrefs += await row.locator("a").evaluate_all("links => links.map((each) => each.href)")
    await page.goto(odd[-6])
    hrefs += await page.locator("main a").evaluate_all("links => links.map((each) => each.href)")
    for href in sorted(set(hrefs)):
        response = await context.request.get(href)
        assert response.status == 200, href
        text = await response.text()
        assert urlsplit(href).path not in ("/", "") or "No run fits" not in text, href
    await page.goto("/tasks")
    await page.get_by_role("link", name=TASK[:20]).first.click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(TASK)
    await page.get_by_role("link", name="Test", exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"Test {TASK}")
    await page.get_by_role("button", name="JSON").click()
    await expect(page.get_by_label("Payload as JSON")).to_be_visible()

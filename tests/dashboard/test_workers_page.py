"""The page of workers: what each has to give, what it does, and what it lacks."""

import pytest
from fake_worker import FakeWorker
from history import MARKUP, Site
from playwright.async_api import Page, expect

from torpor.wire import http as wire

pytestmark = pytest.mark.anyio

LACKING = {
    "level": "partial",
    "missing": [{"what": "a cgroup", "why": f"no controller {MARKUP}", "fix": "run it by systemd"}],
}


async def test_a_worker_tells_what_it_gives_and_what_it_lacks(site: Site, page: Page) -> None:
    worker = FakeWorker(site.url)
    facts = {
        "isolation": LACKING,
        "trust": "own",
        "networks": ["host", "none"],
        "no_freeze_reason": "CRIU is not there",
    }
    await page.goto("/workers")
    intro = wire.Introduction(worker.worker_id, worker.instance_id, f"eu-1 {MARKUP}", 4, False, facts)
    intro.cpu, intro.memory_bytes, intro.labels = 2.5, 8 * 2**30, {"gpu": MARKUP}
    await worker.say("hello", intro, wire.Welcome)
    await site.client.trigger("mail/send", delay="1h")  # wakes the page
    shown = page.locator(f"li[id={worker.worker_id}]")
    for told in (
        f"eu-1 {MARKUP}",
        "0 of 4 slots",
        "2.5 CPUs, 8.0 GiB of memory",
        "CRIU is not there",
        "Partial",
        f"no controller {MARKUP}",
        "run it by systemd",
        "host, none",
        f"gpu={MARKUP}",
    ):
        await expect(shown).to_contain_text(told)
    await expect(page.locator("main img")).to_have_count(0)
    await worker.close()


async def test_who_works_waits_in_memory_and_is_frozen_is_counted(site: Site, page: Page) -> None:
    await page.goto("/workers")
    shown = page.locator(f"li[id={site.worker.worker_id}]")
    await expect(shown.locator("dd").nth(2)).to_have_text("4")  # frozen
    await expect(shown).to_contain_text("CRIU 4.2")


async def test_a_worker_is_asked_to_leave_by_who_is_sure(site: Site, page: Page) -> None:
    worker = FakeWorker(site.url)
    await worker.say(
        "hello", wire.Introduction(worker.worker_id, worker.instance_id, "eu-2", 4, True, {}), wire.Welcome
    )
    beat = wire.HeartbeatRequest(worker.worker_id, worker.instance_id, [], wire.Disk(100 * 2**30, 7 * 2**30))
    await worker.say("heartbeat", beat, wire.HeartbeatReply)
    await page.goto("/workers")
    shown = page.locator(f"li[id={worker.worker_id}]")
    await expect(shown).to_contain_text("7.0 GiB free of 100.0 GiB")
    await shown.get_by_role("button", name="Drain").click()
    await page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    await expect(shown).to_contain_text("Leaving")
    assert (await worker.heartbeat()).drain
    await worker.close()

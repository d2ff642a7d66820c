"""What a person sees in the browser while a real process is frozen and thawed."""

import json
import urllib.request

import pytest
from browser import chromium
from playwright.async_api import expect
from stack import KEY, Stack

pytestmark = [pytest.mark.anyio, pytest.mark.criu]


def sign_in_link(stack: Stack) -> str:
    url = f"http://127.0.0.1:{stack.port}/api/v1/sign-in-links"
    asked = urllib.request.Request(url, method="POST", headers={"authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return json.load(answer)["url"]


async def test_a_process_is_seen_to_freeze_is_approved_and_seen_to_come_back(stack: Stack) -> None:
    async with chromium() as browser:
        page = await browser.new_page(reduced_motion="reduce")
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        await page.goto(sign_in_link(stack))
        run_id = stack.trigger("approval")
        await page.goto(f"http://127.0.0.1:{stack.port}/runs/{run_id}")
        badge, standing = page.locator("#top .run-sub .badge"), page.locator(".standing")
        await expect(badge).to_have_text("Frozen")
        await expect(standing).to_contain_text("tasks.py:89")
        await expect(standing).to_contain_text('answer = await wait.for_approval("Ship it?"')
        await page.get_by_role("button", name="Approve").click()
        await expect(badge).to_have_text("Completed")
        await page.locator(".tl-frozen").hover()
        told = page.locator("[data-told]")
        for cost in ("stored", "frozen in", "durable after", "thawed in", "on worker_"):
            await expect(told).to_contain_text(cost)
        (suspended,) = stack.events(run_id, "run.suspended")
        assert suspended["size_bytes"] > 0
    assert stack.output(run_id)["approved"] is True

"""What somebody does in a browser who has read nothing: by what stands on the pages, and with real processes."""

import os
from pathlib import Path

import pytest
from browser import chromium
from playwright.async_api import Page, expect
from stack import Stack, StackMaker, eventually

from whole_files import put

pytestmark = [pytest.mark.anyio, pytest.mark.criu]

WRONG = '''\
from torpor import Retry, task, wait


@task(retry=Retry(max_attempts=1))
async def order(amount: int = 3) -> str:
    """Ask somebody, and ship."""
    answer = await wait.for_approval(f"Ship {amount}?")
    return f"shipped for {7 * amont}" if answer else "kept"
'''
RIGHT = WRONG.replace("amont", "amount")


@pytest.fixture
def stack(make_stack: StackMaker, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Its one task has a mistake that is met only after the wait."""
    project = tmp_path_factory.mktemp("newcomer")
    project.chmod(0o755)  # a run is not root, and reads the source of what has failed
    (project / "tasks.py").write_text(WRONG)
    stack = make_stack(project)
    stack.start()
    return stack


async def test_everything_is_found_without_being_told(stack: Stack) -> None:
    async with chromium() as browser:
        page = await browser.new_page(viewport={"width": 1200, "height": 860}, reduced_motion="reduce")
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        await page.goto(stack.client.create_sign_in_link()["url"])
        await expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
        await page.get_by_role("link", name="Test order").click()
        await page.get_by_role("button", name="Run order").click()
        await it_is_frozen(page, stack)
        if shots := os.environ.get("TORPOR_SCREENSHOTS"):
            await page.screenshot(path=Path(shots) / "frozen-run.png")  # the README shows it
        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_text("back on the next line")).to_be_visible()

        await menu(page, "Runs")
        await page.get_by_role("link", name="1 Failed").click()
        await page.get_by_role("link", name="order", exact=True).click()
        error = page.get_by_role("region", name="Error")
        await expect(error).to_contain_text("NameError: name 'amont' is not defined")
        await expect(error).to_contain_text('return f"shipped for {7 * amont}" if answer else "kept"')

        put(stack.project / "tasks.py", RIGHT)
        stack.reload_worker()
        eventually(lambda: stack.worker_log().count("version dev-") == 2, what="the worker has imported the new code")
        await page.reload()
        await expect(page.get_by_text("The code has changed since")).to_be_visible()
        await page.get_by_role("button", name="Replay…").click()
        await page.get_by_role("dialog").get_by_role("textbox").fill("2")
        await page.get_by_role("dialog").get_by_role("button", name="Replay").click()
        await expect(page.get_by_text("Ship 2?").first).to_be_visible()
        await it_is_frozen(page, stack)

        await page.get_by_role("button", name="Fork from here…").click()
        await page.get_by_label("What it is answered").select_option("rejected")
        await page.get_by_role("dialog").get_by_role("button", name="Fork").click()
        await expect(page.get_by_text("fork of")).to_be_visible()
        await it_ends_with(page, '"kept"')
        await page.get_by_role("region", name="Relatives").get_by_role("link", name="order").click()
        await page.get_by_role("button", name="Approve").click()
        await it_ends_with(page, '"shipped for 14"')

        await menu(page, "Queues")
        await page.get_by_role("button", name="Pause order").click()
        await expect(page.get_by_text("Paused")).to_be_visible()
        await menu(page, "Tasks")
        await page.get_by_role("link", name="Test order").click()
        await expect(page.get_by_text("is paused: it will stand in line")).to_be_visible()
        await page.get_by_role("button", name="Run order").click()
        await expect(page.get_by_role("heading", name="Its queue is paused")).to_be_visible()
        await page.get_by_role("button", name="Resume order").click()
        await it_is_frozen(page, stack)

        stack.kill_server()
        await expect(page.get_by_text("The server is away")).to_be_visible()
        stack.start_server()
        await expect(page.locator("#said.is-on")).to_have_count(0)
        await page.get_by_role("button", name="Reject").click()
        await it_ends_with(page, '"kept"')


async def menu(page: Page, name: str) -> None:
    await page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()
    await expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()


async def it_is_frozen(page: Page, stack: Stack) -> None:
    await expect(page.get_by_role("heading", name="Frozen: it asks a person")).to_be_visible()
    await expect(page.get_by_text("It has no process now")).to_be_visible()
    run_id = page.url.rsplit("/", 1)[1]
    eventually(lambda: stack.process_of(run_id) is None, what="its process is gone")


async def it_ends_with(page: Page, output: str) -> None:
    await expect(page.get_by_role("region", name="State")).to_contain_text("Completed")
    await expect(page.get_by_label("Output", exact=True).last).to_have_text(output)

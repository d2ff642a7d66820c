"""Every page as it looks: by day, by night and on a phone."""

from pathlib import Path

import pytest
from looks import shuts_nobody_out
from playwright.async_api import Page

pytestmark = pytest.mark.anyio

PAGES = {
    "runs": "/",
    "filtered": "/?state=suspended&state=waiting&task=agents%2Fresearch",
    "account": "/account",
    "errors": "/errors",
    "logs": "/logs",
    "tasks": "/tasks",
    "task": "/tasks/orders/process",
    "test": "/test/orders/process",
    "schedules": "/schedules",
    "schedule": "/schedules/new",
    "queues": "/queues",
    "batches": "/batches",
    "workers": "/workers",
    "waiting": "/waiting",
    "variables": "/variables",
    "keys": "/keys",
    "environments": "/environments",
    "limits": "/limits",
    "checkpoints": "/checkpoints",
}


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_shuts_nobody_out_and_fits(page: Page, tmp_path: Path, name: str) -> None:
    await page.goto(PAGES[name])
    await shuts_nobody_out(page, name, tmp_path)

"""Every page as it looks: by day, by night and on a phone."""

import os
from pathlib import Path
from typing import Literal

import pytest
from npm_packages import installed
from playwright.async_api import Page

pytestmark = pytest.mark.anyio

PAGES = {
    "runs": "/",
    "filtered": "/?state=suspended&state=waiting&task=agents%2Fresearch",
    "account": "/account",
    "errors": "/errors",
    "logs": "/logs",
    "schedules": "/schedules",
    "schedule": "/schedules/new",
    "queues": "/queues",
    "batches": "/batches",
    "workers": "/workers",
    "waiting": "/waiting",
    "variables": "/variables",
    "limits": "/limits",
    "checkpoints": "/checkpoints",
}
SEVERE = ("serious", "critical")
CONTRAST = "{runOnly: ['color-contrast']}"
LOOKS: dict[str, tuple[int, Literal["light", "dark"], str]] = {
    "light": (1280, "light", "{}"),
    "dark": (1280, "dark", CONTRAST),
    "narrow": (390, "light", CONTRAST),
}


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go: TORPOR_SCREENSHOTS, for people to look at."""
    given = os.environ.get("TORPOR_SCREENSHOTS")
    directory = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def axe() -> str:
    """A program that finds what shuts people out: too little contrast, controls without a name, …."""
    return (installed("newest") / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_shuts_nobody_out_and_fits(page: Page, shots: Path, axe: str, name: str) -> None:
    """In each look: no serious finding of axe, nothing beyond the edge of a phone, and a picture of it.

    What axe looks for beside contrast is the same by day and by night, and at each width."""
    await page.goto(PAGES[name])
    await page.evaluate(axe)
    for look, (width, scheme, rules) in LOOKS.items():
        await page.set_viewport_size({"width": width, "height": 900})
        await page.emulate_media(color_scheme=scheme)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        found = (await page.evaluate(f"axe.run({{exclude: [['tbody tr:nth-child(n+9)']]}}, {rules})"))["violations"]
        assert [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in SEVERE] == []
        await page.screenshot(path=shots / f"{name}-{look}.png")

"""How a page looks by day, by night and on a phone, and whom it shuts out."""

import os
from pathlib import Path
from typing import Literal

from npm_packages import installed
from playwright.async_api import Page

SEVERE = ("serious", "critical")
CONTRAST = "runOnly: ['color-contrast']"
VIOLATIONS = "resultTypes: ['violations'], selectors: false, preload: false, iframes: false"
"""Not where in the page each of its elements is that is well."""
LOOKS: dict[str, tuple[int, Literal["light", "dark"], str]] = {
    "light": (1280, "light", ""),
    "dark": (1280, "dark", CONTRAST),
    "narrow": (390, "light", CONTRAST),
}
"""What axe looks for beside contrast is the same by day and by night, and at each width."""

REACHED = """() => {
  const stops = "a[href], button, input, select, textarea, summary, [tabindex]:not(main)";
  const isThere = (each) => each.checkVisibility({ visibilityProperty: true }) && !each.matches("tbody tr:nth-child(n+9) *");
  const isClicked = (each) => getComputedStyle(each).cursor === "pointer" && !each.closest(`${stops}, label`);
  const missed = [...document.querySelectorAll("body *")].filter((each) => isThere(each) && isClicked(each));
  for (const each of document.querySelectorAll(stops)) {
    if (!isThere(each) || each.disabled || each.tabIndex < 0 || each.matches("[popovertarget]")) continue;
    each.focus();
    const { outlineStyle, outlineWidth } = getComputedStyle(each);
    if (document.activeElement !== each || outlineStyle === "none" || parseFloat(outlineWidth) < 2) missed.push(each);
  }
  document.activeElement.blur();
  scrollTo(0, 0);
  return missed.map((each) => each.outerHTML.slice(0, 200));
}"""
"""What can be clicked and not be reached by the keyboard, or has the focus without showing it."""


async def shuts_nobody_out(page: Page, name: str, directory: Path) -> None:
    """In each look: no serious finding of axe (too little contrast, controls without a name, …), nothing beyond the edge
    of a phone. And for people to look at a picture of the page by day, or with TORPOR_SCREENSHOTS one of each look, there."""
    wanted = os.environ.get("TORPOR_SCREENSHOTS")
    shots = Path(wanted or directory)
    shots.mkdir(parents=True, exist_ok=True)
    await page.evaluate((installed("newest") / "axe-core" / "axe.min.js").read_text(encoding="utf-8"))
    await page.keyboard.press("Shift")
    assert await page.evaluate(REACHED) == []
    for look, (width, scheme, rules) in LOOKS.items():
        await page.set_viewport_size({"width": width, "height": 900})
        await page.emulate_media(color_scheme=scheme)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        found = (
            await page.evaluate(f"axe.run({{exclude: [['tbody tr:nth-child(n+9)']]}}, {{{VIOLATIONS}, {rules}}})")
        )["violations"]
        assert [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in SEVERE] == []
        if wanted or look == "light":
            await page.screenshot(path=shots / f"{name}-{look}.png", full_page=True)

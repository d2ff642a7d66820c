"""How the page's scripts read a story: no long wait squashes the work beside it, and each child stands below its parent."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from torpor.dashboard.static import HERE

pytestmark = pytest.mark.anyio

HOUR = 3600.0


@pytest.fixture(scope="module")
async def script(browser: Browser) -> AsyncIterator[Page]:
    """A page with nothing but the scripts' functions."""
    page = await browser.new_page()
    for name in ("scale.js", "model.js"):
        await page.add_script_tag(path=HERE / name)
    yield page
    await page.close()


async def scale(script: Page, bars: list[Any], now: float, instants: tuple[float, ...] = ()) -> tuple[list[Any], float]:
    """Of [kind, from, to] in seconds: each stretch as (from, to, idle, weight, broken), and the longest idle one as drawn."""
    given = [[kind, begin * 1000, None if end is None else end * 1000] for kind, begin, end in bars]
    asked = [given, [at * 1000 for at in instants], now * 1000]
    made = await script.evaluate("([bars, instants, now]) => torpor.stretches(bars, instants, now)", asked)
    parts = [(each["from"], each["to"], each["idle"], each["weight"], each["broken"]) for each in made["parts"]]
    return parts, made["mostIdleMs"]


async def test_a_week_of_waiting_is_as_short_as_its_break_mark_and_work_keeps_its_scale(script: Page) -> None:
    week = 7 * 24 * HOUR
    bars = [["working", 0, 10], ["frozen", 10, week], ["working", week, week + 30]]
    found, most_idle_ms = await scale(script, bars, week + 99)
    assert found == [
        (0, 10_000, False, 10_000, False),
        (10_000, week * 1000, True, most_idle_ms, True),
        (week * 1000, (week + 30) * 1000, False, 30_000, False),
    ]
    assert most_idle_ms < 10_000


async def test_a_short_wait_beside_long_work_is_no_break(script: Page) -> None:
    bars = [["working", 0, 100], ["held", 100, 101], ["working", 101, 200]]
    assert [idle for _, _, idle, _, _ in (await scale(script, bars, 200))[0]] == [False]


async def test_a_line_that_was_printed_in_a_long_wait_is_not_hidden_in_its_break(script: Page) -> None:
    found, _ = await scale(script, [["working", 0, 10], ["held", 10, HOUR]], HOUR, (HOUR / 2,))
    assert [idle for _, _, idle, _, _ in found] == [False, True, False, True]


async def test_the_last_stretch_is_open_as_long_as_the_run_is(script: Page) -> None:
    found, _ = await scale(script, [["working", 0, 10], ["frozen", 10, None]], HOUR)
    assert found[-1][:4] == (10_000, None, True, None)
    assert (await scale(script, [["queued", 0, None]], 0))[0][-1][1] is None


async def test_children_stand_below_their_parents_and_waits_that_were_open_at_once_below_each_other(
    script: Page,
) -> None:
    told = {
        "now": 9, "over": True, "name": "report", "seen": "", "attempts": [["failed", 0, 4, "", ""]],
        "story": {"is": "all", "bars": [["working", 0, 9, "", ""]], "marks": [],
                  "waits": [["w1", "wait", 1, 5, "", ""], ["w2", "wait", 2, 4, "", ""], ["w3", "wait", 6, 7, "", ""]]},
        "lines": {"is": "all", "rows": [[1, 3, "info", "hello"]]},
        "kin": [{"id": id, "label": id, "parent": parent, "bars": [], "marks": []}
                for id, parent in (("a", "report"), ("b", "report"), ("a1", "a"), ("a11", "a1"))],
    }  # fmt: skip
    rows = await script.evaluate(
        "told => { const made = new torpor.Model('', () => {}); made.take(told); return made.rows() }", told
    )
    assert [(row["id"], row["depth"], len(row["bars"])) for row in rows] == [
        ("run", 0, 1), ("waits 0", 0, 2), ("waits 1", 0, 1), ("log", 0, 0), ("a", 1, 0), ("a1", 2, 0), ("a11", 3, 0), ("b", 1, 0),
    ]  # fmt: skip

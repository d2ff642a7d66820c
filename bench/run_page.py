"""The page of a long run: what the server takes for the timeline's model, how large that is, and how smooth the drawing is.

    python bench/run_page.py                1,000,000 lines and 20,000 waits beside 10,000 spans and a small run
    python bench/run_page.py --lines 100000

Spans are waits in memory and the work between them, so 5,000 waits make 10,000 bars. The page is open in
Chromium, 1280 × 900, without a GPU; a frame is the time between two calls of requestAnimationFrame, each of which zooms or
pans. Server and browser share the machine, so beside a frame's time stands what the page's thread has computed for it (CPU time).
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
from measured import ROOT, row

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "dashboard"), str(ROOT / "tests" / "server")]

from browser import chromium  # noqa: E402
from history import on_site  # noqa: E402
from playwright.async_api import BrowserContext, CDPSession, Page  # noqa: E402
from stories import Teller  # noqa: E402

from scratch_postgres import create_database  # noqa: E402
from torpor.store.embedded import EmbeddedPostgres  # noqa: E402

TIMES = 9
LINES = """
insert into logs (run_id, lease, first_byte, nth, at, level, message, attributes, stream)
select $1, 1, nth * 40, 0, now() - interval '3 hours' + nth * (interval '3 hours' / $2),
       case when nth % 97 = 0 then 'error' when nth % 13 = 0 then 'warning' else 'info' end,
       'line ' || nth || ' of the work, about as long as such a line is', '{}', 'log'
from generate_series(1, $2::int) as nth
"""
WAITS = """
with moments as (
    select nth, now() - interval '3 hours' + nth * (interval '3 hours' / $2) as at from generate_series(1, $2::int) as nth
), points as (
    insert into waitpoints (id, environment_id, kind, status, created_at, due_at, completed_at)
    select 'wp_' || $1 || nth, (select environment_id from runs where id = $1), 'time', 'completed', at,
           at + interval '1 hour' / $2, at + interval '1 hour' / $2 from moments returning id
), tied as (
    insert into waits (run_id, wait_id, waitpoint_id, created_at, delivered_at)
    select $1, 'w' || nth, 'wp_' || $1 || nth, at, at + interval '1 hour' / $2 from moments
)
insert into events (run_id, at, kind, attempt, data) select $1, at, 'run.waiting', 1, '{"kinds": ["time"]}' from moments
"""
FRAMES = """async ([zooms, count]) => {
  const timeline = document.querySelector('[data-timeline]').timeline;
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const taken = [];
  timeline.view = zooms ? [0, 1] : [0, 0.05];
  let before = await frame();
  for (let nth = 0; nth < count; nth += 1) {
    if (zooms) timeline.zoom(nth < count / 2 ? 0.93 : 1 / 0.93, 0.6);
    else timeline.pan(nth < count / 2 ? 0.006 : -0.006);
    const now = await frame();
    taken.push(now - before);
    before = now;
  }
  timeline.zoom(Infinity);
  const held = performance.memory?.usedJSHeapSize ?? 0;
  return [taken, document.querySelectorAll('.tl *').length, held];
}"""


async def main(lines: int, waits: int) -> None:
    with tempfile.TemporaryDirectory(prefix="torpor-bench-") as directory:
        postgres = EmbeddedPostgres(Path(directory, "postgres"))
        try:
            url = await create_database(await postgres.start(), "run_page")
            async with on_site(url, Path(directory, "data")) as site, chromium() as browser:
                teller = Teller(site)
                await teller.come_up()
                context = await browser.new_context(base_url=site.url, viewport={"width": 1280, "height": 900})
                await site.sign_in(context)
                await measure(context, teller, "a small run", lines=10, waits=3)
                await measure(context, teller, "10,000 lines", lines=10_000, waits=3)
                await measure(context, teller, "10,000 spans", lines=10, waits=4_990)
                await measure(context, teller, f"{lines:,} lines", lines=lines, waits=3)
                await measure(context, teller, f"{waits:,} waits", lines=10, waits=waits)
                await context.close()
        finally:
            await postgres.destroy()


async def measure(context: BrowserContext, teller: Teller, what: str, *, lines: int, waits: int) -> None:
    given = await teller.begin("echo")
    run_id, database = given.run_id, teller.database
    await fill(database, run_id, lines, waits)
    print(f"\n{what}", flush=True)
    page = await context.new_page()
    first = await drawn(page, run_id)
    row("… until it is drawn, from the click on", [await drawn(page, run_id) for _ in range(TIMES - 4)])
    print(f"  the first time: {first:.0f} ms")
    asked = f"/runs/{run_id}/timeline"
    whole, told = await answers(page, asked)
    row("… the whole model, answered", whole)
    print(f"  {len(told) / 1024:.0f} KiB")
    made = await page.evaluate("(m => `?${m.query()}`)(document.querySelector('[data-timeline]').timeline.model)")
    news, told = await answers(page, asked + made)
    row("… what is new, answered, when nothing is", news)
    print(f"  {len(told) / 1024:.1f} KiB")
    row("… the part above it, answered", (await answers(page, f"/runs/{run_id}", "top"))[0])
    row("… the part below it, answered", (await answers(page, f"/runs/{run_id}", "facts"))[0])
    session = await context.new_cdp_session(page)
    await session.send("Performance.enable", {"timeDomain": "threadTicks"})
    for zooms, name in ((True, "zooming"), (False, "panning")):
        before = await computed(session)
        taken, elements, held = await page.evaluate(FRAMES, [zooms, 120])
        after = await computed(session)
        row(f"… a frame while {name}", taken)
        told = ", ".join(f"{what} {(after[what] - before[what]) / 120:.1f}" for what in before)
        print(f"  computed for one, in ms: {told}")
        slow = sum(each > 33.4 for each in taken)
        print(f"  longer than two of 60 Hz: {slow} of {len(taken)}; {elements} elements; {held / 1e6:.0f} MB of heap")
    await page.close()
    await teller.site.client.cancel(run_id)


async def computed(session: CDPSession) -> dict[str, float]:
    """Milliseconds of CPU time that the page's thread has taken so far, all in all and for what."""
    told = {each["name"]: each["value"] * 1000 for each in (await session.send("Performance.getMetrics"))["metrics"]}
    names = {
        "all": "TaskDuration",
        "script": "ScriptDuration",
        "style": "RecalcStyleDuration",
        "layout": "LayoutDuration",
    }
    return {what: told[name] for what, name in names.items()}


async def fill(database: asyncpg.Connection, run_id: str, lines: int, waits: int) -> None:
    await database.execute("update runs set created_at = now() - interval '3 hours' where id = $1", run_id)
    await database.execute("update events set at = now() - interval '3 hours' where run_id = $1", run_id)
    await database.execute(LINES, run_id, lines)
    await database.execute(WAITS, run_id, waits)
    await database.execute("analyze logs, events, waits")


async def drawn(page: Page, run_id: str) -> float:
    begin = time.perf_counter()
    await page.goto(f"/runs/{run_id}")
    await page.locator("[data-timeline][data-ready]").wait_for()
    return (time.perf_counter() - begin) * 1000


async def answers(page: Page, path: str, part: str | None = None) -> tuple[list[float], bytes]:
    taken: list[float] = []
    body = b""
    headers: dict[str, Any] = {"hx-request": "true", "hx-target": part} if part else {}
    for _ in range(TIMES):
        begin = time.perf_counter()
        body = await (await page.request.get(path, headers=headers)).body()
        taken.append((time.perf_counter() - begin) * 1000)
    return taken, body


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--waits", type=int, default=20_000)
    asked = parser.parse_args()
    asyncio.run(main(asked.lines, asked.waits))

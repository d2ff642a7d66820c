"""What a dashboard shows: runs of some days, in all states, some of which are at work while the tests look."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2
from facts import PATIENCE_S
from fake_worker import KEY, FakeWorker, manifest
from playwright.async_api import Browser, BrowserContext
from said import say
from served import serving

from scratch_postgres import create_database
from torpor.sdk.async_client import AsyncClient
from torpor.wire.runner import NewWait

MARKUP = "<img src=x onerror=alert(1)><b>bold</b>"
"""What a user might have named something. It must stay text."""

TASKS = ("orders/process", "mail/send", "reports/weekly", "agents/research", "invoices/chase")


@dataclass
class Site:
    url: str
    database_url: str
    client: AsyncClient
    worker: FakeWorker
    database: asyncpg.Connection

    async def link(self) -> str:
        """A link that signs one browser in."""
        async with httpx2.AsyncClient(timeout=PATIENCE_S) as http:
            response = await http.post(f"{self.url}/api/v1/sign-in-links", headers={"authorization": f"Bearer {KEY}"})
        return response.json()["url"]

    async def sign_in(self, context: BrowserContext) -> None:
        """Without opening a page: the cookie is what counts."""
        assert (await context.request.post(await self.link(), max_redirects=0)).status == 303

    @asynccontextmanager
    async def signed_in(self, browser: Browser) -> AsyncIterator[BrowserContext]:
        """A browser that is signed in, and that may not break: no error of a script, nothing that the policy forbids.

        It is asked to keep still (prefers-reduced-motion): a picture that turns is drawn sixty times a second.
        """
        context = await browser.new_context(
            base_url=self.url, viewport={"width": 1280, "height": 900}, reduced_motion="reduce"
        )
        context.set_default_timeout(PATIENCE_S * 1000)
        complaints: list[str] = []
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on(
            "console", lambda said: complaints.append(said.text) if "Content Security Policy" in said.text else None
        )
        await self.sign_in(context)
        yield context
        await context.close()
        assert complaints == []


@asynccontextmanager
async def on_site(database_url: str, data_dir: Path) -> AsyncIterator[Site]:
    """A server over this database, with a client and a worker of its own."""
    async with serving(database_url, data_dir, lease_s=36_000) as url, AsyncClient(url, KEY) as client:
        worker, database = FakeWorker(url), await asyncpg.connect(database_url)
        try:
            yield Site(url, database_url, client, worker, database)
        finally:
            await database.close()
            await worker.close()


@dataclass
class History:
    """A database to make copies of, and who its worker is."""

    postgres: str
    url: str
    data_dir: Path
    worker: tuple[str, str] = ("", "")
    copies: int = 0

    async def copied(self) -> str:
        """The URL of another copy."""
        self.copies += 1
        return await create_database(self.postgres, f"history{self.copies}", like=urlsplit(self.url).path[1:])


async def lived_in(site: Site) -> None:
    await site.worker.come_up([manifest(name) for name in TASKS])
    await past(site)
    await say(site.database)
    await present(site)


async def past(site: Site) -> None:
    """Runs that are over, at times of their own: made as any, then put into the past."""
    random, now = Random(7), datetime.now(UTC)
    items = [
        (random.choice(TASKS), {"order": 4000 + number}, random.choice((["eu"], ["us", "vip"], ["eu", "trial"], [])))
        for number in range(120)
    ]
    made = [await site.client.trigger(task, payload, tags=tags) for task, payload, tags in items]
    rows: list[tuple[Any, ...]] = []
    for run in made:
        at = now - timedelta(hours=24 * random.random() ** 1.3, minutes=2)
        took_s = random.choice((0.4, 2.2, 8.0, 45.0, 190.0, 2400.0)) * (0.5 + random.random())
        frozen_s = took_s * random.choice((0, 0, 0, 0.6, 0.93)) if took_s > 5 else 0.0
        state = random.choices(
            ("completed", "failed", "crashed", "canceled", "timed_out", "expired"), (80, 8, 2, 5, 2, 1)
        )[0]
        started = None if state == "expired" else at + timedelta(seconds=random.random() * 4)
        end = min(now, at + timedelta(seconds=took_s + 4))
        attempt = 0 if state == "expired" else random.choice((1, 1, 1, 2))
        frozen_ms = min(frozen_s, (end - at).total_seconds() * 0.97) * 1000
        rows.append((run["id"], state, at, started, end, frozen_ms, attempt))
    await site.database.executemany(
        """update runs set state = $2, created_at = $3, started_at = $4, finished_at = $5, updated_at = $5, frozen_ms = $6,
                           attempt = $7, version = 'v1', due_at = null where id = $1""",
        rows,
    )


async def present(site: Site) -> None:
    """Some at work, some frozen, some that wait in memory or in line, and some that ask a person."""
    client, worker = site.client, site.worker
    await client.trigger("reports/weekly", {"week": 9}, tags=["eu"])
    running = await worker.take_and_start()
    assert running
    for number in range(3):
        await client.trigger("agents/research", {"topic": number}, tags=["vip"])
        taken = await worker.take_and_start()
        await worker.block(taken, NewWait(f"w{number}", "time", until="2026-12-24T18:00:00Z"))
        await worker.suspend(taken)
    token = await client.create_token(
        timeout="3d", title="Refund order 4711?", context={"order": 4711, "total": "€ 129.00"}, tags=["eu"]
    )
    await client.trigger("invoices/chase", {"invoice": 88}, tags=["eu"])
    asking = await worker.take_and_start()
    await worker.block(asking, NewWait("w", "token", waitpoint_id=token["id"]))
    await worker.suspend(asking)
    await client.create_token(timeout="10m", tags=["payment"])
    await client.trigger("reports/weekly", {"week": 10})
    parent = await worker.take_and_start()
    child = await client.trigger("mail/send", {"to": "grace"}, delay="2h")
    await worker.block(parent, NewWait("w", "run", run_id=child["id"]))
    for task in TASKS[:2]:
        await client.trigger(task, tags=["eu"], delay="2h")

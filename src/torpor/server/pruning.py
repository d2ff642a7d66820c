"""Retention: what has been over for long is deleted, a few hundred rows at a time, with pauses in between.

Every server of a fleet does it; steps skip what another one's have locked.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from torpor import engine
from torpor.engine import Place, Pruned, events
from torpor.server import offload
from torpor.server.hub import Hub
from torpor.store.database import Transaction

log = logging.getLogger("torpor.server")

PAUSE_S = 0.05
"""After each step: pruning may take at most about a fifth of one connection, and leaves the disk to others."""

SWEEP_INTERVAL = timedelta(days=1)

Step = Callable[[Transaction, Place | None], Awaitable[Pruned]]


async def prune(here: Hub, *, pause_s: float = PAUSE_S) -> int:
    """Everything that is old by now. Returns how many rows were deleted."""
    settings, now = here.settings, here.clock.now()
    deleted = 0
    deleted += await _until_nothing_is_left(here, lambda tx: engine.prune_keys(tx, now=now), pause_s)
    deleted += await _until_nothing_is_left(here, lambda tx: engine.forget_tokens(tx, now=now), pause_s)
    async with here.database.transaction() as tx:
        deleted += await engine.forget_keys(tx, now=now)
        deleted += await engine.forget_sessions(tx, now=now)
    if settings.logs_retention_days:
        deleted += await _prune_logs(here, pause_s)
    if settings.streams_retention_days:
        stale = now - timedelta(days=settings.streams_retention_days)
        streams = lambda tx: engine.prune_streams(tx, before=stale, now=now)  # noqa: E731
        deleted += await _until_nothing_is_left(here, streams, pause_s)
    if settings.retention_days:
        before = now - timedelta(days=settings.retention_days)
        # Batches before runs: a run is kept as long as it is an item of a batch that is.
        for step in (engine.prune_batches, engine.prune_tokens, engine.prune_runs):
            deleted += await _walk(
                here, lambda tx, place, step=step: step(tx, before=before, place=place, now=now), pause_s
            )
        deleted += await _prune_bulk_actions(here, before, pause_s)
        versions = lambda tx: engine.prune_versions(tx, before=before, now=now)  # noqa: E731
        deleted += await _until_nothing_is_left(here, versions, pause_s)
    async with here.database.transaction() as tx:
        deleted += (await engine.prune_workers(tx, now=now)).rows
        if deleted:
            await events.announce(tx, "pruned")
    if here.swept_at is None or now - here.swept_at >= SWEEP_INTERVAL:
        await offload.sweep(here)
        here.swept_at = now
    if deleted:
        log.info("pruned %d rows that were over for long", deleted)
    return deleted


async def _walk(here: Hub, step: Step, pause_s: float) -> int:
    """Step by step, from the oldest to the youngest of what is old."""
    deleted = 0
    place: Place | None = None
    while True:
        async with here.database.transaction() as tx:
            done = await step(tx, place)
        # After their rows: else a crash in between would leave rows that name what isn't there.
        await offload.forget(here, done.objects)
        deleted += done.rows
        place = done.place
        if place is None:
            return deleted
        await asyncio.sleep(pause_s)


async def _until_nothing_is_left(here: Hub, step: Callable[[Transaction], Awaitable[Pruned]], pause_s: float) -> int:
    deleted = 0
    while True:
        async with here.database.transaction() as tx:
            done = await step(tx)
        if not done.rows:
            return deleted
        deleted += done.rows
        await asyncio.sleep(pause_s)


async def _prune_bulk_actions(here: Hub, before: datetime, pause_s: float) -> int:
    deleted = 0
    while True:
        async with here.database.transaction() as tx:
            some = await engine.prune_bulk(tx, before=before, now=here.clock.now())
        if not some:
            return deleted
        deleted += some
        await asyncio.sleep(pause_s)


async def _prune_logs(here: Hub, pause_s: float) -> int:
    now = here.clock.now()
    before = now - timedelta(days=here.settings.logs_retention_days)
    deleted = 0
    place: int | None = 0
    while place is not None:
        async with here.database.transaction() as tx:
            done, place = await engine.prune_logs(tx, before=before, place=place, now=now)
        deleted += done.rows
        await asyncio.sleep(pause_s)
    return deleted

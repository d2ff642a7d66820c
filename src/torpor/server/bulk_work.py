"""Works off bulk actions: a step of each in turn, so that a small one doesn't wait for a large one.

Every server of a fleet does it; an action whose step another one is at is passed by.
"""

import logging

import asyncpg

from torpor import engine
from torpor.server.batch_items import why
from torpor.server.hub import Hub

log = logging.getLogger("torpor.server")


async def work_off(here: Hub) -> int:
    """All that is open, to its end. Returns how many runs had their turn."""
    count = 0
    while True:
        async with here.database.transaction() as tx:
            bulk_ids = await engine.open_bulk(tx)
        done = [await step(here, bulk_id) for bulk_id in bulk_ids]
        count += sum(each or 0 for each in done)
        if not any(done):
            return count


async def step(here: Hub, bulk_id: str) -> int | None:
    """Some runs of one action. A run with which it can't be done is found by going on one by one, and failed."""
    try:
        return await _step(here, bulk_id)
    except asyncpg.TransactionRollbackError:
        raise  # a deadlock that the database broke: the step is simply done again
    except asyncpg.PostgresError:
        pass
    try:
        return await _step(here, bulk_id, limit=1)
    except asyncpg.TransactionRollbackError:
        raise
    except asyncpg.PostgresError as error:
        log.error("a run of %s could not have its turn: %s: %s", bulk_id, type(error).__name__, error)
        return await _step(here, bulk_id, problem=f"the database refused it: {error}")


async def _step(here: Hub, bulk_id: str, **options: object) -> int | None:
    async with here.database.transaction() as tx:
        return await engine.work_off(tx, bulk_id, why=why, now=here.clock.now(), **options)  # pyright: ignore[reportArgumentType]

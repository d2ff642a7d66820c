"""The server's share in deleting environments: rows a few hundred at a time, with pauses in between, then what the object store
has of theirs, and the environment's own row last."""

import asyncio
import logging

from torpor import engine
from torpor.objects import ObjectsDown
from torpor.server.hub import Hub

log = logging.getLogger("torpor.server")

PAUSE_S = 0.05
"""As for pruning."""


async def remove_deleted(here: Hub, *, pause_s: float = PAUSE_S) -> int:
    """What is in environments that were deleted. Returns how many rows went."""
    removed, after = 0, ""
    while True:
        async with here.database.transaction() as tx:
            done = await engine.remove_deleted(tx, after=after, now=here.clock.now())
        if done is None:
            return removed
        removed += done.rows
        if done.rows:
            await asyncio.sleep(pause_s)
            continue
        # Again by each pass until the row may go, as something may have been on its way.
        if await _empty_store(here, done.environment_id) and done.is_due:
            async with here.database.transaction() as tx:
                await engine.forget_environment(tx, done.environment_id)
            log.info("nothing is left of the deleted environment %s", done.environment_id)
        after = done.environment_id


async def _empty_store(here: Hub, environment_id: str) -> bool:
    try:
        async for names in here.objects.old(environment_id, here.clock.now()):
            await here.objects.delete(names)
    except ObjectsDown as error:
        log.warning("payloads of a deleted environment could not be deleted, tried again later: %s", error)
        return False
    return True

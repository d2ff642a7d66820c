"""The server's duties that nobody asks for: fire what is due, take back runs whose worker fell silent.

Every server of a fleet does them all; the verbs claim rows with SKIP LOCKED, so there is no leader to lose. A duty is a
plain `step`, which tests call directly.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

import asyncpg

from torpor import engine
from torpor.server.hub import Hub
from torpor.store.database import DatabaseDown

log = logging.getLogger("torpor.server")

LONGEST_SLEEP_S = 5.0
"""The timer duty looks at least this often: a notification can be lost, and the wall clock can jump."""
RESCUE_INTERVAL_S = 2.0
PAUSE_S = 1.0
"""After a step that the database did not let through."""
TROUBLE = (DatabaseDown, asyncpg.PostgresError)
"""What a duty survives: a lost connection, a deadlock broken by the database. A bug of ours ends the server instead."""


async def run_all(here: Hub) -> None:
    """All duties, until cancelled."""
    async with asyncio.TaskGroup() as duties:
        duties.create_task(fire_timers(here), name="fire timers")
        duties.create_task(every(RESCUE_INTERVAL_S, lambda: rescue(here)), name="rescue")


async def every(interval_s: float, step: Callable[[], Awaitable[object]]) -> None:
    """The step, again and again, this long after its last end."""
    while True:
        await _try(step)
        await asyncio.sleep(interval_s)


async def _try(step: Callable[[], Awaitable[object]]) -> bool:
    try:
        await step()
    except TROUBLE as error:
        log.warning("a duty could not be done and is tried again: %s: %s", type(error).__name__, error)
        return False
    return True


async def fire_timers(here: Hub) -> None:
    """Fire waits, token timeouts and delayed runs within milliseconds of their time.

    It sleeps until the next one is due. A wait made meanwhile may be due sooner, so each new one pokes it.
    """
    next_due: datetime | None = None

    async def step() -> None:
        nonlocal next_due
        next_due = await fire_due(here)

    with here.wakeups.listen("timer") as ear:
        while True:
            if not await _try(step):
                await asyncio.sleep(PAUSE_S)
                continue
            sleep_s = LONGEST_SLEEP_S
            if next_due is not None:
                sleep_s = min(sleep_s, (next_due - here.clock.now()).total_seconds())
            if sleep_s > 0:
                await ear.wait(sleep_s)


async def fire_due(here: Hub) -> datetime | None:
    """Everything that is due now. When the next is due, if there is one."""
    while True:
        async with here.database.transaction() as tx:
            fired = await engine.fire_due(tx, now=here.clock.now())
        if not fired.count:
            return fired.next_due


async def rescue(here: Hub) -> list[str]:
    """Take back every run whose lease has run out."""
    async with here.database.transaction() as tx:
        return await engine.rescue(tx, max_rescues=here.settings.max_rescues, now=here.clock.now())

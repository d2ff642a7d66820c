"""Fires what the clock decides, and lets nothing that can't be fired hold up the rest."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from torpor import engine
from torpor.server.hub import Hub
from torpor.store.database import DatabaseDown

log = logging.getLogger("torpor.server")

LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class SetAside:
    """A timer that failed by itself."""

    tries: int
    again_at: datetime


Fire = Callable[..., Awaitable[engine.FiredTimers]]
Due = Callable[..., Awaitable[list[str]]]


class Timers:
    """What comes due: waits, token timeouts and delayed runs, or with verbs of their own (`fire`, `due`) schedules.

    They are fired in batches. When a batch fails, each of it is fired in a transaction of its own; the one that fails
    then is set aside for a while, longer each time.
    """

    def __init__(self, here: Hub, fire: Fire | None = None, due: Due | None = None) -> None:
        self._here = here
        self._fire_due, self._due = fire or engine.fire_due, due or engine.due
        self._aside: dict[str, SetAside] = {}

    async def fire(self) -> datetime | None:
        """Everything that is due now. When to look again, if anything is going to be due.

        Raises:
            DatabaseDown: try again.
            Exception: it fails without anything to fire, too.
        """
        while True:
            now = self._here.clock.now()
            skip = [timer_id for timer_id, aside in self._aside.items() if aside.again_at > now]
            try:
                async with self._here.database.transaction() as tx:
                    fired = await self._fire_due(tx, skip=skip, now=now)
            except DatabaseDown:
                raise
            except Exception as error:  # noqa: BLE001  # looked at one by one, and raised again if it is nobody's
                await self._fire_one_by_one(skip, error, now)
                continue
            self._aside = {timer_id: self._aside[timer_id] for timer_id in skip}
            if not fired.count:
                times = [aside.again_at for aside in self._aside.values()]
                return min([*times, fired.next_due] if fired.next_due else times, default=None)

    async def _fire_one_by_one(self, skip: list[str], failure: Exception, now: datetime) -> None:
        async with self._here.database.transaction() as tx:
            due = await self._due(tx, skip=skip, now=now)
        if not due:
            raise failure
        for timer_id in due:
            try:
                async with self._here.database.transaction() as tx:
                    await self._fire_due(tx, only=[timer_id], now=now)
            except DatabaseDown:
                raise
            except Exception as error:  # noqa: BLE001  # whatever it is, it is not the others' fault
                self._set_aside(timer_id, error)
            else:
                self._aside.pop(timer_id, None)

    def _set_aside(self, timer_id: str, error: Exception) -> None:
        tries = self._aside[timer_id].tries + 1 if timer_id in self._aside else 1
        pause_s = min(2.0 ** min(tries - 1, 10), LONGEST_PAUSE_S)
        self._aside[timer_id] = SetAside(tries, self._here.clock.now() + timedelta(seconds=pause_s))
        log.warning(
            "%s is due but can't be fired, tried again in %d s: %s: %s",
            timer_id,
            pause_s,
            type(error).__name__,
            error,
            # What the database has against it says it all; anything else is a bug of ours.
            exc_info=None if isinstance(error, asyncpg.PostgresError) else error,
        )

"""Waiting for what is about to be so."""

import asyncio
from collections.abc import Awaitable, Callable

from torpor.server.hub import Hub

PATIENCE_S = 60.0
"""For what comes at once on an idle machine. It may be long: it costs nothing but where something is wrong."""

PROGRAM_S = 300.0
"""For what a program does that has yet to start: node reads its packages within a second, or within half a minute."""


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():
            await asyncio.sleep(0.02)


async def until(holds: Callable[[], bool]) -> None:
    """For what can be seen from here."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.005)


def asking_for_work(hub: Hub) -> int:
    """How many requests of workers are held."""
    return sum(len(ears) for topic, ears in hub.wakeups._ears.items() if topic[0] == "work")

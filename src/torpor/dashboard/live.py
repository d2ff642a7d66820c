"""Tells open pages that something has changed. What, they ask for themselves: a page knows best what it shows.

An open page costs one held connection and one ear. However much happens, it is told once a second.
"""

import asyncio
from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.dashboard.page import session
from torpor.server.event_streams import KEEP_ALIVE_S, STILL_HERE, Cut, EventStream
from torpor.server.hub import Hub, hub

PAUSE_S = 1.0
CHANGED = b"event: changed\ndata:\n\n"


async def live(request: Request) -> Response:
    """`?run=` an id: of that run alone."""
    run_id = request.query_params.get("run")
    return EventStream(_changes(hub(request), session(request).cookie_hash, run_id), {})


async def _changes(here: Hub, cookie_hash: bytes, run_id: str | None) -> AsyncGenerator[bytes, None]:
    with here.wakeups.listen("run", run_id) if run_id else here.wakeups.listen("runs") as ear:
        yield b"retry: 2000\n\n"
        while True:
            is_woken = await ear.wait(KEEP_ALIVE_S)
            if here.wakeups.is_closed:
                raise Cut
            if is_woken:
                yield CHANGED
                await asyncio.sleep(PAUSE_S)
                continue
            async with here.database.transaction() as tx:
                if await engine.signed_in(tx, cookie_hash, now=here.clock.now()) is None:
                    return  # signed out in another window
            yield STILL_HERE

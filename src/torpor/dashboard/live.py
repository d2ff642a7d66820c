"""Tells open pages that something has changed: a run, or what else a verb has announced, whose kind is told.

What of it, they ask for themselves: a page knows best what it shows. An open page costs one held connection and one ear.
However much happens, it is told once a second, and where many are open, all together as often as MOST_PER_S says; and once more
when it has been quiet for a while, since counts that are kept for several who look may have been older than the last change.
"""

import asyncio
from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.dashboard.page import session
from torpor.server import auth
from torpor.server.errors import not_found
from torpor.server.event_streams import KEEP_ALIVE_S, STILL_HERE, Cut, EventStream
from torpor.server.hub import Hub, hub

PAUSE_S = 1.0
MOST_PER_S = 20
QUIET_S = 6.0
"""Longer than any counts are kept (shared.py)."""


async def live(request: Request) -> Response:
    """`?run=` an id: of that run alone."""
    run_id = request.query_params.get("run")
    if run_id is not None:
        async with hub(request).database.transaction() as tx:
            if await engine.read.environment_of_run(tx, run_id) != auth.environment(request).id:
                raise not_found()
    return EventStream(_changes(hub(request), session(request).cookie_hash, run_id), {})


async def _changes(here: Hub, cookie_hash: bytes, run_id: str | None) -> AsyncGenerator[bytes, None]:
    ear = here.wakeups.listen("run", run_id) if run_id else here.wakeups.listen("runs").and_to("changes")
    was_told = False
    with ear.and_to("session", cookie_hash.hex()):
        yield b"retry: 2000\n\n"
        while True:
            is_woken = await ear.wait(QUIET_S if was_told else KEEP_ALIVE_S)
            if here.wakeups.is_closed:
                raise Cut
            async with here.database.transaction() as tx:
                if await engine.signed_in(tx, cookie_hash, now=here.clock.now()) is None:
                    return  # signed out in another window
            if is_woken or was_told:
                was_told = is_woken
                kinds = " ".join(sorted({said["what"] for said in ear.heard}))
                ear.heard.clear()
                yield f"event: changed\ndata: {kinds}\n\n".encode()
                await asyncio.sleep(max(PAUSE_S, here.wakeups.listening("runs") / MOST_PER_S))
                continue
            yield STILL_HERE

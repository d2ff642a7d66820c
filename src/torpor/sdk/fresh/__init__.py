"""Connections of known libraries: dropped before a freeze, opened again after it.

`library.py`    what is done for each of them, and how its objects are found
`httpx.py`, `urllib3.py` (requests, boto3), `redis.py`, `psycopg.py`, `asyncpg.py`, `sqlalchemy.py`

A frozen run's TCP connections are closed. A pool that doesn't know that hands out dead ones after the restore, and until the
freeze its server keeps sessions that nobody uses. So idle connections are taken out of their pools before the freeze, and
the pools open new ones when they are asked, or at once where they promise a minimum.

What is in use is never touched: a connection that was taken out of a pool of a database, or has a transaction open, keeps the
run in memory, and the story names it. (A response that is read half, or a subscription, is lost with its connection; these
libraries say so when they are used again.)

All of this is done while nothing of the run moves. No library is ever imported here.
"""

import logging
from collections.abc import Callable, Iterable
from types import CoroutineType, FrameType
from typing import Any

from torpor.sdk.fresh import asyncpg, httpx, psycopg, redis, sqlalchemy, urllib3
from torpor.sdk.fresh.library import Library, Turn, keep_track

log = logging.getLogger("torpor.fresh")

LIBRARIES: tuple[Library, ...] = (
    sqlalchemy.LIBRARY,  # before the drivers beneath it
    psycopg.LIBRARY,
    asyncpg.LIBRARY,
    httpx.LIBRARY,
    urllib3.LIBRARY,
    redis.LIBRARY,
)
_WITH_TIMERS = frozenset({"asyncpg", "psycopg_pool"})


def watch() -> None:
    """From now on know of the pools that are made. To be called before user code is imported; twice is once."""
    keep_track(LIBRARIES)


def in_use() -> list[str]:
    """Connections that must not be cut off, in words."""
    return [told for library in _loaded() for told in _safely(library, library.in_use, ()) or ()]


def drop(turn: Turn | None) -> None:
    """Close what is idle.

    Args:
        turn: brings an awaitable to its end in the run's event loop; None: there is no such loop, so what belongs to one is
            left alone.
    """
    for library in _loaded():
        _safely(library, library.drop, (turn,))


def reopen(turn: Turn | None) -> None:
    """Open what is promised to be open, where pools don't do that when they are asked for a connection."""
    for library in _loaded():
        _safely(library, library.reopen, (turn,))


def is_upkeep(owner: object) -> bool:
    """Whether an object of such a library, or a coroutine, only looks after idle connections: its timers need wake nobody."""
    if isinstance(owner, CoroutineType):
        name = owner.cr_frame.f_globals.get("__name__", "") if owner.cr_frame else ""
    else:
        name = type(owner).__module__
    return name.partition(".")[0] in _WITH_TIMERS


def is_upkeep_thread(frame: FrameType | None) -> bool:
    """The same of a thread, by its innermost frame."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in _WITH_TIMERS:
            return True
        frame = frame.f_back
    return False


def _loaded() -> Iterable[Library]:
    return (library for library in LIBRARIES if library.is_used)


def _safely(library: Library, step: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The insides of other people's libraries: what goes wrong there must not keep a run from being frozen, or going on."""
    try:
        return step(*arguments)
    except Exception as error:
        log.warning("connections of %s could not be looked after", library.name, exc_info=error)
        return None

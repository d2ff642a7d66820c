"""redis-py: the idle connections in its pools. A connection connects again by itself when it is used next."""

import asyncio

from torpor.sdk.fresh.library import STEP_TIMEOUT_S, Library, Turn


def _drop(turn: Turn | None) -> None:
    for pool in LIBRARY.all("redis.connection.ConnectionPool"):
        pool.disconnect(inuse_connections=False)
    if turn is not None:
        for pool in LIBRARY.all("redis.asyncio.connection.ConnectionPool"):
            turn(asyncio.wait_for(pool.disconnect(inuse_connections=False), STEP_TIMEOUT_S))


LIBRARY = Library("redis", {"redis": ("connection.ConnectionPool", "asyncio.connection.ConnectionPool")}, drop=_drop)

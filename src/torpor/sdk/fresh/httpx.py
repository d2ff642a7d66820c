"""httpx and httpx2: the idle connections in their pools, which are httpcore's."""

import asyncio
from typing import Any

from torpor.sdk.fresh.library import STEP_TIMEOUT_S, Library, Turn


def _drop(turn: Turn | None) -> None:
    for core in ("httpcore", "httpcore2"):
        for pool in LIBRARY.all(f"{core}.ConnectionPool"):
            pool._close_connections(_taken(pool))
        if turn is not None:
            for pool in LIBRARY.all(f"{core}.AsyncConnectionPool"):
                if idle := _taken(pool):
                    turn(asyncio.wait_for(pool._close_connections(idle), STEP_TIMEOUT_S))


def _taken(pool: Any) -> list[Any]:
    """Idle connections, which the pool has no more."""
    with pool._optional_thread_lock:
        idle = [connection for connection in pool._connections if connection.is_idle()]
        pool._connections = [connection for connection in pool._connections if connection not in idle]
    return idle


LIBRARY = Library(
    "httpx",
    dict.fromkeys(("httpcore", "httpcore2"), ("ConnectionPool", "AsyncConnectionPool")),
    drop=_drop,
)

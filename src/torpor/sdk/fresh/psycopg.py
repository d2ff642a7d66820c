"""psycopg and its pools: idle connections leave the pool, which is filled up to its minimum afterwards.

A connection that was made without a pool is closed by the freeze, unless it has a transaction open, which keeps the run in
memory: nothing here could open it again in its place.
"""

import asyncio
import sys
import time
from typing import Any

from torpor.sdk.fresh.library import STEP_TIMEOUT_S, Library, Turn

SETTLE_S = 1.0
"""How long a pool's threads may take to open what they are opening."""
_IDLE, _UNKNOWN = 0, 4  # of psycopg.pq.TransactionStatus


def _in_use() -> list[str]:
    told: list[str] = []
    for connection in LIBRARY.all("psycopg.Connection") + LIBRARY.all("psycopg.AsyncConnection"):
        status = connection.pgconn.transaction_status
        if connection.closed or status == _UNKNOWN:
            continue
        where = f"{connection.info.host}:{connection.info.port}"
        if status != _IDLE:
            told.append(f"a connection of psycopg to {where} has a transaction open")
        elif getattr(connection, "_pool", None) is not None:
            told.append(f"a connection of psycopg to {where} is in use, out of its pool")
    return told


def _drop(turn: Turn | None) -> None:
    for pool in LIBRARY.all("psycopg_pool.ConnectionPool"):
        end = time.monotonic() + SETTLE_S
        while _is_opening(pool) and time.monotonic() < end:
            time.sleep(0.005)
        with pool._lock:
            idle = _taken(pool)
        for connection in idle:
            connection.close()
    if turn is not None:
        for pool in LIBRARY.all("psycopg_pool.AsyncConnectionPool"):
            turn(asyncio.wait_for(_drop_async(pool), STEP_TIMEOUT_S))


async def _drop_async(pool: Any) -> None:
    async with pool._lock:
        idle = _taken(pool)
    for connection in idle:
        await connection.close()


def _is_opening(pool: Any) -> bool:
    """Whether one of its threads is about to put another connection into the pool, as it does after a `reopen`."""
    return not pool._closed and len(pool._pool) < pool._nconns


def _taken(pool: Any) -> list[Any]:
    """Idle connections, which the pool has no more."""
    idle = list(pool._pool)
    pool._pool.clear()
    pool._nconns -= len(idle)
    return idle


def _reopen(turn: Turn | None) -> None:
    for pool in LIBRARY.all("psycopg_pool.ConnectionPool"):
        with pool._lock:
            missing = _missing(pool)
        for _ in range(missing):
            pool.run_task(sys.modules["psycopg_pool.pool"].AddConnection(pool))
    if turn is not None:
        for pool in LIBRARY.all("psycopg_pool.AsyncConnectionPool"):
            for _ in range(_missing(pool)):
                pool.run_task(sys.modules["psycopg_pool.pool_async"].AddConnection(pool))


def _missing(pool: Any) -> int:
    """How many connections the pool is short of; they count from now on."""
    missing = 0 if pool._closed else max(pool._min_size - pool._nconns, 0)
    pool._nconns += missing
    return missing


LIBRARY = Library(
    "psycopg",
    {
        "psycopg": ("Connection", "AsyncConnection"),
        "psycopg_pool": ("ConnectionPool", "AsyncConnectionPool"),
    },
    in_use=_in_use,
    drop=_drop,
    reopen=_reopen,
)

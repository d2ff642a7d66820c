"""asyncpg: the idle connections of its pools. They are filled up to their minimum afterwards, which they do by themselves.

A connection that was made without a pool is closed by the freeze, unless it has a transaction open, which keeps the run in
memory.
"""

import asyncio
from typing import Any

from torpor.sdk.fresh.library import STEP_TIMEOUT_S, Library, Turn


def _holders() -> list[Any]:
    """The places of all pools of the loop that runs the run; others can't be reached from its thread."""
    return LIBRARY.all("asyncpg.pool.PoolConnectionHolder")


def _in_use() -> list[str]:
    told: list[str] = []
    pooled: set[Any] = set()
    for holder in _holders():
        if holder._con is not None and holder._in_use is not None:
            pooled.add(holder._con)
            told.append(f"a connection of asyncpg to {_where(holder._con)} is in use, out of its pool")
    for connection in LIBRARY.all("asyncpg.connection.Connection"):
        if connection not in pooled and not connection.is_closed() and connection.is_in_transaction():
            told.append(f"a connection of asyncpg to {_where(connection)} has a transaction open")
    return told


def _where(connection: Any) -> str:
    address = connection._addr
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


def _drop(turn: Turn | None) -> None:
    idle = [holder for holder in _holders() if holder._con is not None and holder._in_use is None]
    if turn is not None and idle:
        turn(_drop_async(idle))


async def _drop_async(holders: list[Any]) -> None:
    loop = asyncio.get_running_loop()
    holders = [holder for holder in holders if holder._pool._loop is loop]
    for pool in {id(holder._pool): holder._pool for holder in holders}.values():
        await _stop_upkeep(pool)
    for holder in holders:
        connection = holder._con
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=STEP_TIMEOUT_S)
            except Exception:  # noqa: BLE001 - its server is gone
                connection.terminate()
        holder._con = None


async def _stop_upkeep(pool: Any) -> None:
    """It would open anew at once what is closed."""
    if not hasattr(pool, "_maintenance_task"):
        return  # older ones do nothing by themselves
    if (task := pool._maintenance_task) is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    pool._maintenance_task = _Stopped()


class _Stopped:
    """In the place of the task that keeps up a pool's minimum: as long as there is one, none is started."""

    def cancel(self) -> None: ...


def _reopen(turn: Turn | None) -> None:
    for pool in {id(holder._pool): holder._pool for holder in _holders()}.values():
        if turn is not None and isinstance(getattr(pool, "_maintenance_task", None), _Stopped):
            pool._maintenance_task = None
            pool._schedule_min_size_maintenance()


LIBRARY = Library(
    "asyncpg",
    {"asyncpg": ("pool.PoolConnectionHolder", "connection.Connection")},
    in_use=_in_use,
    drop=_drop,
    reopen=_reopen,
)

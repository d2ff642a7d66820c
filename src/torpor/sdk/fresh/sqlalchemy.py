"""SQLAlchemy: its engines dispose of their pools, and make new ones.

Left alone are databases within the process: an SQLite in memory is its connection.
"""

import asyncio
from typing import Any

from torpor.sdk.fresh.library import STEP_TIMEOUT_S, Library, Turn

_WITHIN = frozenset({"sqlite", "duckdb"})


def _engines() -> list[Any]:
    return [engine for engine in LIBRARY.all("sqlalchemy.engine.base.Engine") if engine.dialect.name not in _WITHIN]


def _in_use() -> list[str]:
    told: list[str] = []
    for engine in _engines():
        count = getattr(engine.pool, "checkedout", int)()
        if count > 0:
            what = "a connection" if count == 1 else f"{count} connections"
            told.append(f"{what} of {engine!r} (SQLAlchemy) {'is' if count == 1 else 'are'} in use")
    return told


def _drop(turn: Turn | None) -> None:
    for engine in _engines():
        if not engine.dialect.is_async:
            engine.dispose()
        elif turn is not None:
            from sqlalchemy.util import greenlet_spawn  # loaded, since there is such an engine

            turn(asyncio.wait_for(greenlet_spawn(engine.dispose), STEP_TIMEOUT_S))


LIBRARY = Library("SQLAlchemy", {"sqlalchemy": ("engine.base.Engine",)}, in_use=_in_use, drop=_drop)

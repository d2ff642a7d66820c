"""Parts of a long story: lines of the story and lines of output, read from either end. Writes nothing.

A run may have a million of them. Nothing here reads more than what it is asked for, so counts are told only so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from torpor.store.database import Transaction
from torpor.store.records import Event, LogLine

Table = Literal["events", "logs"]

COUNTED = 100_000
"""What is left out is counted so far."""
_LOOKED_THROUGH = 2000
_END = 2**63 - 1
# Along the index of each run's own. Were it an equality and an order by id, Postgres might go along all ids instead, and read
# past the million lines of another run to find ten of this one.
_BETWEEN = "(run_id, id) > ($1, $2) and (run_id, id) < ($1, $3)"
_TURNS_OF_EACH = 12


@dataclass(frozen=True, slots=True)
class Kin:
    """A run below another, without what it was given and gave."""

    id: str
    parent_run_id: str | None
    task_id: str
    state: str
    created_at: datetime
    delay_until: datetime | None
    finished_at: datetime | None
    frozen_since: datetime | None


async def first(tx: Transaction, table: Table, run_id: str, *, after: int = 0, limit: int) -> list[Any]:
    """The first ones with a greater id, in order."""
    rows = await tx.fetch(
        f"select * from {table} where {_BETWEEN} order by run_id, id limit $4", run_id, after, _END, limit
    )
    return [_of(table, row) for row in rows]


async def newest(
    tx: Transaction, table: Table, run_id: str, *, after: int = 0, before: int | None = None, limit: int
) -> list[Any]:
    """The newest ones between these ids, in order."""
    rows = await tx.fetch(
        f"select * from {table} where {_BETWEEN} order by run_id desc, id desc limit $4",
        run_id,
        after,
        before or _END,
        limit,
    )
    return [_of(table, row) for row in reversed(rows)]


async def count(tx: Transaction, table: Table, run_id: str, *, after: int = 0, before: int | None = None) -> int:
    """How many there are between these ids; COUNTED + 1 if there are more."""
    found = await tx.fetchval(
        f"select count(*) from (select from {table} where {_BETWEEN} limit $4) as looked_at",
        run_id,
        after,
        before or _END,
        COUNTED + 1,
    )
    return found or 0


async def last_of(
    tx: Transaction, run_id: str, kinds: Sequence[str], *, after: int = 0, before: int | None = None
) -> Event | None:
    """The newest line of the story of these kinds between these ids. It looks back through so many lines only."""
    row = await tx.fetchrow(
        f"""select * from (select * from events where {_BETWEEN} order by run_id desc, id desc limit $4) as looked_at
           where kind = any($5::text[]) order by id desc limit 1""",
        run_id,
        after,
        before or _END,
        _LOOKED_THROUGH,
        list(kinds),
    )
    return Event.of(row) if row else None


async def since(
    tx: Transaction, run_id: str, begin: int, known: int, kinds: Sequence[str], *, limit: int
) -> list[Event]:
    """From one line of the story on: of what is known those of these kinds, and all that is new."""
    rows = await tx.fetch(
        f"""select * from events where {_BETWEEN} and (id > $4 or kind = any($5::text[]))
           order by run_id, id limit $6""",
        run_id,
        begin - 1,
        _END,
        known,
        list(kinds),
        limit,
    )
    return [Event.of(row) for row in rows]


async def snapshot(tx: Transaction) -> str:
    """What this transaction sees: who gives it back to `kin` is told what has changed since."""
    return await tx.fetchval("select pg_current_snapshot()::text") or ""


async def kin(tx: Transaction, environment_id: str, run_id: str, *, limit: int, seen: str | None = None) -> list[Kin]:
    """Children, their children and so on, each before what is below it; with `seen`, those that have changed since that
    snapshot. Hooks are part of the run that they are of."""
    rows = await tx.fetch(
        """with recursive kin (id, level) as (
             (select id, 1 from runs where parent_run_id = $1 and environment_id = $2 and hook is null
              order by created_at, id limit $3)
             union all
             (select runs.id, kin.level + 1 from kin join runs on runs.parent_run_id = kin.id
              where runs.hook is null and kin.level < 20 limit $3)
           ), first as (
             select kin.id, kin.level from kin join runs using (id) order by kin.level, runs.created_at, kin.id limit $3
           )
           select id, parent_run_id, task_id, state, created_at, delay_until, finished_at, frozen_since
           from first join runs using (id)
           where $4::text is null or not pg_visible_in_snapshot(runs.changed_in, $4::text::pg_snapshot)
           order by first.level, runs.created_at, runs.id""",
        run_id,
        environment_id,
        limit,
        seen,
    )
    return [Kin(**row) for row in rows]


async def turns(tx: Transaction, run_ids: list[str], kinds: Sequence[str]) -> dict[str, list[Event]]:
    """Of several stories, the newest lines of these kinds: by run, in order."""
    rows = await tx.fetch(
        """select found.* from unnest($1::text[]) as asked (run_id) cross join lateral (
             select * from events where events.run_id = asked.run_id and kind = any($2::text[]) order by id desc limit $3
           ) as found order by found.id""",
        run_ids,
        list(kinds),
        _TURNS_OF_EACH,
    )
    found: dict[str, list[Event]] = {}
    for row in rows:
        found.setdefault(row["run_id"], []).append(Event.of(row))
    return found


def _of(table: Table, row: Any) -> Any:
    return Event.of(row) if table == "events" else LogLine.of(row)

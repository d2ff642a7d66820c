"""What stands in streams: for those who follow them. Writes nothing."""

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from torpor.engine.streams import Direction
from torpor.store.database import Transaction

PAGE_PARTS = 500
PAGE_BYTES = 64 * 1024
"""About as much one page holds: a reader that is slow has one of them in memory. A longer part is a page of its own."""


@dataclass(frozen=True, slots=True)
class StoredPart:
    seq: int
    part_id: str
    body: str  # JSON
    at: datetime

    @classmethod
    def of(cls, row: "dict[str, object]") -> Self:
        return cls(**row)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True)
class Page:
    """Parts in a row. `is_full`: there may be more. `is_last`: the run is over, and no part comes after these."""

    parts: list[StoredPart]
    is_full: bool
    is_last: bool


async def page(tx: Transaction, run_id: str, direction: Direction, key: str, *, after: int) -> Page | None:
    """What came behind the part of that number. None: there is no such run."""
    # The run first: if it has ended, all of its streams were there before they are read.
    run = await tx.fetchrow("select finished_at from runs where id = $1", run_id)
    if run is None:
        return None
    rows = await tx.fetch(
        """select seq, part_id, body, at from (
               select seq, part_id, body, at, sum(octet_length(body)) over (order by seq) - octet_length(body) as before
               from (select seq, part_id, body, at from stream_chunks
                     where stream_id = (select id from streams where run_id = $1 and direction = $2 and key = $3) and seq > $4
                     order by seq limit $5) as found) as page
           where before < $6 order by seq""",
        run_id,
        direction,
        key,
        after,
        PAGE_PARTS,
        PAGE_BYTES,
    )
    parts = [StoredPart.of(row) for row in rows]
    is_full = len(rows) == PAGE_PARTS or sum(len(part.body.encode()) for part in parts) >= PAGE_BYTES
    return Page(parts, is_full, run["finished_at"] is not None and not is_full)


async def last_seq(tx: Transaction, run_id: str, direction: Direction, key: str) -> int:
    """The number of the newest part; -1: there is none."""
    found = await tx.fetchval(
        "select next_seq - 1 from streams where run_id = $1 and direction = $2 and key = $3", run_id, direction, key
    )
    return -1 if found is None else found


async def last_of_client(tx: Transaction, run_id: str, key: str, client: str) -> int:
    """The greatest number that this writer has given one of its parts, whose ids are `client:number`; -1: there is none."""
    found = await tx.fetchval(
        """select max(substr(part_id, length($3) + 2)::bigint) from stream_chunks
           where stream_id = (select id from streams where run_id = $1 and direction = 'output' and key = $2)
             and starts_with(part_id, $3 || ':')""",
        run_id,
        key,
        client,
    )
    return -1 if found is None else found

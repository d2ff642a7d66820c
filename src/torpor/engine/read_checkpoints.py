"""Checkpoints that runs or forks may be restored from, in several orders, and what they take together. Writes nothing.

All of it goes along one index, which has only those, with their age and their sizes: rows are read of one page.
"""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.pages import FIRST, Conditions, Listing, Page, listing
from torpor.store.database import Transaction
from torpor.store.records import Checkpoint

ORDERS = {
    "newest": ("created_at", True),
    "oldest": ("created_at", False),
    "size": ("size_bytes", True),
    "own": ("new_bytes", True),
    "shared": ("shared_bytes", True),
}
"""By which column, and whether its greatest value comes first. By a size all of them are looked at, in the index."""
_STORED = "state in ('usable', 'kept')"


async def stored(
    tx: Transaction, environment_id: str, page: Page = FIRST, *, order: str = "newest"
) -> Listing[Checkpoint]:
    """A page of them. In each order `page.after` goes on, and `page.before` goes back."""
    column, is_falling = ORDERS[order]
    is_falling = is_falling != (page.before is not None)
    made = Conditions(environment_id)
    made.parts.append(_STORED)
    if (cursor := page.before or page.after) is not None:
        sign = "<" if is_falling else ">"
        made.add(f"({column}, id) {sign} (select {column}, id from checkpoints where id = {{}})", cursor)
    way = "desc" if is_falling else "asc"
    rows = await tx.fetch(
        f"""select checkpoints.* from (
                select {column}, id from checkpoints where {" and ".join(made.parts)}
                order by {column} {way}, id {way} limit {made.value(page.size + 1)}) as found
            join checkpoints using (id) order by checkpoints.{column} {way}, id {way}""",
        *made.values,
    )
    return listing(rows, page, Checkpoint.of)


@dataclass(frozen=True, slots=True)
class CheckpointTotals:
    """What the checkpoints of an environment take. Sizes in bytes."""

    count: int
    size_bytes: int  # as if each were stored by itself
    new_bytes: int  # stored for them alone
    shared_bytes: int  # what others had stored already
    oldest_at: datetime | None
    newest_at: datetime | None


async def checkpoint_totals(tx: Transaction, environment_id: str) -> CheckpointTotals:
    """Of all of them."""
    row = await tx.fetchrow(
        f"""select count(*) as count, coalesce(sum(size_bytes), 0)::bigint as size_bytes,
                   coalesce(sum(new_bytes), 0)::bigint as new_bytes, coalesce(sum(shared_bytes), 0)::bigint as shared_bytes,
                   min(created_at) as oldest_at, max(created_at) as newest_at
            from checkpoints where environment_id = $1 and {_STORED}""",
        environment_id,
    )
    assert row is not None
    return CheckpointTotals(**row)

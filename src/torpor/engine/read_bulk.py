"""Fetch and list bulk actions. Writes nothing."""

from torpor.engine.pages import FIRST, Conditions, Listing, Page, read_page
from torpor.store.database import Transaction
from torpor.store.records import BulkAction

MAX_PROBLEMS = 100


async def bulk_action(tx: Transaction, environment_id: str, bulk_id: str) -> BulkAction | None:
    """One bulk action."""
    row = await tx.fetchrow("select * from bulk_actions where id = $1 and environment_id = $2", bulk_id, environment_id)
    return BulkAction.of(row) if row else None


async def bulk_actions(tx: Transaction, environment_id: str, page: Page = FIRST) -> Listing[BulkAction]:
    """Bulk actions, newest first."""
    return await read_page(tx, "bulk_actions", Conditions(environment_id), page, BulkAction.of)


async def problems(tx: Transaction, bulk_id: str, *, limit: int = MAX_PROBLEMS) -> list[tuple[str, str]]:
    """Its first runs that failed, and why."""
    rows = await tx.fetch(
        """select run_id, problem from bulk_runs where bulk_id = $1 and problem is not null order by place limit $2""",
        bulk_id,
        limit,
    )
    return [(row["run_id"], row["problem"]) for row in rows]

"""Fetch a batch, its items and their results. Writes nothing."""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.pages import FIRST, Conditions, Listing, Page, read_page
from torpor.store.database import Transaction
from torpor.store.records import Batch, BatchItem, Run

PAGE_ITEMS = 1000


@dataclass(frozen=True, slots=True)
class ItemResult:
    """An item with its run; None: it has none, or that has been pruned since."""

    item: BatchItem
    run: Run | None


async def batch(tx: Transaction, environment_id: str, batch_id: str) -> Batch | None:
    """One batch."""
    row = await tx.fetchrow("select * from batches where id = $1 and environment_id = $2", batch_id, environment_id)
    return Batch.of(row) if row else None


BATCH_STATUS = {
    "PENDING": "not is_aborted and completed_at is null and not is_sealed",
    "PROCESSING": "not is_aborted and completed_at is null and is_sealed",
    "COMPLETED": "not is_aborted and completed_at is not null and failed_items = 0",
    "PARTIAL_FAILED": "not is_aborted and completed_at is not null and failed_items between 1 and run_count - 1",
    "ABORTED": "(is_aborted or completed_at is not null and failed_items > 0 and failed_items = run_count)",
}
"""Public names, as render_runs.batch_status gives them."""


@dataclass(frozen=True, slots=True)
class BatchFilter:
    """Which batches; `status` holds public names."""

    status: list[str] | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


async def batches(
    tx: Transaction, environment_id: str, where: BatchFilter = BatchFilter(), page: Page = FIRST
) -> Listing[Batch]:
    """Batches, newest first."""
    conditions = Conditions(environment_id)
    if where.status is not None:
        conditions.parts.append(f"({' or '.join(BATCH_STATUS[name] for name in where.status) or 'false'})")
    conditions.add_if("created_at >= {}", where.created_from)
    conditions.add_if("created_at <= {}", where.created_to)
    return await read_page(tx, "batches", conditions, page, Batch.of)


async def run_ids(tx: Transaction, batch_id: str) -> list[str]:
    """The runs of a batch, by the order of its items; one that several items share once."""
    rows = await tx.fetch(
        "select run_id from batch_items where batch_id = $1 and run_id is not null order by index", batch_id
    )
    return list(dict.fromkeys(row["run_id"] for row in rows))


async def failed_items(tx: Transaction, batch_id: str, *, limit: int = PAGE_ITEMS) -> list[BatchItem]:
    """Items that could not become a run, with the reasons."""
    rows = await tx.fetch(
        "select * from batch_items where batch_id = $1 and error is not null order by index limit $2", batch_id, limit
    )
    return [BatchItem.of(row) for row in rows]


async def results(
    tx: Transaction, batch_id: str, *, after: int = -1, limit: int = PAGE_ITEMS, max_bytes: int
) -> tuple[list[ItemResult], int | None]:
    """Items behind index `after`, in order, with their runs: as many as outputs fit in `max_bytes`, but at least one.

    Also the `after` of the next page; None: there is no more.
    """
    sizes = await tx.fetch(
        """select batch_items.*, coalesce(octet_length(runs.output), 0) + coalesce(octet_length(runs.error::text), 0)
                  + coalesce(split_part(runs.output_object, '-', 4)::bigint, 0) as size
           from batch_items left join runs on runs.id = batch_items.run_id
           where batch_items.batch_id = $1 and batch_items.index > $2 order by batch_items.index limit $3""",
        batch_id,
        after,
        limit + 1,
    )
    items: list[BatchItem] = []
    total = 0
    for row in sizes[:limit]:
        fields = dict(row)
        total += fields.pop("size")
        if items and total > max_bytes:
            break
        items.append(BatchItem.of(fields))
    rows = await tx.fetch("select * from runs where id = any($1::text[])", [item.run_id for item in items])
    runs = {row["id"]: Run.of(row) for row in rows}
    has_more = len(items) < len(sizes)
    page = [ItemResult(item, runs.get(item.run_id or "")) for item in items]
    return page, items[-1].index if has_more else None

"""Take away what is in deleted environments, in steps so small that nobody notices, each in a transaction of its own.

Nothing in one lives: `delete_environment` has seen to that, and nobody comes in. So there is no order among its runs, and
nothing to wait for; only foreign keys say what goes before what.

Rows of images and packs go as they are. What they named is left in the object stores of its workers, and can't be read any more,
as the data keys are gone. To the workers of other environments that read such a store these are strays, which are condemned as
any others (garbage.py). Where no worker reads it any more, it is its owner's to delete.

Payloads and outputs in the servers' object store go by the environment's id, which their names begin with: that is the caller's
business, before the environment's own row goes.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from torpor.engine.prune import OF_RUNS, ROWS, RUNS, count, delete_waitpoints
from torpor.store.database import Transaction

FORGOTTEN_S = 3600.0
"""The row of an environment stays for so long: a URL to put a payload by is good for less, and what a server remembers."""


@dataclass(frozen=True, slots=True)
class Removed:
    """So many rows of this environment; none: nothing is left but its own row, which may go if it `is_due`."""

    environment_id: str
    rows: int
    is_due: bool


async def remove_deleted(tx: Transaction, *, after: str = "", rows: int = ROWS, now: datetime) -> Removed | None:
    """One step in the first deleted environment whose id comes after that one; None: there is none. For a slow duty, one server
    at a time: the others pass it by."""
    found = await tx.fetchrow(
        """select id, deleted_at from environments where deleted_at is not null and id > $1
           order by id limit 1 for no key update skip locked""",
        after,
    )
    if found is None:
        return None
    id, is_due = found["id"], found["deleted_at"] <= now - timedelta(seconds=FORGOTTEN_S)
    for step in (_before_runs, _runs, _after_runs):
        if deleted := await step(tx, id, rows):
            return Removed(id, deleted, is_due)
    return Removed(id, 0, is_due)


async def forget_environment(tx: Transaction, environment_id: str) -> None:
    """Its own row, the last of all: `remove_deleted` has found nothing else."""
    await tx.execute("delete from environments where id = $1 and deleted_at is not null", environment_id)


_BEFORE_RUNS = [
    """delete from bulk_runs where ctid = any(array(
           select bulk_runs.ctid from bulk_runs join bulk_actions on bulk_actions.id = bulk_id
           where environment_id = $1 limit $2))""",
    "delete from bulk_actions where ctid = any(array(select ctid from bulk_actions where environment_id = $1 limit $2))",
    """delete from batch_items where ctid = any(array(
           select batch_items.ctid from batch_items join batches on batches.id = batch_id
           where environment_id = $1 limit $2))""",
    "delete from batches where ctid = any(array(select ctid from batches where environment_id = $1 limit $2))",
    "delete from run_tags where ctid = any(array(select ctid from run_tags where environment = $1 limit $2))",
    "delete from schedules where ctid = any(array(select ctid from schedules where environment_id = $1 limit $2))",
]
_AFTER_RUNS = [
    """delete from refusals where ctid = any(array(
           select refusals.ctid from refusals join images on images.id = image_id where environment_id = $1 limit $2))""",
    """delete from image_packs where ctid = any(array(
           select image_packs.ctid from image_packs join images on images.id = image_id
           where environment_id = $1 limit $2))""",
]
_AFTER_RUNS += [
    f"delete from {table} where ctid = any(array(select ctid from {table} where environment_id = $1 limit $2))"
    for table in (
        "idempotency_keys",
        "warm_images",
        "images",
        "packs",
        "workers",
        "tasks",
        "deployments",
        "queues",
        "turns",
        "presets",
        "env_vars",
        "data_keys",
        "api_keys",
    )
]


async def _before_runs(tx: Transaction, environment_id: str, rows: int) -> int:
    return await _delete(tx, _BEFORE_RUNS, environment_id, rows)


async def _runs(tx: Transaction, environment_id: str, rows: int) -> int:
    """Some runs with their hooks, and all that is theirs; their own rows when nothing else is left of them."""
    found = await tx.fetch(
        """with page as (select id from runs where environment_id = $1 and hook is null
                         order by created_at desc, id desc limit $2)
           select id from page union all select runs.id from runs join page on runs.hook_of = page.id""",
        environment_id,
        RUNS,
    )
    ids = [row["id"] for row in found]
    deleted = await _delete(tx, OF_RUNS, ids, rows) if ids else 0
    if ids and deleted < rows:
        theirs = await tx.fetch(
            """select id from waitpoints where awaited_run_id = any($1::text[]) or created_by_run_id = any($1::text[])
               limit $2""",
            ids,
            rows - deleted,
        )
        deleted += await delete_waitpoints(tx, [row["id"] for row in theirs])
    if ids and deleted < rows:
        deleted += count(await tx.execute("delete from runs where id = any($1::text[])", ids))
    return deleted


async def _after_runs(tx: Transaction, environment_id: str, rows: int) -> int:
    """Tokens that nobody made in a run, and what the environment itself had."""
    left = await tx.fetch("select id from waitpoints where environment_id = $1 limit $2", environment_id, rows)
    deleted = await delete_waitpoints(tx, [row["id"] for row in left])
    return deleted or await _delete(tx, _AFTER_RUNS, environment_id, rows)


async def _delete(tx: Transaction, statements: list[str], whose: str | list[str], rows: int) -> int:
    deleted = 0
    for statement in statements:
        if deleted < rows:
            deleted += count(await tx.execute(statement, whose, rows - deleted))
    return deleted

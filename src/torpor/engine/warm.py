"""Warm images: a process that has imported a version and waits for a run, frozen once, thawed instead of importing again."""

from datetime import datetime

import msgspec

from torpor.engine import images
from torpor.engine.checkpoints import image_of, store_of
from torpor.engine.images import Gone
from torpor.engine.outcomes import ImageRejected, Ok
from torpor.store.database import Transaction
from torpor.wire.http import StoredCheckpoint, WarmReport


async def warm(tx: Transaction, environment_id: str, report: WarmReport, *, now: datetime) -> Ok | Gone | ImageRejected:
    """A version's warmed process is stored. It replaces the one before of workers of the same fitness.

    For workers. Ok also for the same report twice.
    """
    checkpoint = report.checkpoint
    image_id, store_id = image_of(checkpoint), store_of(checkpoint, report.worker_id)
    if await tx.fetchval("select true from warm_images where image_id = $1", image_id):
        return Ok()
    if not checkpoint.store_id:
        return ImageRejected()
    refused = await images.refer(tx, environment_id, checkpoint, image_id, store_id, now=now)
    if refused is not None:
        return refused
    fitness = await tx.fetchval("select fitness from workers where id = $1", report.worker_id) or ""
    await tx.execute(
        """insert into warm_images (image_id, environment_id, version, store_id, fitness, worker_id, stored, created_at)
           values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing""",
        image_id,
        environment_id,
        report.version,
        store_id,
        fitness,
        report.worker_id,
        msgspec.to_builtins(msgspec.structs.replace(checkpoint, packs=[])),
        now,
    )
    older = await tx.fetch(
        """delete from warm_images where image_id in (
               select image_id from warm_images
               where environment_id = $1 and version = $2 and store_id = $3 and fitness = $4 and image_id <> $5
               order by image_id for update)
           returning image_id""",
        environment_id,
        report.version,
        store_id,
        fitness,
        image_id,
    )
    await images.let_go(tx, [row["image_id"] for row in older], now=now)
    return Ok()


async def find_warm(
    tx: Transaction, environment_id: str, worker_id: str, version: str, *, now: datetime
) -> StoredCheckpoint | None:
    """The newest warm image of a version that this worker can read and that none of its fitness has refused. Those of its
    own fitness come first. Changes nothing.
    """
    del now
    stored = await tx.fetchval(
        """select warm_images.stored from warm_images join workers on workers.id = $2
           where warm_images.environment_id = $1 and warm_images.version = $3
             and warm_images.store_id = workers.store_id
             and not exists (select from refusals where refusals.image_id = warm_images.image_id
                             and refusals.fitness = workers.fitness)
           order by (warm_images.fitness = workers.fitness) desc, warm_images.created_at desc, warm_images.image_id limit 1""",
        environment_id,
        worker_id,
        version,
    )
    return msgspec.convert(stored, StoredCheckpoint) if stored else None


async def refuse_warm(
    tx: Transaction,
    environment_id: str,
    worker_id: str,
    image_id: str,
    reason: str,
    *,
    is_damaged: bool = False,
    now: datetime,
) -> Ok:
    """That worker, and any of its fitness, can't thaw this image; a damaged one nobody can, and it is let go."""
    await tx.execute(
        """insert into refusals (image_id, fitness, reason, at)
           select $1, workers.fitness, $3, $4 from workers
           where workers.id = $2
             and exists (select from warm_images where image_id = $1 and environment_id = workers.environment_id)
           on conflict (image_id, fitness) do update set reason = excluded.reason, at = excluded.at""",
        image_id,
        worker_id,
        reason or "not said",
        now,
    )
    if is_damaged:
        gone = await tx.fetch(
            "delete from warm_images where image_id = $1 and environment_id = $2 returning image_id",
            image_id,
            environment_id,
        )
        await images.let_go(tx, [row["image_id"] for row in gone], now=now)
    return Ok()


async def prune_warm(tx: Transaction, *, now: datetime) -> int:
    """Let go of warm images of versions that nobody starts runs with any more. For a slow duty; how many."""
    gone = await tx.fetch(
        """delete from warm_images where image_id in (
               select image_id from warm_images join environments on environments.id = warm_images.environment_id
               where warm_images.version is distinct from environments.current_version
                 and not exists (select from workers where workers.environment_id = warm_images.environment_id
                                 and workers.version = warm_images.version and workers.expires_at > $1)
                 and not exists (select from runs where runs.environment_id = warm_images.environment_id
                                 and runs.finished_at is null and runs.locked_version = warm_images.version)
               order by image_id for update of warm_images skip locked)
           returning image_id""",
        now,
    )
    await images.let_go(tx, [row["image_id"] for row in gone], now=now)
    return len(gone)

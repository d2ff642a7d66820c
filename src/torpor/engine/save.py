"""A save point: a checkpoint after which the process goes on."""

from datetime import datetime

from torpor.engine import checkpoints, events, usage
from torpor.engine.images import Gone
from torpor.engine.locks import in_turn, lock_leased
from torpor.engine.outcomes import ImageRejected, Lease, Ok, Stale
from torpor.store.database import Transaction
from torpor.wire.http import SaveReport


async def save(
    tx: Transaction, lease: Lease, report: SaveReport, *, worker_id: str, now: datetime
) -> Ok | Stale | Gone | ImageRejected:
    """The run's state stays; from here on it comes back from this checkpoint when its process is lost. It is progress: what
    was taken back before counts no more.

    For the worker that holds the lease, after the image is durable. Ok also for the same report twice. A crash in between
    costs an image that nobody knows, which is found as a stray.
    """
    run = await lock_leased(tx, lease)
    if isinstance(run, Stale):
        return run
    image = report.checkpoint
    if await tx.fetchval("select true from checkpoints where id = $1 and run_id = $2", image.id, run.id):
        return Ok()
    is_news = await in_turn(tx, run, report.nth)
    if isinstance(is_news, Stale):
        return is_news
    refused = await checkpoints.accept(
        tx,
        run,
        image,
        worker_id=worker_id,
        open_waits=report.open_waits,
        waiting_at=report.waiting_at,
        now=now,
    )
    if refused is not None:
        return refused
    await usage.note(tx, run, report.usage)
    await tx.execute(
        "update runs set checkpoint_id = $2, rescues = 0, updated_at = $3 where id = $1", run.id, image.id, now
    )
    data = checkpoints.told(image, worker_id, report.waiting_at)
    await events.record(tx, run.id, "run.saved", now=now, attempt=run.attempt, data=data)
    return Ok()

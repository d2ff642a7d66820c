"""A run's checkpoints: how an image becomes the newest of them (what suspend, save and move have in common), and how long
each is kept.

    usable    the run itself may be restored from it
    kept      it isn't used for the run any more (an attempt began from the top, or the run is over), but forks may begin
              there: until `kept_until`, once the run is over
    dropped   nobody may: its image can be deleted (garbage.py)
    unusable  nobody can: it is damaged, and says why

While the run lives these are kept: its named save points, up to a hundred, and the newest few of the others
(`Checkpoints(keep_last=…)`).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from torpor.engine import images
from torpor.engine.images import Gone
from torpor.engine.outcomes import ImageRejected
from torpor.store.database import Transaction
from torpor.store.records import Run
from torpor.wire.http import StoredCheckpoint

KEEP_LAST = 2
KEEP_NAMED = 100
"""So many that nobody misses one; a loop that saves itself for ever fills no store all the same."""


def image_of(checkpoint: StoredCheckpoint) -> str:
    """What is stored of it."""
    return checkpoint.image_id or checkpoint.id


def store_of(checkpoint: StoredCheckpoint, worker_id: str) -> str:
    """Where that is; a worker that names no store has it on its own disk."""
    return checkpoint.store_id or own_store(worker_id)


def own_store(worker_id: str) -> str:
    """The store of a worker that keeps images on its own disk."""
    return f"worker:{worker_id}"


async def accept(
    tx: Transaction,
    run: Run,
    checkpoint: StoredCheckpoint,
    *,
    worker_id: str,
    open_waits: Sequence[str],
    waiting_at: Sequence[dict[str, Any]],
    now: datetime,
) -> Gone | ImageRejected | None:
    """Refer to this image, and make it the run's newest checkpoint; None when that is done. The caller holds the run's row
    and writes `checkpoint_id`.

    Gone: some of its packs are being deleted. ImageRejected: the image itself is, as nobody reported it for so long.
    Neither has changed anything.
    """
    refused = await images.refer(
        tx, run.environment_id, checkpoint, image_of(checkpoint), store_of(checkpoint, worker_id), now=now
    )
    if refused is not None:
        return refused
    await tx.execute(
        """insert into checkpoints (id, run_id, worker_id, attempt, state, open_waits, size_bytes, files_bytes, dump_ms,
                                    durable_ms, rss_bytes, facts, waiting_at, created_at, number, image_id, kind, name,
                                    store_id, digest, key_id, base, new_bytes, shared_bytes, environment_id)
           values ($1, $2, $3, $4, 'usable', $5, $6, $7, $8, $9, $10, $11, $12, $13,
                   (select coalesce(max(number), 0) + 1 from checkpoints where run_id = $2),
                   $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)""",
        checkpoint.id,
        run.id,
        worker_id,
        run.attempt,
        list(open_waits),
        checkpoint.size_bytes,
        checkpoint.files_bytes,
        checkpoint.dump_ms,
        checkpoint.durable_ms,
        checkpoint.rss_bytes,
        checkpoint.facts,
        list(waiting_at),
        now,
        image_of(checkpoint),
        checkpoint.kind,
        checkpoint.name,
        store_of(checkpoint, worker_id),
        checkpoint.digest,
        checkpoint.key_id,
        checkpoint.base,
        checkpoint.new_bytes,
        checkpoint.shared_bytes,
        run.environment_id,
    )
    await _drop_older(tx, run, checkpoint.id, now=now)
    return None


def told(checkpoint: StoredCheckpoint, worker_id: str, waiting_at: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the run's story says of it."""
    return {
        "checkpoint_id": checkpoint.id,
        "kind": checkpoint.kind,
        "name": checkpoint.name,
        "worker_id": worker_id,
        "size_bytes": checkpoint.size_bytes,
        "new_bytes": checkpoint.new_bytes,
        "shared_bytes": checkpoint.shared_bytes,
        "files_bytes": checkpoint.files_bytes,
        "dump_ms": checkpoint.dump_ms,
        "durable_ms": checkpoint.durable_ms,
        "rss_bytes": checkpoint.rss_bytes,
        "waiting_at": list(waiting_at),
    }


async def _drop_older(tx: Transaction, run: Run, newest_id: str, *, now: datetime) -> None:
    """Keep what the task's policy says, and let the others go."""
    policy = await tx.fetchval(
        "select checkpoints from tasks where environment_id = $1 and version = $2 and id = $3",
        run.environment_id,
        run.version,
        run.task_id,
    )
    rows = await tx.fetch(
        """with ranked as (
               select id, row_number() over (partition by name is null order by number desc) as place, name
               from checkpoints where run_id = $1 and state in ('usable', 'kept'))
           update checkpoints set state = 'dropped' from ranked
           where checkpoints.id = ranked.id and checkpoints.id <> $2
             and ranked.place > case when ranked.name is null then $3::int else $4 end
           returning checkpoints.image_id""",
        run.id,
        newest_id,
        max((policy or {}).get("keep_last", KEEP_LAST), 1),
        KEEP_NAMED,
    )
    await images.let_go(tx, [row["image_id"] for row in rows], now=now)


async def set_aside(tx: Transaction, run_id: str, *, now: datetime) -> None:
    """The run begins again from the top: it won't be restored from any of these, but they can be looked at and forked."""
    del now
    await tx.execute("update checkpoints set state = 'kept' where run_id = $1 and state = 'usable'", run_id)


async def keep_for_a_while(tx: Transaction, run: Run, *, now: datetime) -> None:
    """The run is over: what it has left is kept for forks, as long as its task's policy, or the server, says."""
    rows = await tx.fetch(
        """with policy as (
               select coalesce(
                   (select (tasks.checkpoints->>'keep_s')::float8 from tasks where tasks.environment_id = $2
                        and tasks.version = $3 and tasks.id = $4),
                   (select checkpoint_retention_s from environments where id = $2)) as keep_s)
           update checkpoints set
               -- What lies on a worker's own disk can't be forked.
               state = case when policy.keep_s > 0 and digest <> '' then 'kept' else 'dropped' end,
               kept_until = $5::timestamptz + make_interval(secs => policy.keep_s)
           from policy where run_id = $1 and state in ('usable', 'kept')
           returning case when state = 'dropped' then image_id end as image_id""",
        run.id,
        run.environment_id,
        run.version,
        run.task_id,
        now,
    )
    await images.let_go(tx, [row["image_id"] for row in rows if row["image_id"]], now=now)


async def expire_checkpoints(tx: Transaction, *, limit: int = 500, now: datetime) -> int:
    """Drop checkpoints of ended runs that were kept long enough. For a slow duty of the server; how many.

    It locks their runs, as whoever forks one does; those that are locked are left to the next time.
    """
    locked = await tx.fetch(
        """select id from runs where id in (
               select run_id from checkpoints where kept_until <= $1 and state = 'kept' order by kept_until limit $2)
           order by id for no key update skip locked""",
        now,
        limit,
    )
    rows = await tx.fetch(
        """update checkpoints set state = 'dropped' where run_id = any($1::text[]) and kept_until <= $2 and state = 'kept'
           returning image_id""",
        [row["id"] for row in locked],
        now,
    )
    await images.let_go(tx, [row["image_id"] for row in rows], now=now)
    return len(rows)


async def keep(tx: Transaction, worker_id: str, ids: list[str], *, now: datetime) -> list[str]:
    """Of these images on that worker's own disk, those that a run may still be restored from.

    For the census of a worker that has no object store, which deletes the others. An image that is not known here may be
    one whose `suspend` is under way: the worker spares those younger than ten minutes. Changes nothing.
    """
    del now  # a verb like the others; what is needed doesn't depend on the hour
    rows = await tx.fetch(
        """select id from checkpoints
           where id = any($1::text[]) and store_id = $2 and state in ('usable', 'kept')""",
        ids,
        own_store(worker_id),
    )
    return [row["id"] for row in rows]

"""Delete what has been over for long, in steps so small that nobody notices.

Each function is one step: it deletes at most `rows` rows, locks with SKIP LOCKED, and says where the next step goes on.
What is kept for however long it takes: everything that lives, what a living run waits for or may ask again, the children
of living runs, and what an idempotency key still stands for. Of a run everything goes together, its row last; so a run
with a million log lines takes many steps, and one that is deleted half way is deleted to the end by whoever comes next.

Objects of the object store go after their row: the caller deletes those that a step names. (A crash between leaves an
object that no row names, which the caller's sweep finds.)

A run whose checkpoints are still kept for forks is kept with them. Their images are garbage.py's business.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from torpor.store.database import Transaction

ROWS = 500
"""The most that one step deletes."""
RUNS = 50
"""The most runs that one step looks into."""
WORKER_FORGOTTEN_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Place:
    """How far a pass has come: the end of the last row it looked at, and its id."""

    at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """`rows` were deleted, among them `ended` runs, tokens or batches. `place`: go on from there; None: that was all."""

    rows: int = 0
    ended: int = 0
    objects: list[str] = field(default_factory=list)
    place: Place | None = None


# Why an ended run is kept. Asked twice: of candidates, and, by a new look, once they are locked. What could speak against
# it after that needs a share of the run's row (a wait for it), or an idempotency key that is still good, which keeps it.
_KEPT = """
    exists (select from idempotency_keys where idempotency_keys.run_id = runs.id and expires_at > $1)
    or exists (select from runs parent where parent.id = runs.parent_run_id and parent.finished_at is null)
    or exists (select from waitpoints join waits on waits.waitpoint_id = waitpoints.id
               join runs waiter on waiter.id = waits.run_id
               where waitpoints.awaited_run_id = runs.id and waiter.finished_at is null)
    or exists (select from batch_items where batch_items.run_id = runs.id)
    or exists (select from runs hooks where hooks.hook_of = runs.id)
    or exists (select from cascades where cascades.run_id = runs.id)
    or exists (select from checkpoints where checkpoints.run_id = runs.id and checkpoints.state in ('usable', 'kept'))"""


async def prune_runs(
    tx: Transaction, *, before: datetime, place: Place | None = None, rows: int = ROWS, now: datetime
) -> Pruned:
    """Runs that ended before that instant, oldest first, with all that is theirs: events, logs, streams, attempts, waits, …."""
    start = place or Place(datetime.min.replace(tzinfo=now.tzinfo), "")
    found = await tx.fetch(
        """select id, finished_at from runs where finished_at < $1 and (finished_at, id) > ($2, $3)
           order by finished_at, id limit $4""",
        before,
        start.at,
        start.id,
        RUNS,
    )
    if not found:
        return Pruned()
    locked = await tx.fetch(
        f"select id from runs where id = any($2::text[]) and not ({_KEPT}) order by id for update skip locked",
        now,
        [row["id"] for row in found],
    )
    doomed = await tx.fetch(
        f"select id, payload_object, output_object from runs where id = any($2::text[]) and not ({_KEPT}) order by id",
        now,
        [row["id"] for row in locked],
    )
    ids = [row["id"] for row in doomed]
    deleted = await _delete_what_is_theirs(tx, ids, rows, now)
    if deleted >= rows:
        return Pruned(deleted, place=start)  # the same runs again: they may have more
    # A replay has its payload's object from the run that it repeats.
    shared = await tx.fetch(
        "select payload_object from runs where payload_object = any($2::text[]) and not id = any($1::text[])",
        ids,
        [row["payload_object"] for row in doomed],
    )
    kept = {None, *(row["payload_object"] for row in shared)}
    objects = {name for row in doomed for name in (row["payload_object"], row["output_object"])} - kept
    await tx.execute("delete from runs where id = any($1::text[])", ids)
    last = found[-1]
    return Pruned(deleted + len(ids), len(ids), sorted(objects), Place(last["finished_at"], last["id"]))


OF_RUNS = [
    f"delete from {table} where ctid = any(array(select ctid from {table} where run_id = any($1::text[]) limit $2))"
    for table in ("logs", "events", "checkpoints", "attempts", "waits", "idempotency_keys")
]
OF_RUNS += [
    """delete from stream_chunks where ctid = any(array(
           select stream_chunks.ctid from stream_chunks join streams on streams.id = stream_id
           where run_id = any($1::text[]) limit $2))""",
    "delete from streams where ctid = any(array(select ctid from streams where run_id = any($1::text[]) limit $2))",
]
_THEIR_WAITPOINTS = """
    select id from waitpoints
    where (awaited_run_id = any($1::text[])
           or created_by_run_id = any($1::text[])
              and (kind = 'time' or kind = 'token' and coalesce(idempotency_key_expires_at <= $2, true)))
      and not exists (select from waits join runs on runs.id = waits.run_id
                      where waits.waitpoint_id = waitpoints.id and runs.finished_at is null)
    order by id limit $3 for update skip locked"""


async def _delete_what_is_theirs(tx: Transaction, ids: list[str], rows: int, now: datetime) -> int:
    """Everything that refers to these runs, up to so many rows; fewer mean that nothing is left."""
    deleted = 0
    for statement in OF_RUNS:
        if deleted < rows:
            deleted += count(await tx.execute(statement, ids, rows - deleted))
    if deleted < rows:
        found = await tx.fetch(_THEIR_WAITPOINTS, ids, now, rows - deleted)
        deleted += await delete_waitpoints(tx, [row["id"] for row in found])
    return deleted


async def delete_waitpoints(tx: Transaction, ids: list[str]) -> int:
    """With the ties of other runs that have ended."""
    ties = count(await tx.execute("delete from waits where waitpoint_id = any($1::text[])", ids))
    return ties + count(await tx.execute("delete from waitpoints where id = any($1::text[])", ids))


async def prune_logs(
    tx: Transaction, *, before: datetime, place: int = 0, rows: int = ROWS, now: datetime
) -> tuple[Pruned, int | None]:
    """What runs that ended before that instant have said, oldest first. With it where to go on; None: that was all."""
    del now
    found = await tx.fetch("select id, run_id, at from logs where id > $1 order by id limit $2", place, rows)
    over = await tx.fetch(
        "select id from runs where id = any($1::text[]) and finished_at < $2", {row["run_id"] for row in found}, before
    )
    old = {row["id"] for row in over}
    ids = [row["id"] for row in found if row["run_id"] in old]
    await tx.execute("delete from logs where id = any($1::bigint[])", ids)
    # Lines are as old as they are numbered, but for clocks that were wrong: a whole page of young ones is the end.
    is_last = len(found) < rows or all(row["at"] >= before for row in found)
    return Pruned(len(ids)), None if is_last else found[-1]["id"]


async def prune_streams(tx: Transaction, *, before: datetime, rows: int = ROWS, now: datetime) -> Pruned:
    """Chunks of streams that came before that instant, of the stream with the oldest one. Call again until none are deleted.

    The stream stays, as long as its run: what is appended to it has the next number.
    """
    del now
    stream = await tx.fetchrow(
        "select id from streams where oldest_at < $1 order by oldest_at limit 1 for no key update skip locked", before
    )
    if stream is None:
        return Pruned()
    # Its chunks are as old as they are numbered, but for clocks that were wrong: the first young one is where it ends.
    deleted = await tx.fetch(
        """with oldest as (select seq, at, octet_length(body) as size from stream_chunks
                         where stream_id = $1 order by seq limit $2)
           delete from stream_chunks using oldest
           where stream_id = $1 and stream_chunks.seq = oldest.seq
             and oldest.seq < coalesce((select min(seq) from oldest where at >= $3), 9223372036854775807)
           returning oldest.size""",
        stream["id"],
        rows,
        before,
    )
    await tx.execute(
        """update streams set size_bytes = size_bytes - $2,
               oldest_at = (select at from stream_chunks where stream_id = $1 order by seq limit 1) where id = $1""",
        stream["id"],
        sum(row["size"] for row in deleted),
    )
    return Pruned(len(deleted))


async def prune_batches(
    tx: Transaction, *, before: datetime, place: Place | None = None, rows: int = ROWS, now: datetime
) -> Pruned:
    """Batches that were complete before that instant, with their items. Their runs can go after them."""
    start = place or Place(datetime.min.replace(tzinfo=now.tzinfo), "")
    found = await tx.fetch(
        """select id, completed_at from batches where completed_at < $1 and (completed_at, id) > ($2, $3)
           order by completed_at, id limit $4""",
        before,
        start.at,
        start.id,
        RUNS,
    )
    if not found:
        return Pruned()
    doomed = await tx.fetch(
        """select id, waitpoint_id from batches
           where id = any($1::text[]) and settled_at is not null and coalesce(idempotency_key_expires_at <= $2, true)
             and not exists (select from runs parent where parent.id = batches.parent_run_id and parent.finished_at is null)
             and not exists (select from waits join runs waiter on waiter.id = waits.run_id
                             where waits.waitpoint_id = batches.waitpoint_id and waiter.finished_at is null)
           order by id for update skip locked""",
        [row["id"] for row in found],
        now,
    )
    ids = [row["id"] for row in doomed]
    deleted = count(
        await tx.execute(
            """delete from batch_items where ctid = any(array(
                   select ctid from batch_items where batch_id = any($1::text[]) limit $2))""",
            ids,
            rows,
        )
    )
    if deleted >= rows:
        return Pruned(deleted, place=start)
    await tx.execute("delete from batches where id = any($1::text[])", ids)
    deleted += len(ids) + await delete_waitpoints(tx, [row["waitpoint_id"] for row in doomed])
    return Pruned(deleted, len(ids), place=Place(found[-1]["completed_at"], found[-1]["id"]))


async def prune_tokens(
    tx: Transaction, *, before: datetime, place: Place | None = None, rows: int = ROWS, now: datetime
) -> Pruned:
    """Tokens that were completed, or timed out, before that instant, unless a run that lives has waited for them.

    One that is still open stays: whoever has its URL may answer it, and a run may come to wait for it.
    """
    start = place or Place(datetime.min.replace(tzinfo=now.tzinfo), "")
    found = await tx.fetch(
        """select id, completed_at from waitpoints
           where kind = 'token' and completed_at < $1 and (completed_at, id) > ($2, $3)
           order by completed_at, id limit $4""",
        before,
        start.at,
        start.id,
        RUNS,
    )
    if not found:
        return Pruned()
    doomed = await tx.fetch(
        """select id, output_object from waitpoints
           where id = any($1::text[]) and coalesce(idempotency_key_expires_at <= $2, true)
             and not exists (select from waits join runs waiter on waiter.id = waits.run_id
                             where waits.waitpoint_id = waitpoints.id and waiter.finished_at is null)
           order by id limit $3 for update skip locked""",
        [row["id"] for row in found],
        now,
        rows,
    )
    ids = [row["id"] for row in doomed]
    deleted = await delete_waitpoints(tx, ids)
    objects = [row["output_object"] for row in doomed if row["output_object"]]
    return Pruned(deleted, len(ids), objects, Place(found[-1]["completed_at"], found[-1]["id"]))


async def prune_keys(tx: Transaction, *, rows: int = ROWS, now: datetime) -> Pruned:
    """Idempotency keys that have expired. Call again until none are deleted."""
    deleted = await tx.execute(
        """delete from idempotency_keys where (environment_id, task_id, key) in (
               select environment_id, task_id, key from idempotency_keys where expires_at <= $1
               limit $2 for update skip locked)""",
        now,
        rows,
    )
    return Pruned(count(deleted))


async def prune_versions(tx: Transaction, *, before: datetime, rows: int = ROWS, now: datetime) -> Pruned:
    """What versions' tasks look like, of versions reported before that instant that nobody has or needs any more: not
    the environment, not a worker, not a run that lives. After the last of its tasks goes the deployment.
    """
    del now
    deployments = await tx.execute(
        """delete from deployments where id in (
               select id from deployments where created_at < $1
                 and not exists (select from environments where environments.id = deployments.environment_id
                                 and current_version = deployments.version)
                 and not exists (select from workers where workers.environment_id = deployments.environment_id
                                 and workers.version = deployments.version)
                 and not exists (select from tasks where tasks.environment_id = deployments.environment_id
                                 and tasks.version = deployments.version)
               limit $2)""",
        before,
        rows,
    )
    deleted = await tx.execute(
        """delete from tasks where (environment_id, version, id) in (
               select environment_id, version, id from tasks
               where reported_at < $1
                 and not exists (select from environments
                                 where environments.id = tasks.environment_id and current_version = tasks.version)
                 and not exists (select from workers where workers.environment_id = tasks.environment_id
                                 and workers.version = tasks.version)
                 and not (environment_id, version) in (
                     select environment_id, version from runs where finished_at is null and version is not null
                     union select environment_id, locked_version from runs
                           where finished_at is null and locked_version is not null)
               limit $2)""",
        before,
        rows,
    )
    return Pruned(count(deployments) + count(deleted))


async def prune_workers(tx: Transaction, *, now: datetime) -> Pruned:
    """Workers that were not seen for a month, unless a run that lives has its image there, or is held there."""
    deleted = await tx.execute(
        """delete from workers where id in (
               select id from workers where seen_at < $1
                 and not exists (select from runs where runs.worker_id = workers.id)
                 and not exists (select from checkpoints
                                 where checkpoints.worker_id = workers.id and state = 'usable')
               for update skip locked)""",
        now - timedelta(seconds=WORKER_FORGOTTEN_S),
    )
    return Pruned(count(deleted))


async def unused_objects(tx: Transaction, names: list[str], *, now: datetime) -> list[str]:
    """Of these objects those that no row names: what a crash between an object and its row has left. Changes nothing.

    For a sweep of what was put a good while ago: a row is written within moments of its object.
    """
    del now
    rows = await tx.fetch(
        """select name from unnest($1::text[]) as name
           where not exists (select from runs where payload_object = name)
             and not exists (select from runs where output_object = name)
             and not exists (select from waitpoints where output_object = name)""",
        names,
    )
    return [row["name"] for row in rows]


def count(status: str) -> int:
    """How many rows a statement has deleted, from its `DELETE 5`."""
    return int(status.rpartition(" ")[2])

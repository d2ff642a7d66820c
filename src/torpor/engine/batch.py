"""Batches: many runs triggered together, and one waitpoint for the end of them all.

    create_batch -> add_items, chunk by chunk -> sealed -> the last run ends (batch_end.py) -> the waitpoint is completed
                         | nothing more comes
                         +-> abort_batches: what is missing counts as failed, and nobody waits for it

What must never be: a batch that stays open although each of its runs has ended. An item counts as pending unless its run
has ended already, so `add_items` holds a share of every run that it joins (`end` has that row for itself) until the
item is there for `end` to find. An item whose run is new is safe: nobody sees that run before the item.

One chunk of a batch comes in at a time (an advisory lock, taken before any row): the batch's own row is locked last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import asyncpg

from torpor import ids
from torpor.engine import events
from torpor.engine.draft import TriggerRequest
from torpor.engine.instants import after, to_iso
from torpor.engine.locks import fenced, share_runs
from torpor.engine.outcomes import Lease, Stale, Unknown
from torpor.engine.states import ENDS
from torpor.engine.trigger import Triggered, trigger_all
from torpor.store.database import Transaction
from torpor.store.records import Batch, BatchItem, Run

IDEMPOTENCY_TTL_S = 30 * 24 * 3600.0
ABORT_AFTER_S = 30 * 60.0
ABORT_LIMIT = 20
Why = Callable[[str, object], str]
NEVER_CAME = "this item never came: whoever made the batch stopped before it"


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A batch that somebody is about to fill. Without a `run_count` it grows until it is sealed."""

    batch_id: str | None = None  # made by the client: the same request twice is the same batch
    run_count: int | None = None
    idempotency_key: str | None = None
    idempotency_key_ttl_s: float | None = None
    parent_lease: Lease | None = None  # from inside a run


@dataclass(frozen=True, slots=True)
class BatchCreated:
    """The batch, new, or (`is_cached`) the one that this request or its idempotency key had made before.

    A cached one that is not sealed waits for the rest of its items.
    """

    batch_id: str
    run_count: int
    is_cached: bool
    is_sealed: bool


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to add: what to trigger, or why it can't be."""

    index: int
    task_id: str
    request: TriggerRequest | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Unstorable:
    """An item holds a value that the database can't, such as a tag with a NUL character."""

    problem: str


@dataclass(frozen=True, slots=True)
class ItemsAdded:
    """What became of these items, in their order. `accepted` of them were new."""

    items: list[BatchItem]
    accepted: int
    run_count: int
    item_count: int
    is_sealed: bool


@dataclass(frozen=True, slots=True)
class BatchClosed:
    """The batch is sealed (or was aborted) and has no such item. Nothing has changed."""

    index: int
    is_aborted: bool


@dataclass(frozen=True, slots=True)
class Misplaced:
    """An index that the announced batch doesn't have. Nothing has changed."""

    index: int
    run_count: int


async def create_batch(
    tx: Transaction, environment_id: str, request: BatchRequest, *, now: datetime
) -> BatchCreated | Stale:
    """Open a batch. For the API, and for user code through its worker (`parent_lease`; Stale: that process is void).

    A batch that was aborted gives its idempotency key back: the caller may try again.
    """
    lease = request.parent_lease
    if lease is not None:
        parent = fenced((await share_runs(tx, [lease.run_id])).get(lease.run_id), lease)
        if isinstance(parent, Stale):
            return parent
    if request.idempotency_key:
        await tx.execute(
            """update batches set idempotency_key = null
               where environment_id = $1 and idempotency_key = $2 and (idempotency_key_expires_at <= $3 or is_aborted)""",
            environment_id,
            request.idempotency_key,
            now,
        )
    batch_id = request.batch_id or ids.new("batch")
    known = await _known(tx, environment_id, request)
    if known is not None:
        return _created(known, is_cached=True)
    row = await _insert(tx, environment_id, batch_id, request, now=now)
    if row is None:  # a twin was quicker
        known = await _known(tx, environment_id, request)
        assert known is not None, "a batch id of another environment was sent"
        return _created(known, is_cached=True)
    if lease is not None:
        data = {"batch_id": batch_id, "run_count": request.run_count}
        await events.record(tx, lease.run_id, "batch.created", now=now, data=data)
    await events.announce(tx, "batches")
    return _created(row, is_cached=False)


async def _known(tx: Transaction, environment_id: str, request: BatchRequest) -> Batch | None:
    row = await tx.fetchrow(
        """select * from batches where environment_id = $1 and (id = $2 or idempotency_key = $3)
           order by id = $2 desc limit 1""",
        environment_id,
        request.batch_id,
        request.idempotency_key,
    )
    return Batch.of(row) if row else None


async def _insert(
    tx: Transaction, environment_id: str, batch_id: str, request: BatchRequest, *, now: datetime
) -> Batch | None:
    """The batch with its waitpoint; None if a twin was quicker. A batch of nothing is complete from the start."""
    is_empty = request.run_count == 0
    waitpoint_id = ids.new("waitpoint")
    ttl_s = IDEMPOTENCY_TTL_S if request.idempotency_key_ttl_s is None else request.idempotency_key_ttl_s
    row = await tx.fetchrow(
        """with made as (
               insert into batches (id, environment_id, waitpoint_id, parent_run_id, run_count, is_counted, pending,
                   is_sealed, idempotency_key, idempotency_key_expires_at, created_at, updated_at, sealed_at, completed_at,
                   settled_at)
               values ($1, $2, $3, $4, $5, $6, $5, $7, $8, $9, $10, $10, $11, $11, $11)
               on conflict do nothing returning *),
           waitpoint as (
               insert into waitpoints (id, environment_id, kind, status, batch_id, output, created_by_run_id, created_at,
                   completed_at)
               select $3, $2, 'batch', $12, $1, $13, $4, $10, $11 from made)
           select * from made""",
        batch_id,
        environment_id,
        waitpoint_id,
        request.parent_lease.run_id if request.parent_lease else None,
        request.run_count or 0,
        request.run_count is not None,
        is_empty,
        request.idempotency_key,
        after(now, ttl_s) if request.idempotency_key else None,
        now,
        now if is_empty else None,
        "completed" if is_empty else "pending",
        "[]" if is_empty else None,
    )
    return Batch.of(row) if row else None


def _created(batch: Batch, *, is_cached: bool) -> BatchCreated:
    return BatchCreated(batch.id, batch.run_count, is_cached, batch.is_sealed)


async def add_items(
    tx: Transaction,
    environment_id: str,
    batch_id: str,
    items: Sequence[NewItem],
    *,
    seal: bool = False,
    lease: Lease | None = None,
    why: Why = lambda task_id, outcome: f"{task_id}: {outcome}",
    now: datetime,
) -> ItemsAdded | BatchClosed | Misplaced | Unknown | Stale:
    """Make runs of these items, or join the runs that their idempotency keys stand for.

    For who created the batch (`lease`: from inside a run; Stale: that process is void). An item that can't become a run
    is kept with the reason (`why` puts an outcome of `trigger` into words), and counts as failed. An item that came
    before is answered as it was then. The batch is sealed with the last item that was announced, or by `seal`: then what
    hasn't come will never be asked for.
    """
    await tx.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", batch_id)
    row = await tx.fetchrow("select * from batches where id = $1 and environment_id = $2", batch_id, environment_id)
    if row is None:
        return Unknown()
    batch = Batch.of(row)  # only its counts of runs that have ended may move before it is locked
    known = await _items(tx, batch_id, [item.index for item in items])
    fresh = list({item.index: item for item in reversed(items) if item.index not in known}.values())[::-1]
    for item in fresh:
        if batch.is_sealed:
            return BatchClosed(item.index, batch.is_aborted)
        if batch.is_counted and item.index >= batch.run_count:
            return Misplaced(item.index, batch.run_count)
    made = await _make_runs(tx, batch, fresh, lease, why, now=now)
    if isinstance(made, Stale):
        return made
    if not batch.is_sealed and (made.items or seal):
        batch = await _count(tx, batch, made, seal=seal, now=now)
    known |= {item.index: item for item in made.items}
    return ItemsAdded(
        items=[known[index] for index in dict.fromkeys(item.index for item in items)],
        accepted=len(made.items),
        run_count=batch.run_count,
        item_count=batch.item_count,
        is_sealed=batch.is_sealed,
    )


async def _items(tx: Transaction, batch_id: str, indexes: list[int]) -> dict[int, BatchItem]:
    rows = await tx.fetch("select * from batch_items where batch_id = $1 and index = any($2::int[])", batch_id, indexes)
    return {row["index"]: BatchItem.of(row) for row in rows}


@dataclass(slots=True)
class _Made:
    """What a chunk of items has become, before it is written down."""

    items: list[BatchItem] = field(default_factory=list)
    over: int = 0  # those that nobody has to wait for

    @property
    def failed(self) -> int:
        return sum(item.run_id is None for item in self.items)


async def _make_runs(
    tx: Transaction, batch: Batch, fresh: list[NewItem], lease: Lease | None, why: Why, *, now: datetime
) -> _Made | Stale:
    """The runs of these items. Shares of those that are joined are held from here on, so that none ends unseen."""
    fresh.sort(key=lambda item: item.index)
    requests = {
        item.index: replace(item.request, batch_id=batch.id, batch_index=item.index) for item in fresh if item.request
    }
    shared = await _share_known_runs(tx, batch.environment_id, list(requests.values()), lease)
    if lease is not None:
        parent = fenced(shared.get(lease.run_id), lease)
        if isinstance(parent, Stale):
            return parent
    outcomes = await _trigger_storable(tx, batch.environment_id, list(requests.values()), now=now)
    joined = {outcome.run_id for outcome in outcomes if isinstance(outcome, Triggered) and outcome.is_cached}
    made = {outcome.run_id for outcome in outcomes if isinstance(outcome, Triggered) and not outcome.is_cached}
    if missed := joined - made - shared.keys():  # taken a moment ago: rare, and the one place out of the order
        shared |= await share_runs(tx, missed)
    became = dict(zip(requests, outcomes, strict=True))
    written = _Made()
    for item in fresh:
        match became.get(item.index):
            case Triggered(run_id=run_id, is_cached=is_cached):
                written.items.append(BatchItem(batch.id, item.index, item.task_id, run_id, is_cached, None))
                is_there = run_id in made or (run_id in shared and shared[run_id].state not in ENDS)
                written.over += not is_there
            case outcome:
                error = item.error or why(item.task_id, outcome)
                written.items.append(BatchItem(batch.id, item.index, item.task_id, None, False, error))
                written.over += 1
    await _write(tx, written.items)
    return written


async def _share_known_runs(
    tx: Transaction, environment_id: str, requests: list[TriggerRequest], lease: Lease | None
) -> dict[str, Run]:
    """Shares of the parent and of the runs that these idempotency keys stand for now, in the one order."""
    keyed = [request for request in requests if request.idempotency_key]
    holders = await tx.fetch(
        """select run_id from idempotency_keys join unnest($2::text[], $3::text[]) as wanted (task_id, key)
               using (task_id, key)
           where environment_id = $1""",
        environment_id,
        [request.task_id for request in keyed],
        [request.idempotency_key for request in keyed],
    )
    run_ids = {row["run_id"] for row in holders}
    return await share_runs(tx, run_ids | {lease.run_id} if lease else run_ids)


async def _trigger_storable(
    tx: Transaction, environment_id: str, requests: list[TriggerRequest], *, now: datetime
) -> list[object]:
    """All at once; if one holds what can't be stored, each by itself, so that it fails alone."""
    if not requests:
        return []
    savepoint = tx.savepoint()
    await savepoint.start()
    try:
        outcomes: list[object] = [*await trigger_all(tx, environment_id, requests, now=now)]
    except asyncpg.DataError as error:
        await savepoint.rollback()
        if len(requests) == 1:
            return [Unstorable(str(error))]
        return [(await _trigger_storable(tx, environment_id, [request], now=now))[0] for request in requests]
    await savepoint.commit()
    return outcomes


async def _write(tx: Transaction, items: list[BatchItem]) -> None:
    if not items:
        return
    await tx.execute(
        """insert into batch_items (batch_id, index, task_id, run_id, is_cached, error)
           select $1, * from unnest($2::int[], $3::text[], $4::text[], $5::bool[], $6::text[])""",
        items[0].batch_id,
        [item.index for item in items],
        [_storable(item.task_id) for item in items],
        [item.run_id for item in items],
        [item.is_cached for item in items],
        [None if item.error is None else _storable(item.error) for item in items],
    )
    # New runs have been announced. Who follows the batch learns of those that were there before.
    if joined := [{"run_id": item.run_id} for item in items if item.is_cached]:
        await tx.notify_all("run", joined)


def _storable(text: str) -> str:
    """Without the one character that Postgres can't hold."""
    return text.replace("\0", "\ufffd")


async def _count(tx: Transaction, batch: Batch, made: _Made, *, seal: bool, now: datetime) -> Batch:
    """The batch with this chunk in its counts, sealed if that was the last one."""
    accepted = len(made.items)
    item_count = batch.item_count + accepted
    run_count = max(batch.run_count, item_count)
    is_sealed = seal or (batch.is_counted and item_count == run_count)
    missing = run_count - item_count if is_sealed else 0
    announced = run_count - batch.run_count
    row = await tx.fetchrow(
        """update batches set item_count = $2, run_count = $3, failed_items = failed_items + $4, is_sealed = $5,
               sealed_at = $6, updated_at = $7, pending = pending + $8,
               completed_at = case when $5 and pending + $8 = 0 then $7::timestamptz end
           where id = $1 returning *""",
        batch.id,
        item_count,
        run_count - missing,
        made.failed,
        is_sealed,
        now if is_sealed else None,
        now,
        announced - made.over - missing,
    )
    if is_sealed:
        await _seal(tx, Batch.of(row), now=now)
    await events.announce(tx, "batches")
    return Batch.of(row)


async def _seal(tx: Transaction, batch: Batch, *, now: datetime) -> None:
    """All items are there. If nothing is pending, the timers are told to answer; the story of the parent says so too."""
    if batch.completed_at is not None:
        await tx.notify("timer", due_at=to_iso(now))
    if await tx.fetchval("select 1 from runs where id = $1", batch.parent_run_id):  # it may have been pruned
        assert batch.parent_run_id is not None
        data = {"batch_id": batch.id, "run_count": batch.run_count, "failed_items": batch.failed_items}
        kind = "batch.aborted" if batch.is_aborted else "batch.sealed"
        await events.record(tx, batch.parent_run_id, kind, now=now, data=data)


async def abort_batches(
    tx: Transaction, *, after_s: float = ABORT_AFTER_S, limit: int = ABORT_LIMIT, now: datetime
) -> list[str]:
    """Close batches to which nothing has come for so long: what is missing counts as failed, and nobody waits for it.

    For the server's duty. Their runs go on. Ids of the batches; call it again until there are none.
    """
    rows = await tx.fetch(
        "select id from batches where not is_sealed and updated_at <= $1 order by id limit $2",
        now - timedelta(seconds=after_s),
        limit,
    )
    aborted: list[str] = []
    for row in rows:
        # In the order of ids, and not where a chunk is coming in at this moment.
        if not await tx.fetchval("select pg_try_advisory_xact_lock(hashtextextended($1, 0))", row["id"]):
            continue
        found = await tx.fetchrow("select * from batches where id = $1 and not is_sealed for no key update", row["id"])
        if found is not None and found["updated_at"] <= now - timedelta(seconds=after_s):
            await _abort(tx, Batch.of(found), now=now)
            aborted.append(row["id"])
    return aborted


async def _abort(tx: Transaction, batch: Batch, *, now: datetime) -> None:
    missing = batch.run_count - batch.item_count
    if missing:
        await tx.execute(
            """insert into batch_items (batch_id, index, task_id, error)
               select $1, series.index, '', $3 from generate_series(0, $2 - 1) as series (index)
               where not exists (select from batch_items where batch_id = $1 and batch_items.index = series.index)""",
            batch.id,
            batch.run_count,
            NEVER_CAME,
        )
    row = await tx.fetchrow(
        """update batches set is_sealed = true, is_aborted = true, sealed_at = $2, updated_at = $2,
               failed_items = failed_items + $3, pending = pending - $3, item_count = run_count,
               completed_at = case when pending = $3 then $2::timestamptz end
           where id = $1 returning *""",
        batch.id,
        now,
        missing,
    )
    await _seal(tx, Batch.of(row), now=now)
    await events.announce(tx, "batches")

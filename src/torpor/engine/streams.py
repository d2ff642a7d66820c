"""Streams: parts in a row, which a run's code appends while it works (output), or others send to it (input).

Numbers begin at 0, have no gaps, and are committed in their order: who appends holds the stream's row until the commit. The
run's row is shared meanwhile. So nothing is appended to a run that is over, and who finds that it is over finds all of its
streams. A part has an id that was made by who appends it; one that comes again, since an answer was lost, adds nothing.

The first part of a stream makes it. For that the run's row is locked, not shared: two streams at once count as two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from torpor.engine.family import Family, Target, family, lock_members, share_members
from torpor.engine.locks import fenced
from torpor.engine.outcomes import Lease, Stale, Unknown
from torpor.store.database import CHANNEL, Transaction, note

Direction = Literal["output", "input"]

MAX_INPUT_BYTES = 1024 * 1024
MAX_STREAMS = 100
"""The most streams that a run may have, in each direction: all of their keys stand in its row."""
MAX_PART_ID_CHARS = 200


@dataclass(frozen=True, slots=True)
class Part:
    """`body` is JSON."""

    id: str
    body: str


@dataclass(frozen=True, slots=True)
class Appended:
    """So many parts were new; the last one that the stream has now (-1: none)."""

    added: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class RunIsOver:
    """The run whose stream it is has ended: nothing is appended any more."""

    run_id: str


@dataclass(frozen=True, slots=True)
class StreamFull:
    """The stream would have so many bytes. Nothing was appended."""

    value: int


@dataclass(frozen=True, slots=True)
class TooManyStreams:
    """The run has as many as it may have."""


Outcome = Appended | RunIsOver | StreamFull | TooManyStreams


async def append_parts(
    tx: Transaction,
    environment_id: str,
    run_id: str,
    direction: Direction,
    key: str,
    parts: Sequence[Part],
    *,
    target: Target = "self",
    max_bytes: int,
    now: datetime,
) -> Outcome | Unknown:
    """From outside: a part of a run's output, or something that is sent to it. For the API."""
    kin = await family(tx, run_id, environment_id)
    if kin is None:
        return Unknown()
    outcome = await _append(tx, kin, None, target, direction, key, parts, max_bytes, now=now)
    assert not isinstance(outcome, Stale), "it has no lease"
    return outcome


async def report_parts(
    tx: Transaction, lease: Lease, target: Target, key: str, parts: Sequence[Part], *, max_bytes: int, now: datetime
) -> Outcome | Stale:
    """What a run's code has appended to a stream of its own, of its parent's or of its root's. For the worker that holds
    the lease.
    """
    kin = await family(tx, lease.run_id)
    if kin is None:
        return Stale(None)
    return await _append(tx, kin, lease, target, "output", key, parts, max_bytes, now=now)


async def _append(
    tx: Transaction,
    kin: Family,
    lease: Lease | None,
    target: Target,
    direction: Direction,
    key: str,
    parts: Sequence[Part],
    max_bytes: int,
    *,
    now: datetime,
) -> Outcome | Stale:
    owner_id = kin.id_of(target)
    concerned = {owner_id} if lease is None else {owner_id, lease.run_id}
    is_there = await tx.fetchval(
        "select true from streams where run_id = $1 and direction = $2 and key = $3", owner_id, direction, key
    )
    runs = await (share_members if is_there else lock_members)(tx, concerned)
    if lease is not None and isinstance(stale := fenced(runs.get(lease.run_id), lease), Stale):
        return stale
    owner = runs.get(owner_id)
    if owner is None or owner.finished_at is not None:
        return RunIsOver(owner_id)  # for so long, perhaps, that it is not there any more
    stream = await _locked(tx, owner_id, direction, key)
    fresh = await _fresh(tx, stream, parts)
    size = sum(len(part.body.encode()) for part in fresh)
    if stream is None:
        count = await tx.fetchval(
            "select count(*) from streams where run_id = $1 and direction = $2", owner_id, direction
        )
        if (count or 0) >= MAX_STREAMS:
            return TooManyStreams()
    total = size + (stream["size_bytes"] if stream else 0)
    if total > max_bytes:
        return StreamFull(total)
    if not fresh:
        return Appended(0, stream["next_seq"] - 1 if stream else -1)
    if stream is None:
        stream = await _make(tx, owner_id, direction, key, now=now)
    first: int = stream["next_seq"]
    await tx.execute(
        f"""with parts as (
                insert into stream_chunks (stream_id, seq, part_id, body, at)
                select $1, $2 + n - 1, part_id, body, $3
                from unnest($4::text[], $5::text[]) with ordinality as part (part_id, body, n)),
            stream as (
                update streams set next_seq = $2 + $6::int, size_bytes = size_bytes + $7,
                    oldest_at = coalesce(oldest_at, $3) where id = $1)
            select pg_notify('{CHANNEL}', $8)""",
        stream["id"],
        first,
        now,
        [part.id for part in fresh],
        [part.body for part in fresh],
        len(fresh),
        size,
        note("stream", run_id=owner_id, direction=direction, key=key),
    )
    return Appended(len(fresh), first + len(fresh) - 1)


async def _locked(tx: Transaction, run_id: str, direction: Direction, key: str) -> Any:
    return await tx.fetchrow(
        """select id, next_seq, size_bytes from streams where run_id = $1 and direction = $2 and key = $3
           for no key update""",
        run_id,
        direction,
        key,
    )


async def _fresh(tx: Transaction, stream: Any, parts: Sequence[Part]) -> list[Part]:
    """Those that the stream doesn't have, each once."""
    once = {part.id: part for part in parts}
    if stream is not None:
        known = await tx.fetch(
            "select part_id from stream_chunks where stream_id = $1 and part_id = any($2::text[])",
            stream["id"],
            [*once],
        )
        for row in known:
            del once[row["part_id"]]
    return [*once.values()]


async def _make(tx: Transaction, run_id: str, direction: Direction, key: str, *, now: datetime) -> Any:
    """The stream's row. Who reads the run sees the key of an output from its first part on."""
    if direction == "output":
        await tx.execute(
            "update runs set stream_keys = array_append(stream_keys, $2), updated_at = $3 where id = $1",
            run_id,
            key,
            now,
        )
        await tx.notify("run", run_id=run_id)
    return await tx.fetchrow(
        "insert into streams (run_id, direction, key) values ($1, $2, $3) returning id, next_seq, size_bytes",
        run_id,
        direction,
        key,
    )

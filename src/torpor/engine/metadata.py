"""What a run tells of itself while it works: an object that its code, its children and the API change by operations.

An operation says what to do (`increment`), not what comes of it: so many can act on one object, each under the lock of its
row, and none undoes another's. What the operations do is in wire/operations.py, since the run's own process computes
with them as well.

Not a word of it goes into the run's story: a progress bar moves a hundred times, and who follows the run is told of each
(note "run"). A run's parent and root are locked together with it, by id, as everywhere (family.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from torpor.engine.family import Family, Member, family, lock_members
from torpor.engine.locks import fenced
from torpor.engine.outcomes import Lease, Stale, Unknown
from torpor.engine.tags import MAX_TAGS, TooManyTags, with_tags
from torpor.store.database import Transaction
from torpor.wire import operations
from torpor.wire.http import MetadataReport
from torpor.wire.runner import Op

CHANGEABLE_S = 15 * 60.0
"""So long after its end a run may be told of by its children and through the API: last words come late."""

MAX_COST = 1 << 30
"""What the operations of one request or report may cost (`operations.cost`), on one run's metadata: about a second, in which
the server does nothing else."""

REQUESTS_KEPT = 16
"""So many requests through the API a run remembers: one that comes again is among its latest."""


@dataclass(frozen=True, slots=True)
class MetadataBounds:
    """How many bytes of JSON a run's metadata may have, and how many tags a run."""

    size_bytes: int = 256 * 1024
    tags: int = MAX_TAGS


BOUNDS = MetadataBounds()


@dataclass(frozen=True, slots=True)
class MetadataChange:
    """Operations on a run's metadata, its parent's and its root's."""

    own: Sequence[Op] = ()
    parent: Sequence[Op] = ()
    root: Sequence[Op] = ()


@dataclass(frozen=True, slots=True)
class Metadata:
    """The run's own, as they are now."""

    metadata: dict[str, Any]
    tags: list[str]


@dataclass(frozen=True, slots=True)
class MetadataTooLarge:
    """This run's metadata would have so many bytes. Nothing has changed, of no run."""

    run_id: str
    value: int


@dataclass(frozen=True, slots=True)
class TooManyOperations:
    """So many operations on metadata as large as this run's would take too long. Nothing has changed, of no run."""

    run_id: str
    value: int


@dataclass(frozen=True, slots=True)
class EndedLongAgo:
    """Nothing has changed: the run is over since then."""

    finished_at: datetime


async def change_metadata(
    tx: Transaction,
    environment_id: str,
    run_id: str,
    change: MetadataChange,
    *,
    request_id: str | None = None,
    bounds: MetadataBounds = BOUNDS,
    now: datetime,
) -> Metadata | MetadataTooLarge | TooManyOperations | EndedLongAgo | Unknown:
    """Carry out operations on a run that is not over, or not for long. For the API; `operations.check` has passed them.

    A request that comes again, since its answer was lost, changes nothing, if it is one of the run's latest.
    """
    kin = await family(tx, run_id, environment_id)
    if kin is None:
        return Unknown()
    runs = await lock_members(tx, _concerned(kin, change))
    run = runs.get(run_id)
    if run is None:
        return Unknown()
    if not _is_changeable(run, now):
        assert run.finished_at is not None
        return EndedLongAgo(run.finished_at)
    if request_id in run.metadata_requests:
        return Metadata(run.metadata or {}, run.tags)
    after = _carried_out(kin, runs, change, bounds.size_bytes, now)
    if not isinstance(after, dict):
        return after
    await _write(tx, after, now=now)
    if request_id is not None and after:
        latest = [*run.metadata_requests, request_id][-REQUESTS_KEPT:]
        await tx.execute("update runs set metadata_requests = $2 where id = $1", run_id, latest)
    return Metadata(after.get(run_id, run.metadata or {}), run.tags)


async def report_metadata(
    tx: Transaction, lease: Lease, report: MetadataReport, *, bounds: MetadataBounds = BOUNDS, now: datetime
) -> Metadata | MetadataTooLarge | TooManyOperations | TooManyTags | Stale:
    """What a run's code has done to its metadata, its parent's, its root's, and its tags. For the worker that holds the
    lease; `operations.check` has passed the operations.

    Reports of a lease are numbered: one that comes late, or again, changes nothing and is answered with what holds now. A
    parent or root that is over for long is left as it is: that its child still works is not the child's fault.
    """
    kin = await family(tx, lease.run_id)
    if kin is None:
        return Stale(None)
    change = MetadataChange(report.operations, report.parent_operations, report.root_operations)
    runs = await lock_members(tx, {lease.run_id, *_concerned(kin, change)})
    run = fenced(runs.get(lease.run_id), lease)
    if isinstance(run, Stale):
        return run
    own = runs[kin.run_id]  # of a hook it is another one, which is not deleted before its hook's
    if run.metadata_lease == lease.number and report.number <= run.metadata_number:
        return Metadata(own.metadata or {}, own.tags)
    after = _carried_out(kin, runs, change, bounds.size_bytes, now)
    if not isinstance(after, dict):
        return after
    tags = with_tags(own.tags, report.tags, bounds.tags)
    if isinstance(tags, TooManyTags):
        return tags
    await _write(tx, after, now=now)
    await tx.execute(
        "update runs set metadata_lease = $2, metadata_number = $3 where id = $1", run.id, lease.number, report.number
    )
    if tags != own.tags:
        await tx.execute("update runs set tags = $2, updated_at = $3 where id = $1", own.id, tags, now)
        await tx.notify("run", run_id=own.id)
    return Metadata(after.get(own.id, own.metadata or {}), tags)


def _concerned(kin: Family, change: MetadataChange) -> set[str]:
    ids = {kin.run_id}
    if change.parent:
        ids.add(kin.parent_id)
    if change.root:
        ids.add(kin.root_id)
    return ids


def _carried_out(
    kin: Family, runs: dict[str, Member], change: MetadataChange, most_bytes: int, now: datetime
) -> dict[str, dict[str, Any]] | MetadataTooLarge | TooManyOperations:
    """What is to become of whose metadata; a run that stays as it is isn't in it."""
    after: dict[str, dict[str, Any]] = {}
    for run_id, wanted in ((kin.run_id, change.own), (kin.parent_id, change.parent), (kin.root_id, change.root)):
        run = runs.get(run_id)
        if wanted and run is not None and _is_changeable(run, now):
            before = after.get(run_id, run.metadata or {})
            if operations.cost(len(msgspec.json.encode(before)), wanted) > MAX_COST:
                return TooManyOperations(run_id, len(wanted))
            after[run_id] = operations.apply(before, wanted)
    for run_id, metadata in after.items():
        if (size := len(msgspec.json.encode(metadata))) > most_bytes:
            return MetadataTooLarge(run_id, size)
    return {
        run_id: metadata
        for run_id, metadata in after.items()
        if not operations.same(metadata, runs[run_id].metadata or {})
    }


def _is_changeable(run: Member, now: datetime) -> bool:
    return run.finished_at is None or now - run.finished_at < timedelta(seconds=CHANGEABLE_S)


async def _write(tx: Transaction, after: dict[str, dict[str, Any]], *, now: datetime) -> None:
    for run_id, metadata in sorted(after.items()):
        await tx.execute(
            """update runs set metadata = $2, given_metadata = coalesce(given_metadata, metadata, '{}'), updated_at = $3
               where id = $1""",
            run_id,
            metadata,
            now,
        )
        await tx.notify("run", run_id=run_id)

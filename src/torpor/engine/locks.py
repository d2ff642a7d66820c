"""Locks, in the one order: runs by id, then waitpoints by id, then batches by id.

Two transactions that need the same rows take them in the same order, so they queue and never deadlock. What a run's
row guards besides itself: its waits, attempts and checkpoints.

The difficulty: who completes a waitpoint must also hold the runs tied to it (to wake them), and learns which those are
only by looking. So it looks, locks those runs, then the waitpoint, and looks again: when a run was tied meanwhile, it
lets go of everything (a savepoint) and starts over. From then on no further run can be tied, since `block` takes a share
of the waitpoint (and of an awaited run) before it ties.

Locks are `for no key update`: foreign key checks of other transactions' inserts pass them.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from torpor.engine.outcomes import Lease, Stale
from torpor.store.database import Transaction
from torpor.store.records import Run, Waitpoint


class Leased(Protocol):
    """A run's row, or what was read of it."""

    @property
    def lease(self) -> int: ...
    @property
    def worker_id(self) -> str | None: ...


LeasedT = TypeVar("LeasedT", bound=Leased)


async def lock_runs(tx: Transaction, run_ids: Iterable[str]) -> dict[str, Run]:
    """Lock these runs, in order; those that exist."""
    rows = await tx.fetch(
        "select * from runs where id = any($1::text[]) order by id for no key update", sorted(set(run_ids))
    )
    return {row["id"]: Run.of(row) for row in rows}


async def lock_run(tx: Transaction, run_id: str) -> Run | None:
    """Lock one run."""
    row = await tx.fetchrow("select * from runs where id = $1 for no key update", run_id)
    return Run.of(row) if row else None


async def share_runs(tx: Transaction, run_ids: Iterable[str]) -> dict[str, Run]:
    """Take a share of these runs, in order; those that exist. None of them moves until this transaction is over."""
    rows = await tx.fetch("select * from runs where id = any($1::text[]) order by id for share", sorted(set(run_ids)))
    return {row["id"]: Run.of(row) for row in rows}


async def lock_leased(tx: Transaction, lease: Lease) -> Run | Stale:
    """Lock the run of a lease, unless that lease is over: the fence before every worker verb."""
    return fenced(await lock_run(tx, lease.run_id), lease)


def fenced(run: LeasedT | None, lease: Lease) -> LeasedT | Stale:
    """The run if this lease is its present one. Expiry alone doesn't end a lease: only taking it back does."""
    if run is None:
        return Stale(None)
    # The number moves on at each end of a lease too, so an equal number means that the lease lives, except before the
    # first hand-out: nobody was ever given lease 0, and a run without a holder has no lease at all.
    return run if run.lease == lease.number and run.worker_id is not None else Stale(run.lease)


async def in_turn(tx: Transaction, run: Run, nth: int) -> bool | Stale:
    """Whether a report about a process's waits is news (True), or the latest one once more (False).

    Stale: a later one has come. Then this is a copy that was on its way for long, its sender has heard another one's
    answer and gone on, and nobody reads this answer. What it says of the waits is not true any more: it would drop those
    that were entered since, hand answers to nobody, or accept an image that its worker has thrown away.

    The caller holds the run's row. A sender that doesn't count (0) is always believed.
    """
    if nth == 0:
        return True
    if nth < run.heard:
        return Stale(run.lease)
    if nth > run.heard:
        await tx.execute("update runs set heard = $2 where id = $1", run.id, nth)
    return nth > run.heard


async def lock_runs_and_waiters(tx: Transaction, run_ids: Iterable[str]) -> tuple[dict[str, Run], list[Waitpoint]]:
    """Lock runs that may end now, the runs that wait for them, and the waitpoints in between."""
    ending = set(run_ids)
    return await _lock_around(tx, ending, "waitpoints.awaited_run_id = any($1::text[])", sorted(ending))


async def lock_waitpoints_and_waiters(
    tx: Transaction, waitpoint_ids: Iterable[str], *, runs_too: Iterable[str] = ()
) -> tuple[dict[str, Run], list[Waitpoint]]:
    """Lock waitpoints that may be completed now, and the runs tied to them, and these runs."""
    return await _lock_around(tx, set(runs_too), "waitpoints.id = any($1::text[])", sorted(set(waitpoint_ids)))


async def _lock_around(
    tx: Transaction, runs_too: set[str], condition: str, ids: list[str]
) -> tuple[dict[str, Run], list[Waitpoint]]:
    tied_query = f"""
        select distinct waits.run_id from waits join waitpoints on waitpoints.id = waits.waitpoint_id
        where waits.detached_at is null and waits.timed_out_at is null and waitpoints.status = 'pending'
          and {condition}"""
    while True:
        savepoint = tx.savepoint()
        await savepoint.start()
        wanted = runs_too | {row["run_id"] for row in await tx.fetch(tied_query, ids)}
        runs = await lock_runs(tx, wanted)
        waitpoints = await tx.fetch(f"select * from waitpoints where {condition} order by id for no key update", ids)
        if {row["run_id"] for row in await tx.fetch(tied_query, ids)} <= wanted:
            await savepoint.commit()
            return runs, [Waitpoint.of(row) for row in waitpoints]
        await savepoint.rollback()

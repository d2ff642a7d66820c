"""Complete a waitpoint: once, first wins; then wake whoever is tied to it."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from torpor.engine import batch_end
from torpor.engine.events import announce
from torpor.engine.locks import lock_waitpoints_and_waiters
from torpor.engine.outcomes import Unknown
from torpor.engine.release import release
from torpor.engine.resume import wake
from torpor.store.database import Transaction
from torpor.store.records import Run, Waitpoint
from torpor.wire.runner import TaskError

FIRE_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Completed:
    """This was the first answer. `woken` are the runs that were told of it."""

    woken: list[str]


@dataclass(frozen=True, slots=True)
class AlreadyCompleted:
    """Somebody was first, or its time ran out (`status`). Nothing has changed."""

    status: str


@dataclass(frozen=True, slots=True)
class FiredTimers:
    """How many waitpoints, batches and runs came due, and when to look again (None: when a `timer` note comes)."""

    count: int
    next_due: datetime | None


async def complete_waitpoint(
    tx: Transaction,
    waitpoint_id: str,
    *,
    output: str,
    output_object: str | None = None,
    output_is_error: bool = False,
    by: str | None = None,
    now: datetime,
) -> Completed | AlreadyCompleted | Unknown:
    """Answer a token with JSON text. For whoever holds the token: API, callback, approval, another run.

    `output_object`: where the text is kept instead, since it is too large for a row.

    Times and runs can't be completed from outside: to those who ask, they don't exist.
    """
    runs, waitpoints = await lock_waitpoints_and_waiters(tx, [waitpoint_id])
    if not waitpoints or waitpoints[0].kind != "token":
        return Unknown()
    waitpoint = waitpoints[0]
    if waitpoint.status != "pending":
        return AlreadyCompleted(waitpoint.status)
    if output_is_error:
        error = msgspec.to_builtins(TaskError(name="TokenFailed", message=output))
        return Completed(await settle(tx, waitpoint, runs, status="failed", error=error, by=by, now=now))
    kept = None if output_object else output
    woken = await settle(
        tx, waitpoint, runs, status="completed", output=kept, output_object=output_object, by=by, now=now
    )
    return Completed(woken)


async def settle(
    tx: Transaction,
    waitpoint: Waitpoint,
    runs: dict[str, Run],
    *,
    status: str,
    output: str | None = None,
    output_object: str | None = None,
    error: dict[str, Any] | None = None,
    run_status: str | None = None,
    by: str | None = None,
    now: datetime,
) -> list[str]:
    """Write a waitpoint's answer and wake those tied to it. The caller has locked it, and them (`runs`)."""
    await tx.execute(
        """update waitpoints set status = $2, output = $3, error = $4, run_status = $5, completed_by = $6,
                                 completed_at = $7, output_object = $8 where id = $1""",
        waitpoint.id,
        status,
        output,
        error,
        run_status,
        by,
        now,
        output_object,
    )
    answered = replace(waitpoint, status=status, output=output, completed_by=by, completed_at=now)
    if waitpoint.kind == "token" and status != "timed_out":
        answered = replace(answered, due_at=None)  # its deadline is not what wakes the run
    rows = await tx.fetch(
        """select distinct run_id from waits
           where waitpoint_id = $1 and detached_at is null and timed_out_at is null order by run_id""",
        waitpoint.id,
    )
    if waitpoint.kind == "token" and not rows:
        await announce(tx, "tokens")
    for row in rows:
        # Wake by a fresh look: one of several waitpoints of this transaction may have resumed the run already.
        run = Run.of(await tx.fetchrow("select * from runs where id = $1", row["run_id"]))
        assert run.id in runs, "a run is woken only by who holds its row"
        await wake(tx, run, answered, now=now)
    return [row["run_id"] for row in rows]


async def fire_due(
    tx: Transaction,
    *,
    limit: int = FIRE_LIMIT,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    now: datetime,
) -> FiredTimers:
    """Whatever the clock decides: time waits that are over, tokens and single waits whose time ran out, delayed runs to
    release, queued runs to expire. Also the waitpoints of batches whose last run has ended: that end could not take
    their locks.

    `only` these ids of waitpoints, batches and runs (those of waits that time out), and without those to `skip`: for a
    timer that fails whenever it is fired.

    For the server's timer loop, in as many servers as there are: each picks without a lock, locks in the one order, and
    fires what is still pending. (SKIP LOCKED on waitpoints would take them before their runs: the wrong order. On
    delayed runs, which need nothing else, it is used.) When `next_due` is not after `now`, call again at once.
    """
    from torpor.engine.expire import expire  # which ends runs, and an end completes waitpoints: a circle, cut here

    over = await tx.fetch(
        """select id from waitpoints
           where status = 'pending' and due_at <= $1
             and ($3::text[] is null or id = any($3)) and not id = any($4::text[])
           order by due_at limit $2""",
        now,
        limit,
        only,
        skip,
    )
    timing_out = await tx.fetch(
        f"""select run_id from waits where {_TIMES_OUT} and times_out_at <= $1
              and ($3::text[] is null or run_id = any($3)) and not run_id = any($4::text[])
            order by times_out_at limit $2""",
        now,
        limit,
        only,
        skip,
    )
    batches = await batch_end.to_settle(tx, limit, only, skip)
    count = 0
    if over or batches or timing_out:
        who = {row["run_id"] for row in timing_out}
        runs, waitpoints = await lock_waitpoints_and_waiters(tx, [*(row["id"] for row in over), *batches], runs_too=who)
        for waitpoint in waitpoints:
            if waitpoint.status != "pending":
                continue
            if waitpoint.id in batches:
                output = await batch_end.answer(tx, batches[waitpoint.id])
                await settle(tx, waitpoint, runs, status="completed", output=output, now=now)
            else:
                status = "completed" if waitpoint.kind == "time" else "timed_out"
                await settle(tx, waitpoint, runs, status=status, now=now)
            count += 1
        count += await _time_out(tx, sorted(who), now)
    else:  # runs are locked before waitpoints: those that expire come in a transaction without any
        count += await expire(tx, limit=limit, only=only, skip=skip, now=now)
    count += await release(tx, limit=limit, only=only, skip=skip, now=now)
    if batches:
        await batch_end.mark_settled(tx, batches.values(), now=now)
    return FiredTimers(count, await next_due(tx, skip))


async def due(tx: Transaction, *, limit: int = FIRE_LIMIT, skip: Collection[str] = (), now: datetime) -> list[str]:
    """The ids of what `fire_due` would fire, waitpoints, batches and runs: to fire each by itself. Changes nothing."""
    rows = await tx.fetch(
        f"""(select id from waitpoints where status = 'pending' and due_at <= $1 and not id = any($3::text[])
            order by due_at limit $2)
           union all
           (select distinct run_id from waits
            where {_TIMES_OUT} and times_out_at <= $1 and not run_id = any($3::text[]) limit $2)
           union all
           (select id from batches where completed_at is not null and settled_at is null and not id = any($3::text[])
            order by completed_at limit $2)
           union all
           (select id from runs where state = 'delayed' and available_at <= $1 and not id = any($3::text[])
            order by available_at limit $2)
           union all
           (select id from runs where expires_at <= $1 and started_at is null and state in ('queued', 'pending_version')
                and not id = any($3::text[])
            order by expires_at limit $2)""",
        now,
        limit,
        skip,
    )
    return [row["id"] for row in rows]


_TIMES_OUT = "times_out_at is not null and timed_out_at is null and detached_at is null"


async def _time_out(tx: Transaction, run_ids: list[str], now: datetime) -> int:
    """Waits of these runs whose own deadline came before an answer. The caller holds the runs' rows.

    Whoever answers a waitpoint holds the runs that are tied to it, so what is still pending here has timed out, whatever
    comes later: this wait's answer never changes. One whose waitpoint was answered in time has no deadline any more.
    """
    if not run_ids:
        return 0
    rows = await tx.fetch(
        f"""update waits set timed_out_at = case when waitpoints.status = 'pending' then $2::timestamptz end,
                   times_out_at = case when waitpoints.status = 'pending' then times_out_at end
            from waitpoints
            where waitpoints.id = waits.waitpoint_id and run_id = any($1::text[]) and {_TIMES_OUT} and times_out_at <= $2
            returning run_id, waitpoint_id, times_out_at""",
        run_ids,
        now,
    )
    timed_out = [row for row in rows if row["times_out_at"] is not None]
    for row in timed_out:
        # By a fresh look, as in `settle`: another answer of this transaction may have resumed the run already.
        run = Run.of(await tx.fetchrow("select * from runs where id = $1", row["run_id"]))
        waitpoint = Waitpoint.of(await tx.fetchrow("select * from waitpoints where id = $1", row["waitpoint_id"]))
        await wake(tx, run, replace(waitpoint, status="timed_out", due_at=row["times_out_at"]), now=now)
    return len(rows)


async def next_due(tx: Transaction, skip: Collection[str] = ()) -> datetime | None:
    """When the next timer is due; it may be past, while somebody else is firing it."""
    return await tx.fetchval(
        f"""select least((select min(due_at) from waitpoints
                         where status = 'pending' and due_at is not null and not id = any($1::text[])),
                        (select min(times_out_at) from waits where {_TIMES_OUT} and not run_id = any($1::text[])),
                        (select min(completed_at) from batches
                         where completed_at is not null and settled_at is null and not id = any($1::text[])),
                        (select min(available_at) from runs where state = 'delayed' and not id = any($1::text[])),
                        (select min(expires_at) from runs
                         where expires_at is not null and started_at is null and state in ('queued', 'pending_version')
                           and not id = any($1::text[])))""",
        skip,
    )

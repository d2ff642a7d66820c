"""While a worker has a run: the attempt starts, the lease is renewed."""

from datetime import datetime

from torpor.engine import active, answers, events, hooks
from torpor.engine.instants import after
from torpor.engine.locks import fenced, lock_leased, lock_runs
from torpor.engine.outcomes import Lease, Ok, Stale
from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.store.records import Run
from torpor.wire.http import Disk, HeartbeatReply, HeldLease, News, StartReport


async def start(tx: Transaction, lease: Lease, report: StartReport, *, now: datetime) -> Ok | Stale:
    """dequeued -> executing: user code runs, freshly or again after a restore, with `report.answered` in its hands.

    For the worker that holds the lease. Ok also when it has started before (the same message twice).
    """
    run = await lock_leased(tx, lease)
    if isinstance(run, Stale):
        return run
    await answers.mark_delivered(tx, run.id, report.answered, now=now)
    if run.state != RunState.DEQUEUED:
        return Ok()
    await tx.execute(
        f"""update runs set state = 'executing', started_at = coalesce(started_at, $2), updated_at = $2,
                {active.begins("$2")} where id = $1""",
        run.id,
        now,
    )
    await tx.execute(
        "update attempts set started_at = coalesce(started_at, $3) where run_id = $1 and number = $2",
        run.id,
        run.attempt,
        now,
    )
    figures = {
        "pid": report.pid,
        "start_ms": report.start_ms,
        "restore_ms": report.restore_ms,
        "since_due_ms": report.since_due_ms,
        "trust": report.trust or None,
        "network": report.network or None,
        "isolation": report.isolation or None,
        "missing": report.missing or None,
    }
    data = {name: value for name, value in figures.items() if value is not None}
    data["worker_id"] = run.worker_id
    if run.checkpoint_id:
        data |= {"checkpoint_id": run.checkpoint_id, "answered": len(report.answered)}
    kind = "run.resumed" if run.checkpoint_id else "run.started"
    await events.record(tx, run.id, kind, now=now, attempt=run.attempt, data=data)
    await hooks.tell(tx, run, "hook.started", now=now)
    return Ok()


async def heartbeat(
    tx: Transaction,
    worker_id: str,
    instance_id: str,
    leases: list[HeldLease],
    *,
    disk: Disk | None = None,
    lease_s: float,
    now: datetime,
) -> HeartbeatReply:
    """The worker lives and holds these leases: they are renewed, also one that ran out and was not taken back yet.

    For workers. `known` false: say hello again (leases are renewed all the same if the instance holds them).
    `news` repeats what may have been lost: leases that are over, answers that nobody has collected, requests to end.
    `drain`: it is to leave (drain.py).
    """
    known = await tx.fetchrow(
        """update workers set seen_at = $3, expires_at = $4, disk_bytes = $5, disk_free_bytes = $6
           where id = $1 and instance_id = $2 returning drain_asked_at is not null as is_to_leave""",
        worker_id,
        instance_id,
        now,
        after(now, lease_s),
        disk.size_bytes if disk else None,
        disk.free_bytes if disk else None,
    )
    runs = await lock_runs(tx, [held.run_id for held in leases])
    news: list[News] = []
    renewed: list[str] = []
    for held in leases:
        run = fenced(runs.get(held.run_id), Lease(held.run_id, held.lease))
        if isinstance(run, Stale) or run.worker_id != worker_id:
            news.append(News(kind="stale", run_id=held.run_id, lease=held.lease))
        else:
            renewed.append(run.id)
    await tx.execute("update runs set lease_expires_at = $2 where id = any($1::text[])", renewed, after(now, lease_s))
    answered = await tx.fetch(
        """select distinct waits.run_id from waits join waitpoints on waitpoints.id = waits.waitpoint_id
           where waits.run_id = any($1::text[]) and waits.detached_at is null and waits.delivered_at is null
             and (waitpoints.status <> 'pending' or waits.timed_out_at is not null) order by waits.run_id""",
        # A restored process that has not started yet holds these very answers in its assignment.
        # One that stands in line for a slot is told when it gets it.
        [run_id for run_id in renewed if runs[run_id].state != RunState.DEQUEUED and runs[run_id].ready_at is None],
    )
    news += [News(kind="answered", run_id=row["run_id"], lease=runs[row["run_id"]].lease) for row in answered]
    news += [
        News(kind="cancel", run_id=run_id, lease=runs[run_id].lease, reason=runs[run_id].cancel_reason)
        for run_id in renewed
        if runs[run_id].cancel_requested_at is not None
    ]
    row = await tx.fetchrow(
        """select data_keys.id, environments.variables_revision
           from workers join environments on environments.id = workers.environment_id
               left join data_keys on data_keys.environment_id = environments.id and data_keys.retired_at is null
           where workers.id = $1""",
        worker_id,
    )
    key, revision = (row["id"], row["variables_revision"]) if row else (None, 0)
    return HeartbeatReply(
        known=known is not None,
        news=news,
        current_key=key,
        variables_revision=revision,
        drain=known is not None and known["is_to_leave"],
    )


async def holds(tx: Transaction, lease: Lease) -> bool:
    """Whether this lease is the run's present one. For what user code does through its worker beside its run, such as
    completing a token.

    Takes no lock: the verb that follows locks other runs, in order. A lease that ends in between ends just after.
    """
    row = await tx.fetchrow("select * from runs where id = $1", lease.run_id)
    return not isinstance(fenced(Run.of(row) if row else None, lease), Stale)

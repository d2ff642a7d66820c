"""A run goes on without the checkpoint that it was to come back from:

    another worker that reads the store and hasn't refused the image     (refuse: only this worker is unfit for it)
    -> wait a while for such a worker to come                            (refuse, then give_up)
    -> the newest checkpoint before it that somebody can use
    -> a new attempt, from the top
    -> crashed: no attempts are left

Each step is a line of the run's story, `run.checkpoint_refused`, with the reason and `continues`.
"""

from datetime import datetime, timedelta

from torpor.engine import events, images
from torpor.engine.end import close_attempt, end, requeue
from torpor.engine.locks import lock_runs_and_waiters
from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.store.records import Run, Waitpoint

UNFIT_PATIENCE_S = 600.0


async def is_fit_for_somebody(tx: Transaction, checkpoint_id: str, *, now: datetime) -> bool:
    """Whether a worker is connected that reads the checkpoint's store and whose fitness has not refused its image."""
    found = await tx.fetchval(
        """select true from checkpoints join workers on workers.store_id = checkpoints.store_id
           where checkpoints.id = $1 and workers.expires_at > $2 and workers.can_freeze
             and not exists (select from refusals where refusals.image_id = checkpoints.image_id
                             and refusals.fitness = workers.fitness) limit 1""",
        checkpoint_id,
        now,
    )
    return bool(found)


async def learn(tx: Transaction, run: Run, reason: str, *, now: datetime) -> None:
    """The worker that holds this run can't use its image, nor can any that is like it. For `refuse`."""
    await tx.execute(
        """insert into refusals (image_id, fitness, reason, at)
           select checkpoints.image_id, workers.fitness, $3, $4 from checkpoints, workers
           where checkpoints.id = $1 and workers.id = $2
           on conflict (image_id, fitness) do update set reason = excluded.reason, at = excluded.at""",
        run.checkpoint_id,
        run.worker_id,
        reason or "not said",
        now,
    )


async def do_without(
    tx: Transaction,
    run: Run,
    reason: str,
    around: tuple[dict[str, Run], list[Waitpoint]],
    *,
    is_damaged: bool,
    now: datetime,
) -> None:
    """Go on from an earlier checkpoint, or from the top, or end. The caller has locked the run and what is around it.

    A damaged one is never handed out again; one that merely fits nobody here can still be forked.
    """
    dropped = await tx.fetchrow(
        "update checkpoints set state = $2, reason = $3 where id = $1 returning image_id",
        run.checkpoint_id,
        "unusable" if is_damaged else "kept",
        reason or "not said",
    )
    if is_damaged and dropped is not None:
        await images.let_go(tx, [dropped["image_id"]], now=now)
    previous = await _newest_fit(tx, run.id, now=now)
    has_attempts = run.attempt < run.max_attempts
    goes_on = "previous checkpoint" if previous else "new attempt" if has_attempts else "crashed"
    data = {"checkpoint_id": run.checkpoint_id, "reason": reason, "worker_id": run.worker_id, "continues": goes_on}
    await events.record(tx, run.id, "run.checkpoint_refused", now=now, attempt=run.attempt, data=data)
    if previous:
        await requeue(tx, run, checkpoint_id=previous, rescues=run.rescues, now=now)
        return
    error = {"name": "CheckpointUnusable", "message": f"the run's checkpoint can't be restored: {reason}"}
    if has_attempts:
        await close_attempt(tx, run, "crashed", error=error, now=now)
        await requeue(tx, run, checkpoint_id=None, rescues=run.rescues, now=now)
    else:
        await end(tx, run, RunState.CRASHED, around, error=error, now=now)


async def _newest_fit(tx: Transaction, run_id: str, *, now: datetime) -> str | None:
    """The newest usable checkpoint, but none that everybody who is here has refused."""
    return await tx.fetchval(
        """select id from checkpoints
           where run_id = $1 and state = 'usable'
             and (not exists (select from refusals where refusals.image_id = checkpoints.image_id)
                  or exists (select from workers where workers.store_id = checkpoints.store_id
                             and workers.expires_at > $2 and workers.can_freeze
                             and not exists (select from refusals where refusals.image_id = checkpoints.image_id
                                             and refusals.fitness = workers.fitness)))
           order by number desc limit 1""",
        run_id,
        now,
    )


# Runs that stand in line with an image that some have refused, and nobody lately.
_REFUSED = """
    select runs.id from refusals
    join checkpoints on checkpoints.image_id = refusals.image_id and checkpoints.state in ('usable', 'kept')
    join runs on runs.checkpoint_id = checkpoints.id and runs.state = 'queued'
    where runs.available_at + make_interval(secs => runs.priority_s) <= $1
    group by runs.id having max(refusals.at) <= $1"""

# Those with images on the own disk of a worker that keeps its images elsewhere by now: nobody reads that disk any more.
_LEFT_BEHIND = """
    select runs.id from runs join workers on runs.image_store_id = 'worker:' || workers.id
    where runs.state = 'queued' and runs.checkpoint_id is not null and runs.image_store_id like 'worker:%'
      and workers.store_id <> runs.image_store_id"""


async def give_up(
    tx: Transaction, *, patience_s: float = UNFIT_PATIENCE_S, limit: int = 100, now: datetime
) -> list[str]:
    """Queued runs whose image every worker here has refused, for so long, go on without it; so do, at once, those whose
    image was left on the disk of a worker that keeps images in an object store now. Which.

    For a slow duty of the server. One that has become fit for somebody (a worker came) stays in line.
    """
    before = now - timedelta(seconds=patience_s)
    refused = {row["id"] for row in await tx.fetch(f"{_REFUSED} order by 1 limit $2", before, limit)}
    left = {row["id"] for row in await tx.fetch(f"{_LEFT_BEHIND} order by 1 limit $1", limit)}
    if not refused | left:
        return []
    around = await lock_runs_and_waiters(tx, refused | left)
    given_up: list[str] = []
    for run_id in sorted(refused | left):
        run = around[0].get(run_id)
        if run is None or run.state != RunState.QUEUED or run.checkpoint_id is None:
            continue
        reason = await _why(tx, run, before, now)
        if reason is not None:
            await do_without(tx, run, reason, around, is_damaged=False, now=now)
            given_up.append(run.id)
    return given_up


async def _why(tx: Transaction, run: Run, before: datetime, now: datetime) -> str | None:
    """Asked once the run is locked: None if it may go on waiting."""
    if await is_fit_for_somebody(tx, run.checkpoint_id or "", now=now):
        return None
    if await tx.fetchval(f"{_LEFT_BEHIND} and runs.id = $1", run.id):
        return "its image is on a worker's own disk, and that worker keeps images in an object store now"
    if not await tx.fetchval(f"select true from ({_REFUSED}) as refused where id = $2", before, run.id):
        return None
    reasons = await tx.fetch(
        """select distinct refusals.reason from refusals join checkpoints on checkpoints.image_id = refusals.image_id
           where checkpoints.id = $1 order by 1 limit 3""",
        run.checkpoint_id,
    )
    return "no worker can use it: " + "; ".join(row["reason"] for row in reasons)

"""A process leaves its machine in the middle of whatever it does, to go on elsewhere."""

from datetime import datetime

from torpor.engine import active, checkpoints, events, slots, usage
from torpor.engine.images import Gone
from torpor.engine.locks import in_turn, lock_leased
from torpor.engine.outcomes import Awake, Lease, Stale, Suspended
from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.wire.http import MoveReport


async def move(
    tx: Transaction, lease: Lease, report: MoveReport, *, worker_id: str, now: datetime
) -> Suspended | Awake | Stale | Gone:
    """executing, waiting -> queued, with this checkpoint and ahead of new work, as if it were resumed.

    For the worker that holds the lease (it drains, or needs the room), after the image is durable, while the process is
    stopped. Suspended: kill it. Awake: let it run on and drop the image, for the run is to end by itself, or its start
    was not reported yet. The same report twice is Stale, as the first has ended the lease.
    """
    run = await lock_leased(tx, lease)
    if isinstance(run, Stale):
        return run
    is_news = await in_turn(tx, run, report.nth)
    if isinstance(is_news, Stale):
        return is_news
    if run.cancel_requested_at is not None or run.state == RunState.DEQUEUED:
        return Awake()
    image = report.checkpoint
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
        return refused if isinstance(refused, Gone) else Awake()
    await usage.note(tx, run, report.usage)
    await tx.execute(
        f"""update runs set state = 'queued', checkpoint_id = $2, image_store_id = $3, lease = lease + 1,
                lease_expires_at = null, worker_id = null, instance_id = null, rescues = 0, due_at = null,
                available_at = coalesce(ready_at, $4::timestamptz), ready_at = null, updated_at = $4, {active.ends("$4")},
                {usage.freezes("$4")}
            where id = $1""",
        run.id,
        image.id,
        checkpoints.store_of(image, worker_id),
        now,
    )
    data = checkpoints.told(image, worker_id, report.waiting_at) | {"reason": report.reason}
    await events.record(tx, run.id, "run.moved", now=now, attempt=run.attempt, data=data)
    await slots.released(tx, run)
    await tx.notify("work", environment_id=run.environment_id)
    return Suspended()

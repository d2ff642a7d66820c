"""Accept a checkpoint, or discard it."""

from datetime import datetime

from torpor.engine import answers, checkpoints, events, usage
from torpor.engine.images import Gone
from torpor.engine.locks import in_turn, lock_leased
from torpor.engine.outcomes import Awake, Lease, Stale, Suspended
from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.wire.http import SuspendReport


async def suspend(
    tx: Transaction, lease: Lease, report: SuspendReport, *, worker_id: str, now: datetime
) -> Suspended | Awake | Stale | Gone:
    """waiting -> suspended: let a blocked run leave memory. `worker_id` has stored its image, so its process may go.

    For the worker that holds the lease, after the image is durable. A crash in between costs an orphan image, which is
    found as a stray; the other order would cost the run. The same message twice is Stale, as the first has ended the
    lease: kill the process, but leave images to the garbage, since this one may be the run by now. So is a copy
    that comes after the worker, told Awake by another, has gone on without the image. Gone: publish it again, without
    those packs.
    """
    run = await lock_leased(tx, lease)
    if isinstance(run, Stale):
        return run
    is_news = await in_turn(tx, run, report.nth)
    if isinstance(is_news, Stale):
        return is_news
    waits = await answers.tied(tx, run.id)
    open_waits = [wait.wait_id for wait in waits if wait.is_open]
    is_answered = any(not wait.is_open and wait.delivered_at is None for wait in waits)
    is_in_line = run.ready_at is not None
    # Who was asked to end should do so itself, which needs its process.
    is_canceling = run.cancel_requested_at is not None
    is_open = bool(open_waits) or is_in_line
    if run.state != RunState.WAITING or (is_answered and not is_in_line) or is_canceling or not is_open:
        return Awake()
    # What the process holds open: it has none of the answers for which it stands in line.
    held_open = [wait.wait_id for wait in waits if wait.is_open or wait.delivered_at is None]
    image = report.checkpoint
    refused = await checkpoints.accept(
        tx, run, image, worker_id=worker_id, open_waits=held_open, waiting_at=report.waiting_at, now=now
    )
    if refused is not None:
        return refused if isinstance(refused, Gone) else Awake()
    await usage.note(tx, run, report.usage)
    await tx.execute(
        f"""update runs set state = $4, checkpoint_id = $2, lease = lease + 1, lease_expires_at = null,
               worker_id = null, instance_id = null, rescues = 0, due_at = null, updated_at = $3,
               image_store_id = $5, available_at = coalesce(ready_at, available_at), ready_at = null,
               {usage.freezes("$3")}
           where id = $1""",
        run.id,
        image.id,
        now,
        RunState.QUEUED if is_in_line else RunState.SUSPENDED,
        checkpoints.store_of(image, worker_id),
    )
    if is_in_line:
        await tx.notify("work", environment_id=run.environment_id)
    data = checkpoints.told(image, worker_id, report.waiting_at)
    await events.record(tx, run.id, "run.suspended", now=now, attempt=run.attempt, data=data)
    return Suspended()

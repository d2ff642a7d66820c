"""A run's end, and an attempt's: what finish, cancel, refuse and rescue have in common. Not verbs by themselves."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from torpor.engine import active, checkpoints, events, hooks, slots, usage
from torpor.engine.answers import detach_all
from torpor.engine.batch_end import count_down
from torpor.engine.complete import settle
from torpor.engine.states import ENDS, STATUS, RunState
from torpor.store.database import Transaction
from torpor.store.records import Run, Waitpoint


async def end(
    tx: Transaction,
    run: Run,
    state: RunState,
    around: tuple[dict[str, Run], list[Waitpoint]],
    *,
    output: str | None = None,
    output_object: str | None = None,
    error: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    performed: Collection[str] = (),
    now: datetime,
) -> None:
    """The last state of a run: its lease moves on, its waits and images are let go, whoever waits for it is answered.

    Hooks that were not `performed` in its process are left to another (hooks.py). `around` is what `lock_runs_and_waiters`
    has locked. The caller tells a worker that may still have the process.
    """
    runs, waitpoints = around
    await tx.execute(
        f"""update runs set state = $2, output = $3, error = $4, finished_at = $5, updated_at = $5, lease = lease + 1,
                lease_expires_at = null, worker_id = null, instance_id = null, checkpoint_id = null, ready_at = null,
                rescues = 0, output_object = $6, {active.ends("$5")}, {usage.thaws("$5")}
            where id = $1""",
        run.id,
        state,
        output,
        error,
        now,
        output_object,
    )
    await slots.released(tx, run)
    await close_attempt(tx, run, str(state), error=error, now=now)
    await detach_all(tx, run.id, now=now)
    await checkpoints.keep_for_a_while(tx, run, now=now)
    await events.record(tx, run.id, f"run.{state}", now=now, attempt=run.attempt or None, data=data)
    if state == RunState.CANCELED:
        await note_children(tx, run.id, now=now)
    for waitpoint in waitpoints:
        if waitpoint.awaited_run_id == run.id and waitpoint.status == "pending":
            await settle(
                tx,
                waitpoint,
                runs,
                status="completed" if state == RunState.COMPLETED else "failed",
                output=output,
                output_object=output_object,
                error=error,
                run_status=STATUS[state],
                now=now,
            )
    await count_down(tx, run.id, now=now)
    await hooks.follow(tx, run, state, performed, now=now)
    await hooks.tell(tx, run, "hook.completed" if state == RunState.COMPLETED else "hook.failed", error=error, now=now)


async def note_children(tx: Transaction, run_id: str, *, now: datetime) -> None:
    """This run is canceled, or was asked to end: cascade is to cancel its children. The caller holds the run's row.

    Both times, for a trigger shares that row: what was on its way at the request is there at the end.
    """
    await tx.execute(
        """insert into cascades (run_id, created_at)
           select $1, $2 where exists (select from runs where parent_run_id = $1 and not state = any($3::text[])
                                 and cancel_requested_at is null)
           on conflict do nothing""",
        run_id,
        now,
        sorted(ENDS),
    )


async def close_attempt(
    tx: Transaction, run: Run, outcome: str, *, error: dict[str, Any] | None = None, now: datetime
) -> None:
    """The latest attempt is over, if one is open."""
    await tx.execute(
        """update attempts set outcome = $3, error = $4, finished_at = $5
           where run_id = $1 and number = $2 and outcome is null""",
        run.id,
        run.attempt,
        outcome,
        error,
        now,
    )


async def requeue(
    tx: Transaction,
    run: Run,
    *,
    checkpoint_id: str | None,
    rescues: int,
    preset: str | None = None,
    now: datetime,
) -> None:
    """-> queued, at once, from this checkpoint or from the top, with this preset from now on if one is given. The lease
    moves on."""
    await tx.execute(
        f"""update runs set state = 'queued', checkpoint_id = $2, rescues = $3, updated_at = $4,
               available_at = $4::timestamptz - make_interval(secs => priority_s),
                lease = lease + 1, lease_expires_at = null, worker_id = null, instance_id = null, ready_at = null,
                image_store_id = (select store_id from checkpoints where id = $2), preset = coalesce($5, preset),
                {active.ends("$4")}, {usage.thaws("$4")}
            where id = $1""",
        run.id,
        checkpoint_id,
        rescues,
        now,
        preset,
    )
    if checkpoint_id is None:
        await detach_all(tx, run.id, now=now)
    await slots.released(tx, run)
    await tx.notify("work", environment_id=run.environment_id)


async def tell_stale(tx: Transaction, run: Run) -> None:
    """To the worker that held the lease as `run` shows it: it is over, kill the process."""
    if run.worker_id is not None:
        await tx.notify("news", worker_id=run.worker_id, run_id=run.id, lease=run.lease, kind="stale")

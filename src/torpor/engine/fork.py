"""Go on from a checkpoint in another run: with the same answers to its waits, or with another one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from torpor import ids
from torpor.engine import events, images
from torpor.engine.answers import ALARM
from torpor.engine.instants import to_iso
from torpor.engine.locks import lock_run
from torpor.engine.outcomes import Unknown
from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.store.records import Checkpoint, Run

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """Where to begin, and what to answer there."""

    checkpoint_id: str = LATEST
    answer: str | None = None  # JSON text, for one of the waits that the frozen process is in
    answer_object: str | None = None  # where that text is kept instead, since it is too large for a row
    wait_id: str | None = None  # which; needed where there are several
    run_id: str | None = None  # of the new run, made by who asks: the same request twice forks once


@dataclass(frozen=True, slots=True)
class Forked:
    """The new run. `is_suspended`: it waits for what the original waited for."""

    run_id: str
    checkpoint_id: str
    is_suspended: bool
    is_cached: bool = False


@dataclass(frozen=True, slots=True)
class NoCheckpoint:
    """That run has no such checkpoint, or it is not kept any more, or nobody could restore it; `reason` says which."""

    reason: str


@dataclass(frozen=True, slots=True)
class WhichWait:
    """The answer is for none of the waits that the process is in, or could be for several: these are `open`."""

    open: list[tuple[str, str]]
    """(wait id, kind)"""


async def fork(
    tx: Transaction, environment_id: str, run_id: str, request: ForkRequest, *, now: datetime
) -> Forked | NoCheckpoint | WhichWait | Unknown:
    """A new run that goes on from that checkpoint, also of a run that is over. For the API.

    It has the original's task, version, payload, tags and settings, and its own first attempt, which has begun already. Of what
    the original has used it has used nothing; it is frozen from now on.
    Its waits are tied to the same waitpoints: what was answered since is answered for it as well, and what is open wakes
    both. With an answer, that wait is answered so instead. Suspended while nothing is answered, if the process was frozen
    in a wait; else queued, ahead of new runs.

    Whoever deletes images can't take this one meanwhile: garbage.py.
    """
    origin = await lock_run(tx, run_id)
    if origin is None or origin.environment_id != environment_id or origin.hook is not None:
        return Unknown()
    if request.run_id is not None and (done := await _done_before(tx, request.run_id, run_id)):
        return done
    found = await _checkpoint(tx, origin, request.checkpoint_id)
    if isinstance(found, NoCheckpoint):
        return found
    waits = await _share_waits(tx, origin.id, found.open_waits)
    answered = None
    if request.answer is not None or request.answer_object is not None or request.wait_id is not None:
        answered = _which(waits, request.wait_id)
        if answered is None:
            return WhichWait([(wait["wait_id"], wait["kind"]) for wait in waits if _can_be_answered(wait)])
    if not await images.share_image(tx, found.image_id):
        return NoCheckpoint(f"the image of checkpoint {found.id} is being deleted")
    return await _make(tx, origin, found, waits, answered, request, now=now)


async def _done_before(tx: Transaction, run_id: str, origin_id: str) -> Forked | None:
    row = await tx.fetchrow(
        """select runs.state, (select id from checkpoints where run_id = runs.id and number = 1) as checkpoint_id
           from runs where id = $1 and forked_from = $2""",
        run_id,
        origin_id,
    )
    if row is None:
        return None
    return Forked(run_id, row["checkpoint_id"] or "", row["state"] == RunState.SUSPENDED, is_cached=True)


async def _checkpoint(tx: Transaction, origin: Run, wanted: str) -> Checkpoint | NoCheckpoint:
    if wanted == LATEST:
        row = await tx.fetchrow(
            """select * from checkpoints where run_id = $1 and state in ('usable', 'kept') and digest <> ''
               order by number desc limit 1""",
            origin.id,
        )
        return Checkpoint.of(row) if row else NoCheckpoint(f"run {origin.id} has no checkpoint that is kept")
    row = await tx.fetchrow("select * from checkpoints where id = $1 and run_id = $2", wanted, origin.id)
    if row is None:
        return NoCheckpoint(f"run {origin.id} has no checkpoint {wanted}")
    checkpoint = Checkpoint.of(row)
    if checkpoint.state == "unusable":
        return NoCheckpoint(f"checkpoint {wanted} can't be restored: {checkpoint.reason}")
    if checkpoint.state == "dropped":
        return NoCheckpoint(f"checkpoint {wanted} is not kept any more")
    if not checkpoint.digest:
        return NoCheckpoint(f"checkpoint {wanted} is on a worker's own disk: only its own run can be restored from it")
    return checkpoint


async def _share_waits(tx: Transaction, run_id: str, wait_ids: Sequence[str]) -> list[Any]:
    """What the frozen process waits for, with a share of the waitpoints: a completion comes before this, and is read here,
    or after, and finds what is tied here (wait.py)."""
    await tx.execute(
        """select from waitpoints where id in (select waitpoint_id from waits where run_id = $1 and wait_id = any($2::text[]))
           order by id for share""",
        run_id,
        wait_ids,
    )
    return await tx.fetch(
        """select waits.wait_id, waits.waitpoint_id, waits.times_out_at, waits.timed_out_at, waitpoints.kind, waitpoints.status,
                  waitpoints.due_at
           from waits join waitpoints on waitpoints.id = waits.waitpoint_id
           where waits.run_id = $1 and waits.wait_id = any($2::text[]) order by waits.created_at, waits.wait_id""",
        run_id,
        wait_ids,
    )


def _can_be_answered(wait: Any) -> bool:
    return not wait["wait_id"].startswith(ALARM)


def _which(waits: list[Any], wait_id: str | None) -> str | None:
    answerable = [wait["wait_id"] for wait in waits if _can_be_answered(wait)]
    if wait_id is not None:
        return wait_id if wait_id in answerable else None
    return answerable[0] if len(answerable) == 1 else None


async def _make(
    tx: Transaction,
    origin: Run,
    checkpoint: Checkpoint,
    waits: list[Any],
    answered: str | None,
    request: ForkRequest,
    *,
    now: datetime,
) -> Forked:
    run_id, checkpoint_id = request.run_id or ids.new("run"), ids.new("checkpoint")
    is_answered = answered is not None or any(
        wait["status"] != "pending" or wait["timed_out_at"] is not None for wait in waits
    )
    # Only a process that was frozen in a wait sleeps until it is answered: any other has work to do.
    is_suspended = checkpoint.kind == "wait" and bool(waits) and not is_answered
    await tx.execute(
        """insert into runs (id, environment_id, task_id, version, state, payload, payload_object, attempt, max_attempts,
                             checkpoint_id, image_store_id, available_at, tags, metadata, given_metadata, is_test,
                             trigger_function, depth, created_at, updated_at, queue, concurrency_key, priority_s,
                             max_duration_s, locked_version, inherit_tags, asked, forked_from, forked_checkpoint_id, preset,
                             frozen_since)
           select $2, environment_id, task_id, attempts.version, $3, payload, payload_object, 1, max_attempts, $8, $4, $5,
                  tags, metadata, given_metadata, is_test, 'fork', 0, $5, $5, queue, concurrency_key, priority_s, max_duration_s,
                  locked_version, inherit_tags, asked, runs.id, $6, preset, $5
           from runs join attempts on attempts.run_id = runs.id and attempts.number = $7 where runs.id = $1""",
        origin.id,
        run_id,
        RunState.SUSPENDED if is_suspended else RunState.QUEUED,
        checkpoint.store_id,
        now,
        checkpoint.id,
        checkpoint.attempt,
        checkpoint_id,
    )
    await tx.execute(
        """insert into attempts (run_id, number, version, worker_id, lease, dequeued_at)
           select id, 1, version, $2, 0, $3 from runs where id = $1""",
        run_id,
        checkpoint.worker_id,
        now,
    )
    await tx.execute(
        """insert into checkpoints (id, run_id, worker_id, attempt, state, open_waits, size_bytes, files_bytes, dump_ms,
                                    durable_ms, rss_bytes, facts, waiting_at, created_at, number, image_id, kind, name,
                                    store_id, digest, key_id, base, new_bytes, shared_bytes, environment_id)
           select $2, $3, worker_id, 1, 'usable', open_waits, size_bytes, files_bytes, dump_ms, durable_ms, rss_bytes, facts,
                  waiting_at, $4, 1, image_id, kind, name, store_id, digest, key_id, base, 0, shared_bytes, environment_id
           from checkpoints where id = $1""",
        checkpoint.id,
        checkpoint_id,
        run_id,
        now,
    )
    await _tie(tx, run_id, origin, waits, answered, request, now=now)
    told: dict[str, Any] = {"checkpoint_id": checkpoint.id, "run_id": origin.id}
    if answered is not None:
        told["answered"] = answered
    await events.record(tx, run_id, "run.forked", now=now, attempt=1, data={"from": told})
    await events.record(tx, origin.id, "run.forked", now=now, data={"as": run_id, "checkpoint_id": checkpoint.id})
    if not is_suspended:
        await tx.notify("work", environment_id=origin.environment_id)
    return Forked(run_id, checkpoint_id, is_suspended)


async def _tie(
    tx: Transaction,
    run_id: str,
    origin: Run,
    waits: list[Any],
    answered: str | None,
    request: ForkRequest,
    *,
    now: datetime,
) -> None:
    """The new run's waits: the same waitpoints, but for the one that is answered here."""
    for wait in waits:
        target, times_out_at, timed_out_at = wait["waitpoint_id"], wait["times_out_at"], wait["timed_out_at"]
        if wait["wait_id"] == answered:
            target, times_out_at, timed_out_at = ids.new("waitpoint"), None, None
            # As a time that has come, so that lists of tokens don't show it.
            await tx.execute(
                """insert into waitpoints (id, environment_id, kind, status, due_at, output, output_object, completed_by,
                                           created_by_run_id, created_at, completed_at)
                   values ($1, $2, 'time', 'completed', $3, $4, $5, 'fork', $6, $3, $3)""",
                target,
                origin.environment_id,
                now,
                None if request.answer_object else request.answer,
                request.answer_object,
                run_id,
            )
        await tx.execute(
            """insert into waits (run_id, wait_id, waitpoint_id, created_at, times_out_at, timed_out_at)
               values ($1, $2, $3, $4, $5, $6)""",
            run_id,
            wait["wait_id"],
            target,
            now,
            times_out_at,
            timed_out_at,
        )
        if times_out_at is not None and wait["status"] == "pending" and timed_out_at is None:
            await tx.notify("timer", due_at=to_iso(times_out_at))

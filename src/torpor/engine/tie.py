"""Tie a run's new waits to their waitpoints: those that are there, and those that are made for them. For `block` only."""

from datetime import datetime

from torpor import ids
from torpor.engine.instants import after, from_iso, to_iso
from torpor.engine.states import ENDS, STATUS, RunState
from torpor.engine.token import IDEMPOTENCY_TTL_S
from torpor.store.database import Transaction
from torpor.store.records import Run
from torpor.wire.runner import NewWait


async def tie(tx: Transaction, run: Run, waits: list[NewWait], awaited: dict[str, Run], *, now: datetime) -> None:
    """Tie the waits that are new. The caller holds the run's row, and a share of those that it waits for (`awaited`)."""
    known = await tx.fetch(
        "select wait_id from waits where run_id = $1 and wait_id = any($2::text[])", run.id, [w.wait_id for w in waits]
    )
    seen = {row["wait_id"] for row in known}
    fresh: list[NewWait] = []
    for wait in waits:
        if wait.wait_id not in seen:
            seen.add(wait.wait_id)
            fresh.append(wait)
    if not fresh:
        return
    of_runs = await _run_waitpoints(tx, run, fresh, awaited, now=now)
    of_batches = await _batch_waitpoints(tx, run, fresh)
    of_keys = await _keyed_times(tx, run, fresh, now=now)
    # The share that wait.py's docstring speaks of.
    wanted = [wait.waitpoint_id for wait in fresh if wait.kind == "token"]
    wanted += [*of_runs.values(), *of_batches.values(), *of_keys.values()]
    rows = await tx.fetch(
        "select id, kind, status from waitpoints where id = any($1::text[]) and environment_id = $2 order by id for share",
        wanted,
        run.environment_id,
    )
    there = {row["id"]: row for row in rows}
    for wait in fresh:
        match wait.kind:
            case "time":
                target = of_keys.get(wait.idempotency_key or "")
            case "run":
                target = of_runs.get(wait.run_id or "")
            case "batch":
                target = of_batches.get(wait.batch_id or "")
            case _:
                target = wait.waitpoint_id
        found = there.get(target or "")
        if found is not None and found["kind"] == wait.kind:
            await _insert(tx, run, wait, found["id"], is_pending=found["status"] == "pending", now=now)
        elif wait.kind == "time":
            await _insert(tx, run, wait, await _make_time(tx, run, wait, now=now), is_pending=True, now=now)
        else:
            message = f"{_target(wait)} doesn't exist: nothing could ever answer this wait"
            hopeless = await make_hopeless(tx, run, "NotFound", message, now=now)
            await _insert(tx, run, wait, hopeless, is_pending=False, now=now)


async def make_hopeless(tx: Transaction, run: Run, name: str, message: str, *, now: datetime) -> str:
    """A waitpoint that says why this run must not wait: it would sleep for ever.

    It stands as a time that has come, so that lists of tokens don't show it.
    """
    waitpoint_id = ids.new("waitpoint")
    await tx.execute(
        """insert into waitpoints (id, environment_id, kind, status, due_at, error, created_by_run_id, created_at,
                                   completed_at)
           values ($1, $2, 'time', 'failed', $3, $4, $5, $3, $3)""",
        waitpoint_id,
        run.environment_id,
        now,
        {"name": name, "message": message},
        run.id,
    )
    return waitpoint_id


def _target(wait: NewWait) -> str:
    match wait.kind:
        case "run":
            return f"the run {wait.run_id}"
        case "batch":
            return f"the batch {wait.batch_id}"
        case _:
            return f"the wait token {wait.waitpoint_id}"


async def _insert(
    tx: Transaction, run: Run, wait: NewWait, waitpoint_id: str, *, is_pending: bool, now: datetime
) -> None:
    """One that has no time at all, and no answer yet, has timed out: `timeout=0` asks whether there is an answer."""
    times_out_at = None if wait.timeout_s is None else after(now, wait.timeout_s)
    is_over = times_out_at is not None and times_out_at <= now and is_pending
    await tx.execute(
        """insert into waits (run_id, wait_id, waitpoint_id, created_at, times_out_at, timed_out_at)
           values ($1, $2, $3, $4, $5, $6)""",
        run.id,
        wait.wait_id,
        waitpoint_id,
        now,
        times_out_at,
        now if is_over else None,
    )
    if times_out_at is not None and is_pending and not is_over:
        await tx.notify("timer", due_at=to_iso(times_out_at))


async def _run_waitpoints(
    tx: Transaction, run: Run, waits: list[NewWait], awaited: dict[str, Run], *, now: datetime
) -> dict[str, str]:
    """The waitpoint of each awaited run, made if this is the first wait for it; complete at once if that run has ended."""
    wanted = sorted({wait.run_id for wait in waits if wait.kind == "run" and wait.run_id in awaited})
    for run_id in wanted:
        child = awaited[run_id]
        if child.environment_id != run.environment_id or child.id == run.id:
            continue
        has_ended = child.state in ENDS
        is_good = child.state == RunState.COMPLETED
        await tx.execute(
            """insert into waitpoints (id, environment_id, kind, status, awaited_run_id, output, error, run_status,
                                       created_at, completed_at, output_object)
               values ($1, $2, 'run', $3, $4, $5, $6, $7, $8, $9, $10)
               on conflict (awaited_run_id) where awaited_run_id is not null do nothing""",
            ids.new("waitpoint"),
            run.environment_id,
            ("completed" if is_good else "failed") if has_ended else "pending",
            child.id,
            child.output,
            child.error,
            STATUS[RunState(child.state)] if has_ended else None,
            now,
            child.finished_at,
            child.output_object,
        )
    rows = await tx.fetch("select id, awaited_run_id from waitpoints where awaited_run_id = any($1::text[])", wanted)
    return {row["awaited_run_id"]: row["id"] for row in rows}


async def _batch_waitpoints(tx: Transaction, run: Run, waits: list[NewWait]) -> dict[str, str]:
    """The waitpoint of each awaited batch, which it has from the start."""
    wanted = [wait.batch_id for wait in waits if wait.kind == "batch"]
    if not wanted:
        return {}
    rows = await tx.fetch(
        "select id, waitpoint_id from batches where id = any($1::text[]) and environment_id = $2",
        wanted,
        run.environment_id,
    )
    return {row["id"]: row["waitpoint_id"] for row in rows}


async def _keyed_times(tx: Transaction, run: Run, waits: list[NewWait], *, now: datetime) -> dict[str, str]:
    """The waitpoint of each time wait with an idempotency key: that which the key stands for, or a new one.

    So an attempt that waits again for what an earlier one has waited for goes on at once, or waits for the rest.
    """
    keyed = {wait.idempotency_key: wait for wait in waits if wait.kind == "time" and wait.idempotency_key}
    for key, wait in sorted(keyed.items()):  # two runs with the same keys take them in the same order
        await tx.execute(
            """update waitpoints set idempotency_key = null
               where environment_id = $1 and idempotency_key = $2 and idempotency_key_expires_at <= $3""",
            run.environment_id,
            key,
            now,
        )
        await _make_time(tx, run, wait, key=key, now=now)
    if not keyed:
        return {}
    rows = await tx.fetch(
        "select id, idempotency_key from waitpoints where environment_id = $1 and idempotency_key = any($2::text[])",
        run.environment_id,
        list(keyed),
    )
    return {row["idempotency_key"]: row["id"] for row in rows}


async def _make_time(tx: Transaction, run: Run, wait: NewWait, *, key: str | None = None, now: datetime) -> str:
    """A waitpoint that is due at an instant; one in the past is complete already. None is made for a key that stands."""
    due_at = from_iso(wait.until) or after(now, wait.duration_s or 0.0)
    waitpoint_id = ids.new("waitpoint")
    is_over = due_at <= now
    ttl_s = IDEMPOTENCY_TTL_S if wait.idempotency_key_ttl_s is None else wait.idempotency_key_ttl_s
    await tx.execute(
        """insert into waitpoints (id, environment_id, kind, status, due_at, created_by_run_id, created_at, completed_at,
                                   idempotency_key, idempotency_key_expires_at)
           values ($1, $2, 'time', $3, $4, $5, $6, $7, $8, $9)
           on conflict (environment_id, idempotency_key) where idempotency_key is not null do nothing""",
        waitpoint_id,
        run.environment_id,
        "completed" if is_over else "pending",
        due_at,
        run.id,
        now,
        now if is_over else None,
        key,
        after(now, ttl_s) if key else None,
    )
    if not is_over:
        await tx.notify("timer", due_at=to_iso(due_at))
    return waitpoint_id

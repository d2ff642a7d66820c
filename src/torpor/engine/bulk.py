"""Cancel or replay many runs: chosen at once, worked off one after the other in small steps.

    create_bulk    the choice and the action, in one statement's view of the runs: those that fitted then, and no others,
                   whatever becomes of them before their turn comes
    work_off       some runs of one action, in their order; what was done and how far it has come commit together, so
                   each run has its turn once, whichever servers die or come along
    abort_bulk     what is yet to come stays as it is

A step holds the action's row, with SKIP LOCKED: another server takes another action meanwhile, and an abort waits for
the step's end. That row is locked before all others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from torpor import ids
from torpor.engine import events, read_runs
from torpor.engine.cancel import AlreadyEnded, cancel_locked
from torpor.engine.locks import lock_runs_and_waiters
from torpor.engine.outcomes import Unknown
from torpor.engine.replay import like
from torpor.engine.trigger import Triggered, trigger_all
from torpor.store.database import Transaction
from torpor.store.records import BulkAction, Run

STEP = 50
"""Runs in one transaction."""
MAX_NAMED = 10_000
"""Runs that one action can name by their ids. By a filter it may choose as many as there are."""
NOT_THERE = "there is no such run"
PRUNED_ROWS = 500

Why = Callable[[str, object], str]
"""What is told of a task's trigger that made no run, by its outcome."""


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """What to do with which runs: those that fit, or those that are named."""

    kind: Literal["cancel", "replay"]
    where: read_runs.RunFilter | None = None
    run_ids: Sequence[str] | None = None
    name: str | None = None
    by: str | None = None  # the person who asks
    bulk_id: str | None = None  # the same request twice is the same action


@dataclass(frozen=True, slots=True)
class BulkCreated:
    """The action, with so many runs to do."""

    bulk_id: str
    total: int


@dataclass(frozen=True, slots=True)
class BulkAborted:
    """No run of it has its turn any more. Said again, or of one that was over, it changes nothing."""


@dataclass(frozen=True, slots=True)
class _Done:
    """One run's turn: the run that there is to show for it, or why there is none."""

    place: int
    shown: tuple[str, datetime] | None = None
    problem: str | None = None


async def create_bulk(tx: Transaction, environment_id: str, request: BulkRequest, *, now: datetime) -> BulkCreated:
    """Choose the runs, to be worked off from now on. For the API."""
    bulk_id = request.bulk_id or ids.new("bulk")
    known = await tx.fetchval("select total from bulk_actions where id = $1", bulk_id)
    if known is not None:
        return BulkCreated(bulk_id, known)
    await tx.execute(
        """insert into bulk_actions (id, environment_id, kind, name, made_by, total, created_at, completed_at)
           values ($1, $2, $3, $4, $5, 0, $6, $6)""",
        bulk_id,
        environment_id,
        request.kind,
        request.name,
        request.by,
        now,
    )
    total = await _choose(tx, environment_id, bulk_id, request)
    if total:
        await tx.execute("update bulk_actions set total = $2, completed_at = null where id = $1", bulk_id, total)
        await tx.notify("bulk")
    return BulkCreated(bulk_id, total)


async def _choose(tx: Transaction, environment_id: str, bulk_id: str, request: BulkRequest) -> int:
    """Write down its runs, the oldest first; named ones as they are named. Returns how many."""
    if request.run_ids is not None:
        named = list(dict.fromkeys(request.run_ids))
        await tx.execute(
            """insert into bulk_runs (bulk_id, place, run_id)
               select $1, place, run_id from unnest($2::text[]) with ordinality as named (run_id, place)""",
            bulk_id,
            named,
        )
        return len(named)
    made = await _conditions(tx, environment_id, request)
    told = await tx.execute(
        f"""insert into bulk_runs (bulk_id, place, run_id)
            select {made.value(bulk_id)}, row_number() over (order by created_at, id), id
            from runs where {" and ".join(made.parts)}""",
        *made.values,
    )
    return int(told.split()[-1])


async def count_bulk(tx: Transaction, environment_id: str, request: BulkRequest) -> int:
    """How many runs it would have if it were made now. Writes nothing."""
    if request.run_ids is not None:
        return len(set(request.run_ids))
    made = await _conditions(tx, environment_id, request)
    return await tx.fetchval(f"select count(*) from runs where {' and '.join(made.parts)}", *made.values) or 0


async def _conditions(tx: Transaction, environment_id: str, request: BulkRequest) -> read_runs.Conditions:
    where = request.where or read_runs.RunFilter()
    made = read_runs.conditions(environment_id, await read_runs.with_presets(tx, environment_id, where))
    if where.search:
        made.add("(starts_with(id, {}) or starts_with(task_id, {}) or {} = any(tags))", where.search)
    # It is asked once, for few runs or for all: what is quickest depends on the values.
    await tx.execute("set local plan_cache_mode = force_custom_plan")
    return made


async def open_bulk(tx: Transaction) -> list[str]:
    """The actions that are not over, oldest first."""
    rows = await tx.fetch("select id from bulk_actions where completed_at is null order by created_at, id")
    return [row["id"] for row in rows]


async def work_off(
    tx: Transaction, bulk_id: str, *, why: Why, limit: int = STEP, problem: str | None = None, now: datetime
) -> int | None:
    """Give some runs of this action their turn; returns how many. None: it is over, or in another server's hands.

    For the servers' duty. `problem`: the next one, with which a step could not be done, failed for this reason.
    """
    row = await tx.fetchrow(
        "select * from bulk_actions where id = $1 and completed_at is null for update skip locked", bulk_id
    )
    if row is None:
        return None
    action = BulkAction.of(row)
    done_before = action.succeeded + action.failed
    rows = await tx.fetch(
        "select place, run_id from bulk_runs where bulk_id = $1 and place > $2 and place <= $3 order by place",
        bulk_id,
        done_before,
        done_before + (1 if problem else limit),
    )
    places = {row["run_id"]: row["place"] for row in rows}
    if problem:
        done = [_Done(place, problem=problem) for place in places.values()]
    elif action.kind == "cancel":
        done = await _cancel(tx, action, places, now=now)
    else:
        done = await _replay(tx, action, places, why, now=now)
    await _note(tx, action, done, now=now)
    return len(done)


async def _cancel(tx: Transaction, action: BulkAction, places: dict[str, int], *, now: datetime) -> list[_Done]:
    around = await lock_runs_and_waiters(tx, places)
    reason = (
        f"canceled by {f'{action.made_by} with ' if action.made_by else ''}the bulk action {action.name or action.id}"
    )
    done: list[_Done] = []
    for run_id, place in places.items():
        run = around[0].get(run_id)
        if run is None or run.environment_id != action.environment_id:
            done.append(_Done(place, problem=NOT_THERE))
            continue
        outcome = await cancel_locked(tx, run, around, reason=reason, now=now)
        if isinstance(outcome, AlreadyEnded):
            done.append(_Done(place, problem=f"it had ended: {outcome.state}"))
        else:
            done.append(_Done(place, (run.id, run.created_at)))
    return done


async def _replay(
    tx: Transaction, action: BulkAction, places: dict[str, int], why: Why, *, now: datetime
) -> list[_Done]:
    rows = await tx.fetch(
        "select * from runs where id = any($1::text[]) and environment_id = $2", list(places), action.environment_id
    )
    olds = sorted((Run.of(row) for row in rows), key=lambda run: places[run.id])
    outcomes = await trigger_all(tx, action.environment_id, [like(run) for run in olds], now=now)
    made = {
        old.id: outcome.run_id for old, outcome in zip(olds, outcomes, strict=True) if isinstance(outcome, Triggered)
    }
    lines = [events.Line(old_id, None, {"as": new_id}) for old_id, new_id in made.items()]
    await events.record_all(tx, "run.replayed", lines, now=now)
    rows = await tx.fetch("select id, created_at from runs where id = any($1::text[])", list(made.values()))
    made_at = {row["id"]: row["created_at"] for row in rows}
    refused = {
        old.id: why(old.task_id, outcome) for old, outcome in zip(olds, outcomes, strict=True) if old.id not in made
    }
    return [
        _Done(place, (made[run_id], made_at[made[run_id]]))
        if run_id in made
        else _Done(place, problem=refused.get(run_id, NOT_THERE))
        for run_id, place in places.items()
    ]


async def _note(tx: Transaction, action: BulkAction, done: list[_Done], *, now: datetime) -> None:
    """What became of these runs, and with the last of them, that the action is over."""
    await tx.execute(
        """update bulk_runs set shown_id = done.shown_id, shown_at = done.shown_at, problem = done.problem
           from unnest($2::int[], $3::text[], $4::timestamptz[], $5::text[]) as done (place, shown_id, shown_at, problem)
           where bulk_runs.bulk_id = $1 and bulk_runs.place = done.place""",
        action.id,
        [one.place for one in done],
        [one.shown and one.shown[0] for one in done],
        [one.shown and one.shown[1] for one in done],
        [one.problem for one in done],
    )
    failed = sum(one.problem is not None for one in done)
    is_over = action.succeeded + action.failed + len(done) == action.total
    await tx.execute(
        "update bulk_actions set succeeded = succeeded + $2, failed = failed + $3, completed_at = $4 where id = $1",
        action.id,
        len(done) - failed,
        failed,
        now if is_over else None,
    )
    await events.announce(tx, "bulk")


async def abort_bulk(tx: Transaction, environment_id: str, bulk_id: str, *, now: datetime) -> BulkAborted | Unknown:
    """Stop it: what was done stays done, and once this has committed nothing more is. For the API."""
    row = await tx.fetchrow(
        "select completed_at from bulk_actions where id = $1 and environment_id = $2 for update",
        bulk_id,
        environment_id,
    )
    if row is None:
        return Unknown()
    if row["completed_at"] is None:
        await tx.execute("update bulk_actions set aborted_at = $2, completed_at = $2 where id = $1", bulk_id, now)
        await events.announce(tx, "bulk")
    return BulkAborted()


async def prune_bulk(tx: Transaction, *, before: datetime, rows: int = PRUNED_ROWS, now: datetime) -> int:
    """Delete some of what belongs to actions that were over before that instant; returns how many rows. For retention."""
    action_id = await tx.fetchval(
        """select id from bulk_actions where completed_at < $1 order by completed_at limit 1 for update skip locked""",
        before,
    )
    if action_id is None:
        return 0
    told = await tx.execute(
        "delete from bulk_runs where ctid = any(array(select ctid from bulk_runs where bulk_id = $1 limit $2))",
        action_id,
        rows,
    )
    deleted = int(told.split()[-1])
    if deleted < rows:
        await tx.execute("delete from bulk_actions where id = $1", action_id)
    return deleted + (deleted < rows)

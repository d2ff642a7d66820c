"""Runs that could only wait for each other, for ever: found when the last of them begins to wait, and told to it.

    a waits for b, b waits for c, c waits for a

Each is blocked on nothing but runs (or batches of runs) of the same circle, without a deadline. A run goes on when any
of its waits is answered, so one wait that could be answered some other way (a token, a time, a run that works) is enough.
A batch is answered when all its runs have ended, so one of them in the circle is enough to hold it up.

Usually this costs nothing: a run that waits for a child which it has just triggered, or which is queued or at work, is
seen to have a way out by rows that are locked anyway, or by one that is locked now.

Two runs that close a circle in the same instant don't see each other's waits. So whoever finds a way out takes a share of
the runs along it until it commits: those can't begin to wait meanwhile, and look after that. Out of the usual order, since
the way is found by looking; where two do this to each other Postgres ends one transaction, and the repeated message finds
the circle. (Not covered: two runs that wait for nothing but batches, each a run of the other's, in the same instant.)
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from torpor.engine.answers import Tied
from torpor.engine.states import RunState
from torpor.engine.tie import make_hopeless
from torpor.store.database import Transaction
from torpor.store.records import Run

MOST_RUNS = 1000
"""A way of more runs than this is not followed to its end: it is taken for one that leads out."""
_BLOCKED = (RunState.WAITING, RunState.SUSPENDED)


@dataclass(frozen=True, slots=True)
class _Wait:
    """An open wait of a run, by what could answer it."""

    wait_id: str
    runs: tuple[str, ...]  # its run; or those of its batch that are blocked
    is_batch: bool
    has_way_out: bool  # a token, a time, a deadline


async def refuse(
    tx: Transaction, run: Run, waits: list[Tied], named: set[str], awaited: dict[str, Run], *, now: datetime
) -> bool:
    """Answer a wait of this idle run with an error if nothing could ever answer any of them; whether that was so.

    For `block`, which holds the run's row and shares of the runs it has just begun to wait for (`awaited`); of the waits
    those that it has just entered (`named`) come first.
    """
    open_waits = [wait for wait in waits if wait.is_open]
    if not open_waits or any(wait.kind not in ("run", "batch") or wait.ends_at for wait in open_waits):
        return False
    if any(not wait.is_open and wait.delivered_at is None for wait in waits):
        return False  # an answer is on its way
    children = [wait.awaited_run_id for wait in open_waits if wait.awaited_run_id]
    if any(child in awaited and awaited[child].state not in _BLOCKED for child in children):
        return False
    if children and await _holds_a_child_at_work(tx, children):
        return False
    circle = await _find(tx, run)
    if circle is None:
        return False
    chosen = next((wait for wait in open_waits if wait.wait_id in named), open_waits[-1])
    told = ", which waits for ".join(circle[1:])
    message = f"{circle[0]} waits for {told}: none of them could ever go on"
    # The waitpoint itself is left alone: others may be tied to it.
    await tx.execute(
        "update waits set waitpoint_id = $3 where run_id = $1 and wait_id = $2",
        run.id,
        chosen.wait_id,
        await make_hopeless(tx, run, "WaitCycle", message, now=now),
    )
    return True


async def _holds_a_child_at_work(tx: Transaction, children: list[str]) -> bool:
    """Whether there is a child that could go on, of which nobody else changes anything now: it is ours until we commit."""
    return bool(
        await tx.fetchval(
            """select 1 from runs where id = any($1::text[]) and finished_at is null and not state = any($2::text[])
               limit 1 for share skip locked""",
            children,
            list(_BLOCKED),
        )
    )


async def _find(tx: Transaction, run: Run) -> list[str] | None:
    """The circle, from this run back to one that was named; None if there is a way out."""
    shared: set[str] = {run.id}
    while True:
        waits = await _waits_around(tx, run)
        stuck = _stuck(waits)
        if run.id in stuck:
            return _circle(run.id, waits, stuck)
        way = _way_out(run.id, waits, stuck)
        if shared.issuperset(way):
            return None
        await tx.execute("select 1 from runs where id = any($1::text[]) order by id for share", way)
        shared |= set(way)


async def _waits_around(tx: Transaction, run: Run) -> dict[str, list[_Wait]]:
    """The open waits of this run and of all blocked runs that it waits for, directly or not. No row: not blocked."""
    rows = await tx.fetch(
        """with recursive around (run_id) as (
               select $1::text
               union
               select next.run_id
               from around
               join waits on waits.run_id = around.run_id and waits.detached_at is null and waits.timed_out_at is null
               join waitpoints on waitpoints.id = waits.waitpoint_id and waitpoints.status = 'pending'
               cross join lateral (
                   select waitpoints.awaited_run_id where waitpoints.kind = 'run'
                   union all
                   select run_id from batch_items where batch_id = waitpoints.batch_id and run_id is not null
               ) as next (run_id)
               join runs on runs.id = next.run_id and runs.state in ('waiting', 'suspended') and runs.ready_at is null
           )
           select around.run_id, waits.wait_id, waitpoints.kind, waitpoints.awaited_run_id,
                  waits.times_out_at is not null or waitpoints.kind not in ('run', 'batch')
                      or (waitpoints.status <> 'pending' and waits.delivered_at is null) as has_way_out,
                  case when waitpoints.kind = 'batch' then array(
                      select item.run_id from batch_items as item join runs on runs.id = item.run_id
                      where item.batch_id = waitpoints.batch_id
                        and (runs.state in ('waiting', 'suspended') or runs.id = $1)) end as items
           from (select run_id from around limit $2) as around
           join waits on waits.run_id = around.run_id and waits.detached_at is null and waits.timed_out_at is null
           join waitpoints on waitpoints.id = waits.waitpoint_id
           where waitpoints.status = 'pending' or waits.delivered_at is null
           order by around.run_id, waits.created_at, waits.wait_id""",
        run.id,
        MOST_RUNS,
    )
    found: dict[str, list[_Wait]] = {}
    for row in rows:
        runs = tuple(row["items"]) if row["kind"] == "batch" else tuple(filter(None, [row["awaited_run_id"]]))
        wait = _Wait(row["wait_id"], runs, row["kind"] == "batch", row["has_way_out"])
        found.setdefault(row["run_id"], []).append(wait)
    return found


def _stuck(waits: dict[str, list[_Wait]]) -> set[str]:
    """The runs that could go on only if another of them did: take away whoever has a way out until nobody has."""
    stuck = set(waits)
    while free := {run_id for run_id in stuck if any(_is_free(wait, stuck) for wait in waits[run_id])}:
        stuck -= free
    return stuck


def _is_free(wait: _Wait, stuck: set[str]) -> bool:
    return wait.has_way_out or not any(run_id in stuck for run_id in wait.runs)


def _way_out(run_id: str, waits: dict[str, list[_Wait]], stuck: set[str]) -> list[str]:
    """The runs on the shortest way to one that can go on by itself."""
    came_from: dict[str, str] = {}
    line = deque([run_id])
    while line:
        here = line.popleft()
        if here not in waits or any(wait.has_way_out or not wait.runs for wait in waits[here]):
            return [here, *_back(here, came_from)]
        for wait in waits[here]:
            for after in wait.runs:
                if after not in came_from and after != run_id and after not in stuck:
                    came_from[after] = here
                    line.append(after)
    return []


def _back(run_id: str, came_from: dict[str, str]) -> Iterable[str]:
    while run_id in came_from:
        run_id = came_from[run_id]
        yield run_id


def _circle(run_id: str, waits: dict[str, list[_Wait]], stuck: set[str]) -> list[str]:
    """From this run along stuck ones until one comes again: `[a, b, a]`. The shortest way back to the first, if any."""
    came_from: dict[str, str] = {}
    line = deque([run_id])
    while line:
        here = line.popleft()
        for after in (after for wait in waits[here] for after in wait.runs if after in stuck):
            if after == run_id:
                return [*reversed([here, *_back(here, came_from)]), run_id]
            if after not in came_from:
                came_from[after] = here
                line.append(after)
    way = [run_id]  # it waits for a circle without being in it
    while len(set(way)) == len(way):
        way.append(next(after for wait in waits[way[-1]] for after in wait.runs if after in stuck))
    return way

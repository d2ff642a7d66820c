"""A run that needs much of a machine isn't starved by those that need little.

Small runs of other lines take what becomes free before it is enough for a large one. So when a run has been queued for
`PATIENCE_S`, and nothing but room keeps it from a worker that asks for work, this worker saves up for it: it gets nothing
else until there is room. One worker of an environment does so at a time, for one run: the others go on, and what this costs
has a bound. It ends when the run has been handed out (to whomever), can't be had by that worker any more (its queue is
paused or at its limit, it was canceled), or the worker is gone.

All under the lock of the environment's turn.
"""

from datetime import datetime, timedelta

from torpor.engine.lines import Lines
from torpor.engine.placement import Room
from torpor.engine.slots import Turn
from torpor.store.database import Transaction
from torpor.store.records import Run

PATIENCE_S = 60.0


async def next_run(
    tx: Transaction, environment_id: str, worker_id: str, turn: Turn, room: Room, lines: list[Lines], *, now: datetime
) -> tuple[Run | None, bool]:
    """The run for which this worker has saved up, now that there is room; and whether it must go on saving, and so gets
    nothing."""
    if turn.saving_run_id is not None and turn.saving_worker_id == worker_id:
        found = await _still_wanted(tx, room, lines, turn.saving_run_id)
        if found is not None and not room.take([found[0]]):
            return None, True
        await _save_for(tx, environment_id, None, None)
        if found is not None:
            run, line = found
            await line.served(tx, run)
            return run, False
    elif turn.saving_run_id is not None and await _is_saving(tx, turn, now=now):
        return None, False
    for each in lines:
        longing = await each.longing(tx, room, now - timedelta(seconds=PATIENCE_S))
        if longing is not None:
            await _save_for(tx, environment_id, longing, worker_id)
            return None, True
    if turn.saving_run_id is not None and turn.saving_worker_id != worker_id:
        await _save_for(tx, environment_id, None, None)
    return None, False


async def _still_wanted(tx: Transaction, room: Room, lines: list[Lines], run_id: str) -> tuple[Run, Lines] | None:
    for each in lines:
        run = await each.one(tx, room, run_id)
        if run is not None:
            return run, each
    return None


async def _is_saving(tx: Transaction, turn: Turn, *, now: datetime) -> bool:
    """Whether the other worker is here, and the run still queued."""
    found = await tx.fetchval(
        """select true from workers, runs
           where workers.id = $1 and workers.expires_at > $3 and runs.id = $2 and runs.state = 'queued'""",
        turn.saving_worker_id,
        turn.saving_run_id,
        now,
    )
    return bool(found)


async def _save_for(tx: Transaction, environment_id: str, run_id: str | None, worker_id: str | None) -> None:
    await tx.execute(
        "update turns set saving_run_id = $2, saving_worker_id = $3 where environment_id = $1",
        environment_id,
        run_id,
        worker_id,
    )


async def note_short(tx: Transaction, environment_id: str, worker_id: str, turn: Turn, *, is_short: bool) -> None:
    """Remember whether this worker is too full for some queued run: it is told when it has room again (slots.released)."""
    if is_short == (worker_id in turn.short_of_room):
        return
    await tx.execute(
        """update turns set short_of_room = array(
               select id from workers where id = any(turns.short_of_room) and id <> $2 union all select $2 where $3)
           where environment_id = $1""",
        environment_id,
        worker_id,
        is_short,
    )


async def is_short(tx: Transaction, environment_id: str, worker_id: str) -> bool:
    """Whether queued runs were left because this worker has no room for them: another may have."""
    short = await tx.fetchval("select short_of_room from turns where environment_id = $1", environment_id)
    return worker_id in (short or ())

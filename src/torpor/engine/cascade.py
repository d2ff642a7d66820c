"""The children of a canceled run are canceled too: noted in the transaction that cancels, done later in small steps.

A tree may have a hundred thousand runs, and no transaction should hold as many. Each step cancels some children; each of
those notes its own children in turn. A note is a row, so a server that dies in between costs nothing but time.

What a run triggers after it was asked to end is its cleanup (`on_cancel`, `finally`), and goes on.
"""

from datetime import datetime

from torpor.engine.cancel import AlreadyEnded, cancel_locked
from torpor.engine.locks import lock_runs_and_waiters
from torpor.engine.states import ENDS
from torpor.store.database import Transaction

STEP = 50
_ENDS = sorted(ENDS)


async def cascade(tx: Transaction, *, limit: int = STEP, now: datetime) -> int | None:
    """Cancel some children of a canceled run, oldest cancel first. Returns how many; None: there is nothing to do.

    For the server's duty, in as many servers as there are: two of them at the same run come one after the other.
    """
    parent_id = await tx.fetchval("select run_id from cascades order by created_at, run_id limit 1")
    if parent_id is None:
        return None
    rows = await tx.fetch(
        """select runs.id from runs join runs as parent on parent.id = runs.parent_run_id
           where runs.parent_run_id = $1 and not runs.state = any($2::text[]) and runs.cancel_requested_at is null
             and runs.created_at <= coalesce(parent.cancel_requested_at, 'infinity')
           order by runs.id limit $3""",
        parent_id,
        _ENDS,
        limit,
    )
    # The parent too: while it is held nobody notes it, nor triggers for it, so the note may go when nothing is left.
    around = await lock_runs_and_waiters(tx, [parent_id, *(row["id"] for row in rows)])
    count = 0
    for row in rows:
        run = around[0].get(row["id"])
        if run is None:
            continue
        outcome = await cancel_locked(tx, run, around, reason=f"its parent {parent_id} was canceled", now=now)
        count += not isinstance(outcome, AlreadyEnded)
    if len(rows) < limit and not await _is_left(tx, parent_id):
        await tx.execute("delete from cascades where run_id = $1", parent_id)
    return count


async def _is_left(tx: Transaction, parent_id: str) -> bool:
    """Whether a child was triggered since this step began."""
    return bool(
        await tx.fetchval(
            """select exists (select from runs join runs as parent on parent.id = runs.parent_run_id
                              where runs.parent_run_id = $1 and not runs.state = any($2::text[])
                                and runs.cancel_requested_at is null
                                and runs.created_at <= coalesce(parent.cancel_requested_at, 'infinity'))""",
            parent_id,
            _ENDS,
        )
    )

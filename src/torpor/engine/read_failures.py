"""Runs that failed, newest end first: for grouping them by their errors. Writes nothing.

It goes along the index of failed runs, which has only those, and reads no more of each than tells errors apart.
"""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.states import RunState
from torpor.store.database import Transaction

FAILED = (RunState.FAILED, RunState.CRASHED, RunState.TIMED_OUT, RunState.SYSTEM_FAILURE)
MESSAGE_CHARS = 500
TRACE_CHARS = 1500
"""Of a traceback's end, where the innermost frame is."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that failed at `at`, and the end of its error: at most MESSAGE_CHARS and TRACE_CHARS of it."""

    run_id: str
    task_id: str
    version: str | None
    state: RunState
    at: datetime
    name: str
    message: str
    trace: str


async def failures(tx: Transaction, environment_id: str, *, since: datetime, limit: int) -> list[Failure]:
    """The newest of those that failed since then. Hooks are none: they are part of another run's story."""
    rows = await tx.fetch(
        f"""select id, task_id, version, state, finished_at, coalesce(error ->> 'name', '') as name,
                   left(coalesce(error ->> 'message', ''), {MESSAGE_CHARS}) as message,
                   right(coalesce(error ->> 'stack_trace', ''), {TRACE_CHARS}) as trace
            from runs
            where environment_id = $1 and finished_at >= $2 and hook is null
              and state in ('failed', 'crashed', 'timed_out', 'system_failure')
            order by finished_at desc, id desc limit $3""",
        environment_id,
        since,
        limit,
    )
    return [
        Failure(
            row["id"],
            row["task_id"],
            row["version"],
            RunState(row["state"]),
            row["finished_at"],
            row["name"],
            row["message"],
            row["trace"],
        )
        for row in rows
    ]

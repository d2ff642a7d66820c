"""Queues: where runs line up, and what their limits are."""

from datetime import datetime

from torpor import ids
from torpor.store.database import Transaction
from torpor.wire.http import VersionReport

CUSTOM = "custom"
OF_TASK = "task"


def own_queue(task_id: str) -> str:
    """The name of the queue that a task has by itself."""
    return f"task/{task_id}"


async def declare(tx: Transaction, environment_id: str, report: VersionReport, *, now: datetime) -> None:
    """Make the queues of a version known, with their limits as its code has them. One set while running stays.

    Every task has a queue of its own, whether its runs line up there by default or not.
    """
    declared = {queue.name: queue for queue in report.queues}
    declared |= {task.queue.name: task.queue for task in report.tasks if task.queue}
    rows = [(queue.name, CUSTOM, queue.concurrency_limit) for queue in declared.values()]
    rows += [(own_queue(task.id), OF_TASK, None) for task in report.tasks if own_queue(task.id) not in declared]
    await tx.executemany(
        """insert into queues (id, environment_id, name, kind, concurrency_limit, created_at)
           values ($1, $2, $3, $4, $5, $6)
           on conflict (environment_id, name) do update set concurrency_limit = excluded.concurrency_limit""",
        [(ids.new("queue"), environment_id, *row, now) for row in sorted(rows)],
    )

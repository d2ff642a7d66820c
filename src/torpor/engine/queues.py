"""Queues and environments: where runs line up, and what their limits are. (slots.py keeps to them.)"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from torpor import ids
from torpor.engine.events import announce
from torpor.engine.outcomes import Unknown
from torpor.store.database import Transaction
from torpor.store.records import Environment, Queue
from torpor.wire.http import VersionReport

CUSTOM = "custom"
OF_TASK = "task"


class Unset:
    """What wasn't said, where None says something."""


UNSET = Unset()


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


@dataclass(frozen=True, slots=True)
class Changed:
    """The queue as it is now."""

    queue: Queue


async def pause(tx: Transaction, environment_id: str, queue_id: str, *, now: datetime) -> Changed | Unknown:
    """From now on no run of this queue is handed out, nor goes on after a wait. Those that work go on. For the API."""
    return await _change(tx, environment_id, queue_id, "is_paused = true")


async def unpause(tx: Transaction, environment_id: str, queue_id: str, *, now: datetime) -> Changed | Unknown:
    """Hand out its runs again. For the API."""
    return await _change(tx, environment_id, queue_id, "is_paused = false")


async def override(
    tx: Transaction,
    environment_id: str,
    queue_id: str,
    concurrency_limit: int,
    *,
    by: str | None = None,
    now: datetime,
) -> Changed | Unknown:
    """Another limit than the declared one, until `reset`. A lower one stops nobody who works. For the API.

    `by` is whoever wants it so, if that is known.
    """
    change = "override_limit = $3, overridden_at = $4, overridden_by = $5"
    return await _change(tx, environment_id, queue_id, change, concurrency_limit, now, by)


async def reset(tx: Transaction, environment_id: str, queue_id: str, *, now: datetime) -> Changed | Unknown:
    """Back to the declared limit. For the API."""
    return await _change(
        tx, environment_id, queue_id, "override_limit = null, overridden_at = null, overridden_by = null"
    )


async def _change(tx: Transaction, environment_id: str, queue_id: str, change: str, *values: Any) -> Changed | Unknown:
    row = await tx.fetchrow(
        f"update queues set {change} where environment_id = $1 and id = $2 returning *",
        environment_id,
        queue_id,
        *values,
    )
    if row is None:
        return Unknown()
    await _tell(tx, environment_id)
    await announce(tx, "queues")
    return Changed(Queue.of(row))


async def configure(
    tx: Transaction,
    environment_id: str,
    *,
    concurrency_limit: int | Unset | None = UNSET,
    burst_factor: float | Unset = UNSET,
    max_queued: int | Unset | None = UNSET,
    accepts_unknown_tasks: bool | Unset = UNSET,
    is_paused: bool | Unset = UNSET,
    now: datetime,
) -> Environment:
    """Change what an environment allows; what isn't named stays. For the API and for server start-up."""
    given = {
        "concurrency_limit": concurrency_limit,
        "burst_factor": burst_factor,
        "max_queued": max_queued,
        "accepts_unknown_tasks": accepts_unknown_tasks,
        "is_paused": is_paused,
    }
    changes = {name: value for name, value in given.items() if not isinstance(value, Unset)}
    if not changes:
        return Environment.of(await tx.fetchrow("select * from environments where id = $1", environment_id))
    columns = ", ".join(f"{name} = ${number}" for number, name in enumerate(changes, 2))
    row = await tx.fetchrow(
        f"update environments set {columns} where id = $1 returning *", environment_id, *changes.values()
    )
    await _tell(tx, environment_id)
    await announce(tx, "environment")
    return Environment.of(row)


async def _tell(tx: Transaction, environment_id: str) -> None:
    """Limits have moved: whoever stands in line looks again."""
    await tx.notify("work", environment_id=environment_id)
    await tx.notify("grant", environment_id=environment_id)

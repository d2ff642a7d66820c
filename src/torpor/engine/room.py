"""Room in a queue: how many runs may be queued in it at once (Q9)."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from torpor.engine.draft import Draft
from torpor.engine.states import RunState
from torpor.store.database import Transaction

COUNTED_EXACTLY = 1_000
"""Up to this limit a queue's runs are counted at each trigger; above it a count may be a second old."""


@dataclass(frozen=True, slots=True)
class QueueFull:
    """As many runs are queued there as the environment allows. No run was made (422)."""

    queue: str
    limit: int
    queued: int


_counted: dict[tuple[str, str], tuple[datetime, int]] = {}
"""Queues with a high limit: how many runs were queued there, and when that was counted. For this process only."""


async def refuse_too_many(
    tx: Transaction, environment_id: str, fresh: Iterable[Draft], limit: int, *, now: datetime
) -> dict[str, QueueFull]:
    """The drafts that a queue has no room for, by run id. Delayed runs don't count until they are released."""
    by_queue: dict[str, list[Draft]] = {}
    for draft in fresh:
        if draft.row["state"] == RunState.QUEUED:
            by_queue.setdefault(draft.row["queue"], []).append(draft)
    refused: dict[str, QueueFull] = {}
    for queue, drafts in by_queue.items():
        queued = await _count(tx, environment_id, queue, limit, now=now)
        room = max(limit - queued, 0)
        for draft in drafts[room:]:
            refused[draft.run_id] = QueueFull(queue, limit, min(queued + len(drafts[:room]), limit))
        if limit > COUNTED_EXACTLY:
            at, _ = _counted[(environment_id, queue)]
            _counted[(environment_id, queue)] = (at, queued + len(drafts[:room]))
    return refused


async def _count(tx: Transaction, environment_id: str, queue: str, limit: int, *, now: datetime) -> int:
    """How many runs wait in this queue to be started, as far as it matters."""
    key = (environment_id, queue)
    if limit > COUNTED_EXACTLY and key in _counted and timedelta() <= now - _counted[key][0] < timedelta(seconds=1):
        return _counted[key][1]
    queued: int = await tx.fetchval(
        """select count(*) from (select from runs where environment_id = $1 and queue = $2 and state = 'queued'
                                 and checkpoint_id is null limit $3) as queued""",
        environment_id,
        queue,
        limit + 1,
    )  # pyright: ignore[reportAssignmentType]  # count is never null
    if limit > COUNTED_EXACTLY:
        if len(_counted) > 10_000:
            _counted.clear()
        _counted[key] = (now, queued)
    return queued

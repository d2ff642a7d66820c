"""Why a run that stands in line isn't handed out: what the page of the queues says of each, and a run's page of its own."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from torpor.engine import queues, read, read_totals
from torpor.engine.read import QueueView
from torpor.engine.read_totals import QueueLines
from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.store.records import Environment, Queue, Run


class Reason(StrEnum):
    """As it is said of a queue."""

    ENVIRONMENT_PAUSED = "the environment is paused"
    PAUSED = "it is paused"
    LIMIT = "its limit"
    LIMIT_OF_KEY = "its limit for each key"
    ENVIRONMENT_LIMIT_OF_QUEUE = "the environment's limit for a queue"
    ENVIRONMENT_LIMIT = "the environment's limit"
    NO_WORKER = "no worker is up"
    BUSY = "all workers are busy"
    ITS_TURN = "its turn comes"


@dataclass(frozen=True, slots=True)
class Capacity:
    """What all queues of an environment share."""

    in_use: int
    most: int | None  # the environment's limit, its burst included; None: none
    workers: int
    slots: int

    @classmethod
    async def now(cls, tx: Transaction, environment: Environment, now: datetime) -> "Capacity":
        limit = environment.concurrency_limit
        workers = [each for each in await read.workers(tx, environment.id) if each.expires_at > now]
        return cls(
            await read_totals.slots_in_use(tx, environment.id),
            None if limit is None else int(limit * environment.burst_factor),
            len(workers),
            sum(worker.slots for worker in workers),
        )


def name_of(queue: Queue) -> str:
    """Without what marks a task's own."""
    return queue.name.removeprefix("task/") if queue.kind == queues.OF_TASK else queue.name


def limit_of(queue: Queue) -> int | None:
    return queue.concurrency_limit if queue.override_limit is None else queue.override_limit


def held_by(view: QueueView, lines: QueueLines, environment: Environment, capacity: Capacity) -> Reason | None:
    """Why the next run of this queue isn't handed out, by the first reason that applies; None: nobody stands in line."""
    queue, limit = view.queue, limit_of(view.queue)
    if view.queued == 0:
        return None
    if environment.is_paused:
        return Reason.ENVIRONMENT_PAUSED
    if queue.is_paused:
        return Reason.PAUSED
    if limit is not None and view.running >= limit * max(1, lines.keys):
        return Reason.LIMIT_OF_KEY if lines.keys else Reason.LIMIT
    if environment.concurrency_limit is not None and not lines.keys and view.running >= environment.concurrency_limit:
        return Reason.ENVIRONMENT_LIMIT_OF_QUEUE
    if capacity.most is not None and capacity.in_use >= capacity.most:
        return Reason.ENVIRONMENT_LIMIT
    if not capacity.workers:
        return Reason.NO_WORKER
    if capacity.in_use >= capacity.slots:
        return Reason.BUSY
    return Reason.ITS_TURN


# -- one run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Why a run isn't handed out, and the queue in whose line it stands."""

    reason: Reason
    queue: Queue
    limit: int | None

    @property
    def queue_name(self) -> str:
        return name_of(self.queue)


async def held_up(tx: Transaction, run: Run, now: datetime) -> HeldUp | None:
    """What holds a queued run up; None while it is no more than those who stand before it."""
    if run.state != RunState.QUEUED or (view := await read.queue(tx, run.environment_id, name=run.queue)) is None:
        return None
    environment = await read.environment(tx, run.environment_id)
    lines = (await read_totals.queue_lines(tx, run.environment_id, [run.queue])).get(run.queue, QueueLines(0, None))
    reason = held_by(view, lines, environment, await Capacity.now(tx, environment, now))
    return None if reason in (None, Reason.ITS_TURN) else HeldUp(reason, view.queue, limit_of(view.queue))

"""The queues: how many runs stand in each, what holds them up, and the two things that people do about it: pause, and limit."""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard.page import go, part, render
from torpor.engine import queues, read, read_totals
from torpor.engine.read import QueueView
from torpor.engine.read_totals import QueueLines
from torpor.server import auth, paging, sessions
from torpor.server.errors import Refused, not_found
from torpor.server.hub import hub
from torpor.server.queues import MOST
from torpor.store.records import Environment, Queue

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class Capacity:
    """What all queues of an environment share."""

    in_use: int
    most: int | None  # the environment's limit, its burst included; None: none
    workers: int
    slots: int

    @classmethod
    def of(cls, environment: Environment, in_use: int, workers: int, slots: int) -> "Capacity":
        limit = environment.concurrency_limit
        return cls(in_use, None if limit is None else int(limit * environment.burst_factor), workers, slots)


@dataclass(frozen=True, slots=True)
class Row:
    """A queue, and what is computed for its line."""

    queue: Queue
    queued: int
    running: int
    lines: QueueLines
    limit: int | None
    held_by: str

    @property
    def is_own(self) -> bool:
        return self.queue.kind == queues.OF_TASK

    @property
    def name(self) -> str:
        return self.queue.name.removeprefix("task/") if self.is_own else self.queue.name

    @property
    def share(self) -> float:
        """How much of its limit is in use, of a hundred. With concurrency keys each has the limit for itself."""
        most = (self.limit or 0) * max(1, self.lines.keys)
        return min(100.0, 100 * self.running / most) if most else 0.0


def held_by(view: QueueView, lines: QueueLines, environment: Environment, capacity: Capacity) -> str:
    """Why the next run of this queue isn't handed out, by the first reason that applies; empty: nothing holds it up."""
    queue = view.queue
    limit = queue.concurrency_limit if queue.override_limit is None else queue.override_limit
    if view.queued == 0:
        return ""
    if environment.is_paused:
        return "the environment is paused"
    if queue.is_paused:
        return "it is paused"
    if limit is not None and view.running >= limit * max(1, lines.keys):
        return "its limit" if not lines.keys else "its limit for each key"
    if environment.concurrency_limit is not None and not lines.keys and view.running >= environment.concurrency_limit:
        return "the environment's limit for a queue"
    if capacity.most is not None and capacity.in_use >= capacity.most:
        return "the environment's limit"
    if not capacity.workers:
        return "no worker is up"
    if capacity.in_use >= capacity.slots:
        return "all workers are busy"
    return "its turn comes"


async def show(request: Request) -> Response:
    here, environment_id = hub(request), auth.environment(request).id
    page, size = paging.read_number(request.query_params, PAGE_SIZE)
    now = here.clock.now()
    async with here.database.transaction() as tx:
        environment = await read.environment(tx, environment_id)
        found = await read.queues(tx, environment_id, page=page, size=size)
        lines = await read_totals.queue_lines(tx, environment_id, [view.queue.name for view in found.items])
        in_use = await read_totals.slots_in_use(tx, environment_id)
        workers = [each for each in await read.workers(tx, environment_id) if each.expires_at > now]
    capacity = Capacity.of(environment, in_use, len(workers), sum(worker.slots for worker in workers))
    rows = [_row(view, lines.get(view.queue.name, QueueLines(0, None)), environment, capacity) for view in found.items]
    values: dict[str, Any] = {"rows": rows, "found": found, "allowed": environment, "capacity": capacity, "most": MOST}
    return render(request, "queues.html", block="table" if part(request) == "queues" else None, **values)


def _row(view: QueueView, lines: QueueLines, environment: Environment, capacity: Capacity) -> Row:
    queue = view.queue
    limit = queue.concurrency_limit if queue.override_limit is None else queue.override_limit
    return Row(queue, view.queued, view.running, lines, limit, held_by(view, lines, environment, capacity))


async def pause(request: Request) -> Response:
    return await _changed(request, queues.pause)


async def resume(request: Request) -> Response:
    return await _changed(request, queues.unpause)


async def limit(request: Request) -> Response:
    """Another limit than its code declares."""
    given = (await sessions.form(request)).get("limit", "").strip()
    if not (given.isascii() and given.isdecimal()) or int(given[:9]) > MOST:
        raise Refused(422, f"The limit is a whole number from 0 to {MOST:,}, not {given[:40]!r}.")
    return await _changed(request, queues.override, int(given), by=auth.caller(request).person)


async def reset(request: Request) -> Response:
    """Back to the limit that its code declares."""
    return await _changed(request, queues.reset)


async def _changed(request: Request, verb: Any, *values: Any, **named: Any) -> Response:
    here, queue_id = hub(request), request.path_params["queue_id"]
    async with here.database.transaction() as tx:
        outcome = await verb(tx, auth.environment(request).id, queue_id, *values, **named, now=here.clock.now())
    if not isinstance(outcome, queues.Changed):
        raise not_found()
    page, _ = paging.read_number(request.query_params, PAGE_SIZE)
    return go(request, f"/queues?page={page}#{queue_id}" if page > 1 else f"/queues#{queue_id}")

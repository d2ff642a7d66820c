"""The queues: how many runs stand in each, what holds them up, and the two things that people do about it: pause, and limit."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard.in_line import Capacity, Reason, held_by, limit_of, name_of
from torpor.dashboard.page import go, part, render
from torpor.dashboard.shared import shared
from torpor.engine import queues, read, read_totals
from torpor.engine.read import Numbered, QueueView
from torpor.engine.read_totals import QueueLines
from torpor.server import auth, paging, sessions
from torpor.server.errors import Refused, not_found
from torpor.server.hub import hub
from torpor.server.queues import MOST
from torpor.store.records import Environment, Queue

PAGE_SIZE = 50
MOST_COUNTED = 10_000
"""Of a queue's runs; the page says so when there are more."""


@dataclass(frozen=True, slots=True)
class Row:
    """A queue, and what is computed for its line."""

    queue: Queue
    queued: int
    running: int
    lines: QueueLines
    limit: int | None
    held_by: Reason | None

    @property
    def is_own(self) -> bool:
        return self.queue.kind == queues.OF_TASK

    @property
    def name(self) -> str:
        return name_of(self.queue)

    @property
    def share(self) -> float:
        """How much of its limit is in use, of a hundred. With concurrency keys each has the limit for itself."""
        most = (self.limit or 0) * max(1, self.lines.keys)
        return min(100.0, 100 * self.running / most) if most else 0.0


async def show(request: Request) -> Response:
    here, environment_id = hub(request), auth.environment(request).id
    page, size = paging.read_number(request.query_params, PAGE_SIZE)
    now = here.clock.now()

    async def count() -> tuple[Numbered[QueueView], dict[str, QueueLines]]:
        async with here.database.transaction() as tx:
            found = await read.queues(tx, environment_id, page=page, size=size, most=MOST_COUNTED + 1)
            return found, await read_totals.queue_lines(tx, environment_id, [view.queue.name for view in found.items])

    found, lines = await shared(here, ("queues", environment_id, page), count)
    async with here.database.transaction() as tx:
        environment = await read.environment(tx, environment_id)
        capacity = await Capacity.now(tx, environment, now)
    rows = [_row(view, lines.get(view.queue.name, QueueLines(0, None)), environment, capacity) for view in found.items]
    values: dict[str, Any] = {
        "most_counted": MOST_COUNTED,
        "rows": rows,
        "found": found,
        "allowed": environment,
        "capacity": capacity,
        "most": MOST,
    }
    return render(request, "queues.html", block="table" if part(request) == "queues" else None, **values)


def _row(view: QueueView, lines: QueueLines, environment: Environment, capacity: Capacity) -> Row:
    return Row(
        view.queue, view.queued, view.running, lines, limit_of(view.queue), held_by(view, lines, environment, capacity)
    )


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
    run_id = (await sessions.form(request)).get("run")
    if run_id:  # asked for on the page of a run that stands in its line
        return go(request, f"/runs/{quote(run_id, safe='')}")
    page, _ = paging.read_number(request.query_params, PAGE_SIZE)
    return go(request, f"/queues?page={page}#{queue_id}" if page > 1 else f"/queues#{queue_id}")

"""Batches: how far each has come, what became of its runs, and which items could not become one, with the reasons."""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard.page import part, render
from torpor.dashboard.shared import shared
from torpor.dashboard.states import LOOKS, TONES, Look
from torpor.engine import read_batch, read_totals
from torpor.engine.pages import Page
from torpor.engine.read_batch import BATCH_STATUS, BatchFilter
from torpor.engine.states import RunState
from torpor.server import auth
from torpor.server.errors import Refused, not_found
from torpor.server.hub import hub
from torpor.server.render_runs import batch_status
from torpor.store.records import Batch

PAGE_SIZE = 50
MOST_FAILED = 100
"""So many items that could not become runs are shown; there is one reason for most of them."""

STATUS = {
    "PENDING": Look("Items come", "queued"),
    "PROCESSING": Look("Runs go on", "running"),
    "COMPLETED": Look("Completed", "completed"),
    "PARTIAL_FAILED": Look("Items failed", "failed"),
    "ABORTED": Look("Aborted", "failed"),
}
"""How a batch is shown, by its public status: it says how it went with the items, not with their runs."""
assert set(STATUS) == set(BATCH_STATUS)


@dataclass(frozen=True, slots=True)
class Row:
    """A batch, and how far it has come."""

    batch: Batch
    look: Look

    @classmethod
    def of(cls, batch: Batch) -> "Row":
        return cls(batch, STATUS[batch_status(batch)])

    @property
    def done(self) -> int:
        """Items that are over: their runs have ended, or there is none."""
        return self.batch.run_count - self.batch.pending

    @property
    def share(self) -> float:
        """Of a hundred."""
        return 100 * self.done / self.batch.run_count if self.batch.run_count else 100.0


async def show(request: Request) -> Response:
    """All of them, newest first; `?status=` those of some statuses."""
    query = request.query_params
    wanted = [value for value in query.getlist("status") if value]
    if unknown := [value for value in wanted if value not in STATUS]:
        raise Refused(400, f"status: there is no {unknown[0][:40]!r}")
    page = Page(PAGE_SIZE, query.get("after") or None, query.get("before") or None)
    async with hub(request).database.transaction() as tx:
        found = await read_batch.batches(tx, auth.environment(request).id, BatchFilter(wanted or None), page)
    values: dict[str, Any] = {
        "rows": [Row.of(batch) for batch in found.items],
        "next": found.next,
        "previous": found.previous,
        "statuses": STATUS,
        "wanted": wanted,
    }
    return render(request, "batches.html", block="table" if part(request) == "batches" else None, **values)


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the bar that is made of all items: those of one tone."""

    tone: str
    name: str
    count: int
    x: float
    width: float


async def show_one(request: Request) -> Response:
    environment_id = auth.environment(request).id
    async with hub(request).database.transaction() as tx:
        batch = await read_batch.batch(tx, environment_id, request.path_params["batch_id"])
        if batch is None:
            raise not_found()
        failed = await read_batch.failed_items(tx, batch.id, limit=MOST_FAILED)

    async def count_states() -> dict[RunState, int]:
        async with hub(request).database.transaction() as tx:
            return await read_totals.batch_states(tx, batch.id)

    states = await shared(hub(request), ("batch", batch.id), count_states, may_age=True)
    counts = dict.fromkeys(TONES, 0)
    for state, count in states.items():
        counts[LOOKS[state].tone] += count
    values: dict[str, Any] = {
        "row": Row.of(batch),
        "batch": batch,
        "parts": _parts(counts, batch),
        "failed": failed,
    }
    return render(request, "batch.html", block="batch" if part(request) == "batch" else None, **values)


def _parts(counts: dict[str, int], batch: Batch) -> list[Part]:
    """What is over first, as a bar fills from there; then what goes on, and at last what is yet to come."""
    told = [(tone, TONES[tone], counts[tone]) for tone in ("completed", "failed", "canceled")]
    told.append(("failed", "Without a run", batch.failed_items))
    told += [(tone, TONES[tone], counts[tone]) for tone in ("running", "frozen", "waiting", "queued")]
    told.append(("to-come", "Yet to come", batch.run_count - batch.item_count))
    parts: list[Part] = []
    x = 0.0
    for tone, name, count in told:
        if count > 0:
            width = 100 * count / max(batch.run_count, 1)
            parts.append(Part(tone, name, count, x, width))
            x += width
    return parts

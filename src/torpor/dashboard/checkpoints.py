"""The checkpoints: what is frozen, where each stands, what it waits for, and what all of them take on disk."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard.page import part, render
from torpor.dashboard.shared import shared
from torpor.engine import read_checkpoints, read_totals
from torpor.engine.answers import ALARM
from torpor.engine.pages import Listing, Page
from torpor.engine.read_checkpoints import ORDERS, CheckpointTotals
from torpor.server import auth
from torpor.server.errors import Refused
from torpor.server.hub import hub
from torpor.store.records import Checkpoint, Run

PAGE_SIZE = 50
KINDS = {"wait": "at a wait", "named": "saved by name", "auto": "saved by itself", "move": "to move"}
ORDERS_TOLD = {
    "newest": "Newest",
    "oldest": "Oldest",
    "size": "Largest",
    "own": "Most of its own",
    "shared": "Most shared",
}
assert set(ORDERS_TOLD) == set(ORDERS)
WAITED_FOR = {"time": "time", "run": "a run", "batch": "a batch", "token": "an answer"}


@dataclass(frozen=True, slots=True)
class Row:
    """A checkpoint with its run, and what its process waits for: words, and when that is due."""

    checkpoint: Checkpoint
    run: Run
    waits: list[tuple[str, datetime | None]]

    @property
    def is_current(self) -> bool:
        """The run itself is in it now."""
        return self.run.checkpoint_id == self.checkpoint.id

    @property
    def places(self) -> list[tuple[str, str]]:
        """Where its tasks and threads stand: file and line, and what is written there."""
        return [
            (f"{place.get('file', '')}:{place.get('line', '?')}", str(place.get("source") or "").strip())
            for place in self.checkpoint.waiting_at
        ]

    @property
    def shared(self) -> float:
        """How much of it others had stored already, of a hundred."""
        whole = self.checkpoint.shared_bytes + self.checkpoint.new_bytes
        return 100 * self.checkpoint.shared_bytes / whole if whole else 0.0


async def show(request: Request) -> Response:
    """Those that runs or forks may be restored from; `?sort=` their order."""
    here, query, environment_id = hub(request), request.query_params, auth.environment(request).id
    page = Page(PAGE_SIZE, query.get("after") or None, query.get("before") or None)
    order = query.get("sort") or "newest"
    if order not in ORDERS:
        raise Refused(400, f"sort: there are {', '.join(ORDERS)}")

    async def look() -> Listing[Checkpoint]:
        async with here.database.transaction() as tx:
            return await read_checkpoints.stored(tx, environment_id, page, order=order)

    async def count() -> CheckpointTotals:
        async with here.database.transaction() as tx:
            return await read_checkpoints.checkpoint_totals(tx, environment_id)

    # By a size all are looked at, as for the sums.
    key, is_by_age = (environment_id, order, page.after, page.before), order in ("newest", "oldest")
    found = await shared(here, ("checkpoints", *key), look, may_age=not is_by_age)
    totals = await shared(here, ("checkpoint totals", environment_id), count, may_age=True)
    async with here.database.transaction() as tx:
        runs, waits = await read_totals.runs_and_waits(tx, [checkpoint.run_id for checkpoint in found.items])
    rows: list[Row] = []
    for checkpoint in found.items:
        if checkpoint.run_id not in runs:  # deleted meanwhile
            continue
        named = [(checkpoint.run_id, each) for each in checkpoint.open_waits if not each.startswith(ALARM)]
        told = [waits[key] for key in named if key in waits]
        shown = [(WAITED_FOR.get(kind, kind), due_at) for kind, due_at in told]
        rows.append(Row(checkpoint, runs[checkpoint.run_id], shown))
    values: dict[str, Any] = {
        "rows": rows,
        "totals": totals,
        "kinds": KINDS,
        "orders": ORDERS_TOLD,
        "order": order,
        "next": found.next,
        "previous": found.previous,
    }
    return render(request, "checkpoints.html", block="table" if part(request) == "checkpoints" else None, **values)

"""The workers: what each has to give, what it does, how far it keeps its runs apart, and what it lacks for more."""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard.page import go, part, render
from torpor.dashboard.shared import shared
from torpor.dashboard.states import Look
from torpor.engine import read, read_totals
from torpor.engine.read_totals import Frozen
from torpor.server import auth, inventory
from torpor.server.hub import hub
from torpor.store.records import Worker

ISOLATION = {
    "full": Look("Full", "completed"),
    "partial": Look("Partial", "waiting"),
    "off": Look("Off", "failed"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A worker, and how many of its runs work, are held in its memory, and were frozen by it last."""

    worker: Worker
    is_alive: bool
    running: int
    held: int
    frozen: int

    @property
    def share(self) -> float:
        """How many of its slots are in use, of a hundred."""
        return min(100.0, 100 * self.running / self.worker.slots) if self.worker.slots else 100.0

    @property
    def disk_share(self) -> float | None:
        """How much of its disk is in use, of a hundred. None: it doesn't say."""
        size, free = self.worker.disk_bytes, self.worker.disk_free_bytes
        return 100 * (size - free) / size if size and free is not None else None

    @property
    def isolation(self) -> Look | None:
        """None: it doesn't say."""
        told = self.worker.facts.get("isolation")
        return ISOLATION.get(told.get("level", "")) if isinstance(told, dict) else None

    @property
    def missing(self) -> list[dict[str, str]]:
        """What it lacks for keeping runs apart: `what`, `why` and `fix` of each."""
        told = self.worker.facts.get("isolation")
        listed = told.get("missing") if isinstance(told, dict) else None
        given = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        return [{name: str(each.get(name, "")) for name in ("what", "why", "fix")} for each in given]

    @property
    def networks(self) -> list[str]:
        told = self.worker.facts.get("networks")
        return [str(each) for each in told] if isinstance(told, list) else []


async def show(request: Request) -> Response:
    """Those that are up; `?gone` those, too, that have not been heard of for long."""
    here, environment_id = hub(request), auth.environment(request).id
    with_gone = "gone" in request.query_params
    now = here.clock.now()
    async with here.database.transaction() as tx:
        found = await read.workers(tx, environment_id)
        shown = [worker for worker in found if with_gone or worker.expires_at > now]
        loads = await read.worker_loads(tx, [worker.id for worker in shown])

    async def count() -> Frozen:
        async with here.database.transaction() as tx:
            return await read_totals.frozen_by(tx, environment_id)

    frozen = await shared(here, ("frozen", environment_id), count, may_age=True)
    rows = [
        Row(worker, worker.expires_at > now, *loads.get(worker.id, (0, 0)), frozen.by_worker.get(worker.id, 0))
        for worker in sorted(shown, key=lambda worker: (worker.expires_at <= now, worker.host, worker.id))
    ]
    values: dict[str, Any] = {
        "rows": rows,
        "frozen": frozen,
        "gone": len(found) - sum(row.is_alive for row in rows),
        "with_gone": with_gone,
    }
    return render(request, "workers.html", block="table" if part(request) == "workers" else None, **values)


async def drain(request: Request) -> Response:
    """Have it leave."""
    here = hub(request)
    async with here.database.transaction() as tx:
        worker_id = request.path_params["worker_id"]
        await inventory.drain_asked(tx, auth.environment(request).id, worker_id, now=here.clock.now())
    return go(request, f"/workers#{worker_id}")

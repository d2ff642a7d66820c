"""The runs: a table that is filtered by its address, what has become of runs over time, and actions on many at once."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.dashboard.chart import PERIODS, chart
from torpor.dashboard.page import go, part, render
from torpor.dashboard.shared import shared
from torpor.dashboard.states import LOOKS
from torpor.engine import RunFilter, RunState, read, read_bulk
from torpor.engine.pages import Listing, Page
from torpor.engine.read_runs import looked_for
from torpor.engine.states import ENDS
from torpor.server import auth, sessions
from torpor.server.errors import Refused
from torpor.server.hub import hub
from torpor.server.paging import between
from torpor.store.records import Run

PAGE_SIZE = 50
MOST_BEGINNINGS = 8
"""So many tasks are offered while there is no run yet."""


async def show(request: Request) -> Response:
    """The page; only the table, or only the chart, when one of these is refreshed."""
    here, query, wanted = hub(request), request.query_params, part(request)
    environment_id, now = auth.environment(request).id, hub(request).clock.now()
    where = of_query(query, now)
    values: dict[str, Any] = {"query": query, "periods": PERIODS, "looks": LOOKS, "is_filtered": is_filtered(query)}
    if wanted != "runs":
        values["chart"] = await chart(here, environment_id, query, now)
    if wanted == "chart":
        return render(request, "runs.html", block="chart", **values)

    async def found() -> tuple[Listing[Run], datetime | None]:
        async with here.database.transaction() as tx:
            return await looked_for(tx, environment_id, where, _page(query))

    listing, stopped_at = await shared(here, ("runs", environment_id, *sorted(query.multi_items())), found)
    async with here.database.transaction() as tx:
        values["bulk"] = await read_bulk.bulk_action(tx, environment_id, where.bulk_id) if where.bulk_id else None
        if wanted != "runs":
            values["task_ids"] = [task.id for task in await read.tasks(tx, environment_id)]
            values["queues"] = await read.queue_names(tx, environment_id)
        is_empty, stands = not listing.items, any(run.state == RunState.QUEUED for run in listing.items)
        workers = await read.workers(tx, environment_id) if is_empty or stands else []
        values["lacks_worker"] = (is_empty or stands) and not any(each.expires_at > now for each in workers)
        values["tasks"] = (await read.tasks(tx, environment_id))[:MOST_BEGINNINGS] if is_empty else []
    rows = [Row.of(run, now) for run in listing.items]
    values |= {"rows": rows, "next": listing.next, "previous": listing.previous, "stopped_at": stopped_at}
    return render(request, "runs.html", block="table" if wanted == "runs" else None, **values)


# -- filters ----------------------------------------------------------------------------------------------------------

FILTERS = ("q", "state", "task", "tag", "version", "queue", "batch", "schedule", "bulk", "period", "from", "to")


def is_filtered(query: QueryParams) -> bool:
    return any(query.get(name) for name in FILTERS if name != "period")


def of_query(query: QueryParams, now: datetime) -> RunFilter:
    """What the address asks for. 400 for what can't be: to pass it over would show runs that were not asked for."""
    several = {name: [value for value in query.getlist(name) if value] or None for name in FILTERS}
    if unknown := [value for value in several["state"] or () if value not in {*RunState}]:
        raise Refused(400, f"state: there is no {unknown[0][:40]!r}; there are {', '.join(RunState)}")
    since, until = between(query, now, since="from", until="to", period="period")
    return RunFilter(
        states=[RunState(value) for value in several["state"]] if several["state"] else None,
        task_ids=several["task"],
        versions=several["version"],
        tags=several["tag"],
        queues=several["queue"],
        batch_id=query.get("batch") or None,
        schedule_ids=several["schedule"],
        bulk_id=query.get("bulk") or None,
        search=(query.get("q") or "").strip() or None,
        created_from=since,
        created_to=until,
    )


def _page(query: QueryParams) -> Page:
    return Page(PAGE_SIZE, query.get("after") or None, query.get("before") or None)


# -- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A run, and what is computed for its line: how long it took, and how much of that it was frozen."""

    run: Run
    total_ms: float | None
    frozen_ms: float
    is_over: bool

    @classmethod
    def of(cls, run: Run, now: datetime) -> "Row":
        frozen_ms = run.frozen_ms
        if run.frozen_since is not None:
            frozen_ms += (now - run.frozen_since) / timedelta(milliseconds=1)
        total = (run.finished_at or now) - run.started_at if run.started_at else None
        total_ms = total / timedelta(milliseconds=1) if total is not None else None
        return cls(run, total_ms, frozen_ms, RunState(run.state) in ENDS)

    @property
    def frozen_share(self) -> float:
        """Of a hundred."""
        return min(100.0, 100 * self.frozen_ms / self.total_ms) if self.total_ms else 0.0


# -- many at once -----------------------------------------------------------------------------------------------------


async def bulk(request: Request) -> Response:
    """Cancel or replay the runs that are ticked, or all that fit the filters; then show how far that has come."""
    here, fields = hub(request), await sessions.form(request)
    now, action = here.clock.now(), fields.get("action")
    if action not in ("cancel", "replay"):
        raise Refused(400, "action: cancel or replay")
    kind: Literal["cancel", "replay"] = "cancel" if action == "cancel" else "replay"
    asked = engine.BulkRequest(kind, by=auth.caller(request).person)
    if fields.get("all"):
        asked = replace(asked, where=of_query(QueryParams(fields.get("filters", "")), now))
    else:
        run_ids = fields.getlist("run")
        if not run_ids:
            raise Refused(400, "no run is chosen")
        asked = replace(asked, run_ids=run_ids)
    async with here.database.transaction() as tx:
        made = await engine.create_bulk(tx, auth.environment(request).id, asked, now=now)
    return go(request, f"/?bulk={made.bulk_id}")

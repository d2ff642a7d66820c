"""The runs: a table that is filtered by its address, what has become of runs over time, and actions on many at once."""

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.dashboard.page import go, part, render
from torpor.dashboard.states import LOOKS, TONES
from torpor.durations import parse_duration
from torpor.engine import RunFilter, RunState, read, read_bulk
from torpor.engine.pages import Page
from torpor.engine.read_counts import run_counts
from torpor.engine.states import ENDS
from torpor.server import auth, sessions
from torpor.server.errors import Refused
from torpor.server.hub import Hub, hub
from torpor.server.paging import between
from torpor.store.records import Run

PAGE_SIZE = 50
MOST_BEGINNINGS = 8
"""So many tasks are offered while there is no run yet."""
PERIODS = {
    "1h": ("hour", timedelta(minutes=1)),
    "24h": ("24 hours", timedelta(minutes=30)),
    "7d": ("7 days", timedelta(hours=4)),
    "30d": ("30 days", timedelta(hours=12)),
}
"""What can be chosen: what it is called, and how long a bar of the chart is then."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_CHARTS = 100
CHART_MEMORY_S = 5.0
"""How long counts are shown to others who look: they are read along an index, but all of it that is in the period."""


async def show(request: Request) -> Response:
    """The page; only the table, or only the chart, when one of these is refreshed."""
    here, query, wanted = hub(request), request.query_params, part(request)
    environment_id, now = auth.environment(request).id, hub(request).clock.now()
    where = of_query(query, now)
    values: dict[str, Any] = {"query": query, "periods": PERIODS, "looks": LOOKS, "is_filtered": is_filtered(query)}
    if wanted != "runs":
        values["chart"] = await _chart(here, environment_id, query, now)
    if wanted == "chart":
        return render(request, "runs.html", block="chart", **values)
    async with here.database.transaction() as tx:
        listing = await read.runs(tx, environment_id, where, _page(query))
        values["bulk"] = await read_bulk.bulk_action(tx, environment_id, where.bulk_id) if where.bulk_id else None
        if wanted != "runs":
            values["task_ids"] = [task.id for task in await read.tasks(tx, environment_id)]
            values["queues"] = await read.queue_names(tx, environment_id)
        is_empty, stands = not listing.items, any(run.state == RunState.QUEUED for run in listing.items)
        workers = await read.workers(tx, environment_id) if is_empty or stands else []
        values["lacks_worker"] = (is_empty or stands) and not any(each.expires_at > now for each in workers)
        values["tasks"] = (await read.tasks(tx, environment_id))[:MOST_BEGINNINGS] if is_empty else []
    rows = [Row.of(run, now) for run in listing.items]
    values |= {"rows": rows, "next": listing.next, "previous": listing.previous}
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


# -- the chart --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """What was made in a stretch of time: parts from the bottom up, as (tone, y, height) of a chart that is 100 high."""

    x: int
    since: datetime
    until: datetime
    counts: dict[str, int]
    parts: list[tuple[str, float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    bars: list[Bar]
    totals: dict[str, int]  # by tone
    tallest: int
    period: str


async def _chart(here: Hub, environment_id: str, query: QueryParams, now: datetime) -> Chart:
    """What has become of the runs of a period, in the tasks that are asked for."""
    period = query.get("period") if query.get("period") in PERIODS else "24h"
    assert period is not None
    task_ids = [value for value in query.getlist("task") if value]
    key = (environment_id, period, *task_ids)
    if (found := here.charts.get(key)) and time.monotonic() - found[0] < CHART_MEMORY_S:
        return found[1]
    bucket = PERIODS[period][1]
    since = now - parse_duration(period)
    since -= (since - EPOCH) % bucket
    async with here.database.transaction() as tx:
        counted = await run_counts(tx, environment_id, since=since, until=now, bucket=bucket, task_ids=task_ids or None)
    by_tone: list[dict[str, int]] = []
    for each in counted:
        counts = dict.fromkeys(TONES, 0)
        for state, count in each.states.items():
            counts[LOOKS[state].tone] += count
        by_tone.append(counts)
    tallest = max((sum(counts.values()) for counts in by_tone), default=0)
    bars = [
        Bar(x, each.since, each.since + bucket, counts, _stacked(counts, tallest))
        for x, (each, counts) in enumerate(zip(counted, by_tone, strict=True))
    ]
    chart = Chart(bars, {tone: sum(counts[tone] for counts in by_tone) for tone in TONES}, tallest, period)
    if len(here.charts) >= MAX_CHARTS:
        here.charts.clear()
    here.charts[key] = (time.monotonic(), chart)
    return chart


def _stacked(counts: dict[str, int], tallest: int) -> list[tuple[str, float, float]]:
    parts: list[tuple[str, float, float]] = []
    top = 100.0
    for tone in reversed(TONES):  # what is over lies at the bottom
        if counts[tone]:
            height = max(1.5, 100 * counts[tone] / tallest)
            top -= height
            parts.append((tone, top, height))
    return parts


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

"""Errors: failed runs of a period in groups, by where and how they failed; and each group by itself, with its runs."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard.failure import failures as told
from torpor.dashboard.fingerprints import Group, grouped
from torpor.dashboard.page import part, render
from torpor.dashboard.runs import Row
from torpor.dashboard.shared import shared
from torpor.durations import parse_duration
from torpor.engine import read
from torpor.engine.read_failures import failures
from torpor.server import auth
from torpor.server.errors import Refused
from torpor.server.hub import Hub, hub

PERIODS = {"1h": "hour", "24h": "24 hours", "7d": "7 days", "30d": "30 days"}
BARS = 24
MOST = 5000
"""So many failures are looked at, the newest; a page says when there were more."""
MOST_RUNS = 50


@dataclass(frozen=True, slots=True)
class Found:
    """The groups of a period, and whether older failures of it were left out."""

    since: datetime
    bar: timedelta
    groups: list[Group]
    is_cut: bool

    def bars(self, group: Group) -> list[int]:
        return group.counts(self.since, self.bar, BARS)


async def show(request: Request) -> Response:
    """All groups; `?q=` those that have this text, `?task=` those of a task."""
    query = request.query_params
    found = await _found(hub(request), auth.environment(request).id, _period(request))
    text, task = (query.get("q") or "").strip().lower(), query.get("task") or ""
    groups = [group for group in found.groups if task in ("", group.task_id) and text in _said(group)]
    if query.get("sort") == "count":
        groups.sort(key=lambda group: len(group.failures), reverse=True)
    values: dict[str, Any] = {
        "found": found,
        "groups": groups,
        "query": query,
        "periods": PERIODS,
        "period": _period(request),
        "task_ids": sorted({group.task_id for group in found.groups}),
        "most": MOST,
    }
    return render(request, "errors.html", block="table" if part(request) == "errors" else None, **values)


async def one(request: Request) -> Response:
    """A group: its last failure in full, and its newest runs."""
    here, environment_id = hub(request), auth.environment(request).id
    fingerprint = request.path_params["fingerprint"]
    found = await _found(here, environment_id, _period(request))
    group = next((group for group in found.groups if group.fingerprint == fingerprint), None)
    if group is None:
        raise Refused(404, f"no run has failed like this in the last {PERIODS[_period(request)]}")
    run_ids = [failure.run_id for failure in group.failures[:MOST_RUNS]]
    async with here.database.transaction() as tx:
        runs = [run for id in run_ids if (run := await read.run(tx, environment_id, id))]
    values: dict[str, Any] = {
        "group": group,
        "found": found,
        "rows": [Row.of(run, here.clock.now()) for run in runs],
        "errors": told(runs[0].error) if runs else [],
        "period": _period(request),
        "periods": PERIODS,
    }
    return render(request, "error.html", block="table" if part(request) == "group" else None, **values)


def _period(request: Request) -> str:
    period = request.query_params.get("period") or "24h"
    if period not in PERIODS:
        raise Refused(400, f"period: there are {', '.join(PERIODS)}")
    return period


def _said(group: Group) -> str:
    place = f"{group.place.file} {group.place.function}" if group.place else ""
    return f"{group.name} {group.told} {group.task_id} {place}".lower()


async def _found(here: Hub, environment_id: str, period: str) -> Found:
    length = parse_duration(period)

    async def make() -> Found:
        since = here.clock.now() - length
        async with here.database.transaction() as tx:
            newest = await failures(tx, environment_id, since=since, limit=MOST + 1)
        return Found(since, length / BARS, grouped(newest[:MOST]), len(newest) > MOST)

    return await shared(here, ("errors", environment_id, period), make, may_age=True)

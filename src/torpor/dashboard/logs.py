"""Logs: what all runs have said, newest first, searched by the address; new lines come by themselves."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard.page import part, render
from torpor.durations import parse_duration
from torpor.engine import read
from torpor.engine.read_logs import LogFilter, search_logs
from torpor.server import auth
from torpor.server.errors import Refused
from torpor.server.hub import hub

PAGE_SIZE = 100
PERIODS = {"15m": "15 minutes", "1h": "hour", "24h": "24 hours", "7d": "7 days"}
LEVELS = {"error": "failed", "warning": "waiting", "info": "queued", "debug": "canceled"}
"""Each with the tone that it is shown in."""


async def show(request: Request) -> Response:
    here, query = hub(request), request.query_params
    environment_id, period, before = auth.environment(request).id, query.get("period") or None, query.get("after")
    if period is not None and period not in PERIODS:
        raise Refused(400, f"period: there are {', '.join(PERIODS)}")
    if before is not None and not (before.isascii() and before.isdigit() and len(before) < 19):
        raise Refused(400, "after: the number of a line")
    where = LogFilter(
        text=query.get("q", "").replace("\0", "") or None,
        levels=[level for level in query.getlist("level") if level] or None,
        task_id=query.get("task") or None,
        run_id=query.get("run", "").strip() or None,
        since=here.clock.now() - parse_duration(period) if period else None,
    )
    is_fragment = part(request) == "logs"
    async with here.database.transaction() as tx:
        lines = await search_logs(
            tx, environment_id, where, before=int(before) if before is not None else None, size=PAGE_SIZE
        )
        tasks = [] if is_fragment else await read.tasks(tx, environment_id)
    values: dict[str, Any] = {
        "lines": lines,
        "query": query,
        "where": where,
        "periods": PERIODS,
        "levels": LEVELS,
        "is_filtered": where != LogFilter(),
        "is_first": before is None,
        "task_ids": [task.id for task in tasks],
    }
    return render(request, "logs.html", block="table" if is_fragment else None, **values)

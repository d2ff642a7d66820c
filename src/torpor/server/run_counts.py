"""Counts of runs over time, for a dashboard's chart."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from torpor.durations import parse_duration
from torpor.engine.read_counts import run_counts
from torpor.server import paging
from torpor.server.auth import Keyed
from torpor.server.bodies import reply
from torpor.server.errors import Refused
from torpor.server.hub import hub

MAX_BUCKETS = 1000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

router = APIRouter()


@router.get("/api/v1/runs/counts")
async def counts(request: Request, environment: Keyed) -> Response:
    """Buckets begin at whole multiples of their length, so that a chart that is drawn again stays in place."""
    here, query = hub(request), request.query_params
    paging.refuse_filters(query, frozenset({"filter[taskIdentifier]"}))
    period, bucket = _length(query, "period", "24h"), _length(query, "bucket", "1h")
    now = here.clock.now()
    since = now - period
    since -= (since - EPOCH) % bucket
    number = -(-(now - since) // bucket)
    if number > MAX_BUCKETS:
        raise Refused(400, f"at most {MAX_BUCKETS} buckets; this period has {number}", limit=MAX_BUCKETS, value=number)
    task_ids = paging.several(query, "filter[taskIdentifier]")
    async with here.database.transaction() as tx:
        found = await run_counts(tx, environment.id, since=since, until=now, bucket=bucket, task_ids=task_ids)
    data = [{"from": one.since, "total": sum(one.counts.values()), "counts": one.counts} for one in found]
    return reply({"data": data, "bucketSeconds": bucket.total_seconds()})


def _length(query: QueryParams, name: str, default: str) -> timedelta:
    try:
        length = parse_duration(query.get(name) or default)
    except ValueError as error:
        raise Refused(400, f"{name}: {error}") from None
    if length < timedelta(seconds=1):
        raise Refused(400, f"{name}: at least a second")
    return length

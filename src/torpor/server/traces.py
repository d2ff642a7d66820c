"""Traces: a run's story as spans (spans.py), whole, in pages, or one by one.

What is read of a long run is bounded: `truncated` says where it was cut.
"""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor.engine import read
from torpor.server import paging, spans
from torpor.server.auth import Keyed
from torpor.server.bodies import reply
from torpor.server.errors import Refused, not_found
from torpor.server.hub import hub
from torpor.server.spans import Span, Trace
from torpor.store.records import Environment, Run

MAX_EVENTS = 5000
MAX_LINES = 2000
MAX_CHILDREN = 1000
MAX_PAGE = 10_000

Json = dict[str, Any]

router = APIRouter()


@router.get("/api/v1/runs/{run_id}/trace")
async def retrieve(request: Request, run_id: str, environment: Keyed) -> Response:
    """A tree; with `page[size]` flat spans, in pages."""
    run, trace = await _trace(request, environment, run_id)
    now = hub(request).clock.now()
    if "page[size]" in request.query_params or "page[after]" in request.query_params:
        return reply(_page(request, trace, now))
    shown = {span.id: _node(span, run, trace, now) for span in trace.spans}
    for span, children in trace.tree():
        shown[span.id]["children"] = [shown[child.id] for child in children]
    return reply({"trace": {"traceId": trace.id, "rootSpan": shown[trace.spans[0].id]}})


@router.get("/api/v1/runs/{run_id}/spans/{span_id}")
async def one_span(request: Request, run_id: str, span_id: str, environment: Keyed) -> Response:
    _, trace = await _trace(request, environment, run_id)
    found = next(((span, children) for span, children in trace.tree() if span.id == span_id), None)
    if found is None:
        raise not_found()
    span, children = found
    flags = _flags(span, hub(request).clock.now())
    triggered = [
        {
            "runId": child.run_id,
            "taskIdentifier": child.properties["taskIdentifier"],
            "status": child.properties["status"],
            "createdAt": child.started_at,
        }
        for child in children
        if child.run_id != run_id
    ]
    told = {"spanId": span.id, "parentId": span.parent_id, "runId": span.run_id, "durationMs": flags.pop("duration")}
    more = {"properties": span.properties, "events": span.events}
    return reply(told | flags | more | ({"triggeredRuns": triggered} if triggered else {}))


@router.get("/api/v1/runs/{run_id}/events")
async def events(request: Request, run_id: str, environment: Keyed) -> Response:
    """All events of all spans, in their order."""
    _, trace = await _trace(request, environment, run_id)
    found = [{**event, "spanId": span.id} for span in trace.spans for event in span.events]
    told: Json = {"events": sorted(found, key=lambda event: event["time"])}
    return reply(told | ({"truncated": True} if trace.is_cut else {}))


async def _trace(request: Request, environment: Environment, run_id: str) -> tuple[Run, Trace]:
    async with hub(request).database.transaction() as tx:
        run = await read.run(tx, environment.id, run_id)
        if run is None:
            raise not_found()
        attempts = await read.attempts(tx, run_id)
        story = await read.story(tx, run_id, limit=MAX_EVENTS + 1)
        lines = await read.logs(tx, run_id, limit=MAX_LINES + 1)
        children = await read.children(tx, environment.id, run_id, limit=MAX_CHILDREN + 1)
    is_cut = len(story) > MAX_EVENTS or len(lines) > MAX_LINES or len(children) > MAX_CHILDREN
    children = [child for child in children[:MAX_CHILDREN] if child.hook is None]
    return run, spans.trace(run, attempts, story[:MAX_EVENTS], lines[:MAX_LINES], children, is_cut=is_cut)


def _flags(span: Span, now: datetime) -> Json:
    return {
        "message": span.message,
        "startTime": span.started_at,
        "duration": max(0.0, ((span.ended_at or now) - span.started_at).total_seconds() * 1000),
        "isError": span.is_error,
        "isPartial": span.ended_at is None,
        "isCancelled": span.is_canceled,
        "level": "TRACE",
    }


def _node(span: Span, run: Run, trace: Trace, now: datetime) -> Json:
    data = _flags(span, now) | {"events": span.events, "properties": dict(span.properties)}
    if span is trace.spans[0]:
        facts = {
            "taskSlug": run.task_id,
            "workerVersion": run.version,
            "queueName": run.queue,
            "machinePreset": run.preset,
        }
        data |= {name: value for name, value in facts.items() if value is not None}
        if trace.is_cut:
            data["properties"]["truncated"] = True
    return {"id": span.id, **_parent(span), "runId": span.run_id, "data": data, "children": []}


def _parent(span: Span) -> Json:
    return {} if span.parent_id is None else {"parentId": span.parent_id}


def _page(request: Request, trace: Trace, now: datetime) -> Json:
    """Spans without their events, in the order in which they were made: parents first."""
    query = request.query_params
    size, after = query.get("page[size]", str(MAX_PAGE)), query.get("page[after]", "0")
    size = paging.whole_number("page[size]", size, MAX_PAGE)
    if not after.isdecimal() or len(after) > 9:
        raise Refused(400, f"page[after]: what `next` of a page said, not {after!r}")
    end = int(after) + size
    shown = [
        {"id": span.id, **_parent(span), "runId": span.run_id, **_flags(span, now)}
        | ({} if span.attempt is None else {"attemptNumber": span.attempt})
        for span in trace.spans[int(after) : end]
    ]
    failed = [
        {"spanId": trace.spans[0].id, "attemptNumber": span.attempt, "runId": span.run_id}
        for span in trace.spans[int(after) : end]
        if span.is_error and span.message == f"attempt {span.attempt}"
    ]
    following = {"next": str(end)} if end < len(trace.spans) else {}
    cut = {"truncated": True} if trace.is_cut else {}
    return {"data": shown, "attemptFailures": failed, "pagination": following | cut}

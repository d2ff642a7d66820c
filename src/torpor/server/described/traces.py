"""Traces: their types, and their routes."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from torpor.server.described.operation import Answer, Instant, Operation, Parameter, Resource, Shape
from torpor.server.described.runs import NO_RUN


class SpanEvent(Shape, kw_only=True):
    """A log line (`log`), or what the [story](waits-and-checkpoints.md#the-story) says beside its spans."""

    name: str
    time: Instant
    properties: dict[str, Any]


class SpanEventAnywhere(SpanEvent, kw_only=True):
    span_id: str


class SpanTimes(Shape, kw_only=True):
    message: str
    start_time: Instant
    duration: Annotated[float, Meta(description="Milliseconds, up to now while it goes on.")]
    is_error: bool
    is_partial: Annotated[bool, Meta(description="It goes on.")]
    is_cancelled: bool
    level: str


class SpanData(SpanTimes, kw_only=True):
    events: list[SpanEvent]
    properties: dict[str, Any]
    task_slug: str | UnsetType = UNSET
    worker_version: str | UnsetType = UNSET
    queue_name: str | UnsetType = UNSET
    machine_preset: str | UnsetType = UNSET


class TraceSpan(Shape, kw_only=True):
    id: Annotated[str, Meta(description="Made of what it stands for: the same each time.")]
    parent_id: str | UnsetType = UNSET
    run_id: str
    data: SpanData
    children: "list[TraceSpan]"


class TraceTree(Shape):
    trace_id: Annotated[str, Meta(description="One for a whole tree of runs.")]
    root_span: TraceSpan


class FlatSpan(SpanTimes, kw_only=True):
    id: str
    parent_id: str | UnsetType = UNSET
    run_id: str
    attempt_number: int | UnsetType = UNSET


class AttemptFailure(Shape):
    span_id: str
    attempt_number: int
    run_id: str


class TracePageEnd(Shape):
    next: str | UnsetType = UNSET
    truncated: Annotated[bool, Meta(description="The run has more to tell than was read.")] | UnsetType = UNSET


class WholeTrace(Shape, kw_only=True):
    """`trace`, or with `page[size]` the other three."""

    trace: TraceTree | UnsetType = UNSET
    data: list[FlatSpan] | UnsetType = UNSET
    attempt_failures: list[AttemptFailure] | UnsetType = UNSET
    pagination: TracePageEnd | UnsetType = UNSET


class TriggeredRun(Shape):
    run_id: str
    task_identifier: str
    status: str
    created_at: Instant


class OneSpan(Shape, kw_only=True):
    span_id: str
    parent_id: str | None
    run_id: str
    message: str
    start_time: Instant
    duration_ms: float
    is_error: bool
    is_partial: bool
    is_cancelled: bool
    level: str
    properties: dict[str, Any]
    events: list[SpanEvent]
    triggered_runs: list[TriggeredRun] | UnsetType = UNSET


class SpanEvents(Shape):
    events: list[SpanEventAnywhere]
    truncated: bool | UnsetType = UNSET


LINE = {
    "name": "log",
    "time": "2026-03-01T07:00:01Z",
    "properties": {"level": "info", "message": "hello", "stream": "log"},
}
TIMES = {
    "message": "attempt 1",
    "startTime": "2026-03-01T07:00:00Z",
    "isError": False,
    "isPartial": False,
    "isCancelled": False,
    "level": "TRACE",
}
NODE = {
    "id": "1f0c7a52be9d4e63",
    "runId": "run_8fz3k1v0q2m4",
    "data": TIMES | {"message": "onboard", "duration": 1200.5, "events": [], "properties": {"status": "COMPLETED"}},
    "children": [],
}

RESOURCE = Resource(
    "Traces",
    "A run's story as spans: the run, its attempts, and in them what took time (queued, started, waits, frozen, restored) "
    "and the runs that it has triggered, whose own traces tell what is in them. Read of a run are its first 5,000 events, "
    "2,000 log lines and 1,000 children; `truncated` says when there is more. The story and the log are served in full.",
    {
        "GET /api/v1/runs/{run_id}/trace": Operation(
            "retrieveRunTrace",
            "The trace of a run.",
            "A tree, with events. With `page[size]` (up to 10,000) its spans one after the other, without events, parents first.",
            query=(
                Parameter("page[size]", Annotated[int, Meta(ge=1, le=10_000)], "Flat, so many at a time.", 1000),
                Parameter("page[after]", str, "What `next` of a page said.", "1000"),
            ),
            answers={200: Answer("The trace.", WholeTrace, {"trace": {"traceId": "9b1c", "rootSpan": NODE}})},
            refusals=NO_RUN,
        ),
        "GET /api/v1/runs/{run_id}/spans/{span_id}": Operation(
            "retrieveSpan",
            "One span, with its events.",
            answers={
                200: Answer(
                    "The span.",
                    OneSpan,
                    TIMES
                    | {
                        "spanId": "1f0c7a52be9d4e63",
                        "parentId": None,
                        "runId": "run_8fz3k1v0q2m4",
                        "durationMs": 1200.5,
                        "properties": {},
                        "events": [LINE],
                    },
                )
            },
            refusals={404: "There is no such run, or no such span of it."},
        ),
        "GET /api/v1/runs/{run_id}/events": Operation(
            "listRunEvents",
            "All events of its spans, in their order.",
            answers={200: Answer("The events.", SpanEvents, {"events": [LINE | {"spanId": "1f0c7a52be9d4e63"}]})},
            refusals=NO_RUN,
        ),
    },
)

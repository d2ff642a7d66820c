"""Runs: their types, and their routes."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from torpor.server.described.operation import (
    CREATED,
    JWT_HEADERS,
    PAGED,
    REPEATABLE,
    Answer,
    Body,
    Cursors,
    Duration,
    Flag,
    Given,
    Instant,
    Operation,
    Parameter,
    Resource,
    Shape,
    When,
)

Status = Literal[
    "DELAYED",
    "PENDING_VERSION",
    "QUEUED",
    "DEQUEUED",
    "EXECUTING",
    "WAITING",
    "COMPLETED",
    "FAILED",
    "CANCELED",
    "CRASHED",
    "TIMED_OUT",
    "EXPIRED",
    "SYSTEM_FAILURE",
]
TriggerFunction = Literal["trigger", "triggerAndWait", "batchTrigger", "batchTriggerAndWait"]
PayloadType = Literal["application/json", "application/super+json", "text/plain", "application/store"]

# -- what is asked ----------------------------------------------------------------------------------------------------

KeyOptions = Annotated[
    dict[str, Any],
    Meta(
        description="What the key was made of, as the caller wrote it. Only told: its `key` is what reads of the run show."
    ),
]
Tags = Annotated[
    Annotated[str, Meta(max_length=128)] | list[Annotated[str, Meta(min_length=1, max_length=128)]],
    Meta(description="One tag or up to 10, each of up to 128 characters."),
]


class QueueName(Given):
    name: str | None = None


class Debounce(Given, forbid_unknown_fields=True):
    """Of several triggers with this key within `delay`, one run; each moves it on by that much, up to `maxDelay`."""

    key: Annotated[str, Meta(min_length=1, max_length=512)]
    delay: Duration
    mode: (
        Annotated[Literal["leading", "trailing"], Meta(description="The first payload counts, or the newest.")] | None
    ) = None
    max_delay: Duration | None = None


class Options(Given, forbid_unknown_fields=True):
    """How it is triggered. [Triggering](triggering.md) explains them."""

    delay: When | None = None
    ttl: Annotated[Duration | None, Meta(description="It expires unless it has started by then; 0: never.")] = None
    idempotency_key: Annotated[str, Meta(max_length=2048)] | None = None
    idempotency_key_ttl: Duration | None = msgspec.field(name="idempotencyKeyTTL", default=None)
    idempotency_key_options: KeyOptions | None = None
    debounce: Debounce | None = None
    queue: QueueName | str | None = None
    concurrency_key: str | float | None = None
    priority: Annotated[float, Meta(ge=0, le=31_536_000, description="Seconds of a head start.")] | None = None
    tags: Tags | None = None
    inherit_tags: bool | None = None
    metadata: Annotated[dict[str, Any], Meta(description="Of up to 256 KiB.")] | None = None
    metadata_type: Any = None
    max_attempts: Annotated[int, Meta(ge=1, le=100)] | None = None
    max_duration: Annotated[float, Meta(ge=5, description="Seconds.")] | None = None
    machine: Annotated[str | dict[str, Any], Meta(description="The name of a [preset](machines.md).")] | None = None
    lock_to_version: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    test: bool | None = None
    payload_type: PayloadType | None = None
    payload_size: Annotated[Any, Meta(description="Only told; so is the next.")] = None
    resume_parent_on_completion: Any = None


class Trigger(Given):
    payload: Annotated[Any, Meta(description="Any JSON; a text when `payloadType` is not `application/json`.")] = None
    options: Options | None = None


class Reschedule(Given):
    delay: When


class Replay(Given):
    """What is to differ."""

    payload: Any = None
    payload_type: PayloadType | None = None
    queue: QueueName | str | None = None
    concurrency_key: str | float | None = None
    tags: Tags | None = None
    metadata: dict[str, Any] | None = None
    idempotency_key: Annotated[str, Meta(max_length=2048)] | None = None
    idempotency_key_ttl: Duration | None = msgspec.field(name="idempotencyKeyTTL", default=None)
    delay: When | None = None
    ttl: Duration | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=100)] | None = None
    max_duration: Annotated[float, Meta(ge=5)] | None = None
    machine: str | None = None
    priority: Annotated[float, Meta(ge=0, le=31_536_000)] | None = None
    version: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    test: bool | None = None


class KeyReset(Given):
    task_identifier: Annotated[str, Meta(min_length=1)]


# -- what is answered -------------------------------------------------------------------------------------------------


class RunId(Shape):
    id: str


class Triggered(Shape):
    id: str
    is_cached: (
        Annotated[bool, Meta(description="True when the idempotency key had its run already; else left out.")]
        | UnsetType
    ) = UNSET


class Usage(Shape):
    """What it used. Torpor's own."""

    cpu_ms: int
    peak_memory_bytes: int
    frozen_ms: Annotated[int, Meta(description="How long its process was not there while it waited.")]


class RunFields(Shape, kw_only=True):
    """What every view of a run has."""

    id: str
    status: Status
    task_identifier: str
    idempotency_key: Annotated[str, Meta(description="As the caller wrote it.")] | UnsetType = UNSET
    version: str | UnsetType = UNSET
    is_queued: bool
    is_executing: bool
    is_waiting: bool
    is_completed: Annotated[bool, Meta(description="True for every final status.")]
    is_success: bool
    is_failed: bool
    is_cancelled: bool
    is_test: bool
    created_at: Instant
    updated_at: Instant
    started_at: Instant | UnsetType = UNSET
    finished_at: Instant | UnsetType = UNSET
    delayed_until: Instant | UnsetType = UNSET
    ttl: str | UnsetType = UNSET
    expired_at: Instant | UnsetType = UNSET
    tags: list[str]
    cost_in_cents: Annotated[float, Meta(description="0: a run costs what your machines cost.")]
    base_cost_in_cents: float
    duration_ms: int
    metadata: dict[str, Any] | UnsetType = UNSET
    machine: Annotated[str, Meta(description="The name of its [preset](machines.md).")]
    usage: Usage
    trigger_function: TriggerFunction
    batch_id: str | UnsetType = UNSET


class RunSummary(RunFields, kw_only=True):
    """What related runs are shown with."""

    depth: Annotated[int, Meta(description="How many runs are above it.")]


class EnvironmentOfRun(Shape):
    id: str
    name: str


class RunInList(RunFields, kw_only=True):
    env: EnvironmentOfRun


class RunPage(Shape):
    data: list[RunInList]
    pagination: Cursors


class RunCount(Shape):
    from_: Instant = msgspec.field(name="from")
    total: int
    counts: Annotated[dict[str, int], Meta(description="By status; what there is none of is left out.")]


class RunCounts(Shape):
    data: list[RunCount]
    bucket_seconds: float


class RunError(Shape):
    message: str
    name: str | UnsetType = UNSET
    stack_trace: str | UnsetType = UNSET
    causes: "list[RunError] | UnsetType" = UNSET


class Cron(Shape):
    type: Literal["CRON"]
    expression: str
    description: Annotated[str, Meta(description="The pattern in words.")]


class ScheduleOfRun(Shape, kw_only=True):
    id: str
    external_id: str | UnsetType = UNSET
    deduplication_key: str | UnsetType = UNSET
    generator: Cron


class RelatedRuns(Shape, kw_only=True):
    root: RunSummary | UnsetType = UNSET
    parent: RunSummary | UnsetType = UNSET
    children: list[RunSummary]


class QueueOfRun(Shape):
    name: str


class Run(RunSummary, kw_only=True):
    """A run, with what it was given, what came of it, and its relatives."""

    payload: Any | UnsetType = UNSET
    payload_presigned_url: str | UnsetType = UNSET
    output: Annotated[Any, Meta(description="There when it is `COMPLETED`.")] | UnsetType = UNSET
    output_presigned_url: str | UnsetType = UNSET
    error: RunError | UnsetType = UNSET
    related_runs: RelatedRuns
    attempt_count: int
    schedule: ScheduleOfRun | UnsetType = UNSET
    queue: QueueOfRun
    concurrency_key: str | UnsetType = UNSET
    priority: float | UnsetType = UNSET
    max_attempts: int
    max_duration: float | UnsetType = UNSET
    locked_to_version: str | UnsetType = UNSET
    replayed_from: str | UnsetType = UNSET
    forked_from: str | UnsetType = UNSET
    forked_checkpoint_id: str | UnsetType = UNSET


class ResultError(Shape, kw_only=True):
    """In the official client's own terms."""

    type: Literal["BUILT_IN_ERROR", "INTERNAL_ERROR", "STRING_ERROR", "CUSTOM_ERROR"]
    name: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    stack_trace: str | UnsetType = UNSET
    code: str | UnsetType = UNSET
    raw: str | UnsetType = UNSET


class Result(Shape, kw_only=True):
    """How it ended. `output` is JSON as text."""

    ok: bool
    id: str
    task_identifier: str
    output: str | UnsetType = UNSET
    output_type: str | UnsetType = UNSET
    error: ResultError | UnsetType = UNSET


class Event(Shape, kw_only=True):
    id: int
    at: Instant
    kind: str
    attempt: int | UnsetType = UNSET
    data: dict[str, Any]


class Story(Shape):
    data: list[Event]
    ended: Annotated[bool, Meta(description="The run is over, and nothing more will come.")]


class LogLine(Shape):
    id: int
    at: Instant
    level: str
    message: str
    attributes: dict[str, Any]
    stream: Annotated[Literal["log", "output"], Meta(description="`output`: it was printed.")]


class Log(Shape):
    data: list[LogLine]
    ended: bool


# -- the routes -------------------------------------------------------------------------------------------------------

SUMMARY_EXAMPLE = {
    "id": "run_8fz3k1v0q2m4",
    "status": "WAITING",
    "taskIdentifier": "onboard",
    "version": "dev-20260301-070000",
    "isQueued": False,
    "isExecuting": False,
    "isWaiting": True,
    "isCompleted": False,
    "isSuccess": False,
    "isFailed": False,
    "isCancelled": False,
    "isTest": False,
    "createdAt": "2026-03-01T07:00:00Z",
    "updatedAt": "2026-03-01T07:00:01Z",
    "startedAt": "2026-03-01T07:00:00.200Z",
    "tags": ["new"],
    "costInCents": 0,
    "baseCostInCents": 0,
    "durationMs": 20,
    "machine": "small-1x",
    "usage": {"cpuMs": 120, "peakMemoryBytes": 52428800, "frozenMs": 3600000},
    "triggerFunction": "trigger",
}
RUN_EXAMPLE = SUMMARY_EXAMPLE | {
    "depth": 0,
    "payload": {"name": "Ada"},
    "relatedRuns": {"children": []},
    "attemptCount": 1,
    "queue": {"name": "task/onboard"},
    "maxAttempts": 3,
}
PAGE_EXAMPLE = {
    "data": [SUMMARY_EXAMPLE | {"env": {"id": "env_1", "name": "dev"}}],
    "pagination": {"next": "63f1.run_8fz3k1v0q2m4"},
}
FILTERS = (
    Parameter("filter[status]", list[Status], "These statuses.", ["QUEUED", "EXECUTING"]),
    Parameter("filter[taskIdentifier]", list[str], "Of these tasks.", ["onboard"]),
    Parameter("filter[version]", list[str], "Performed by these versions."),
    Parameter("filter[tag]", list[str], "With any of these tags.", ["new"]),
    Parameter(
        "filter[queue]", list[str], "In these queues: `task/<task>` for a task's own, else the name.", ["emails"]
    ),
    Parameter("filter[machine]", list[str], "With these sizes of machine.", ["small-1x"]),
    Parameter(
        "filter[region]", list[str], "With sizes of machine whose [label](machines.md) `region` is one of these."
    ),
    Parameter("filter[schedule]", list[str], "Triggered by these schedules."),
    Parameter("filter[batch]", str, "Items of this batch, also those that were there before."),
    Parameter("filter[bulkAction]", str, "Canceled by this bulk action, or made by it."),
    Parameter("filter[isTest]", Flag, "`true`: test runs; `false`: others."),
    *CREATED,
    Parameter("filter[search]", str, "An id or a task's name that begins so, or this tag. Torpor's own.", "onb"),
)
INLINE = (Parameter("inline", Flag, "Payload and output as they are, whatever their size. Torpor's own.", "true"),)
NO_RUN = {404: "There is no such run."}
FOLLOW = (
    Parameter("after", Annotated[int, Meta(ge=0)], "Only what has a larger id.", 7),
    Parameter(
        "wait_s",
        Annotated[float, Meta(ge=0, le=30)],
        "Held open for so many seconds, 30 at most, until something comes.",
        0,
    ),
)

RESOURCE = Resource(
    "Runs",
    "One run is one request to perform a task with a payload. Its statuses are told in [concepts](concepts.md#states-of-a-run).",
    {
        "POST /api/v1/tasks/{task_id}/trigger": Operation(
            "triggerTask",
            "Trigger a task: make a run.",
            "The headers `idempotency-key` and `idempotency-key-ttl` say the same as the options. 422: a one-time token that was "
            "used; options that nobody carries out yet (`concurrency`, `externalDeploymentId`, `parentRunId`, `region`); a "
            "queue, a version or a machine that nobody knows; a run that its queue has no room for (`queue`, `limit`, "
            "`queued`); and a payload that does not fit the task: `problems` says where.",
            headers=(
                *REPEATABLE,
                Parameter("idempotency-key", Annotated[str, Meta(max_length=2048)], "As `options.idempotencyKey`."),
                Parameter("idempotency-key-ttl", str, "As `options.idempotencyKeyTTL`."),
            ),
            body=Body(Trigger, {"payload": {"name": "Ada"}, "options": {"tags": ["new"], "delay": "1h"}}),
            answers={
                200: Answer(
                    "The run, or the one that the idempotency key had already.",
                    Triggered,
                    {"id": "run_8fz3k1v0q2m4"},
                    headers=JWT_HEADERS,
                )
            },
            refusals={
                404: "There is no such task; `near` names similar ones.",
                413: "The body, or the metadata, is too large.",
            },
        ),
        "GET /api/v1/runs": Operation(
            "listRuns",
            "List runs.",
            "All filters that are given must fit; a filter that there is not is 422. Each has an index in the order of the list, "
            "so a page is as quick in a long history; of several, one is gone along and the others are looked at on the way.",
            query=(*PAGED, *FILTERS),
            answers={200: Answer("A page of runs.", RunPage, PAGE_EXAMPLE)},
        ),
        "GET /api/v1/projects/{project_ref}/runs": Operation(
            "listRunsOfProject",
            "The same. A server has one project, so any name will do.",
            query=(
                *PAGED,
                Parameter(
                    "filter[env]", list[str], "What is in another environment than the key's is not shown.", ["dev"]
                ),
                *FILTERS,
            ),
            answers={200: Answer("A page of runs.", RunPage, PAGE_EXAMPLE)},
        ),
        "GET /api/v1/runs/counts": Operation(
            "countRuns",
            "How many runs were made when, and what has become of them.",
            "For a chart: up to 1,000 buckets, which begin at whole multiples of their length, the empty ones too. Hooks are not "
            "counted.",
            is_own=True,
            query=(
                Parameter("period", str, "How far back; 24 hours unless it is given.", "7d"),
                Parameter("bucket", str, "The length of a bucket; an hour unless it is given.", "6h"),
                Parameter("filter[taskIdentifier]", list[str], "Of these tasks.", ["onboard"]),
            ),
            answers={
                200: Answer(
                    "The buckets, oldest first.",
                    RunCounts,
                    {
                        "data": [
                            {"from": "2026-03-01T00:00:00Z", "total": 12, "counts": {"COMPLETED": 11, "FAILED": 1}}
                        ],
                        "bucketSeconds": 21600.0,
                    },
                )
            },
        ),
        "GET /api/v3/runs/{run_id}": Operation(
            "retrieveRun",
            "Look at a run.",
            "A payload or output that is kept in the object store (more than 512 KiB, `TORPOR_OFFLOAD_BYTES`) is told by a "
            "[presigned URL](#large-payloads) instead.",
            query=INLINE,
            answers={200: Answer("The run.", Run, RUN_EXAMPLE)},
            refusals=NO_RUN | {410: "A large payload or output is missing in the server's object store."},
        ),
        "GET /api/v1/runs/{run_id}/result": Operation(
            "retrieveRunResult",
            "How a run ended.",
            answers={
                200: Answer(
                    "Its output, or its error.",
                    Result,
                    {
                        "ok": True,
                        "id": "run_8fz3k1v0q2m4",
                        "taskIdentifier": "onboard",
                        "output": '["Ada gets a letter"]',
                        "outputType": "application/json",
                    },
                )
            },
            refusals={
                404: "There is no such run, or it has not ended yet.",
                410: "A large output is missing in the server's object store.",
            },
        ),
        "POST /api/v2/runs/{run_id}/cancel": Operation(
            "cancelRun",
            "Cancel a run, and its children.",
            "A run without a process (queued, delayed, frozen) is canceled at once. One with a process is asked to end by itself "
            "and has 30 seconds for it ([canceling](tasks.md#canceling)).",
            query=(Parameter("at_once", Flag, "Kill its process instead of asking. Torpor's own.", "false"),),
            answers={200: Answer("Also when it had ended before.", RunId, {"id": "run_8fz3k1v0q2m4"})},
            refusals=NO_RUN,
        ),
        "POST /api/v1/runs/{run_id}/reschedule": Operation(
            "rescheduleRun",
            "Move a delayed run.",
            query=INLINE,
            body=Body(Reschedule, {"delay": "1h"}, is_required=True),
            answers={200: Answer("The run as it is then.", Run, RUN_EXAMPLE)},
            refusals=NO_RUN
            | {
                400: "The request can't be read, or the run is not delayed.",
                410: "A large payload is missing in the server's object store.",
            },
        ),
        "POST /api/v1/runs/{run_id}/replay": Operation(
            "replayRun",
            "Perform a run again, as a new one.",
            "Whatever the old one's status. What the body names differs; the idempotency key is not taken over.",
            headers=REPEATABLE,
            body=Body(Replay, {"payload": {"name": "Grace"}, "tags": ["again"]}),
            answers={200: Answer("The new run.", RunId, {"id": "run_0a7c5d2e9b1f"})},
            refusals=NO_RUN | {413: "The body, or the metadata, is too large."},
        ),
        "POST /api/v1/idempotencyKeys/{key}/reset": Operation(
            "resetIdempotencyKey",
            "Free an idempotency key: the next trigger with it makes a new run.",
            body=Body(KeyReset, {"taskIdentifier": "charge"}, is_required=True),
            answers={200: Answer("The key.", RunId, {"id": "charge-42"})},
            refusals={404: "No run of that task has this key."},
        ),
        "GET /api/v1/runs/{run_id}/story": Operation(
            "followRunStory",
            "What has happened to a run, as it happens.",
            "The kinds are told in [waits and checkpoints](waits-and-checkpoints.md#the-story).",
            is_own=True,
            query=FOLLOW,
            answers={
                200: Answer(
                    "Events, oldest first.",
                    Story,
                    {
                        "data": [
                            {"id": 7, "at": "2026-03-01T07:00:01Z", "kind": "run.suspended", "attempt": 1, "data": {}}
                        ],
                        "ended": False,
                    },
                )
            },
            refusals=NO_RUN,
        ),
        "GET /api/v1/runs/{run_id}/logs": Operation(
            "followRunLogs",
            "What a run has logged and printed, as it does.",
            is_own=True,
            query=FOLLOW,
            answers={
                200: Answer(
                    "Lines, oldest first.",
                    Log,
                    {
                        "data": [
                            {
                                "id": 3,
                                "at": "2026-03-01T07:00:01Z",
                                "level": "info",
                                "message": "done with Ada",
                                "attributes": {"approved": True},
                                "stream": "log",
                            }
                        ],
                        "ended": False,
                    },
                )
            },
            refusals=NO_RUN,
        ),
    },
)

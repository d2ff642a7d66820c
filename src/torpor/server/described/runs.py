"""The routes of runs; run_types.py has the types."""

from typing import Annotated

from msgspec import Meta

from torpor.server.described.operation import (
    CREATED,
    JWT_HEADERS,
    PAGED,
    REPEATABLE,
    Answer,
    Body,
    Flag,
    Operation,
    Parameter,
    Resource,
)
from torpor.server.described.run_types import (
    KeyReset,
    Log,
    Replay,
    Reschedule,
    Result,
    Run,
    RunCounts,
    RunId,
    RunPage,
    Status,
    Story,
    Trigger,
    Triggered,
)

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
            "The same. The key says of which environment and project, so any name will do.",
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

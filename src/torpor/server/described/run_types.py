"""What is asked of runs, and what is told of them."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from torpor.server.described.operation import (
    Cursors,
    Duration,
    Given,
    Instant,
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

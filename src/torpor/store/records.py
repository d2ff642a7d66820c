"""One frozen record per table: its fields are the table's columns, under the same names.

A record is what a row was when it was read. Only the engine's verbs write rows, and they write SQL.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Row:
    """What all records can do: come from a row."""

    @classmethod
    def of(cls, row: Any) -> Self:
        """The record of a `select table.*` row, which must be there."""
        assert row is not None, f"no row for a {cls.__name__}"
        return cls(**row)


@dataclass(frozen=True, slots=True)
class Environment(Row):
    id: str
    slug: str
    current_version: str | None
    created_at: datetime
    concurrency_limit: int | None
    burst_factor: float
    is_paused: bool
    accepts_unknown_tasks: bool
    max_queued: int | None
    checkpoint_retention_s: float
    variables_revision: int
    project: str
    former: list[str]
    renamed_at: datetime | None
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True)
class ApiKey(Row):
    key_hash: bytes
    environment_id: str
    created_at: datetime
    id: str
    name: str
    hint: str
    scopes: list[str] | None
    sealed: bytes | None
    master: str | None
    is_configured: bool
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    is_personal: bool
    created_by: str | None
    is_worker: bool


@dataclass(frozen=True, slots=True)
class Account(Row):
    id: str
    name: str
    password_hash: str | None
    created_at: datetime
    issuer: str | None
    subject: str | None


@dataclass(frozen=True, slots=True)
class Session(Row):
    cookie_hash: bytes
    account_id: str | None
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    address: str
    agent: str
    ends_at: datetime | None
    environment_id: str | None


@dataclass(frozen=True, slots=True)
class Queue(Row):
    id: str
    environment_id: str
    name: str
    kind: str
    concurrency_limit: int | None
    override_limit: int | None
    overridden_at: datetime | None
    is_paused: bool
    created_at: datetime
    overridden_by: str | None


@dataclass(frozen=True, slots=True)
class Worker(Row):
    id: str
    environment_id: str
    instance_id: str
    host: str
    slots: int
    can_freeze: bool
    facts: dict[str, Any]
    version: str | None
    hello_at: datetime
    seen_at: datetime
    expires_at: datetime
    store_id: str
    fitness: str
    cpu: float | None
    memory_bytes: int | None
    labels: dict[str, str]
    drain_asked_at: datetime | None
    disk_bytes: int | None
    disk_free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Task(Row):
    environment_id: str
    version: str
    id: str
    file: str
    line: int
    is_async: bool
    parameters: str
    payload_schema: dict[str, Any]
    retry: dict[str, Any]
    doc: str | None
    reported_at: datetime
    queue: str | None
    ttl_s: float | None
    max_duration_s: float | None
    hooks: list[str]
    checkpoints: dict[str, Any]
    preset: str | None


@dataclass(frozen=True, slots=True)
class Deployment(Row):
    id: str
    environment_id: str
    version: str
    runtime_version: str | None
    created_at: datetime
    deployed_at: datetime


@dataclass(frozen=True, slots=True)
class Run(Row):
    id: str
    environment_id: str
    task_id: str
    version: str | None
    state: str
    payload: str | None
    output: str | None
    error: dict[str, Any] | None
    attempt: int
    max_attempts: int
    lease: int
    lease_expires_at: datetime | None
    worker_id: str | None
    instance_id: str | None
    checkpoint_id: str | None
    available_at: datetime
    due_at: datetime | None
    rescues: int
    delay_until: datetime | None
    idempotency_key: str | None
    idempotency_key_options: dict[str, Any] | None
    tags: list[str]
    metadata: dict[str, Any] | None
    is_test: bool
    trigger_function: str
    parent_run_id: str | None
    root_run_id: str | None
    depth: int
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    queue: str
    concurrency_key: str
    priority_s: float
    ttl_s: float | None
    expires_at: datetime | None
    debounce_key: str | None
    debounce_until: datetime | None
    locked_version: str | None
    batch_id: str | None
    batch_index: int | None
    schedule_id: str | None
    replayed_from: str | None
    inherit_tags: bool
    hook: str | None
    hook_of: str | None
    cancel_requested_at: datetime | None
    cancel_reason: str | None
    max_duration_s: float | None
    active_ms: float
    active_since: datetime | None
    ready_at: datetime | None
    handed_out_at: datetime | None
    handed_out_for: int | None
    heard: int
    asked: dict[str, Any] | None
    payload_object: str | None
    output_object: str | None
    image_store_id: str | None
    forked_from: str | None
    forked_checkpoint_id: str | None
    preset: str
    cpu_ms: float
    lease_cpu_ms: float
    peak_memory_bytes: int
    frozen_ms: float
    frozen_since: datetime | None
    changed_in: int
    stream_keys: list[str]
    metadata_lease: int
    metadata_number: int
    metadata_requests: list[str]
    given_metadata: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Attempt(Row):
    run_id: str
    number: int
    version: str
    worker_id: str
    lease: int
    dequeued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    outcome: str | None
    error: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Waitpoint(Row):
    id: str
    environment_id: str
    kind: str
    status: str
    due_at: datetime | None
    awaited_run_id: str | None
    output: str | None
    error: dict[str, Any] | None
    run_status: str | None
    tags: list[str]
    idempotency_key: str | None
    idempotency_key_expires_at: datetime | None
    title: str | None
    context: Any
    created_by_run_id: str | None
    completed_by: str | None
    created_at: datetime
    completed_at: datetime | None
    batch_id: str | None
    output_object: str | None


@dataclass(frozen=True, slots=True)
class Wait(Row):
    run_id: str
    wait_id: str
    waitpoint_id: str
    created_at: datetime
    delivered_at: datetime | None
    detached_at: datetime | None
    times_out_at: datetime | None
    timed_out_at: datetime | None


@dataclass(frozen=True, slots=True)
class Batch(Row):
    id: str
    environment_id: str
    waitpoint_id: str
    parent_run_id: str | None
    run_count: int
    is_counted: bool
    item_count: int
    pending: int
    failed_items: int
    is_sealed: bool
    is_aborted: bool
    idempotency_key: str | None
    idempotency_key_expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    sealed_at: datetime | None
    completed_at: datetime | None
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class BatchItem(Row):
    batch_id: str
    index: int
    task_id: str
    run_id: str | None
    is_cached: bool
    error: str | None
    added_in: int = field(default=0, compare=False)  # the database says it


@dataclass(frozen=True, slots=True)
class BulkAction(Row):
    id: str
    environment_id: str
    kind: str
    name: str | None
    made_by: str | None
    total: int
    succeeded: int
    failed: int
    created_at: datetime
    completed_at: datetime | None
    aborted_at: datetime | None


@dataclass(frozen=True, slots=True)
class Schedule(Row):
    id: str
    environment_id: str
    task_id: str
    kind: str
    deduplication_key: str | None
    external_id: str | None
    cron: str
    timezone: str
    window_text: str | None
    catch_up: str
    is_active: bool
    next_tick_at: datetime | None
    next_fire_at: datetime | None
    last_tick_at: datetime | None
    last_run_id: str | None
    problem: str | None
    problem_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Checkpoint(Row):
    id: str
    run_id: str
    worker_id: str
    attempt: int
    state: str
    reason: str | None
    open_waits: list[str]
    size_bytes: int
    files_bytes: int
    dump_ms: float
    durable_ms: float
    rss_bytes: int
    facts: dict[str, Any]
    waiting_at: list[dict[str, Any]]
    created_at: datetime
    number: int
    image_id: str
    kind: str
    name: str | None
    store_id: str
    digest: str
    key_id: str
    base: str | None
    new_bytes: int
    shared_bytes: int
    kept_until: datetime | None
    environment_id: str


@dataclass(frozen=True, slots=True)
class DataKey(Row):
    id: str
    environment_id: str
    wrapped: bytes
    master: str
    created_at: datetime
    retired_at: datetime | None


@dataclass(frozen=True, slots=True)
class EnvVar(Row):
    environment_id: str
    name: str
    sealed: bytes
    master: str
    size_bytes: int
    is_secret: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Event(Row):
    id: int
    run_id: str
    at: datetime
    kind: str
    attempt: int | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LogLine(Row):
    id: int
    run_id: str
    lease: int
    first_byte: int
    nth: int
    at: datetime
    level: str
    message: str
    attributes: dict[str, Any]
    stream: str

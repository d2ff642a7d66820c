"""What there is: tasks, workers, limits, health, and the document itself."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from torpor.server.described.operation import Answer, Instant, Operation, Resource, Shape


class Task(Shape, kw_only=True):
    """A task of the current version."""

    id: str
    version: str
    file: str
    line: int
    is_async: bool
    parameters: Annotated[
        Literal["none", "one", "named"], Meta(description="The [payload rule](tasks.md#payloads) of its function.")
    ]
    payload_schema: Annotated[dict[str, Any], Meta(description="A JSON schema.")]
    retry: dict[str, Any]
    doc: str | UnsetType = UNSET
    machine: str | UnsetType = UNSET


class Tasks(Shape):
    data: list[Task]


class Capacity(Shape):
    cpu: float | UnsetType = UNSET
    memory_bytes: int | UnsetType = UNSET


class Disk(Shape):
    """What its data directory is on, as of its last heartbeat."""

    size_bytes: int
    free_bytes: int


class Worker(Shape, kw_only=True):
    """A machine that performs runs. Those that are gone are listed for a month."""

    id: str
    host: str
    version: str | UnsetType = UNSET
    slots: int
    running: Annotated[int, Meta(description="Its runs that work.")]
    held: Annotated[int, Meta(description="Those that wait in its memory; frozen ones belong to no worker.")]
    capacity: Capacity | UnsetType = UNSET
    disk: Disk | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    isolation: (
        Annotated[
            dict[str, Any],
            Meta(
                description="How far it keeps runs apart: `level` (`full`, `partial`, `off`), and what they lack there."
            ),
        ]
        | UnsetType
    ) = UNSET
    trust: str | UnsetType = UNSET
    networks: list[str] | UnsetType = UNSET
    can_freeze: bool
    no_freeze_reason: str | UnsetType = UNSET
    criu: str | UnsetType = UNSET
    store_id: str
    fitness: str
    facts: Annotated[dict[str, Any], Meta(description="What else it tells of its machine.")]
    is_alive: Annotated[bool, Meta(description="Its lease is not over.")]
    drain_asked_at: Annotated[Instant, Meta(description="Since when it is to leave.")] | UnsetType = UNSET
    started_at: Instant
    seen_at: Instant


class Workers(Shape):
    data: list[Worker]


class ServerLimits(Shape):
    """Null: there is no limit."""

    request_bytes: int
    batch_item_bytes: int
    upload_bytes: int
    batch_items: int
    bulk_run_ids: int
    output_bytes: int
    metadata_bytes: int
    streams: int
    stream_bytes: int
    stream_part_bytes: int
    stream_input_bytes: int
    tags: int
    tag_characters: int
    idempotency_key_characters: int
    attempts: int
    ttl_seconds: float | None
    schedules: int | None
    concurrent_runs: int | None
    queued_per_queue: int | None
    key_requests_per_second: float | None
    key_requests_burst: int | None
    token_requests_per_second: float | None
    token_requests_burst: int | None
    realtime_subscriptions: int | None
    public_token_seconds: float
    scopes: int
    queries: int
    query_characters: int
    query_rows: int
    query_seconds: int
    variables: int
    variable_bytes: int
    all_variables_bytes: int


class Health(Shape):
    status: Literal["ok"]


WORKER = {
    "id": "worker_5n1c7b3t",
    "host": "build-7",
    "version": "dev-20260301-070000",
    "slots": 20,
    "running": 3,
    "held": 1,
    "capacity": {"cpu": 16.0, "memoryBytes": 67108864000},
    "disk": {"sizeBytes": 270582939648, "freeBytes": 96636764160},
    "isolation": {"level": "full", "missing": []},
    "trust": "own",
    "networks": ["host", "none"],
    "canFreeze": True,
    "criu": "4.2.1",
    "storeId": "store_1",
    "fitness": "4.2.1",
    "facts": {},
    "isAlive": True,
    "startedAt": "2026-03-01T06:00:00Z",
    "seenAt": "2026-03-01T07:00:00Z",
}

RESOURCE = Resource(
    "What there is",
    "Tasks, workers and limits. All Torpor's own.",
    {
        "GET /api/v1/tasks": Operation(
            "listTasks",
            "The tasks of the current version.",
            is_own=True,
            answers={
                200: Answer(
                    "All of them.",
                    Tasks,
                    {
                        "data": [
                            {
                                "id": "onboard",
                                "version": "dev-20260301-070000",
                                "file": "tasks.py",
                                "line": 9,
                                "isAsync": True,
                                "parameters": "named",
                                "payloadSchema": {"type": "object"},
                                "retry": {"max_attempts": 3},
                                "doc": "Letters to somebody new.",
                            }
                        ]
                    },
                )
            },
        ),
        "GET /api/v1/workers": Operation(
            "listWorkers",
            "The workers, also those that were gone within a month.",
            is_own=True,
            answers={200: Answer("All of them.", Workers, {"data": [WORKER]})},
        ),
        "GET /api/v1/workers/{worker_id}": Operation(
            "retrieveWorker",
            "One worker.",
            is_own=True,
            answers={200: Answer("The worker.", Worker, WORKER)},
            refusals={404: "There is no such worker."},
        ),
        "POST /api/v1/workers/{worker_id}/drain": Operation(
            "drainWorker",
            "Have a worker leave.",
            "It is handed no more runs. With its next heartbeat it hears of it, moves those that work to other workers, freezes "
            "those that wait, and ends. Whatever looks after its process may start it anew; then it takes work again.",
            is_own=True,
            answers={
                200: Answer("The worker, asked.", Worker, WORKER | {"drainAskedAt": "2026-03-01T07:00:00Z"}),
            },
            refusals={404: "There is no such worker.", 422: "It is gone."},
        ),
        "GET /api/v1/limits": Operation(
            "retrieveLimits",
            "The [limits](#limits) of this server.",
            is_own=True,
            answers={
                200: Answer(
                    "The limits by name.",
                    ServerLimits,
                    {
                        "requestBytes": 3145728,
                        "batchItemBytes": 3145728,
                        "uploadBytes": 3145728,
                        "batchItems": 100000,
                        "bulkRunIds": 10000,
                        "outputBytes": 32505856,
                        "metadataBytes": 262144,
                        "streams": 100,
                        "streamBytes": 314572800,
                        "streamPartBytes": 524288,
                        "streamInputBytes": 1048576,
                        "tags": 10,
                        "tagCharacters": 128,
                        "idempotencyKeyCharacters": 2048,
                        "attempts": 100,
                        "ttlSeconds": None,
                        "schedules": None,
                        "concurrentRuns": None,
                        "queuedPerQueue": None,
                        "keyRequestsPerSecond": None,
                        "keyRequestsBurst": None,
                        "tokenRequestsPerSecond": 10,
                        "tokenRequestsBurst": 100,
                        "realtimeSubscriptions": None,
                        "publicTokenSeconds": 2592000,
                        "scopes": 500,
                        "queries": 3,
                        "queryCharacters": 5000,
                        "queryRows": 10000,
                        "querySeconds": 10,
                        "variables": 500,
                        "variableBytes": 65536,
                        "allVariablesBytes": 1048576,
                    },
                )
            },
        ),
        "GET /healthz": Operation(
            "health",
            "Whether the server and its database answer: for load balancers.",
            is_own=True,
            answers={200: Answer("They do.", Health, {"status": "ok"})},
            refusals={503: "The database does not answer."},
        ),
        "GET /api/openapi.json": Operation(
            "openapi",
            "This document.",
            is_own=True,
            answers={200: Answer("OpenAPI 3.1.", dict[str, Any])},
        ),
    },
)

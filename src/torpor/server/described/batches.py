"""Batches: their types, and their routes."""

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
)
from torpor.server.described.run_types import KeyOptions, ResultError, Status


class OpenBatch(Given):
    run_count: (
        Annotated[
            int,
            Meta(
                ge=0, le=100_000, description="How many items there will be. Left out: until a request seals the batch."
            ),
        ]
        | None
    ) = None
    task_identifiers: (
        Annotated[
            list[str],
            Meta(
                description="For which tasks; each item names its own. Left out: for those that the token or key names."
            ),
        ]
        | None
    ) = None
    idempotency_key: Annotated[str, Meta(max_length=2048)] | None = None
    idempotency_key_ttl: Duration | None = msgspec.field(name="idempotencyKeyTTL", default=None)
    idempotency_key_options: KeyOptions | None = None


ItemOptions = Annotated[
    dict[str, Any], Meta(description="`Options`, as of a trigger. One that does not fit fails the item by itself.")
]


class Item(Given):
    """One line."""

    index: Annotated[int, Meta(ge=0, lt=2**31)]
    task: str
    payload: Any = None
    options: ItemOptions | None = None
    error: (
        Annotated[str, Meta(description="Instead of a payload: the item fails with that reason. Torpor's own.")] | None
    ) = None


class BatchOpened(Shape):
    id: str
    run_count: int
    is_cached: Annotated[bool, Meta(description="It is there with all its items: there is nothing to send.")]
    idempotency_key: str | UnsetType = UNSET


class ItemTold(Shape, kw_only=True):
    index: int
    id: str | UnsetType = UNSET
    is_cached: bool | UnsetType = UNSET
    error: str | UnsetType = UNSET


class ItemsTaken(Shape, kw_only=True):
    id: str
    items_accepted: int
    items_deduplicated: Annotated[int, Meta(description="Those that had come before: they count once.")]
    sealed: Annotated[bool, Meta(description="All items are there.")]
    run_count: int
    enqueued_count: int
    expected_count: int
    items: Annotated[list[ItemTold], Meta(description="With `?runs=true`.")] | UnsetType = UNSET


class ItemError(Shape):
    index: int
    task_identifier: str
    error: str


class Processing(Shape, kw_only=True):
    completed_at: Instant | UnsetType = UNSET
    errors: Annotated[list[ItemError], Meta(description="The first 1,000.")]


BatchStatus = Literal["PENDING", "PROCESSING", "COMPLETED", "PARTIAL_FAILED", "ABORTED"]


class BatchSummary(Shape, kw_only=True):
    id: str
    status: Annotated[
        BatchStatus,
        Meta(
            description="`PENDING`: items are yet to come. `PROCESSING`: all items are there, runs are yet to end. `COMPLETED`: "
            "all runs have ended, however they did. `PARTIAL_FAILED`: the same, and some items could not become runs. `ABORTED`: "
            "no item could, or the items stopped coming for 30 minutes."
        ),
    ]
    idempotency_key: str | UnsetType = UNSET
    created_at: Instant
    updated_at: Instant
    run_count: int


class Batch(BatchSummary, kw_only=True):
    runs: list[str]
    processing: Processing


class BatchCounts(Shape):
    items: Annotated[int, Meta(description="Those that have come.")]
    pending: Annotated[int, Meta(description="Those that are yet to come, or whose runs are yet to end.")]
    failed_items: Annotated[int, Meta(description="Those that could not become runs.")]


class BatchInList(BatchSummary, kw_only=True):
    counts: BatchCounts
    completed_at: Instant | UnsetType = UNSET


class BatchPage(Shape):
    data: list[BatchInList]
    pagination: Cursors


class WholeItem(Given):
    task: str
    payload: Any = None
    options: ItemOptions | None = None


class WholeBatch(Given):
    items: list[WholeItem]
    parent_run_id: Annotated[str | None, Meta(description="422: such a batch has no parent.")] = None


class ItemResult(Shape, kw_only=True):
    """How an item ended, as the result of a run; `index` and `status` are Torpor's own."""

    index: int
    ok: bool
    id: str
    task_identifier: str
    status: Status | UnsetType = UNSET
    output: str | UnsetType = UNSET
    output_type: str | UnsetType = UNSET
    error: ResultError | UnsetType = UNSET


class Further(Shape):
    next: str | UnsetType = UNSET


class Results(Shape):
    id: str
    items: list[ItemResult]
    pagination: Further


BATCH = {
    "id": "batch_4t8w1y6z",
    "status": "PROCESSING",
    "createdAt": "2026-03-01T07:00:00Z",
    "updatedAt": "2026-03-01T07:00:01Z",
    "runCount": 2,
    "runs": ["run_8fz3k1v0q2m4", "run_0a7c5d2e9b1f"],
    "processing": {"errors": []},
}
NO_BATCH = {404: "There is no such batch."}

RESOURCE = Resource(
    "Batches",
    "Many runs triggered together: open a batch, send its items. See [batches](batches.md).",
    {
        "POST /api/v3/batches": Operation(
            "openBatch",
            "Open a batch.",
            "The header `x-trigger-jwt` brings a public token that reads the batch; in a browser (`x-trigger-client: browser`) "
            "it sends the items, too. `parentRunId` is 422: a batch gets its parent when the task itself triggers it. Torpor's "
            "own: without `runCount` the batch grows until a request for items seals it.",
            headers=(
                *REPEATABLE,
                Parameter("x-trigger-client", str, "`browser` lets the token send the items.", "browser"),
            ),
            body=Body(OpenBatch, {"runCount": 2, "taskIdentifiers": ["echo"]}),
            answers={
                202: Answer(
                    "It is open: its items are to be sent.",
                    BatchOpened,
                    {"id": "batch_4t8w1y6z", "runCount": 2, "isCached": False},
                    headers=JWT_HEADERS,
                ),
                200: Answer(
                    "The idempotency key stands for a batch that has all its items.",
                    BatchOpened,
                    {"id": "batch_4t8w1y6z", "runCount": 2, "isCached": True, "idempotencyKey": "digest-1"},
                    headers=JWT_HEADERS,
                ),
            },
        ),
        "POST /api/v3/batches/{batch_id}/items": Operation(
            "sendBatchItems",
            "Send items.",
            "One JSON object per line, in any order, in one request or several, of any length. An item that can't become a run "
            "(no such task, a payload or an option that does not fit, too large) fails by itself; the batch says why. An index "
            "that came before counts once, so a request whose answer was lost is simply sent again. The batch is sealed when all "
            "announced items are there. 422: a line that is no item, an index that was not announced, a batch that is sealed or "
            "unknown.",
            query=(
                Parameter("seal", Flag, "These are the last items. Torpor's own.", "false"),
                Parameter("runs", Flag, "The answer says what became of each item. Torpor's own.", "false"),
            ),
            body=Body(Item, {"index": 0, "task": "echo", "payload": 1}, "application/x-ndjson"),
            answers={
                200: Answer(
                    "What was taken.",
                    ItemsTaken,
                    {
                        "id": "batch_4t8w1y6z",
                        "itemsAccepted": 1,
                        "itemsDeduplicated": 0,
                        "sealed": False,
                        "runCount": 2,
                        "enqueuedCount": 1,
                        "expectedCount": 2,
                    },
                )
            },
            refusals={
                400: "A line is no JSON, or the body broke off: send it again.",
                413: "A line is too large, and does not say which item it is.",
                415: "The items are not sent as `application/x-ndjson`.",
            },
        ),
        "POST /api/v2/tasks/batch": Operation(
            "createBatch",
            "Open a batch and send its items with one call.",
            "As clients up to 4.2 do. Items are numbered by their places. The headers `idempotency-key` and "
            "`idempotency-key-ttl` are the batch's.",
            headers=(
                *REPEATABLE,
                Parameter("idempotency-key", Annotated[str, Meta(max_length=2048)], "The same key, the same batch."),
                Parameter("idempotency-key-ttl", str, "How long."),
                Parameter("x-trigger-client", str, "As for `POST /api/v3/batches`.", "browser"),
            ),
            body=Body(WholeBatch, {"items": [{"task": "echo", "payload": 1}]}, is_required=True),
            answers={
                202: Answer(
                    "The batch.",
                    BatchOpened,
                    {"id": "batch_4t8w1y6z", "runCount": 1, "isCached": False},
                    headers=JWT_HEADERS,
                )
            },
        ),
        "GET /api/v1/batches": Operation(
            "listBatches",
            "List batches.",
            is_own=True,
            query=(*PAGED, Parameter("filter[status]", list[BatchStatus], "By status.", ["PROCESSING"]), *CREATED),
            answers={
                200: Answer(
                    "A page, newest first.",
                    BatchPage,
                    {
                        "data": [
                            {name: value for name, value in BATCH.items() if name not in ("runs", "processing")}
                            | {"counts": {"items": 2, "pending": 1, "failedItems": 0}}
                        ],
                        "pagination": {},
                    },
                )
            },
        ),
        **{
            f"GET /api/{version}/batches/{{batch_id}}": Operation(
                f"retrieveBatch{suffix}",
                "Look at a batch." if version == "v2" else "The same, at an older path.",
                answers={200: Answer("The batch.", Batch, BATCH)},
                refusals=NO_BATCH,
            )
            for version, suffix in (("v2", ""), ("v1", "V1"))
        },
        "GET /api/v1/batches/{batch_id}/results": Operation(
            "retrieveBatchResults",
            "The items that have ended, in order.",
            "A page ends after about 8 MB of outputs or 1,000 items.",
            query=(Parameter("page[after]", str, "Goes on where `next` of a page says.", "999"),),
            answers={
                200: Answer(
                    "A page of results.",
                    Results,
                    {
                        "id": "batch_4t8w1y6z",
                        "items": [
                            {
                                "index": 0,
                                "status": "COMPLETED",
                                "ok": True,
                                "id": "run_8fz3k1v0q2m4",
                                "taskIdentifier": "echo",
                                "output": "1",
                                "outputType": "application/json",
                            }
                        ],
                        "pagination": {},
                    },
                )
            },
            refusals=NO_BATCH | {410: "A large output is missing in the server's object store."},
        ),
    },
)

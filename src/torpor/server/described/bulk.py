"""Bulk actions: their types, and their routes."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from torpor.server.described.operation import (
    PAGED,
    REPEATABLE,
    Answer,
    Body,
    Cursors,
    Given,
    Instant,
    Operation,
    Resource,
    Shape,
)
from torpor.server.described.run_types import Status

Texts = str | list[str] | None


class Chosen(Given, forbid_unknown_fields=True):
    """The filters of the list of runs, by their bare names: a value, or where several fit a list. At least one."""

    status: Status | list[Status] | None = None
    task_identifier: Texts = None
    version: Texts = None
    tag: Texts = None
    queue: str | dict[str, Any] | list[str | dict[str, Any]] | None = None
    machine: Texts = None
    region: Texts = None
    schedule: Texts = None
    batch: str | None = None
    bulk_action: str | None = None
    is_test: bool | None = None
    from_: str | float | None = msgspec.field(name="from", default=None)
    to: str | float | None = None
    period: str | float | None = None
    search: str | None = None


class NewBulkAction(Given, forbid_unknown_fields=True):
    """Exactly one of `filter` and `runIds`."""

    action: Literal["cancel", "replay"]
    filter: Chosen | None = None
    run_ids: Annotated[list[str], Meta(min_length=1, max_length=10_000)] | None = None
    name: Annotated[str, Meta(max_length=255)] | None = None
    preview: Annotated[bool, Meta(description="Do nothing, and say how many runs it would have. Torpor's own.")] = False


class BulkId(Shape):
    id: str


class Count(Shape):
    count: int


class Counts(Shape):
    total: int
    success: int
    failure: Annotated[int, Meta(description="Also runs that had ended and so could not be canceled.")]


class BulkInList(Shape, kw_only=True):
    id: str
    name: str | UnsetType = UNSET
    by: Annotated[str, Meta(description="Who made it with a personal token. Torpor's own.")] | UnsetType = UNSET
    type: Literal["CANCEL", "REPLAY"]
    status: Literal["PENDING", "COMPLETED", "ABORTED"]
    counts: Counts
    created_at: Instant
    completed_at: Instant | UnsetType = UNSET


class BulkPage(Shape):
    data: list[BulkInList]
    pagination: Cursors


class Failure(Shape):
    run_id: str
    error: str


class BulkAction(BulkInList, kw_only=True):
    failures: Annotated[list[Failure], Meta(description="The first 100. Torpor's own.")] | UnsetType = UNSET


BULK = {
    "id": "bulk_7d3s",
    "name": "after the outage",
    "type": "REPLAY",
    "status": "COMPLETED",
    "counts": {"total": 1200, "success": 1199, "failure": 1},
    "createdAt": "2026-03-01T07:00:00Z",
    "completedAt": "2026-03-01T07:00:09Z",
}
NO_ACTION = {404: "There is no such bulk action."}

RESOURCE = Resource(
    "Bulk actions",
    "Many runs canceled or replayed at once. The servers work them off in small steps, a step of each action in turn, the oldest "
    "runs first; a server that dies loses nothing, and each run has its turn once. `GET /api/v1/runs?filter[bulkAction]=bulk_…` "
    "lists what one has canceled, or made.",
    {
        "POST /api/v1/bulk-actions": Operation(
            "createBulkAction",
            "Cancel or replay many runs.",
            "Its runs are those that fit when the action is made, whatever becomes of them until their turn. `targetRegion` is "
            "422.",
            headers=REPEATABLE,
            body=Body(
                NewBulkAction,
                {"action": "replay", "filter": {"status": "FAILED", "period": "1d"}, "name": "after the outage"},
                is_required=True,
            ),
            answers={
                202: Answer("It is begun.", BulkId, {"id": "bulk_7d3s"}),
                200: Answer("With `preview`: how many runs it would have.", Count, {"count": 1200}),
            },
            refusals={400: "The request can't be read, or one of its filters is none."},
        ),
        "GET /api/v1/bulk-actions": Operation(
            "listBulkActions",
            "List bulk actions.",
            query=PAGED,
            answers={200: Answer("A page, newest first.", BulkPage, {"data": [BULK], "pagination": {}})},
        ),
        "GET /api/v1/bulk-actions/{bulk_id}": Operation(
            "retrieveBulkAction",
            "Look at a bulk action.",
            answers={
                200: Answer(
                    "The action, and the first runs that failed.",
                    BulkAction,
                    BULK | {"failures": [{"runId": "run_8fz3k1v0q2m4", "error": "its task is not there any more"}]},
                )
            },
            refusals=NO_ACTION,
        ),
        "POST /api/v1/bulk-actions/{bulk_id}/abort": Operation(
            "abortBulkAction",
            "End a bulk action.",
            "What was done stays done; after the answer no more is.",
            answers={200: Answer("Also when it was over before.", BulkId, {"id": "bulk_7d3s"})},
            refusals=NO_ACTION,
        ),
    },
)

"""Realtime feeds: their rows, and their routes."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from torpor.server.described.batches import NO_BATCH
from torpor.server.described.operation import Answer, Operation, Parameter, Resource, Shape

Text = str | None | UnsetType
"""Skipped columns are left out."""


class Row(Shape, kw_only=True):
    """A run. Every value is text; the header `electric-schema` says what the text stands for."""

    id: str
    friendly_id: str
    task_identifier: str
    status: Literal[
        "PENDING_VERSION",
        "DELAYED",
        "PENDING",
        "DEQUEUED",
        "EXECUTING",
        "WAITING_TO_RESUME",
        "COMPLETED_SUCCESSFULLY",
        "COMPLETED_WITH_ERRORS",
        "CANCELED",
        "CRASHED",
        "TIMED_OUT",
        "EXPIRED",
        "SYSTEM_FAILURE",
    ]
    created_at: Annotated[str, Meta(description="UTC, without saying so.")]
    updated_at: str
    started_at: Text = UNSET
    delay_until: Text = UNSET
    queued_at: Text = UNSET
    expired_at: Text = UNSET
    completed_at: Annotated[Text, Meta(description="Of every end, whatever it was.")] = UNSET
    number: Text = UNSET
    is_test: Text = UNSET
    usage_duration_ms: Text = UNSET
    cost_in_cents: Text = UNSET
    base_cost_in_cents: Text = UNSET
    ttl: Text = UNSET
    payload: Annotated[
        Text,
        Meta(
            description="JSON; with the type `application/store` a path for `GET /api/v1/packets/{path}`. So is the output."
        ),
    ] = UNSET
    payload_type: Text = UNSET
    metadata: Text = UNSET
    metadata_type: Text = UNSET
    output: Text = UNSET
    output_type: Text = UNSET
    run_tags: Annotated[Text, Meta(description="An array as Postgres writes it.")] = UNSET
    error: Annotated[Text, Meta(description="JSON, as the error of a run's result.")] = UNSET
    realtime_streams: Text = UNSET


class Headers(Shape):
    operation: Literal["insert"] | UnsetType = UNSET
    control: Literal["up-to-date"] | UnsetType = UNSET


class Message(Shape, kw_only=True):
    """A row, to be put in the place of what was there under its key; or, at the end, that this is all."""

    key: str | UnsetType = UNSET
    value: Row | UnsetType = UNSET
    headers: Headers


_EXAMPLE = [
    {
        "key": '"public"."TaskRun"/"run_8fz3k1v0q2m4"',
        "value": {
            "id": "run_8fz3k1v0q2m4",
            "friendlyId": "run_8fz3k1v0q2m4",
            "taskIdentifier": "onboard",
            "status": "EXECUTING",
            "createdAt": "2026-03-01T07:00:00.000",
            "updatedAt": "2026-03-01T07:00:01.250",
            "startedAt": "2026-03-01T07:00:01.250",
            "metadata": '{"progress":0.5}',
            "runTags": '{"user_7"}',
        },
        "headers": {"operation": "insert"},
    },
    {"headers": {"control": "up-to-date"}},
]
_HEADERS = {
    "electric-offset": "The `offset` of the next request.",
    "electric-handle": "The same for every answer of a feed.",
    "electric-schema": "What the columns hold; of an answer that is not `live`.",
    "electric-cursor": "Another for each answer that is `live`.",
    "electric-up-to-date": "There when this is all. Without it the next request brings more at once.",
    "electric-shape-id": "The handle, for clients that send no `x-trigger-electric-version`.",
    "electric-chunk-last-offset": "The offset, for the same.",
}
_QUERY = (
    Parameter("offset", str, "`-1`, which is the default: all there is; else what has changed since.", "-1"),
    Parameter("live", Literal["true", "false"], "Held until something has changed, for about 20 seconds.", "false"),
    Parameter("handle", str, "Not needed; nor are the next two, which the client sends as well."),
    Parameter("cursor", str, "That of the answer before."),
    Parameter("log", str, "All columns of each row, as always.", "full"),
    Parameter(
        "skipColumns",
        list[str],
        "Columns to leave out. What a public token says of them goes first, and some can't be.",
        ["payload", "output"],
    ),
)
_FULL = {429: "The key or token asks too often, or the environment has as many feeds open here as it may have."}


def _answers() -> dict[int, Answer]:
    return {200: Answer("Rows, and whether that is all.", list[Message], _EXAMPLE, headers=_HEADERS)}


def _feed(id: str, summary: str, about: str = "", *query: Parameter, **refusals: Any) -> Operation:
    return Operation(id, summary, about, query=(*query, *_QUERY), answers=_answers(), **refusals)


RESOURCE = Resource(
    "Realtime",
    "Runs, batches and tags as they change, by the protocol that the official client and its React hooks speak: "
    "[realtime](realtime.md) says how it is used from TypeScript, React and Python, and how the protocol goes.",
    {
        "GET /realtime/v1/runs/{run_id}": _feed(
            "followRun", "Follow a run.", refusals={404: "There is no such run."} | _FULL
        ),
        "GET /realtime/v1/runs": _feed(
            "followRuns",
            "Follow the runs that have all of these tags.",
            "Without tags, all runs.",
            Parameter("tags", list[str], "Runs that have all of them.", ["user_7"]),
            Parameter(
                "createdAt", str, "Not longer ago, when the feed begins; a day at most, and unless it is given.", "1h"
            ),
            refusals=_FULL,
        ),
        "GET /realtime/v1/batches/{batch_id}": _feed(
            "followBatch",
            "Follow the runs of a batch.",
            "With those that were there before, and that an item's idempotency key stood for.",
            refusals=NO_BATCH | _FULL,
        ),
    },
)

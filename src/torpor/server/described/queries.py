"""Queries: their types, and their routes."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from torpor.engine.query import MAX_BYTES
from torpor.engine.query_grammar import MAX_ROWS
from torpor.engine.query_words import MAX_CHARS
from torpor.server.described.operation import Answer, Body, Given, Operation, Resource, Shape


class Query(Given):
    query: Annotated[str, Meta(min_length=1, max_length=MAX_CHARS, description="One SELECT.")]
    scope: Annotated[Literal["environment"], Meta(description="A key opens one environment.")] = "environment"
    period: Annotated[
        str | None,
        Meta(description="Of runs that were triggered so long ago at most. Without a word of time: seven days."),
    ] = None
    from_: Annotated[str | None, Meta(description="Of runs that were triggered from then on: ISO 8601.")] = (
        msgspec.field(name="from", default=None)
    )
    to: Annotated[str | None, Meta(description="And before that.")] = None
    format: Literal["json", "csv"] = "json"


class QueryResults(Shape):
    format: Literal["json", "csv"]
    results: Annotated[
        list[dict[str, Any]] | str,
        Meta(
            description=f"At most {MAX_ROWS:,} rows, of {MAX_BYTES >> 20} MiB: an object for each, or CSV with a line of names."
        ),
    ]


class TableColumn(Shape):
    name: str
    type: str
    description: str


class QueryTable(Shape):
    name: str
    description: str
    time_column: Annotated[str, Meta(description="What `period`, `from` and `to` speak of.")]
    columns: list[TableColumn]


class QuerySchema(Shape):
    tables: list[QueryTable]


class Dashboards(Shape):
    dashboards: list[dict[str, Any]]


COLUMN = {"name": "status", "type": "text", "description": "Completed, Failed, Timed out, …"}
TABLE = {
    "name": "runs",
    "description": "The runs of the environment",
    "timeColumn": "triggered_at",
    "columns": [COLUMN],
}

RESOURCE = Resource(
    "Query",
    "What can be asked is told under [queries](#queries).",
    {
        "POST /api/v1/query": Operation(
            "executeQuery",
            "Ask the runs of the environment.",
            body=Body(
                Query,
                {"query": "SELECT status, count() AS n FROM runs GROUP BY status", "period": "1d"},
                is_required=True,
            ),
            answers={
                200: Answer("The results.", QueryResults, {"format": "json", "results": [{"status": "Failed", "n": 3}]})
            },
            refusals={
                400: "It can't be asked so: the message names what isn't allowed, or is Postgres's own.",
                429: "Three queries are being carried out already.",
            },
        ),
        "GET /api/v1/query/schema": Operation(
            "retrieveQuerySchema",
            "The tables that can be asked, and their columns.",
            answers={200: Answer("The tables.", QuerySchema, {"tables": [TABLE]})},
        ),
        "GET /api/v1/query/dashboards": Operation(
            "listDashboards",
            "None: the list is empty.",
            answers={200: Answer("The dashboards.", Dashboards, {"dashboards": []})},
        ),
    },
)

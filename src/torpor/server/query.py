"""Queries: a small language that looks like SQL, over the runs of the environment. Its grammar is engine/query_grammar.py's."""

import csv
import io
from datetime import datetime, timedelta
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor.durations import parse_duration, parse_instant
from torpor.engine import query, query_grammar
from torpor.engine.query_words import QueryRefused
from torpor.server.auth import Keyed
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused
from torpor.server.hub import hub

AT_ONCE = 3
"""Each holds a connection, and Postgres's CPU, for up to ten seconds."""
DEFAULT_PERIOD = timedelta(days=7)

router = APIRouter()


class QueryBody(msgspec.Struct, rename={"since": "from", "until": "to"}):
    query: str = ""
    scope: str = "environment"
    period: str | None = None
    since: str | None = None
    until: str | None = None
    format: str = "json"


_query_body = msgspec.json.Decoder(QueryBody)


@router.post("/api/v1/query")
async def execute(request: Request, environment: Keyed) -> Response:
    """`{"format", "results"}`; 400 that names what can't be asked."""
    here, body = hub(request), decode(await read_body(request), _query_body)
    if body.scope != "environment":
        raise Refused(400, f"scope: {body.scope!r} can't be asked: a key opens one environment")
    if body.format not in ("json", "csv"):
        raise Refused(400, f"format: json or csv, not {body.format!r}")
    since, until = _span(body, here.clock.now())
    if here.queries >= AT_ONCE:
        raise Refused(429, f"{AT_ONCE} queries are being carried out already; try again", limit=AT_ONCE)
    here.queries += 1
    try:
        statement = query_grammar.read(body.query, query.TABLES, _bucket(until - since))
        async with here.database.transaction() as tx:
            rows = await query.ask(tx, statement, environment, since, until)
    except QueryRefused as refused:
        raise Refused(400, f"query: {refused}") from None
    finally:
        here.queries -= 1
    results = _csv(statement.names, rows) if body.format == "csv" else _objects(statement.names, rows)
    return reply({"format": body.format, "results": results})


def _span(body: QueryBody, now: datetime) -> tuple[datetime, datetime]:
    """From when until when the runs were triggered. Without a word of it: the last seven days."""
    try:
        until = parse_instant(body.until) if body.until else now
        if body.since:
            since = parse_instant(body.since)
            return (max(since, now - parse_duration(body.period)) if body.period else since), until
        return now - (parse_duration(body.period) if body.period else DEFAULT_PERIOD), until
    except (ValueError, OverflowError) as error:
        raise Refused(400, f"period, from, to: {error}") from None


def _bucket(span: timedelta) -> str:
    """What `timeBucket()` cuts a span into: some fifty to three hundred pieces."""
    for unit, longest in (
        ("second", timedelta(minutes=5)),
        ("minute", timedelta(hours=5)),
        ("hour", timedelta(days=8)),
    ):
        if span <= longest:
            return unit
    return "day"


def _objects(names: list[str], rows: list[list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in rows]


def _csv(names: list[str], rows: list[list[Any]]) -> str:
    """Instants as in JSON, lists as JSON, and nothing for null."""
    written = io.StringIO()
    # Python before 3.13 puts a return in quotes only where one ends the lines; to readers it ends a line anywhere.
    writer = csv.writer(written, lineterminator="\r\n")
    writer.writerow(names)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return written.getvalue()


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case _:
            return msgspec.json.encode(value).decode().strip('"')


@router.get("/api/v1/query/schema")
async def schema(request: Request, environment: Keyed) -> Response:
    """The tables that can be asked, and their columns."""
    tables = [
        {
            "name": name,
            "description": "The runs of the environment",
            "timeColumn": query.TIME_COLUMN,
            "columns": [
                {"name": each, "type": column.type, "description": column.description}
                for each, column in columns.items()
            ],
        }
        for name, columns in query.TABLES.items()
    ]
    return reply({"tables": tables})


@router.get("/api/v1/query/dashboards")
async def dashboards(request: Request, environment: Keyed) -> Response:
    """None: there is nothing here that would draw them."""
    return reply({"dashboards": []})

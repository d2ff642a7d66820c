"""Loaded by schemathesis: what its requests need that the OpenAPI document doesn't say."""

from contextlib import suppress
from typing import Any

import msgspec
import schemathesis

SHORT_S = 0.05


@schemathesis.serializer("application/x-ndjson")
def lines(context: Any, value: Any) -> bytes:
    """One line. What was made to be no JSON is sent as it is."""
    return value if isinstance(value, bytes) else msgspec.json.encode(value) + b"\n"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """No request is held for long. Values that are refused stay as they are."""
    query, headers = case.query or {}, case.headers or {}
    with suppress(TypeError, ValueError):
        if float(query.get("wait_s", 0)) > SHORT_S:
            query["wait_s"] = SHORT_S
    if "live" in query:
        query["live"] = "false"
    if "/realtime/v1/streams/" in case.operation.path and case.operation.method == "get":
        given = str(headers.get("timeout-seconds", "1"))
        if given.isdecimal() and 1 <= int(given) <= 600:
            case.headers["timeout-seconds"] = "1"

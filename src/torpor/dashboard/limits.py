"""Limits: what GET /api/v1/limits tells, in words, and the setting that changes each."""

from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard.figures import size
from torpor.dashboard.page import render
from torpor.server import auth
from torpor.server.hub import hub
from torpor.server.inventory import limits_of

SETTINGS = {
    "requestBytes": "max_request_bytes",
    "batchItemBytes": "max_request_bytes",
    "uploadBytes": "max_request_bytes",
    "batchItems": "max_batch_items",
    "metadataBytes": "max_metadata_bytes",
    "streamBytes": "stream_bytes",
    "tags": "max_tags",
    "attempts": "max_attempts",
    "ttlSeconds": "max_ttl_s",
    "schedules": "max_schedules",
    "keyRequestsPerSecond": "key_requests_per_s",
    "keyRequestsBurst": "key_requests_burst",
    "tokenRequestsPerSecond": "token_requests_per_s",
    "tokenRequestsBurst": "token_requests_burst",
    "realtimeSubscriptions": "realtime_subscriptions",
    "publicTokenSeconds": "max_public_token_s",
    "variables": "max_variables",
}
"""The field of Settings behind a limit; the others are fixed, or the environment's own."""


async def show(request: Request) -> Response:
    told = limits_of(hub(request).settings, auth.environment(request))
    rows = [
        (name, _words(name), _value(name, value), f"TORPOR_{SETTINGS[name].upper()}" if name in SETTINGS else None)
        for name, value in told.items()
    ]
    return render(request, "limits.html", rows=rows)


def _words(name: str) -> str:
    """The API's name in words.

    >>> _words("keyRequestsPerSecond"), _words("requestBytes")
    ('Key requests per second', 'Request bytes')
    """
    text = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
    return text[0].upper() + text[1:]


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "no limit"
    return f"{value:,.10g} ({size(value)})" if name.endswith("Bytes") else f"{value:,.10g}"

"""Limits: what GET /api/v1/limits tells, in words, how much of each is taken, and the setting that changes it."""

from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard.figures import size
from torpor.dashboard.page import part, render
from torpor.engine import read, read_totals
from torpor.figures import duration
from torpor.server import auth
from torpor.server.hub import hub
from torpor.server.inventory import limits_of


@dataclass(frozen=True, slots=True)
class Limit:
    """`name` is the API's; `setting` the field of Settings behind it, `environment` that the environment has its own, and
    None that nothing changes it."""

    name: str
    words: str
    setting: str | None = None
    unit: Literal["", "bytes", "s", "per s"] = ""

    def told(self, value: float | None) -> str:
        """
        >>> Limit("tags", "").told(10), Limit("ttlSeconds", "", unit="s").told(86_400), Limit("tags", "").told(None)
        ('10', '1d', 'no limit')
        """
        if value is None:
            return "no limit"
        match self.unit:
            case "bytes":
                return size(value)
            case "s":
                return duration(value)
            case "per s":
                return f"{value:,.10g} per second"
            case _:
                return f"{value:,.10g}"


GROUPS: dict[str, tuple[Limit, ...]] = {
    "Runs": (
        Limit("concurrentRuns", "At work at the same time", "environment"),
        Limit("queuedPerQueue", "Waiting in a queue", "environment"),
        Limit("attempts", "Attempts", "max_attempts"),
        Limit("ttlSeconds", "Time to start", "max_ttl_s", "s"),
        Limit("outputBytes", "Output", unit="bytes"),
        Limit("metadataBytes", "Metadata", "max_metadata_bytes", "bytes"),
        Limit("tags", "Tags", "max_tags"),
        Limit("tagCharacters", "Characters of a tag"),
        Limit("idempotencyKeyCharacters", "Characters of an idempotency key"),
    ),
    "What there is": (
        Limit("schedules", "Schedules that are made by hand or by the API", "max_schedules"),
        Limit("variables", "Variables", "max_variables"),
        Limit("variableBytes", "A variable's value", unit="bytes"),
        Limit("allVariablesBytes", "All variables' names and values", unit="bytes"),
    ),
    "Requests": (
        Limit("requestBytes", "A request, its payload included", "max_request_bytes", "bytes"),
        Limit("uploadBytes", "An uploaded payload", "max_request_bytes", "bytes"),
        Limit("batchItems", "Items of a batch", "max_batch_items"),
        Limit("batchItemBytes", "An item of a batch", "max_request_bytes", "bytes"),
        Limit("bulkRunIds", "Runs that a bulk action names"),
        Limit("keyRequestsPerSecond", "Requests with one secret key", "key_requests_per_s", "per s"),
        Limit("keyRequestsBurst", "Of these at once", "key_requests_burst"),
        Limit("tokenRequestsPerSecond", "Requests with one public token", "token_requests_per_s", "per s"),
        Limit("tokenRequestsBurst", "Of these at once", "token_requests_burst"),
        Limit("publicTokenSeconds", "A public token's life", "max_public_token_s", "s"),
        Limit("scopes", "Scopes of a key or token"),
    ),
    "Streams and realtime": (
        Limit("realtimeSubscriptions", "Subscriptions at the same time", "realtime_subscriptions"),
        Limit("streams", "Streams of a run"),
        Limit("streamBytes", "A stream", "stream_bytes", "bytes"),
        Limit("streamPartBytes", "A part of a stream", unit="bytes"),
        Limit("streamInputBytes", "A part of an input", unit="bytes"),
    ),
    "Queries": (
        Limit("queries", "At the same time"),
        Limit("queryCharacters", "Characters"),
        Limit("queryRows", "Rows of an answer"),
        Limit("querySeconds", "Time", unit="s"),
    ),
}


async def show(request: Request) -> Response:
    here, environment_id = hub(request), auth.environment(request).id
    async with here.database.transaction() as tx:
        most = limits_of(here.settings, await read.environment(tx, environment_id))
        taken = await read_totals.taken_of_limits(tx, environment_id)
    block = "table" if part(request) == "limits" else None
    return render(request, "limits.html", block=block, groups=GROUPS, most=most, taken=taken)

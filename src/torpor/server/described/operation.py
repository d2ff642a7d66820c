"""What is said of a route: its parameters, its body, its answers and its refusals, with the types of them all.

The types are msgspec Structs. The document's schemas are made from them, the tests hold every answer of a server against them,
and the examples must fit them, so that none of the three can differ from the others.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from torpor.server.access import ROUTES
from torpor.server.auth import Kind

JSON = "application/json"

Instant = Annotated[datetime, Meta(tz=True)]
Duration = Annotated[
    str | Annotated[float, Meta(ge=0)],
    Meta(description="A length of time: text such as `30s`, `2h30m` or `1w`, or seconds."),
]
When = Annotated[
    str | Annotated[float, Meta(ge=0)],
    Meta(description="A length of time from now, such as `1h`, or a date in ISO 8601."),
]

# -- shapes -----------------------------------------------------------------------------------------------------------


class Shape(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Of an answer. A field that may be left out is `… | UnsetType = UNSET`; one that may be null says so.

    To the tests a field that isn't here is a fault. The document leaves answers open, since clients skip what they don't know.
    """


class Given(msgspec.Struct, rename="camel"):
    """Of a request's body. Where a handler refuses what it doesn't know, `forbid_unknown_fields` says so."""


class Cursors(Shape):
    """Where a listing goes on: `page[after]` and `page[before]` of the next request."""

    next: Annotated[str, Meta(description="There only when more follow.")] | UnsetType = UNSET
    previous: Annotated[str, Meta(description="There only when some precede.")] | UnsetType = UNSET


class PageNumber(Shape):
    current_page: int
    total_pages: int
    count: Annotated[int, Meta(description="How many there are on all pages.")]


class Problem(Shape):
    path: str
    message: str


class VariableError(Shape):
    key: str
    error: str


class OpenWait(Shape):
    id: str
    kind: str


class Refusal(Shape):
    """Every refusal is this: what is wrong, in words, and where it helps, in fields of its own."""

    error: Annotated[str, Meta(description="What is wrong, and what would be right.")]
    code: (
        Annotated[str, Meta(description="A word for programs, such as `unauthorized` or `queue-not-found`.")]
        | UnsetType
    ) = UNSET
    param: Annotated[str, Meta(description="The field that is wrong.")] | UnsetType = UNSET
    type: str | UnsetType = UNSET
    limit: Annotated[float, Meta(description="The limit that the request went over.")] | UnsetType = UNSET
    value: Annotated[float, Meta(description="By how much, where it is known.")] | UnsetType = UNSET
    near: Annotated[list[str], Meta(description="Names like the unknown one.")] | UnsetType = UNSET
    names: Annotated[list[str], Meta(description="All names that there are.")] | UnsetType = UNSET
    problems: Annotated[list[Problem], Meta(description="Where a payload does not fit its task.")] | UnsetType = UNSET
    details: Annotated[list[Problem], Meta(description="Which parameters can't be read.")] | UnsetType = UNSET
    waits: Annotated[list[OpenWait], Meta(description="The waits of which one must be named.")] | UnsetType = UNSET
    variable_errors: Annotated[list[VariableError], Meta(description="Why variables can't be set.")] | UnsetType = UNSET
    queue: str | UnsetType = UNSET
    queued: int | UnsetType = UNSET
    per_second: float | UnsetType = UNSET


# -- operations -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parameter:
    """Of the query or the headers. One whose type is a list takes several values, comma-joined."""

    name: str
    type: Any
    about: str
    example: Any = None


@dataclass(frozen=True, slots=True)
class Body:
    type: Any
    example: Any
    media: str = JSON
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a status means. Without a type: nothing, or a text that has none."""

    about: str
    type: Any = None
    example: Any = UNSET
    media: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """A route. `refusals` are those beside what `refusals_of` knows by itself, or in better words."""

    id: str
    summary: str
    about: str = ""
    is_own: bool = field(default=False, kw_only=True)
    query: tuple[Parameter, ...] = field(default=(), kw_only=True)
    headers: tuple[Parameter, ...] = field(default=(), kw_only=True)
    body: Body | None = field(default=None, kw_only=True)
    answers: dict[int, Answer] = field(default_factory=dict, kw_only=True)
    refusals: dict[int, str] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, slots=True)
class Resource:
    """A chapter of the document, with operations by the name of their line in access.py."""

    title: str
    about: str
    operations: dict[str, Operation]


COMMON = {
    400: "The request can't be read: no JSON, or a parameter of the wrong kind.",
    401: "No key or token, one that is not valid, or one of a kind that is not taken here.",
    403: "The scoped key or the token lacks the scope.",
    413: "The body is larger than `requestBytes` of the limits.",
    422: "The request is understood, and wrong; `error` says what is.",
    429: "This key or token asks too often; `retry-after` says when to ask again.",
    503: "The database or the object store is away: try again.",
}
"""What a status means wherever it is not told otherwise."""


def refusals_of(name: str, operation: Operation) -> dict[int, str]:
    """The refusals that a route can give: what follows from who may call it and what it reads, and what it adds."""
    access = ROUTES[name]
    reads = "{" in name or operation.query or operation.body
    known = {
        400: reads,
        401: Kind.NOTHING not in access.takes,
        403: access.scopes,
        413: operation.body,
        422: reads,
        429: not {Kind.NOTHING, Kind.HASH} & {*access.takes},
        503: Kind.NOTHING not in access.takes,
    }
    return dict(
        sorted(({status: COMMON[status] for status, is_so in known.items() if is_so} | operation.refusals).items())
    )


# -- what many have ---------------------------------------------------------------------------------------------------

PAGED = (
    Parameter("page[size]", Annotated[int, Meta(ge=1, le=100)], "How many at most; 25 unless it is given.", 10),
    Parameter("page[after]", str, "A cursor: what follows it."),
    Parameter("page[before]", str, "A cursor: what precedes it. Of two, the one that was issued later counts."),
)
NUMBERED = (
    Parameter("page", Annotated[int, Meta(ge=1, le=1_000_000)], "From 1.", 1),
    Parameter("perPage", Annotated[int, Meta(ge=1, le=100)], "How many at most.", 20),
)
CREATED = (
    Parameter(
        "filter[createdAt][from]", str, "Not before: ISO 8601, or milliseconds since 1970.", "2026-03-01T00:00:00Z"
    ),
    Parameter("filter[createdAt][to]", str, "Not after.", "2026-04-01T00:00:00Z"),
    Parameter("filter[createdAt][period]", str, "Not longer ago.", "7d"),
)
REPEATABLE = (
    Parameter(
        "x-trigger-request-idempotency-key",
        str,
        "The same value again, because an answer was lost, makes nothing a second time.",
    ),
)
JWT_HEADERS = {
    "x-trigger-jwt": "A public token for what was made: of a run or a batch for an hour, of a wait token for a day.",
    "x-trigger-jwt-claims": "What a client puts into the tokens that it signs itself.",
}
RATED = {
    "x-ratelimit-limit": "How many requests are taken at once.",
    "x-ratelimit-remaining": "How many are left now.",
    "x-ratelimit-reset": "When it is full again, or with a 429 when the next is taken: milliseconds since 1970.",
}
Flag = Literal["true", "false", ""]
"""Empty is as good as not there."""

PATH: dict[str, tuple[str, str]] = {
    "run_id": ("The run.", "run_8fz3k1v0q2m4"),
    "task_id": ("The task; a slash in it may be encoded or not.", "onboard"),
    "key": ("The idempotency key, as it was sent.", "charge-42"),
    "checkpoint_id": ("The checkpoint.", "checkpoint_2h6d9s0x"),
    "batch_id": ("The batch.", "batch_4t8w1y6z"),
    "token_id": ("The wait token.", "waitpoint_9k2p"),
    "given_hash": ("What makes the URL unguessable.", "5e1f"),
    "schedule_id": ("The schedule.", "sched_7r2m"),
    "stream_key": ("The key of the stream.", "tokens"),
    "target": ("Whose stream it is, seen from the run: `self`, `parent` or `root`.", "self"),
    "name": ("Its name: of a queue, a variable or an object.", "emails"),
    "key_id": ("The key's id.", "apikey_6v4j"),
    "account_id": ("The account.", "account_2n7c"),
    "project_ref": ("Any text: the key says which project and environment.", "proj_1"),
    "slug": ("The environment of the key.", "dev"),
    "filename": ("What the upload is called; its slashes are encoded.", "trigger%2Fpacket_1%2Fpayload.json"),
    "environment_id": ("The environment's id; part of a presigned URL.", "env_1"),
    "project": ("The project's name.", "shop"),
    "field": ("`payload` or `output`.", "output"),
    "path": ("The path of an upload, `storagePath`.", "upload_4k/trigger/packet_1/payload.json"),
    "deployment_id": ("The deployment.", "deployment_8w2c"),
    "span_id": ("The span.", "1f0c7a52be9d4e63"),
    "bulk_id": ("The bulk action.", "bulk_7d3s"),
    "worker_id": ("The worker.", "worker_5n1c7b3t"),
}
"""What stands for the parameters of a path, and an example of each."""

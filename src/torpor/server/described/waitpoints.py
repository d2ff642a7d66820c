"""Wait tokens: their types, and their routes."""

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
    Given,
    Instant,
    Operation,
    Parameter,
    Resource,
    Shape,
    When,
)
from torpor.server.described.run_types import Tags

TokenStatus = Literal["WAITING", "COMPLETED", "TIMED_OUT"]


class NewToken(Given):
    timeout: When | None = None
    idempotency_key: Annotated[str, Meta(max_length=2048)] | None = None
    idempotency_key_ttl: Duration | None = msgspec.field(name="idempotencyKeyTTL", default=None)
    tags: Tags | None = None
    title: Annotated[str, Meta(description="With a title it is an approval. Torpor's own; so is `context`.")] | None = (
        None
    )
    context: Any = None


class Completion(Given):
    data: Annotated[
        Any, Meta(description='Its value; of an approval `{"approved": true or false, "by"?, "comment"?}`.')
    ] = None


class TokenMade(Shape):
    id: str
    is_cached: bool
    url: Annotated[str, Meta(description="A callback for webhooks: whoever has it may complete the token.")]
    public_access_token: Annotated[
        str, Meta(description="With it a page may complete the token for a day. Torpor's own.")
    ]


class TokenInList(Shape, kw_only=True):
    id: str
    url: str
    status: TokenStatus
    completed_at: Instant | UnsetType = UNSET
    timeout_at: Instant | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET
    idempotency_key_expires_at: Instant | UnsetType = UNSET
    tags: list[str]
    created_at: Instant
    title: str | UnsetType = UNSET
    context: Any | UnsetType = UNSET
    run_ids: Annotated[list[str], Meta(description="The runs that wait for it. Torpor's own.")]


class TokenPage(Shape):
    data: list[TokenInList]
    pagination: Cursors


class Token(TokenInList, kw_only=True):
    output: Annotated[str, Meta(description="JSON as text.")] | UnsetType = UNSET
    output_type: str | UnsetType = UNSET
    output_is_error: bool | UnsetType = UNSET


class Success(Shape):
    success: Literal[True]


TOKEN = {
    "id": "waitpoint_9k2p",
    "url": "https://torpor.example/api/v1/waitpoints/tokens/waitpoint_9k2p/callback/5e1f",
    "status": "WAITING",
    "timeoutAt": "2026-03-01T08:00:00Z",
    "tags": ["cake"],
    "createdAt": "2026-03-01T07:00:00Z",
    "title": "Send Ada a cake?",
    "runIds": ["run_8fz3k1v0q2m4"],
}
COMPLETED = TOKEN | {
    "status": "COMPLETED",
    "completedAt": "2026-03-01T07:30:00Z",
    "output": '{"approved":true,"by":"Grace"}',
    "outputType": "application/json",
    "outputIsError": False,
    "runIds": [],
}
NO_TOKEN = {404: "There is no such token."}

RESOURCE = Resource(
    "Wait tokens",
    "What a run waits for, and somebody outside completes. A token with a title is an approval.",
    {
        "POST /api/v1/waitpoints/tokens": Operation(
            "createWaitToken",
            "Make a token.",
            "Two ways to have it completed from outside: `url`, and the public token in `publicAccessToken` and `x-trigger-jwt`.",
            headers=REPEATABLE,
            body=Body(NewToken, {"timeout": "1h", "tags": ["cake"], "title": "Send Ada a cake?"}),
            answers={
                200: Answer(
                    "The token, or the one that the idempotency key had already.",
                    TokenMade,
                    {
                        "id": "waitpoint_9k2p",
                        "isCached": False,
                        "url": TOKEN["url"],
                        "publicAccessToken": "eyJhbGciOiJIUzI1NiJ9.…",
                    },
                    headers=JWT_HEADERS,
                )
            },
        ),
        "GET /api/v1/waitpoints/tokens": Operation(
            "listWaitTokens",
            "List tokens.",
            query=(
                *PAGED,
                Parameter("filter[status]", list[TokenStatus], "By status.", ["WAITING"]),
                Parameter("filter[tags]", list[str], "With any of these tags.", ["cake"]),
                Parameter("filter[idempotencyKey]", str, "By idempotency key."),
                *CREATED,
            ),
            answers={200: Answer("A page of tokens.", TokenPage, {"data": [TOKEN], "pagination": {}})},
        ),
        "GET /api/v1/waitpoints/tokens/{token_id}": Operation(
            "retrieveWaitToken",
            "Look at a token, and at its value.",
            answers={200: Answer("The token.", Token, COMPLETED)},
            refusals=NO_TOKEN | {410: "A large value is missing in the server's object store."},
        ),
        "POST /api/v1/waitpoints/tokens/{token_id}/complete": Operation(
            "completeWaitToken",
            "Complete a token.",
            "The first value wins; a later one is answered the same and changes nothing.",
            body=Body(Completion, {"data": {"approved": True, "by": "Grace"}}),
            answers={200: Answer("It is completed.", Success, {"success": True})},
            refusals=NO_TOKEN,
        ),
        "POST /api/v1/waitpoints/tokens/{token_id}/callback/{given_hash}": Operation(
            "completeWaitTokenByCallback",
            "The token's `url`: complete it without a key.",
            "The whole body is the value; one that is not JSON counts as `{}`. The hash is made with the servers' master key, so "
            "a new secret key leaves the URLs of open tokens good.",
            body=Body(Any, {"paid": True}),
            answers={200: Answer("It is completed.", Success, {"success": True})},
            refusals=NO_TOKEN | {401: "The URL is not one of this server's."},
        ),
    },
)

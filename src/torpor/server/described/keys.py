"""Keys, public tokens and data keys: their types, and their routes."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from torpor.server.described.operation import Answer, Body, Duration, Given, Instant, Operation, Resource, Shape, When

Scope = Annotated[str, Meta(min_length=1, max_length=512, description="`action:type` or `action:type:id`, or `admin`.")]
Scopes = Annotated[list[Scope], Meta(min_length=1, max_length=500)]
End = Annotated[
    str | float,
    Meta(description="How long it is good, such as `2h`, or until when, in seconds since 1970: 30 days at most."),
]


class NewKey(Given):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    scopes: Annotated[Scopes, Meta(description="With scopes it is a scoped key.")] | None = None
    expires: When | None = None
    personal: Annotated[bool, Meta(description="The token of a person, whose name it has.")] = False
    worker: Annotated[bool, Meta(description="A worker token of the environment.")] = False


class Rotation(Given):
    overlap: (
        Annotated[Duration, Meta(description="How long the old one holds beside it: 24h, up to 30 days.")] | None
    ) = None


class Realtime(Given):
    skip_columns: Annotated[
        list[str], Meta(max_length=100, description="What realtime reads with the token leave out.")
    ] = msgspec.field(default_factory=list)


class NewPublicToken(Given):
    scopes: Scopes
    expiration_time: End | None = None
    one_time_use: bool = False
    realtime: Realtime | None = None


class Claims(Given):
    scopes: Scopes
    otu: Annotated[bool, Meta(description="It is good for one use.")] | None = None
    realtime: Realtime | None = None


class NewClaims(Given):
    claims: Claims
    expiration_time: End | None = None


class Key(Shape, kw_only=True):
    """Which key it is, and what it may do; never what it is."""

    id: str
    name: str
    hint: str
    scopes: list[str] | UnsetType = UNSET
    is_personal: Annotated[bool, Meta(description="It is the token of a person, whose name it has.")] | UnsetType = (
        UNSET
    )
    is_worker: Annotated[bool, Meta(description="It is a worker token of the environment.")] | UnsetType = UNSET
    is_valid: bool
    is_configured: Annotated[bool, Meta(description="It is the server's `TORPOR_SECRET_KEY`.")]
    is_yours: Annotated[bool, Meta(description="The request came with it.")]
    created_at: Instant
    created_by: Annotated[str, Meta(description="The person who has made it in the dashboard.")] | UnsetType = UNSET
    last_used_at: Annotated[Instant, Meta(description="True to the hour.")] | UnsetType = UNSET
    expires_at: Instant | UnsetType = UNSET
    revoked_at: Instant | UnsetType = UNSET


class Caller(Shape, kw_only=True):
    """Whom a request comes from."""

    kind: Annotated[str, Meta(description="`secret key`, `personal token` or `scoped key`.")]
    person: Annotated[str, Meta(description="Whose personal token it is.")] | UnsetType = UNSET
    project: str
    environment: str
    key: Key


class Keys(Shape):
    data: list[Key]


class KeyMade(Key, kw_only=True):
    key: Annotated[str, Meta(description="Its text, this once.")]


class KeyRotated(KeyMade, kw_only=True):
    replaces: Annotated[Key, Meta(description="The old one, which holds until the overlap is over.")]


class ClaimsToSign(Shape):
    sub: Annotated[str, Meta(description="The environment.")]
    pub: Literal[True]


class PublicToken(Shape):
    token: str


class DataKey(Shape, kw_only=True):
    """Which it is; what it is, workers alone are told. The one without `retiredAt` is in use."""

    id: str
    created_at: Instant
    retired_at: Instant | UnsetType = UNSET


class DataKeys(Shape):
    data: list[DataKey]


class DataKeyRotated(Shape):
    id: str
    data: list[DataKey]


KEY: dict[str, Any] = {
    "id": "apikey_6v4j",
    "name": "the web shop",
    "hint": "tr_dev_sk_…x7Qa",
    "scopes": ["read:runs"],
    "isValid": True,
    "isConfigured": False,
    "isYours": False,
    "createdAt": "2026-03-01T07:00:00Z",
}
PERSON = {name: value for name, value in KEY.items() if name != "scopes"}
PERSON |= {"name": "Ada Lovelace", "hint": "tr_pat_…x7Qa", "isPersonal": True}
TEXT = {"key": "tr_dev_sk_<24 letters>"}
DATA_KEYS = {"data": [{"id": "key_3e8u", "createdAt": "2026-03-01T07:00:00Z"}]}
NO_KEY = {404: "There is no such key."}
NO_SCOPE = "What is asked for is no scope, or its end is over, or more than 30 days off."

RESOURCE = Resource(
    "Keys and tokens",
    "What they are, and what is kept of them, is in [keys](keys.md).",
    {
        "GET /api/v1/whoami": Operation(
            "whoami",
            "What the request came with, and whose it is.",
            is_own=True,
            answers={
                200: Answer(
                    "The caller.",
                    Caller,
                    {
                        "kind": "personal token",
                        "person": "Ada Lovelace",
                        "project": "default",
                        "environment": "dev",
                        "key": {**PERSON, "isYours": True},
                    },
                )
            },
        ),
        "GET /api/v1/keys": Operation(
            "listKeys",
            "The environment's keys, oldest first, also those that were over within a month.",
            is_own=True,
            answers={200: Answer("All of them.", Keys, {"data": [KEY]})},
        ),
        "POST /api/v1/keys": Operation(
            "createKey",
            "Make a key, or the token of a person.",
            is_own=True,
            body=Body(NewKey, {"name": "the web shop", "scopes": ["read:runs"], "expires": "30d"}, is_required=True),
            answers={200: Answer("The key, with its text.", KeyMade, KEY | TEXT)},
            refusals={400: "The request can't be read, or names what is no scope."},
        ),
        "POST /api/v1/keys/{key_id}/rotate": Operation(
            "rotateKey",
            "Make a key like this one, which holds beside it for the overlap.",
            is_own=True,
            body=Body(Rotation, {"overlap": "24h"}),
            answers={200: Answer("The new key, with its text.", KeyRotated, KEY | TEXT | {"replaces": KEY})},
            refusals=NO_KEY | {422: "The key is over already."},
        ),
        "POST /api/v1/keys/{key_id}/revoke": Operation(
            "revokeKey",
            "Let a key be worth nothing from now on.",
            is_own=True,
            answers={200: Answer("The key.", Key, KEY | {"isValid": False, "revokedAt": "2026-03-02T07:00:00Z"})},
            refusals=NO_KEY | {422: "It is the last secret key."},
        ),
        "POST /api/v1/auth/jwt/claims": Operation(
            "retrieveClaims",
            "What a client puts into the public tokens that it signs itself.",
            answers={200: Answer("The claims.", ClaimsToSign, {"sub": "env_1", "pub": True})},
        ),
        "POST /api/v1/auth/public-tokens": Operation(
            "createPublicToken",
            "Have a public token made.",
            body=Body(
                NewPublicToken, {"scopes": ["read:runs:run_8fz3k1v0q2m4"], "expirationTime": "1h"}, is_required=True
            ),
            answers={200: Answer("The token.", PublicToken, {"token": "eyJhbGciOiJIUzI1NiJ9.…"})},
            refusals={400: NO_SCOPE, 403: "The key does not have these scopes itself."},
        ),
        "POST /api/v1/auth/jwt": Operation(
            "createPublicTokenByClaims",
            "The same in an older spelling.",
            body=Body(NewClaims, {"claims": {"scopes": ["read:runs"]}, "expirationTime": "1h"}, is_required=True),
            answers={200: Answer("The token.", PublicToken, {"token": "eyJhbGciOiJIUzI1NiJ9.…"})},
            refusals={400: NO_SCOPE, 403: "The key does not have these scopes itself."},
        ),
        "GET /api/v1/data-keys": Operation(
            "listDataKeys",
            "The data keys that checkpoints are sealed with.",
            is_own=True,
            answers={200: Answer("All of them.", DataKeys, DATA_KEYS)},
        ),
        "POST /api/v1/data-keys/rotate": Operation(
            "rotateDataKey",
            "Let workers seal with a new data key, from their next heartbeat on.",
            "An old one is forgotten a day after nothing is sealed with it any more.",
            is_own=True,
            answers={200: Answer("The new one, and all.", DataKeyRotated, DATA_KEYS | {"id": "key_3e8u"})},
        ),
    },
)

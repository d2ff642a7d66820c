"""Public tokens: JWTs (HS256) that may leave the back end, such as for a browser. Written and read here, and nowhere else.

    signed by a client     with an environment's secret key; no `kid`
    signed by a server     with a secret that it derives from its master key for one key's id, which is the `kid`
    … for a run            the same, for the environment's id: what a run has made, and no key is behind

A token is worth as much as the key that it was made with: when that is over, so is the token. Those for runs are good until
their end, as callback URLs are.

Everything that the official client writes is demanded, and nothing else is understood: exactly HS256, the issuer and the
audience, an end. PyJWT checks the signature; times are compared with the server's own clock.
"""

import binascii
import hashlib
import json
import os
import re
from base64 import urlsafe_b64decode
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeGuard

import jwt

ISSUER = "https://id.trigger.dev"
AUDIENCE = "https://api.trigger.dev"
ALGORITHM = "HS256"
MAX_CHARS = 16384
LATEST_END = 253402300799
"""The last second of the year 9999: what a timestamp can hold."""

_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]{43}", re.ASCII)
_ID = re.compile(r"\w{1,64}", re.ASCII)
_HEADER = {"alg", "typ", "kid"}


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a token says of itself, before it is known to be true: by whose key it is to be verified."""

    environment_id: str
    key_id: str | None  # None: a client's, by one of the environment's secret keys


@dataclass(frozen=True, slots=True)
class PublicToken:
    """A token that was verified."""

    environment_id: str
    scopes: tuple[str, ...]
    expires_at: datetime
    identity: bytes = field(repr=False)  # sha256 of what is signed: of the text there are several spellings
    is_one_time: bool = False
    tasks: tuple[str, ...] | None = None  # a batch's token: items of these tasks only
    skipped_columns: tuple[str, ...] = ()  # of realtime rows


def looks_like(text: str) -> bool:
    """Whether this is to be read as a token, and not as a key."""
    return _FORM.fullmatch(text) is not None


def claimed(text: str) -> Claimed | None:
    """Who is said to have signed it; None if it is no token of ours, whoever did."""
    if len(text) > MAX_CHARS or not (parts := _FORM.fullmatch(text)):
        return None
    header, claims = _object(parts[1]), _object(parts[2])
    if header is None or claims is None or header.get("alg") != ALGORITHM or not header.keys() <= _HEADER:
        return None
    environment_id, key_id = claims.get("sub"), header.get("kid")
    if not _is_id(environment_id):
        return None
    if "kid" not in header:
        return Claimed(environment_id, None)
    return Claimed(environment_id, key_id) if _is_id(key_id) else None


def verified(text: str, secrets: Iterable[bytes], now: datetime) -> PublicToken | None:
    """The token, if one of these secrets has signed it and its time is not over; else None.

    The caller has chosen the secrets by what `claimed` says.
    """
    for secret in secrets:
        try:
            claims = jwt.decode(
                text,
                # The library complains of keys that are shorter, as a secret key is by one character. Zeros at the end of
                # an HMAC key change nothing: that is what it is filled up with anyway.
                secret.ljust(32, b"\0"),
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={
                    "require": ["exp", "sub", "iss", "aud"],
                    # Its clock is the machine's.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            continue
        return _read(text, claims, now.timestamp())
    return None


def signed(
    secret: bytes,
    environment_id: str,
    scopes: Collection[str],
    *,
    key_id: str,
    expires_at: datetime,
    now: datetime,
    is_one_time: bool = False,
    tasks: Collection[str] | None = None,
    skipped_columns: Collection[str] = (),
) -> str:
    """A token by a server, on behalf of whoever has this key."""
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": environment_id,
        "pub": True,
        "scopes": [*scopes],
        "iat": int(now.timestamp()),
        "exp": int(expires_at.timestamp()),
    }
    if is_one_time:
        claims["otu"] = True
        claims["jti"] = os.urandom(12).hex()  # or two that are made in the same second would be the same
    if tasks is not None:
        claims["tasks"] = [*tasks]
    if skipped_columns:
        claims["realtime"] = {"skipColumns": [*skipped_columns]}
    return jwt.encode(claims, secret, ALGORITHM, headers={"kid": key_id})


def _read(text: str, claims: dict[str, Any], now: float) -> PublicToken | None:
    """What it says, if all of it has the right form and it is its time."""
    ends, begins, skipped = claims.get("exp"), claims.get("nbf", 0), _skipped(claims.get("realtime"))
    scopes, tasks = _texts(claims.get("scopes", [])), _texts(claims.get("tasks", []))
    if not _is_instant(ends) or not _is_instant(begins) or scopes is None or tasks is None or skipped is None:
        return None
    is_one_time = claims.get("otu", False)
    if claims.get("pub") is not True or not isinstance(is_one_time, bool) or not begins <= now < ends:
        return None
    return PublicToken(
        claims["sub"],
        scopes,
        datetime.fromtimestamp(ends, UTC),
        hashlib.sha256(text.rpartition(".")[0].encode()).digest(),
        is_one_time=is_one_time,
        tasks=tasks if "tasks" in claims else None,
        skipped_columns=skipped,
    )


def _is_id(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _is_instant(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LATEST_END


def _texts(value: Any) -> tuple[str, ...] | None:
    return tuple(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else None


def _skipped(realtime: Any) -> tuple[str, ...] | None:
    if realtime is None:
        return ()
    return _texts(realtime.get("skipColumns", [])) if isinstance(realtime, dict) else None


def _object(part: str) -> dict[str, Any] | None:
    """A JSON object in base64url."""
    try:
        value = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None

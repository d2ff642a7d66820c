"""Whatever is sent as a token: nothing but what the right key has signed, as it was signed, is ever read as one."""

import base64
import hmac
import json
import random
import string
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx2
import jwt
import pytest
from fake_worker import KEY, TOKEN
from hypothesis import given, settings
from hypothesis import strategies as some

from torpor.clock import SystemClock
from torpor.config import Settings
from torpor.sdk.async_client import AsyncClient
from torpor.server import auth, presigned, public_tokens, scopes
from torpor.server.hub import Hub

pytestmark = pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")

SECRET = b"tr_dev_" + b"k" * 24
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLAIMS = {
    "iss": public_tokens.ISSUER,
    "aud": public_tokens.AUDIENCE,
    "sub": "env_1",
    "pub": True,
    "scopes": ["admin"],
    "exp": int(NOW.timestamp()) + 60,
}
with warnings.catch_warnings(action="ignore"):
    GOOD = jwt.encode(CLAIMS, SECRET, "HS256")
HERE = Hub(
    Settings(secret_key=KEY, encryption_keys=base64.b64encode(b"m" * 32).decode()), cast(Any, None), SystemClock()
)
"""A server's secrets, without the server."""
ALPHABET = string.ascii_letters + string.digits + "-_"

values = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=20),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signature(signed: str) -> str:
    """By hand, for what no library would sign."""
    return base64.urlsafe_b64encode(hmac.digest(SECRET, signed.encode(), "sha256")).rstrip(b"=").decode()


def verified(text: str, secret: bytes = SECRET) -> public_tokens.PublicToken | None:
    """As a server reads it: first what it claims, then with the secrets of whom it claims to be by."""
    claimed = public_tokens.claimed(text) if public_tokens.looks_like(text) else None
    return public_tokens.verified(text, [secret], NOW) if claimed and claimed.key_id is None else None


def test_the_good_one_is_good() -> None:
    token = verified(GOOD)
    assert token is not None
    assert (token.environment_id, token.scopes, token.expires_at) == ("env_1", ("admin",), NOW + timedelta(seconds=60))


@given(some.text(max_size=300) | some.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_text_is_no_token(text: str) -> None:
    assert verified(text) is None


@given(some.integers(0, len(GOOD) - 1), some.sampled_from(ALPHABET + ".=+/ \n\0é"))
@settings(max_examples=500, deadline=None)
def test_a_changed_letter_makes_it_nothing(place: int, letter: str) -> None:
    changed = GOOD[:place] + letter + GOOD[place + 1 :]
    token = verified(changed)
    if token is not None:
        # Only the last letter of the signature has other spellings, and they are the same token.
        assert place == len(GOOD) - 1 or changed == GOOD
        good = verified(GOOD)
        assert good is not None
        assert token.identity == good.identity


@given(some.dictionaries(some.sampled_from([*CLAIMS, "nbf", "otu", "tasks", "realtime", "jti", "iat"]), values))
@settings(max_examples=300, deadline=None)
def test_claims_of_the_wrong_form_are_no_token_though_they_are_signed(changes: dict[str, Any]) -> None:
    claims = {**CLAIMS, **changes}
    signed = f"{part({'alg': 'HS256'})}.{part(claims)}"
    token = verified(f"{signed}.{signature(signed)}")
    if token is not None:
        assert claims["iss"] == CLAIMS["iss"]
        assert claims["pub"] is True
        assert CLAIMS["aud"] in (claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]])
        assert isinstance(claims["exp"], int)
        assert claims["exp"] > NOW.timestamp()
        assert all(isinstance(scope, str) for scope in token.scopes)


@given(some.dictionaries(some.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk", "jku", "x5c", "zip"]), values))
@settings(max_examples=300, deadline=None)
def test_a_header_with_anything_else_in_it_is_no_token(header: dict[str, Any]) -> None:
    signed = f"{part(header)}.{GOOD.split('.')[1]}"
    token = verified(f"{signed}.{signature(signed)}")
    assert token is None or (header["alg"] == "HS256" and header.keys() <= {"alg", "typ"})


@given(some.binary(min_size=1, max_size=64))
def test_by_another_secret_it_is_nothing(secret: bytes) -> None:
    if secret.rstrip(b"\0") != SECRET:
        assert verified(jwt.encode(CLAIMS, secret, "HS256")) is None


@given(some.lists(some.text(max_size=30), max_size=5), some.text(max_size=20), some.text(max_size=20))
def test_a_scope_that_is_not_there_grants_nothing(given: list[str], kind: str, id: str) -> None:
    wanted = f"write:{kind.replace(':', '')}:{id}"
    if scopes.grants(given, wanted):
        assert any(scope == "admin" or scope.split(":")[0] in ("write", "*") for scope in given)
    assert scopes.grants([*given, wanted], wanted) or not kind.replace(":", "")
    assert not scopes.grants([], wanted)


SIGNED_PARTS = some.text(max_size=40) | some.sampled_from(["env_1", "upload_1", "until=1", "until=99999999999", "GET"])


@given(
    SIGNED_PARTS, SIGNED_PARTS, SIGNED_PARTS, some.text(max_size=80) | some.from_regex("[0-9a-f]{64}", fullmatch=True)
)
@settings(max_examples=300, deadline=None)
def test_a_url_that_was_not_given_away_permits_nothing(environment: str, name: str, terms: str, signature: str) -> None:
    """Whatever stands in it, nothing of it is looked into before its signature has been."""
    assert not presigned.permits(HERE, presigned.Grant("GET", environment, name, terms), signature, NOW)
    assert not auth.matches_callback(HERE, name, signature)


@pytest.mark.anyio
async def test_a_server_lets_no_garbled_key_or_token_in(url: str, client: AsyncClient) -> None:
    """Of every kind that it has given away."""
    chance = random.Random(20260301)
    good = [
        KEY,
        TOKEN,
        GOOD,
        (await client.create_key("scoped", scopes=["admin"]))["key"],
        (await client.create_key("Ada", personal=True))["key"],
        await client.create_public_token(["admin"]),
        await client.create_public_token(["admin"], one_time=True),
    ]

    def garbled(text: str) -> str:
        letters = list(text)
        for _ in range(chance.randint(1, 3)):
            match chance.randint(0, 2):
                case 0 if letters:
                    letters[chance.randrange(len(letters))] = chance.choice(ALPHABET + "./=")
                case 1:
                    letters.insert(chance.randint(0, len(letters)), chance.choice(ALPHABET + ". ~"))
                case _ if letters:
                    del letters[chance.randrange(len(letters))]
        return "".join(letters).strip()

    async with httpx2.AsyncClient() as http:
        for _ in range(500):
            one = chance.choice([*good, good[3][:10] + KEY[-24:], good[4][:7], good[4][:7] + KEY[-24:], KEY[:7], ""])
            bad = chance.choice([garbled, str.upper, lambda text: text[::-1], lambda text: text + text])(one)
            # The last letter of a signature has other spellings, which are the same token.
            if not bad or bad in good or bad[:-1] in [each[:-1] for each in good if "." in each]:
                continue
            for path in ("/api/v1/runs", "/worker/v1/news?worker_id=w"):
                response = await http.get(url + path, headers={"authorization": f"Bearer {bad}"})
                assert response.status_code == 401, bad

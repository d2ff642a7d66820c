"""What an idempotency key is unique among."""

from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest

from torpor import Debounce, Idempotency
from torpor.errors import NotInRun
from torpor.sdk import running
from torpor.sdk.idempotency import resolved


def key(given: Any, payload: bytes | None = b"1") -> str:
    return resolved({"idempotencyKey": given}, payload)["idempotencyKey"]


def be_in(monkeypatch: pytest.MonkeyPatch, run_id: str, attempt: int) -> None:
    context = SimpleNamespace(run_id=run_id, attempt=attempt)
    monkeypatch.setattr(running, "session", SimpleNamespace(context=context))


def test_outside_of_a_run_a_key_is_global() -> None:
    """G9: the wire carries the hash, and what was written."""
    assert resolved({"idempotencyKey": "k", "ttl": "1s"}, None) == {
        "idempotencyKey": sha256(b"k").hexdigest(),
        "idempotencyKeyOptions": {"key": "k", "scope": "global"},
        "ttl": "1s",
    }
    for scope in ("run", "attempt"):
        with pytest.raises(NotInRun, match=scope):
            key(Idempotency("k", scope))


def test_inside_a_run_a_bare_text_is_the_runs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """G9: it stays the same over attempts, unlike one of scope attempt."""
    be_in(monkeypatch, "run_1", 1)
    run, attempt, everywhere = key("k"), key(Idempotency("k", "attempt")), key(Idempotency("k", "global"))
    assert run == key(Idempotency("k")) == key(Idempotency("k", "run")) == sha256(b"k-run_1").hexdigest()
    assert everywhere == sha256(b"k").hexdigest()
    be_in(monkeypatch, "run_1", 2)
    assert (key("k"), key(Idempotency("k", "attempt")) == attempt) == (run, False)
    be_in(monkeypatch, "run_2", 1)
    assert key("k") != run
    assert key(Idempotency("k", "global")) == everywhere


def test_a_key_that_is_a_hash_is_passed_on() -> None:
    """G9: as other clients have made it."""
    assert key("a" * 64) == "a" * 64


def test_a_payload_can_be_the_key() -> None:
    """BB19: equal payloads are equal keys, in whatever order their fields stand."""
    asked = Idempotency.of_payload()
    assert key(asked, b'{"a": 1, "b": [1, 2]}') == key(asked, b'{"b":[1,2],"a":1}')
    assert key(asked, b'{"a": 1, "b": [2, 1]}') != key(asked, b'{"b":[1,2],"a":1}')
    assert key(asked, None) == key(asked, b"null") != key(asked, b"{}")
    assert resolved({"idempotencyKey": asked}, b"1")["idempotencyKeyOptions"]["key"].startswith("payload-")


def test_arguments_that_make_no_sense_are_refused() -> None:
    for wrong in ({"key": ""}, {"key": "k" * 2049}, {"key": "k", "scope": "task"}):
        with pytest.raises(ValueError, match="Idempotency"):
            Idempotency(**wrong)  # pyright: ignore[reportArgumentType]
    for wrong in (("", "1s"), ("k", 0.5), ("k", "1s", "last"), ("k", "1m", "leading", "1s")):
        with pytest.raises(ValueError, match="Debounce"):
            Debounce(*wrong)  # pyright: ignore[reportArgumentType]

"""What user code has put into a worker's messages is accepted or refused, never answered with a fault of the server's.

A worker repeats what was answered so until it is answered otherwise, and takes the server for down.
"""

import json
from typing import Any

import msgspec
import pytest
from fake_worker import FakeWorker

from torpor.sdk.async_client import AsyncClient

pytestmark = pytest.mark.anyio

NUL = "a\0b"
LONG = "x" * 300_000
HUGE, MINUS_HUGE, TOO_LARGE = "1e300", "-1e300", "9" * 30
DEEP = "[" * 900 + "]" * 900
UNSTORABLE = json.dumps({"a": [NUL], NUL: 1})

WAIT = {"wait_id": "wait_1", "kind": "time", "duration_s": 1.0}
TEXTS = (NUL, LONG, "", "\U0010ffff\u202e", "../x", "'; drop table runs; --")
SECONDS = (HUGE, MINUS_HUGE, "-1", "0", "1e-300")


def with_raw(message: dict[str, Any], **raw: str) -> bytes:
    """JSON with members that no encoder of ours would write."""
    members = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in message.items()]
    members += [f"{json.dumps(name)}:{value}" for name, value in raw.items()]
    return ("{" + ",".join(members) + "}").encode()


def wait_of(**changes: Any) -> bytes:
    return with_raw({"waits": [{**WAIT, **changes}], "idle": True})


def raw_wait(name: str, value: str) -> bytes:
    wait = with_raw({key: held for key, held in WAIT.items() if key != name}, **{name: value}).decode()
    return with_raw({"idle": True}, waits=f"[{wait}]")


def trigger(**changes: Any) -> bytes:
    return with_raw({"run_id": "run_child", "task_id": "echo", "payload": None, **changes})


def token(**changes: Any) -> bytes:
    return with_raw({"waitpoint_id": "waitpoint_made", **changes})


SAVED = {"id": "checkpoint_1", "size_bytes": 1, "dump_ms": 1.0}

WORDS: dict[str, tuple[str, bytes]] = {
    **{f"wait called {t[:10]!r}": ("block", wait_of(wait_id=t)) for t in TEXTS},
    **{f"wait of kind {t[:10]!r}": ("block", wait_of(kind=t)) for t in TEXTS},
    **{f"wait with key {t[:10]!r}": ("block", wait_of(idempotency_key=t)) for t in TEXTS},
    **{f"wait for {t} s": ("block", raw_wait("duration_s", t)) for t in SECONDS},
    **{f"wait with timeout {t} s": ("block", raw_wait("timeout_s", t)) for t in SECONDS},
    **{
        f"wait with key for {t} s": ("block", wait_of(idempotency_key="k", idempotency_key_ttl_s=float(t)))
        for t in SECONDS
    },
    **{
        f"wait until {t!r}": ("block", wait_of(duration_s=None, until=t))
        for t in (
            "whenever",
            "",
            NUL,
            "99999-01-01T00:00:00Z",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
        )
    },
    **{f"wait for run {t[:10]!r}": ("block", wait_of(kind="run", run_id=t)) for t in (*TEXTS, "run_nobodys")},
    **{
        f"wait for token {t[:10]!r}": ("block", wait_of(kind="token", waitpoint_id=t)) for t in (*TEXTS, "waitpoint_no")
    },
    **{f"wait for batch {t[:10]!r}": ("block", wait_of(kind="batch", batch_id=t)) for t in (*TEXTS, "batch_no")},
    "wait of nothing": ("block", wait_of(duration_s=None)),
    "wait for no run": ("block", wait_of(kind="run")),
    "wait for no token": ("block", wait_of(kind="token")),
    "the same wait many times": ("block", with_raw({"waits": [WAIT] * 1000})),
    "many waits": ("block", with_raw({"waits": [{**WAIT, "wait_id": f"wait_{n}"} for n in range(5000)]})),
    "many dropped": ("block", with_raw({"dropped": [f"wait_{n}" for n in range(50_000)]})),
    "blockers": ("block", with_raw({"blockers": [NUL, LONG]})),
    "a count of reports": ("block", with_raw({}, nth=TOO_LARGE)),
    "a negative count": ("block", with_raw({"nth": -(2**63)})),
    "open waits": ("collect", with_raw({"open_waits": [NUL, LONG, *map(str, range(10_000))]})),
    "a story": (
        "events",
        with_raw({}, events=f'[{{"kind":"run.held","at":"2026-01-01T00:00:00Z","data":{UNSTORABLE}}}]'),
    ),
    "a deep story": (
        "events",
        with_raw({}, events=f'[{{"kind":"k","at":"2026-01-01T00:00:00Z","data":{{"a":{DEEP}}}}}]'),
    ),
    "a story of huge numbers": (
        "events",
        with_raw({}, events=f'[{{"kind":"k","at":"2026-01-01T00:00:00Z","data":{{"a":{TOO_LARGE}}}}}]'),
    ),
    "a story of another kind": ("events", with_raw({"events": [{"kind": NUL, "at": "2026-01-01T00:00:00Z"}]})),
    "lines": (
        "logs",
        with_raw({"first": 0, "lines": [{"at": "2026-01-01T00:00:00Z", "level": "info", "message": NUL}]}),
    ),
    "lines of a strange time": (
        "logs",
        with_raw({"first": 0, "lines": [{"at": "0001-01-01T00:00:00+14:00", "level": "info", "message": "m"}]}),
    ),
    "lines with attributes": (
        "logs",
        with_raw(
            {"first": 0},
            lines=f'[{{"at":"2026-01-01T00:00:00Z","level":"info","message":"m","attributes":{{"a":{TOO_LARGE}}}}}]',
        ),
    ),
    "an output without end": ("finish", with_raw({"outcome": "completed"}, output="1e999")),
    "an output of a large number": ("finish", with_raw({"outcome": "completed"}, output="9" * 5000)),
    "an output of brackets": ("finish", with_raw({"outcome": "completed"}, output="[" * 100_000 + "]" * 100_000)),
    "a deep output": ("finish", with_raw({"outcome": "completed"}, output=DEEP)),
    "an output with a NUL": ("finish", with_raw({"outcome": "completed"}, output=UNSTORABLE)),
    "half a character": ("finish", with_raw({"outcome": "completed"}, output='"\\ud800"')),
    "bytes that are no text": ("finish", b'{"lease":LEASE,"outcome":"completed","output":"\xff"}'),
    "an error": ("finish", with_raw({"outcome": "failed", "error": {"name": NUL, "message": NUL, "stack_trace": NUL}})),
    "a large error": ("finish", with_raw({"outcome": "failed", "error": {"name": LONG, "message": LONG * 10}})),
    "an error of many causes": (
        "finish",
        with_raw({"outcome": "failed"}, error='{"name":"n","message":"m","causes":[' * 400 + "]}" * 400),
    ),
    "hooks": ("finish", with_raw({"outcome": "failed", "hooks": [NUL, LONG]})),
    "used for ever": ("finish", with_raw({"outcome": "completed"}, usage='{"cpu_ms":1e300,"peak_memory_bytes":1}')),
    **{f"trigger {t[:10]!r}": ("trigger", trigger(task_id=t)) for t in TEXTS},
    **{f"trigger a run called {t[:10]!r}": ("trigger", trigger(run_id=t)) for t in TEXTS},
    **{
        f"trigger with {key} {t[:10]!r}": ("trigger", trigger(options={key: t}))
        for key in ("idempotencyKey", "delay", "ttl", "queue", "concurrencyKey", "machine", "tags")
        for t in (NUL, LONG)
    },
    "trigger with numbers": (
        "trigger",
        trigger(options={"maxAttempts": 10**9, "priority": -(10**15), "maxDuration": 1e300}),
    ),
    "trigger with a payload of a large number": (
        "trigger",
        with_raw({"run_id": "r", "task_id": "echo"}, payload="1e999"),
    ),
    "trigger with a deep payload": ("trigger", with_raw({"run_id": "r", "task_id": "echo"}, payload=DEEP)),
    "trigger with a NUL": ("trigger", with_raw({"run_id": "r", "task_id": "echo"}, payload=UNSTORABLE)),
    **{f"token called {t[:10]!r}": ("tokens", token(waitpoint_id=t)) for t in TEXTS},
    **{f"token with key {t[:10]!r}": ("tokens", token(idempotency_key=t)) for t in TEXTS},
    **{f"token with tag {t[:10]!r}": ("tokens", token(tags=[t])) for t in TEXTS},
    **{f"token for {t} s": ("tokens", with_raw({"waitpoint_id": "w"}, timeout_s=t)) for t in SECONDS},
    **{f"token until {t!r}": ("tokens", token(timeout_at=t)) for t in ("whenever", NUL, "99999-01-01T00:00:00Z")},
    "an approval": ("tokens", with_raw({"waitpoint_id": "w"}, approval=UNSTORABLE)),
    "a deep approval": ("tokens", with_raw({"waitpoint_id": "w"}, approval=f'{{"context":{DEEP}}}')),
    "complete nobody's token": ("tokens/complete", with_raw({"waitpoint_id": NUL, "data": 1})),
    "complete with a large number": ("tokens/complete", with_raw({"waitpoint_id": "TOKEN"}, data="1e999")),
    "complete with brackets": (
        "tokens/complete",
        with_raw({"waitpoint_id": "TOKEN"}, data="[" * 100_000 + "]" * 100_000),
    ),
    "complete with a NUL": ("tokens/complete", with_raw({"waitpoint_id": "TOKEN"}, data=UNSTORABLE)),
    **{f"batch called {t[:10]!r}": ("batches", with_raw({"batch_id": t})) for t in TEXTS},
    "batch of very many": ("batches", with_raw({"batch_id": "b"}, run_count=TOO_LARGE)),
    "batch of less than none": ("batches", with_raw({"batch_id": "b", "run_count": -5})),
    "batch with a key for ever": (
        "batches",
        with_raw({"batch_id": "b", "idempotency_key": "k"}, idempotency_key_ttl_s=HUGE),
    ),
    "items": ("batches/items", with_raw({"batch_id": NUL, "items": [{"index": -1, "task": NUL, "error": NUL}]})),
    "results": ("batches/results", with_raw({"batch_id": NUL}, after=TOO_LARGE)),
    "a place": ("suspend", with_raw({"checkpoint": SAVED}, waiting_at=f"[{UNSTORABLE}]")),
    "a deep place": ("suspend", with_raw({"checkpoint": SAVED}, waiting_at=f'[{{"a":{DEEP}}}]')),
    "a save point": ("save", with_raw({"checkpoint": {**SAVED, "kind": "named", "name": NUL}, "open_waits": [NUL]})),
}


async def test_words_of_user_code_are_taken_or_refused(client: AsyncClient, worker: FakeWorker) -> None:
    """On one server: a new one for each would take minutes."""
    answers: dict[str, str] = {}
    for told, (path, body) in WORDS.items():
        run_id = (await client.trigger("echo"))["id"]
        (given,) = await worker.dequeue(5, 1)
        await worker.start(given)
        held = (await client.create_token())["id"]
        message = body.replace(b"TOKEN", held.encode()).replace(b"LEASE", str(given.lease).encode())
        if b'"lease"' not in message:
            message = f'{{"lease":{given.lease},'.encode() + message[1:]
        answer = await worker.post(f"runs/{given.run_id}/{path}", msgspec.Raw(message.replace(b",}", b"}")))
        answers[told] = f"{answer.status_code} {answer.text[:200]}"
        # And whatever it was, everybody can still read the run, and what else there is.
        run = await client.run(run_id)
        assert run is not None, told
        assert [event async for event in client.story(run_id)], told
        assert [token async for token in client.tokens()], told
        if not run["isCompleted"]:
            await client.cancel(run_id, at_once=True)
    assert {told: answer for told, answer in answers.items() if answer.startswith("5")} == {}
    assert {answer[:3] for answer in answers.values()} >= {"200", "400", "422"}
    # What is called so would be part of a path: `runs/../x/finish`.
    called = {told: answer for told, answer in answers.items() if "called" in told and "'../x'" in told}
    assert len(called) == 4
    assert all(answer.startswith("422") for answer in called.values()), called

"""How often and how much: what is refused says by how much it was too much, and when there is room again."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from facts import until
from fake_worker import KEY, FakeWorker, Start
from hypothesis import given
from hypothesis import strategies as some

from torpor.config import Settings
from torpor.sdk.async_client import AsyncClient
from torpor.server.hub import Hub
from torpor.server.inventory import limits_of
from torpor.server.rates import MAX_BUCKETS, Rate, Rates

pytestmark = pytest.mark.anyio


class Clock:
    """It stands still but for what a test adds to it."""

    now = 1000.0
    looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now


def rates(per_s: float = 2, burst: int = 3) -> tuple[Rates, Clock]:
    clock = Clock()
    return Rates(Rate(per_s, burst), Rate(0, 0), clock=clock), clock


def test_a_bucket_holds_the_burst_and_time_fills_it() -> None:
    buckets, clock = rates()

    def take() -> tuple[int, float]:
        taken = buckets.take("key", is_token=False)
        assert taken is not None
        return taken.left, taken.wait_s

    assert [take() for _ in range(4)] == [(2, 0), (1, 0), (0, 0), (0, 0.5)]
    clock.now += 0.25
    assert take() == (0, 0.25), "what is refused costs nothing"
    clock.now += 0.25
    assert take() == (0, 0)
    clock.now += 1000
    assert take() == (2, 0), "no more than the burst"
    other = buckets.take("other", is_token=False)
    assert other is not None
    assert other.left == 2, "each has a bucket of its own"
    assert buckets.take("any", is_token=True) is None, "tokens have no limit here"


@given(some.lists(some.floats(0, 3), max_size=200), some.floats(0.1, 50), some.integers(1, 20))
def test_never_more_are_let_through_than_burst_and_rate_allow(pauses: list[float], per_s: float, burst: int) -> None:
    buckets, clock = rates(per_s, burst)
    began, let_through = clock.now, 0
    for pause in pauses:
        clock.now += pause
        taken = buckets.take("key", is_token=False)
        assert taken is not None
        let_through += not taken.wait_s
        assert let_through <= burst + (clock.now - began) * per_s + 1e-6
        assert 0 <= taken.left <= burst


def test_the_buckets_of_a_server_are_bounded() -> None:
    buckets, _ = rates()
    for number in range(MAX_BUCKETS + 100):
        buckets.take(f"key {number}", is_token=False)
    assert len(buckets) == MAX_BUCKETS


async def test_a_key_that_asks_too_often_is_429_and_told_when_to_ask_again(
    start: Start, database_url: str, hubs: list[Hub]
) -> None:
    url = await start(database_url, key_requests_per_s=1, key_requests_burst=4)
    clock = hubs[0].rates._clock = Clock()
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
        answers = [await http.get(f"{url}/api/v1/tasks") for _ in range(3)]
        answers.append(await http.get(f"{url}/api/v3/runs/run_x"))
        assert [answer.status_code for answer in answers] == [200, 200, 200, 404]
        assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"4"}
        left = [int(answer.headers["x-ratelimit-remaining"]) for answer in answers]
        assert left == [3, 2, 1, 0], "refusals count, too"
        began = time.time()
        refused = await http.get(f"{url}/api/v1/tasks")
        ended = time.time()
        assert (refused.status_code, refused.json()["limit"], refused.json()["perSecond"]) == (429, 4, 1)
        assert refused.headers["retry-after"] == "1"
        assert began + 1 <= int(refused.headers["x-ratelimit-reset"]) / 1000 <= ended + 1.001
        assert refused.headers["x-ratelimit-remaining"] == "0"
        assert "x-ratelimit-limit" not in (await http.get(f"{url}/healthz")).headers
    # The next request is the client's, and waits by itself.
    async with AsyncClient(url, KEY) as client:
        looks = clock.looks
        asked = asyncio.create_task(client.tasks())
        await until(lambda: clock.looks > looks)
        clock.now += 1000
        assert await asked == []
        made = await client.create_key("other")
    async with AsyncClient(url, made["key"]) as other:
        assert await other.tasks() == [], "another key has a bucket of its own"


async def test_public_tokens_are_limited_by_default_and_pages_see_where_they_stand(
    client: AsyncClient, worker: FakeWorker, hubs: list[Hub]
) -> None:
    hubs[0].rates._clock = Clock()
    url = client._target.url
    token = await client.create_public_token(["read:runs"])
    headers = {"authorization": f"Bearer {token}", "origin": "https://shop.example"}
    async with httpx2.AsyncClient(headers=headers) as http:
        answers = await asyncio.gather(*[http.get(f"{url}/api/v1/runs") for _ in range(150)])
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(answers) - len(refused) == 100
        assert "x-ratelimit-reset" in refused[0].headers["access-control-expose-headers"]
        with_key = await http.get(f"{url}/api/v1/runs", headers={"authorization": f"Bearer {KEY}"})
        assert (with_key.status_code, "x-ratelimit-limit" in with_key.headers) == (200, False), "the key has no limit"


async def test_a_body_that_is_too_large_is_413_with_limit_and_value(start: Start, database_url: str) -> None:
    url = await start(database_url, max_request_bytes=1000)

    async def in_pieces() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b"x" * 100

    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
        for path in ("/api/v1/tasks/echo/trigger", "/api/v3/batches", "/api/v1/waitpoints/tokens", "/api/v1/keys"):
            told = await http.post(url + path, content=b"x" * 1001)
            assert (told.status_code, told.json()["limit"], told.json()["value"]) == (413, 1000, 1001), path
            told = await http.post(url + path, content=in_pieces())
            assert (told.status_code, told.json()["limit"]) == (413, 1000), path
    async with AsyncClient(url, KEY) as client:
        served = await client.limits()
    assert served == limits_of(replace(Settings(), max_request_bytes=1000), None)


SMALL: dict[str, Any] = {
    "max_tags": 2,
    "max_metadata_bytes": 100,
    "max_attempts": 3,
    "max_ttl_s": 60.0,
    "max_batch_items": 5,
    "max_schedules": 1,
    "max_public_token_s": 120.0,
}
METADATA = {"text": "x" * 100}
SCHEDULE = {"task": "echo", "cron": "0 7 * * *"}
OVER: list[tuple[str, str, dict[str, Any], int, float, float]] = [
    ("POST", "/api/v1/tasks/echo/trigger", {"options": {"tags": ["a", "b", "c"]}}, 422, 2, 3),
    ("POST", "/api/v1/waitpoints/tokens", {"tags": ["a", "b", "c"]}, 422, 2, 3),
    ("POST", "/api/v1/runs/RUN/tags", {"tags": ["b", "c"]}, 422, 2, 3),
    ("POST", "/api/v1/tasks/echo/trigger", {"options": {"metadata": METADATA}}, 413, 100, 111),
    ("PUT", "/api/v1/runs/RUN/metadata", {"metadata": METADATA}, 413, 100, 111),
    ("POST", "/api/v1/tasks/echo/trigger", {"options": {"maxAttempts": 4}}, 422, 3, 4),
    ("POST", "/api/v1/tasks/echo/trigger", {"options": {"ttl": "61s"}}, 422, 60, 61),
    ("POST", "/api/v3/batches", {"runCount": 6}, 422, 5, 6),
    ("POST", "/api/v1/schedules", {**SCHEDULE, "deduplicationKey": "second"}, 422, 1, 2),
]
"""What is asked, and with which status, limit and value it is refused."""


async def test_a_limit_that_is_set_holds_wherever_it_is_met_and_is_told_with_the_value(
    start: Start, database_url: str
) -> None:
    url = await start(database_url, **SMALL)
    worker = FakeWorker(url)
    await worker.come_up()
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        first = {**SCHEDULE, "deduplicationKey": "first"}
        for _ in range(2):
            assert (await http.post("/api/v1/schedules", json=first)).is_success, "it is the same one"
        allowed = {"tags": ["a"], "metadata": {"text": "x" * 80}, "maxAttempts": 3, "ttl": "60s"}
        run = (await http.post("/api/v1/tasks/echo/trigger", json={"options": allowed})).json()
        for method, path, body, status, limit, value in OVER:
            told = await http.request(method, path.replace("RUN", run["id"]), json=body)
            assert (told.status_code, told.json().get("limit"), told.json().get("value")) == (status, limit, value), (
                path
            )
        told = await http.post("/api/v1/auth/public-tokens", json={"scopes": ["read:runs"], "expirationTime": "3m"})
        assert (told.status_code, told.json()["limit"]) == (400, 120)
        made = await http.post("/api/v1/auth/public-tokens", json={"scopes": ["read:runs"]})
        assert made.is_success, "it ends sooner than it would otherwise"
        served = (await http.get("/api/v1/limits")).json()
    assert served == limits_of(replace(Settings(), **SMALL), None)
    assert (served["tags"], served["schedules"], served["ttlSeconds"]) == (2, 1, 60)
    await worker.close()


async def test_a_repeated_request_makes_the_same_thing_on_whichever_server_it_arrives(
    start: Start, database_url: str
) -> None:
    """Nothing is remembered for it: the id is made of the request's key."""
    urls = [await start(database_url), await start(database_url)]
    worker = FakeWorker(urls[0])
    await worker.come_up()
    headers = {
        "authorization": f"Bearer {KEY}",
        "x-trigger-request-idempotency-key": "7cae668b-ddbb-4e94-ad70-fd9195667ba4",
    }
    async with httpx2.AsyncClient(headers=headers) as http:
        for path, body in [
            ("/api/v1/tasks/echo/trigger", {"payload": 1}),
            ("/api/v3/batches", {"runCount": 1}),
            ("/api/v1/waitpoints/tokens", {}),
        ]:
            # At the same moment, as when a client gives up waiting for a slow answer.
            answers = await asyncio.gather(*[http.post(url + path, json=body) for url in urls * 5])
            assert all(answer.is_success for answer in answers), path
            assert len({answer.json()["id"] for answer in answers}) == 1, path
            assert not any(answer.json().get("isCached") for answer in answers), path
    assert len(await worker.dequeue(free=20)) == 1
    await worker.close()

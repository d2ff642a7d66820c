"""M1, M2: metadata and tags over HTTP: as the official client sends them, and as workers report them."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fake_worker import KEY, FakeWorker, awake

from torpor import ids
from torpor.sdk.async_client import AsyncClient
from torpor.wire import http as wire
from torpor.wire.http import MetadataReply, MetadataReport, Op

pytestmark = pytest.mark.anyio

HEADERS = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
async def url(lasting_url: str) -> str:
    """One server for all: each test has a run of its own."""
    return lasting_url


@pytest.fixture(scope="module")
async def client(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url, KEY) as client:
        yield client


@pytest.fixture(scope="module")
async def worker(url: str) -> AsyncIterator[FakeWorker]:
    async with awake(url) as worker:
        yield worker


async def ask(url: str, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient() as http:
        return await http.request(method, url + path, json=body, headers=HEADERS | headers)


async def begin(client: AsyncClient, worker: FakeWorker, **options: Any) -> wire.Assignment:
    await client.trigger("echo", 1, **options)
    return await worker.take_and_start()


async def test_operations_change_what_is_there_and_metadata_replaces_it(
    client: AsyncClient, worker: FakeWorker, url: str
) -> None:
    given = await begin(client, worker, metadata={"a": 1, "n": 1})
    path = f"/api/v1/runs/{given.run_id}/metadata"
    operations = [
        {"type": "set", "key": "b", "value": {"deep": True}},
        {"type": "increment", "key": "n", "value": 4},
        {"type": "append", "key": "$.b.list", "value": 2},
        {"type": "delete", "key": "a"},
    ]
    changed = {"metadata": {"b": {"deep": True, "list": [2]}, "n": 5}}
    assert (await ask(url, "PUT", path, {"operations": operations})).json() == changed
    assert (await client.run(given.run_id))["metadata"] == changed["metadata"]
    assert (await ask(url, "GET", path)).json() == {**changed, "metadataType": "application/json"}
    both = {"metadata": {"c": None}, "operations": [{"type": "append", "key": "c", "value": 1}]}
    assert (await ask(url, "PUT", path, both)).json() == {"metadata": {"c": [None, 1]}}
    assert (await ask(url, "PUT", path)).json() == {"metadata": {"c": [None, 1]}}


async def test_a_call_that_is_repeated_counts_once(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    given = await begin(client, worker)
    path = f"/api/v1/runs/{given.run_id}/metadata"
    more = {"operations": [{"type": "increment", "key": "n", "value": 1}]}
    for key, n in (("a", 1), ("b", 2), ("a", 2), ("b", 2), ("c", 3)):
        answer = await ask(url, "PUT", path, more, **{"x-trigger-request-idempotency-key": key})
        assert answer.json() == {"metadata": {"n": n}}


REFUSED: list[tuple[Any, int, str]] = [
    ({"metadata": [1]}, 400, "got `array`"),
    ({"operations": [{"type": "rename", "key": "a"}]}, 400, "rename"),
    ({"operations": [{"type": "set", "key": "$.__proto__.a", "value": 1}]}, 400, "__proto__"),
    ({"operations": [{"type": "increment", "key": "n", "value": "1"}]}, 400, "must be a number"),
    ({"metadata": {"long": "x" * 262_144}}, 413, "262155 bytes"),
]


async def test_what_can_not_be_is_refused_with_the_reason(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    run_id = (await begin(client, worker)).run_id
    path = f"/api/v1/runs/{run_id}/metadata"
    for body, status, why in REFUSED:
        answer = await ask(url, "PUT", path, body)
        assert (answer.status_code, why in answer.json()["error"]) == (status, True), answer.text
        if status == 413:
            assert (answer.json()["limit"], answer.json()["value"]) == (262_144, 262_155)
    assert (await ask(url, "GET", path)).json()["metadata"] == {}
    assert (await ask(url, "PUT", f"/api/v1/runs/{ids.new('run')}/metadata", {})).status_code == 404


async def test_tags_are_added_one_or_several_up_to_ten(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    run_id = (await begin(client, worker, tags=["a"])).run_id
    path = f"/api/v1/runs/{run_id}/tags"
    assert (await ask(url, "POST", path, {"tags": "b"})).json() == {"message": "Added 1 tag"}
    assert (await ask(url, "POST", path, {"tags": ["b", "c", "d"]})).json() == {"message": "Added 2 tags"}
    assert (await ask(url, "POST", path, {"tags": "b"})).json() == {"message": "No new tags to add"}
    refused = await ask(url, "POST", path, {"tags": [f"t{n}" for n in range(7)]})
    assert (refused.status_code, refused.json()["limit"], refused.json()["value"]) == (422, 10, 11)
    assert (await ask(url, "POST", path, {"tags": "x" * 129})).status_code == 422
    assert (await client.run(run_id))["tags"] == ["a", "b", "c", "d"]
    assert [run["id"] async for run in client.runs(tag="c")] == [run_id]


async def test_a_worker_reports_and_what_comes_again_changes_nothing(client: AsyncClient, worker: FakeWorker) -> None:
    given = await begin(client, worker, tags=["a"])
    path = f"runs/{given.run_id}/metadata"
    first = MetadataReport(given.lease, 1, [Op("increment", "n", 1)], tags=["b"])
    for _ in range(2):
        assert await worker.say(path, first, MetadataReply) == MetadataReply({"n": 1}, ["a", "b"])
    refused = await worker.post(path, MetadataReport(given.lease, 2, tags=[f"t{n}" for n in range(9)]))
    assert (refused.status_code, refused.json()["value"]) == (422, 11)
    assert (await worker.post(path, MetadataReport(given.lease, 0))).status_code == 400
    await worker.finish(given)
    late = await worker.post(path, MetadataReport(given.lease, 2, [Op("increment", "n", 1)]))
    assert (late.status_code, late.json()["code"]) == (410, "stale")
    assert (await client.run(given.run_id))["metadata"] == {"n": 1}


async def test_values_that_are_nested_too_deeply_are_refused_and_are_no_fault_of_the_server(
    client: AsyncClient, worker: FakeWorker, url: str
) -> None:
    run_id = (await begin(client, worker)).run_id
    for depth in (400, 900, 980, 5000):
        for operation in ("set", "append", "remove"):
            deep = "[" * depth + "]" * depth
            operations = [f'{{"type":"{each}","key":"a","value":{deep}}}' for each in ("append", operation)]
            body = f'{{"operations":[{",".join(operations)}]}}'
            async with httpx2.AsyncClient() as http:
                answer = await http.put(f"{url}/api/v1/runs/{run_id}/metadata", content=body.encode(), headers=HEADERS)
            assert answer.status_code in (200, 400, 413, 422), (depth, operation, answer.text)

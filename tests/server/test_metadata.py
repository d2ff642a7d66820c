"""M1, M2: metadata and tags over HTTP: as the official client sends them, and as workers report them."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest
from fake_worker import KEY, FakeWorker, awake

from torpor import ids
from torpor.sdk.async_client import AsyncClient
from torpor.wire import http as wire
from torpor.wire.http import MetadataReply, MetadataReport
from torpor.wire.runner import Op

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
    ({"operations": [{"type": "increment", "key": "n", "value": 10**400}]}, 400, "must be a number"),
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


async def test_operations_that_would_hold_up_the_server_are_refused_and_many_that_do_not_are_carried_out(
    client: AsyncClient, worker: FakeWorker, url: str
) -> None:
    """Each copies, or compares, the list that it changes: tens of thousands on a long one would take hours."""
    given = await begin(client, worker)
    path = f"/api/v1/runs/{given.run_id}/metadata"
    many = [{"type": "append", "key": "log", "value": n} for n in range(3000)]
    assert (await ask(url, "PUT", path, {"operations": many})).status_code == 200
    long = [{"type": "set", "key": "long", "value": [2] * 50_000}]
    assert (await ask(url, "PUT", path, {"operations": long})).status_code == 200
    for kind in ("append", "remove"):
        endless = {"operations": [{"type": kind, "key": "long", "value": 3}] * 60_000}
        answer = await ask(url, "PUT", path, endless)
        assert (answer.status_code, "60000 operations at once" in answer.json()["error"]) == (413, True), answer.text
    report = MetadataReport(given.lease, 1, root_operations=[Op("remove", "long", 3)] * 60_000)
    assert (await worker.post(f"runs/{given.run_id}/metadata", report)).status_code == 413


async def test_the_scopes_of_a_run_are_not_for_the_metadata_of_its_parent_and_root(
    client: AsyncClient, worker: FakeWorker, url: str
) -> None:
    parent = await begin(client, worker)
    child_id = ids.new("run")
    call = wire.TriggerCall(child_id, "echo", msgspec.Raw(b"1"), parent.lease, {"delay": "1h"})
    assert (await worker.post(f"runs/{parent.run_id}/trigger", call)).status_code == 200
    path = f"/api/v1/runs/{child_id}/metadata"
    change = [{"type": "set", "key": "a", "value": 1}]
    for more, statuses in (([], (200, 403, 403)), ([f"write:runs:{parent.run_id}"], (200, 200, 200))):
        key = (await client.create_key("of one run", scopes=[f"write:runs:{child_id}", *more]))["key"]
        for whose, status in zip(("operations", "parentOperations", "rootOperations"), statuses, strict=True):
            answer = await ask(url, "PUT", path, {whose: change}, authorization=f"Bearer {key}")
            assert answer.status_code == status, (whose, answer.text)
        assert (await client.run(parent.run_id)).get("metadata") == ({"a": 1} if more else None)


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

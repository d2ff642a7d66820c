"""What a dashboard begins with: the list of batches, runs counted over time; and batches as older clients send them."""

from typing import Any

import httpx2
import pytest
from fake_worker import KEY, FakeWorker

from torpor.errors import ApiError
from torpor.sdk.async_client import AsyncClient

pytestmark = pytest.mark.anyio


async def post_batch(url: str, items: list[Any], **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}", **headers}) as http:
        return await http.post("/api/v2/tasks/batch", json={"items": items})


async def status_for(url: str, batch_id: str, version: str) -> str:
    """The status as a client of this version is told, which knows two before 4.3."""
    headers = {"authorization": f"Bearer {KEY}", "trigger-version": version}
    async with httpx2.AsyncClient(base_url=url, headers=headers) as http:
        return (await http.get(f"/api/v2/batches/{batch_id}")).json()["status"]


async def test_a_batch_of_an_older_client_comes_whole(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    """A1: items in one body; one that can't be had fails by itself."""
    items = [
        {"task": "echo", "payload": '{"json":{"n":1}}', "options": {"payloadType": "application/super+json"}},
        {"task": "unknown"},
        {"task": "echo", "options": {"tags": ["t"]}},
    ]
    response = await post_batch(url, items, **{"x-trigger-request-idempotency-key": "once", "idempotency-key": "k"})
    made = response.json()
    assert (response.status_code, made["runCount"], made["isCached"]) == (202, 3, False)
    assert response.headers["x-trigger-jwt"]
    again = await post_batch(url, items, **{"x-trigger-request-idempotency-key": "once", "idempotency-key": "k"})
    assert again.json() == made
    assert (await post_batch(url, items, **{"idempotency-key": "k"})).json() == made | {"isCached": True}
    batch = await client.batch(made["id"])
    assert [error["index"] for error in batch["processing"]["errors"]] == [1]
    first, second = [await client.run(run_id) for run_id in batch["runs"]]
    assert (first["payload"], first["triggerFunction"], second["tags"]) == ({"n": 1}, "batchTrigger", ["t"])
    assert (await post_batch(url, [{"payload": 1}])).status_code == 400
    assert (await post_batch(url, [])).json()["runCount"] == 0


async def test_batches_are_listed_by_status_with_what_is_left_of_them(
    client: AsyncClient, worker: FakeWorker, url: str
) -> None:
    done = (await client.batch_trigger("echo", [1]))["id"]
    await worker.finish(await worker.take_and_start())
    partial = (await post_batch(url, [{"task": "echo"}, {"task": "unknown"}])).json()["id"]
    await worker.finish(await worker.take_and_start())
    failed = (await post_batch(url, [{"task": "unknown"}])).json()["id"]
    working = (await client.batch_trigger("echo", [1, 2]))["id"]
    await worker.finish((await worker.dequeue(5, free=1))[0])
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        opened = (await http.post("/api/v3/batches", json={"runCount": 3})).json()["id"]
    expected = {
        "COMPLETED": (done, {"items": 1, "pending": 0, "failedItems": 0}),
        "PARTIAL_FAILED": (partial, {"items": 2, "pending": 0, "failedItems": 1}),
        "ABORTED": (failed, {"items": 1, "pending": 0, "failedItems": 1}),
        "PROCESSING": (working, {"items": 2, "pending": 1, "failedItems": 0}),
        "PENDING": (opened, {"items": 0, "pending": 3, "failedItems": 0}),
    }
    for status, (batch_id, counts) in expected.items():
        (found,) = [one async for one in client.batches(status=status)]
        assert (found["id"], found["status"], found["counts"]) == (batch_id, status, counts)
        assert (await client.batch(batch_id))["status"] == status
        assert await status_for(url, batch_id, "4.3.0") == status
        assert await status_for(url, batch_id, "4.2.0") == (
            "PENDING" if status in ("PENDING", "PROCESSING") else "COMPLETED"
        )
    assert [one["id"] async for one in client.batches(page_size=2)] == [opened, working, failed, partial, done]
    assert [one async for one in client.batches(status="PENDING", until="2000-01-01")] == []
    with pytest.raises(ApiError, match="'DONE' is not a status"):
        [one async for one in client.batches(status="DONE")]


async def test_runs_are_counted_over_time_by_status(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    await client.trigger("echo")
    await worker.finish(await worker.take_and_start())
    await client.trigger("mail/send", {"user": {"email": "a"}}, delay="1h")
    await client.trigger("echo")
    counted = await client.run_counts("2h", "30m")
    assert len(counted) == 5
    assert {
        status: sum(one["counts"].get(status, 0) for one in counted) for status in ("COMPLETED", "QUEUED", "DELAYED")
    } == {
        "COMPLETED": 1,
        "QUEUED": 1,
        "DELAYED": 1,
    }
    assert sum(one["total"] for one in counted) == 3
    assert all(one["from"].endswith(("00:00Z", "30:00Z")) for one in counted)
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        of_task = (await http.get("/api/v1/runs/counts", params={"filter[taskIdentifier]": "echo,none"})).json()
        assert (sum(one["total"] for one in of_task["data"]), of_task["bucketSeconds"]) == (2, 3600)
        for query in ({"period": "1y"}, {"bucket": "0s"}, {"period": "30d", "bucket": "1m"}, {"filter[tag]": "a"}):
            assert (await http.get("/api/v1/runs/counts", params=query)).status_code in (400, 422), query

"""Batches over HTTP: as the official client fills them, and what goes wrong on the way."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest
from facts import PATIENCE_S
from fake_worker import KEY, FakeWorker, Start

from torpor import BatchItem, task
from torpor.config import Settings
from torpor.sdk.async_client import AsyncClient
from torpor.sdk.client import Client
from torpor.wire import http as wire
from torpor.wire.runner import NewWait

pytestmark = pytest.mark.anyio

SUPER_JSON = {"payloadType": "application/super+json"}


class Http:
    """A client that isn't ours."""

    def __init__(self, url: str) -> None:
        self._http = httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60)

    async def __aenter__(self) -> "Http":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def open(self, body: dict[str, Any], **headers: str) -> httpx2.Response:
        return await self._http.post("/api/v3/batches", json=body, headers=headers)

    async def opened(self, run_count: int | None) -> str:
        body: dict[str, Any] = {} if run_count is None else {"runCount": run_count}
        return (await self.open(body)).json()["id"]

    async def send(self, batch_id: str, body: Any, query: str = "", kind: str = "application/x-ndjson") -> Any:
        return await self._http.post(
            f"/api/v3/batches/{batch_id}/items{query}", content=body, headers={"content-type": kind}
        )

    async def get(self, path: str) -> httpx2.Response:
        return await self._http.get(path)

    async def batch(self, batch_id: str) -> dict[str, Any]:
        return (await self.get(f"/api/v2/batches/{batch_id}")).json()


@pytest.fixture
async def http(url: str) -> AsyncIterator[Http]:
    async with Http(url) as http:
        yield http


def ndjson(*items: dict[str, Any]) -> bytes:
    return b"".join(msgspec.json.encode(item) + b"\n" for item in items)


def item(index: int, task: str = "echo", **more: Any) -> dict[str, Any]:
    return {"index": index, "task": task, **more}


async def eventually(http: Http, batch_id: str, status: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while (batch := await http.batch(batch_id))["status"] != status:
            await asyncio.sleep(0.02)
    return batch


async def test_the_official_clients_two_phases(http: Http, client: AsyncClient, worker: FakeWorker) -> None:
    """B1, G2: create, then one stream of items; each with options of its own."""
    made = await http.open({"runCount": 3, "taskIdentifiers": ["echo"]})
    assert made.status_code == 202
    batch_id = made.json()["id"]
    assert made.json() == {"id": batch_id, "runCount": 3, "isCached": False}

    async def stream() -> AsyncIterator[bytes]:
        body = ndjson(
            item(0, payload='{"json":{"n":0}}', options={**SUPER_JSON, "tags": ["b"], "metadata": {"n": 0}}),
            item(1, payload={"n": 1}),
            item(2),
        )
        for start in range(0, len(body), 7):  # as TCP may cut it
            yield body[start : start + 7]

    sent = await http.send(batch_id, stream())
    assert sent.status_code == 200
    told = sent.json()
    assert told == {
        "id": batch_id,
        "itemsAccepted": 3,
        "itemsDeduplicated": 0,
        "sealed": True,
        "runCount": 3,
        "enqueuedCount": 3,
        "expectedCount": 3,
    }
    batch = await http.batch(batch_id)
    assert (batch["status"], batch["runCount"], batch["processing"]["errors"]) == ("PROCESSING", 3, [])
    assert (await http.get(f"/api/v1/batches/{batch_id}")).json() == batch
    runs = [await client.run(run_id) for run_id in batch["runs"]]
    assert [run.get("payload") for run in runs] == [{"n": 0}, {"n": 1}, None]
    assert [(run["batchId"], run["triggerFunction"]) for run in runs] == [(batch_id, "batchTrigger")] * 3
    assert (runs[0]["tags"], runs[0]["metadata"]) == (["b"], {"n": 0})
    assert {run["id"] async for run in client.runs(batch=batch_id)} == set(batch["runs"])
    assert [run async for run in client.runs(batch="batch_other")] == []


async def test_failed_items_and_results(http: Http, worker: FakeWorker) -> None:
    """B3: the batch is PARTIAL_FAILED, says which items failed and why, and the others have their results."""
    batch_id = await http.opened(5)
    body = ndjson(
        item(0, payload=1),
        item(1, "mail/send", payload={}),
        item(2, "ecco"),
        item(3, options={"delay": "soon"}),
        item(4, payload=4),
    )
    assert (await http.send(batch_id, body)).json()["sealed"]
    for given in await worker.dequeue(wait_s=5):
        await worker.start(given)
        if bytes(given.payload) == b"1":
            await worker.finish(given, {"n": 1})
        else:
            await worker.fail(given, "no", retryable=False)
    batch = await eventually(http, batch_id, "PARTIAL_FAILED")
    errors = {one["index"]: one["error"] for one in batch["processing"]["errors"]}
    assert errors.keys() == {1, 2, 3}
    assert errors[1] == 'the payload doesn\'t fit task "mail/send": user: is missing'
    assert errors[2] == 'Task not found: "ecco"; did you mean echo?'
    assert errors[3].startswith("options.delay:")
    assert len(batch["runs"]) == 2
    items = (await http.get(f"/api/v1/batches/{batch_id}/results")).json()["items"]
    assert [(one["index"], one["ok"], one["taskIdentifier"]) for one in items] == [
        (0, True, "echo"),
        (1, False, "mail/send"),
        (2, False, "ecco"),
        (3, False, "echo"),
        (4, False, "echo"),
    ]
    assert items[0]["output"] == '{"n":1}'
    assert items[4]["error"]["message"] == "no"
    assert items[2]["error"]["raw"] == errors[2]


async def test_a_batch_whose_runs_all_completed(http: Http, worker: FakeWorker) -> None:
    """B3: PENDING, PROCESSING, COMPLETED."""
    batch_id = await http.opened(1)
    assert (await http.batch(batch_id))["status"] == "PENDING"
    assert (await http.get(f"/api/v1/batches/{batch_id}/results")).json()["items"] == []
    await http.send(batch_id, ndjson(item(0)))
    assert (await http.batch(batch_id))["status"] == "PROCESSING"
    await worker.finish(await worker.take_and_start())
    await eventually(http, batch_id, "COMPLETED")
    assert (await http.get("/api/v2/batches/batch_unknown")).status_code == 404
    assert (await http.get("/api/v1/batches/batch_unknown/results")).status_code == 404


async def test_a_stream_that_is_sent_again_counts_once(http: Http, worker: FakeWorker) -> None:
    """G15: a retry resends everything, also after the batch was sealed."""
    batch_id = await http.opened(3)
    assert not (await http.send(batch_id, ndjson(item(0), item(1)))).json()["sealed"]
    again = (await http.send(batch_id, ndjson(item(0), item(1), item(2)))).json()
    assert (again["itemsAccepted"], again["itemsDeduplicated"], again["sealed"]) == (1, 2, True)
    late = (await http.send(batch_id, ndjson(item(0), item(1), item(2)))).json()
    assert (late["itemsAccepted"], late["itemsDeduplicated"], late["sealed"]) == (0, 3, True)
    assert len((await http.batch(batch_id))["runs"]) == 3


async def test_a_repeated_create_is_the_same_batch_and_a_known_key_is_cached(http: Http, worker: FakeWorker) -> None:
    """G15: the request's own key holds for lost answers; the idempotency key for whoever asks again."""
    asked = {"runCount": 1, "idempotencyKey": "k", "idempotencyKeyOptions": {"key": "raw", "scope": "global"}}
    call = {"x-trigger-request-idempotency-key": "one"}
    first, second = await http.open(asked, **call), await http.open(asked, **call)
    assert first.json() == second.json()
    assert first.json()["idempotencyKey"] == "k"
    other = await http.open(asked)
    assert (other.status_code, other.json()["isCached"]) == (202, False), "it still lacks its items"
    await http.send(first.json()["id"], ndjson(item(0)))
    cached = await http.open(asked)
    assert (cached.status_code, cached.json()["isCached"]) == (200, True)
    assert cached.json()["id"] == first.json()["id"]


async def test_items_that_nobody_counted(http: Http, worker: FakeWorker) -> None:
    """G15: our own extension: no runCount, and the last request seals."""
    batch_id = await http.opened(None)
    assert not (await http.send(batch_id, ndjson(item(0)))).json()["sealed"]
    told = (await http.send(batch_id, ndjson(item(1), item(2, "ecco")), "?seal=true&runs=true")).json()
    assert (told["sealed"], told["runCount"]) == (True, 3)
    assert [set(one) for one in told["items"]] == [{"index", "id"}, {"index", "error"}]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"index":0,"task":"echo"}\n{"index":', 400, "line 2: Invalid JSON"),
        (b'\n{"index":-1,"task":"echo"}', 422, "line 2: index"),
        (b'{"task":"echo"}', 422, "line 1: the item doesn't fit"),
        (b'{"index":1,"task":"echo"}', 422, "the batch was announced with 1 items"),
    ],
)
async def test_a_wrong_item_is_refused(http: Http, worker: FakeWorker, body: bytes, status: int, says: str) -> None:
    batch_id = await http.opened(1)
    refused = await http.send(batch_id, body)
    assert (refused.status_code, says in refused.json()["error"]) == (status, True), refused.text
    assert (await http.batch(batch_id))["runs"] == []


async def test_other_refusals(http: Http, worker: FakeWorker) -> None:
    batch_id = await http.opened(1)
    assert (await http.send(batch_id, b"{}", kind="application/json")).status_code == 415
    assert (await http.send("batch_unknown", ndjson(item(0)))).status_code == 422
    assert (await http.open({"runCount": -1})).status_code == 422
    assert (await http.open({"runCount": 1, "parentRunId": "run_1"})).status_code == 422
    await http.send(batch_id, b'{"index":0,"task":"echo"}')  # no newline at the end
    assert (await http.send(batch_id, ndjson(item(0), item(1)))).status_code == 422


async def test_an_item_that_is_too_large_fails_by_itself(http: Http, worker: FakeWorker) -> None:
    """B3: it doesn't fail the upload."""
    batch_id = await http.opened(2)
    told = (await http.send(batch_id, ndjson(item(0, payload="x" * Settings().max_request_bytes), item(1)))).json()
    assert told["sealed"]
    (error,) = (await http.batch(batch_id))["processing"]["errors"]
    assert (error["index"], error["taskIdentifier"]) == (0, "echo")
    assert "3145728 bytes" in error["error"]


async def test_a_run_waits_for_its_batch_and_reads_results_in_pages(worker: FakeWorker, client: AsyncClient) -> None:
    """B4, G3: through its worker: one wait, one answer, results in order."""
    await client.trigger("echo", "parent")
    parent = await worker.take_and_start()
    path = f"runs/{parent.run_id}/batches"
    made = await worker.say(path, wire.BatchCall("batch_1", parent.lease, None), wire.BatchReply)
    assert made == wire.BatchReply("batch_1", False, False)
    chunk = [wire.BatchItemCall(index, "echo", msgspec.Raw(b"%d" % index)) for index in range(3)]
    chunk.append(wire.BatchItemCall(3, "echo", error="it can't be JSON"))
    call = wire.BatchItemsCall("batch_1", chunk, parent.lease, seal=True, waits=True)
    added = await worker.say(f"{path}/items", call, wire.BatchItemsReply)
    assert (added.is_sealed, added.run_count, added.items[3].error) == (True, 4, "it can't be JSON")
    assert len((await worker.block(parent, NewWait("wait_1", "batch", batch_id="batch_1"))).open) == 1
    heard = await worker.listen()
    for given in await worker.dequeue(wait_s=5):
        assert given.context.run_id in {one.run_id for one in added.items}
        await worker.start(given)
        await worker.finish(given, msgspec.json.decode(bytes(given.payload)))
    async with asyncio.timeout(PATIENCE_S):
        assert (await heard.get()).kind == "answered"
    (answer,) = (await worker.collect(parent, "wait_1")).answers
    assert [one["status"] for one in msgspec.json.decode(answer.output)] == ["COMPLETED"] * 3 + [None]
    asked = wire.BatchResultsCall("batch_1", parent.lease)
    results = await worker.say(f"{path}/results", asked, wire.BatchResultsReply)
    assert [(one.index, one.status, bytes(one.output)) for one in results.items[:3]] == [
        (index, "COMPLETED", b"%d" % index) for index in range(3)
    ]
    assert results.items[3].error is not None
    assert results.next is None
    child = await client.run(added.items[0].run_id or "")
    assert child["triggerFunction"] == "batchTriggerAndWait"
    assert child["relatedRuns"]["parent"]["id"] == parent.run_id
    stale = wire.BatchResultsCall("batch_1", parent.lease - 1)
    assert (await worker.post(f"{path}/results", stale)).status_code == 410
    void = wire.BatchItemsCall("batch_1", [], parent.lease - 1)
    assert (await worker.post(f"{path}/items", void)).status_code == 410


async def test_the_server_aborts_batches_by_itself(
    start: Start, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B2: the duty is registered."""
    from torpor.engine import batch
    from torpor.server import loops

    monkeypatch.setattr(loops, "ABORT_INTERVAL_S", 0.05)
    monkeypatch.setattr(batch.abort_batches, "__kwdefaults__", {"after_s": 0.0, "limit": 20})
    async with Http(await start(database_url)) as http:
        batch_id = await http.opened(2)
        aborted = await eventually(http, batch_id, "ABORTED")
        assert [one["error"][:20] for one in aborted["processing"]["errors"]] == ["this item never came"] * 2


# -- through our own client --------------------------------------------------------------------------------------------


@task(id="echo")
def echo(value: Any) -> Any:
    return value


@pytest.fixture
def outside(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that triggers, such as a web application."""
    monkeypatch.setenv("TORPOR_API_URL", url)
    monkeypatch.setenv("TORPOR_SECRET_KEY", KEY)


async def test_a_task_triggers_a_batch_from_outside(outside: None, http: Http, worker: FakeWorker) -> None:
    """B1, G2, G15: from an async iterator of any length, in two phases, in chunks."""

    async def values() -> AsyncIterator[Any]:
        for number in range(1200):
            yield echo.options(delay="soon").item(number) if number == 7 else number

    with pytest.raises(ValueError, match="soon"):
        await echo.batch_trigger(values())

    async def good_values() -> AsyncIterator[Any]:
        for number in range(1200):
            yield BatchItem("ecco") if number == 7 else number

    batch = await echo.batch_trigger(good_values())
    assert batch.errors == {7: 'Task not found: "ecco"; did you mean echo?'}
    assert len(batch.run_ids) == 1199
    told = await batch.retrieve()
    assert (told["status"], told["runCount"], told["runs"]) == ("PROCESSING", 1200, batch.run_ids)


async def test_a_blocking_process_triggers_a_batch(outside: None, worker: FakeWorker, client: AsyncClient) -> None:
    """G2: and a key that is known gives the same batch."""
    first = await asyncio.to_thread(lambda: echo.sync.batch_trigger([1, 2], idempotency_key="k"))
    again = await asyncio.to_thread(lambda: echo.sync.batch_trigger([3], idempotency_key="k"))
    assert (again.id, again.run_ids, again.is_cached) == (first.id, first.run_ids, True)
    assert (await echo.batch_trigger([])).run_ids == []


async def test_a_client_triggers_and_reads_a_batch(url: str, worker: FakeWorker, client: AsyncClient) -> None:
    """G2, B3: by the name of the task."""

    def trigger() -> dict[str, Any]:
        with Client(url, KEY) as blocking:
            return blocking.batch_trigger("echo", iter([1, {2}, object()]), tags=["t"])

    made = await asyncio.to_thread(trigger)
    assert [error["index"] for error in made["errors"]] == [2]
    assert "can't be JSON" in made["errors"][0]["error"]
    for given in await worker.dequeue(wait_s=5):
        await worker.start(given)
        await worker.finish(given, "done")
    async with asyncio.timeout(PATIENCE_S):
        while (await client.batch(made["id"]))["status"] != "PARTIAL_FAILED":
            await asyncio.sleep(0.02)
    results = [result async for result in client.batch_results(made["id"])]
    assert [(result["index"], result["ok"]) for result in results] == [(0, True), (1, True), (2, False)]
    run = await client.run(made["runs"][0])
    assert run["tags"] == ["t"]
    other = await client.batch_trigger("echo", [1])
    assert other.keys() == {"id", "isCached", "runs", "errors"}


async def test_results_are_paged(
    http: Http, worker: FakeWorker, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B3: a page ends after some megabytes of outputs."""
    monkeypatch.setattr(wire, "RESULTS_BYTES", 1000)
    made = await client.batch_trigger("echo", range(5))
    for given in await worker.dequeue(wait_s=5):
        await worker.start(given)
        await worker.finish(given, "x" * 600)
    first = (await http.get(f"/api/v1/batches/{made['id']}/results")).json()
    assert (len(first["items"]), first["pagination"]) == (1, {"next": "0"})
    assert [one["index"] async for one in client.batch_results(made["id"])] == [0, 1, 2, 3, 4]

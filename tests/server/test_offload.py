"""G14: large payloads and outputs are kept in the object store, and nobody notices."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import msgspec
import pytest
from fake_worker import KEY, FakeWorker, Start

from torpor.clock import SystemClock
from torpor.config import Settings
from torpor.sdk.async_client import AsyncClient
from torpor.server import offload, pruning
from torpor.server.hub import Hub
from torpor.store.database import Database
from torpor.wire import http as wire
from torpor.wire.runner import NewWait

pytestmark = pytest.mark.anyio

LARGE = {"text": "x" * 2000}
SMALL = {"text": "x" * 10}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def url(start: Start, database_url: str, data_dir: Path) -> str:
    return await start(database_url, data_dir=data_dir, offload_bytes=1000)


@pytest.fixture
async def hub(url: str, database_url: str, data_dir: Path) -> AsyncIterator[Hub]:
    """What a duty of that server would have in hand."""
    database = await Database.connect(database_url)
    yield Hub(Settings(data_dir=data_dir, offload_bytes=1000), database, SystemClock())
    await database.close()


def objects(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "objects").glob("*/*"))


async def rows(database_url: str, statement: str) -> list[Any]:
    connection = await asyncpg.connect(database_url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def get_payload(worker: FakeWorker, given: wire.Assignment) -> httpx2.Response:
    return await worker.post(f"runs/{given.run_id}/payload", wire.PayloadCall(given.lease))


async def test_a_large_payload_and_output_go_through(
    client: AsyncClient, worker: FakeWorker, data_dir: Path, database_url: str
) -> None:
    run_id = (await client.trigger("echo", LARGE))["id"]
    given = await worker.take_and_start()
    assert (given.payload_is_large, bytes(given.payload)) == (True, b"null")
    assert (await get_payload(worker, given)).json() == LARGE
    assert await worker.finish(given, [LARGE]) == "ok"
    run = await client.run(run_id)
    assert (run["payload"], run["output"]) == (LARGE, [LARGE])
    assert await client.result(run_id) == [LARGE]
    assert await rows(database_url, "select payload, output from runs") == [(None, None)]
    assert len(objects(data_dir)) == 2


async def test_small_ones_stay_in_their_row(client: AsyncClient, worker: FakeWorker, data_dir: Path) -> None:
    run_id = (await client.trigger("echo", SMALL))["id"]
    given = await worker.take_and_start()
    assert (given.payload_is_large, msgspec.json.decode(given.payload)) == (False, SMALL)
    await worker.finish(given, SMALL)
    assert (await client.run(run_id))["output"] == SMALL
    assert objects(data_dir) == []


async def test_a_large_payload_that_does_not_fit_is_refused_at_the_door(
    client: AsyncClient, worker: FakeWorker
) -> None:
    with pytest.raises(Exception, match="user"):
        await client.trigger("mail/send", LARGE)


async def test_a_parent_in_memory_gets_its_childs_large_output(client: AsyncClient, worker: FakeWorker) -> None:
    await client.trigger("echo")
    parent = await worker.take_and_start()
    child_id = (await client.trigger("echo"))["id"]
    await worker.block(parent, NewWait("w", "run", run_id=child_id))
    await worker.finish(await worker.take_and_start(), LARGE)
    (answer,) = (await worker.collect(parent, "w")).answers
    assert (msgspec.json.decode(answer.output), answer.output_object) == (LARGE, None)


async def test_a_frozen_parent_collects_it_once_it_is_back(client: AsyncClient, worker: FakeWorker) -> None:
    await client.trigger("echo")
    parent = await worker.take_and_start()
    child_id = (await client.trigger("echo"))["id"]
    token = (await client.create_token())["id"]
    waits = [NewWait("w", "run", run_id=child_id), NewWait("t", "token", waitpoint_id=token)]
    await worker.block(parent, *waits)
    child = await worker.take_and_start()
    assert await worker.suspend(parent) == "suspended"
    await worker.finish(child, LARGE)
    restored = await worker.take()
    assert restored.answers == [], "not with the assignment"
    await worker.start(restored)
    (answer,) = (await worker.collect(restored, "w", "t")).answers
    assert msgspec.json.decode(answer.output) == LARGE


async def test_a_wait_for_what_has_ended_before_is_answered_with_it(client: AsyncClient, worker: FakeWorker) -> None:
    child_id = (await client.trigger("echo"))["id"]
    await worker.finish(await worker.take_and_start(), LARGE)
    await client.trigger("echo")
    given = await worker.take_and_start()
    (answer,) = (await worker.block(given, NewWait("w", "run", run_id=child_id))).answers
    assert msgspec.json.decode(answer.output) == LARGE


async def test_a_token_may_be_completed_with_much(client: AsyncClient, worker: FakeWorker, data_dir: Path) -> None:
    token = (await client.create_token())["id"]
    await client.trigger("echo")
    given = await worker.take_and_start()
    await worker.block(given, NewWait("w", "token", waitpoint_id=token))
    await client.complete_token(token, LARGE)
    (answer,) = (await worker.collect(given, "w")).answers
    assert msgspec.json.decode(answer.output) == LARGE
    assert len(objects(data_dir)) == 1


async def test_what_is_missing_is_said(client: AsyncClient, worker: FakeWorker, data_dir: Path) -> None:
    """As on a server that does not share the store of the one that has put it."""
    await client.trigger("echo", LARGE)
    child_id = (await client.trigger("echo"))["id"]
    given = await worker.dequeue()
    for one in given:
        await worker.start(one)
    large, child = sorted(given, key=lambda one: not one.payload_is_large)
    await worker.finish(child, LARGE)
    for file in objects(data_dir):
        file.unlink()
    assert (await get_payload(worker, large)).status_code == 410
    (answer,) = (await worker.block(large, NewWait("w", "run", run_id=child_id))).answers
    assert answer.status == "failed"
    assert answer.error is not None
    assert answer.error.name == "OutputMissing"
    run = await client.run(child_id)
    assert (run["status"], "output" in run) == ("COMPLETED", False)


async def test_a_store_that_is_down_is_a_503_that_changes_nothing(
    client: AsyncClient, worker: FakeWorker, data_dir: Path, database_url: str
) -> None:
    await client.trigger("echo")
    given = await worker.take_and_start()
    data_dir.mkdir(exist_ok=True)
    (data_dir / "objects").write_text("no directory")  # makes every write fail
    report = wire.FinishReport(given.lease, "completed", msgspec.Raw(msgspec.json.encode(LARGE)))
    assert (await worker.post(f"runs/{given.run_id}/finish", report)).status_code == 503
    assert await rows(database_url, "select state from runs") == [("executing",)]
    (data_dir / "objects").unlink()
    assert await worker.finish(given, LARGE) == "ok", "said again"


async def test_objects_go_with_their_run_and_what_no_row_names_after_a_day(
    client: AsyncClient, worker: FakeWorker, hub: Hub, data_dir: Path, database_url: str
) -> None:
    await client.trigger("echo", LARGE)
    await worker.finish(await worker.take_and_start(), LARGE)
    kept = (await client.trigger("echo", LARGE))["id"]
    environment_id = (await rows(database_url, "select id from environments"))[0][0]
    await offload.stow(hub, environment_id, "run_lost", "payload", b"x" * 2000)  # and then it crashed
    assert len(objects(data_dir)) == 4
    assert await offload.sweep(hub) == 0, "its row may be on its way"
    await rows(database_url, "update runs set finished_at = now() - interval '31 days' where finished_at is not null")
    await pruning.prune(hub, pause_s=0)
    assert len(objects(data_dir)) == 2
    offload_grace, offload.GRACE_S = offload.GRACE_S, -60.0
    try:
        assert await offload.sweep(hub) == 1
    finally:
        offload.GRACE_S = offload_grace
    (left,) = objects(data_dir)
    assert left.name.startswith(f"{kept}-payload-")


async def test_batch_results_bring_large_outputs(url: str, client: AsyncClient, worker: FakeWorker) -> None:
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        made = (await http.post("/api/v3/batches", json={"runCount": 2})).json()
        lines = [{"index": n, "task": "echo", "payload": LARGE} for n in range(2)]
        body = b"\n".join(msgspec.json.encode(line) for line in lines)
        ndjson = {"content-type": "application/x-ndjson"}
        sent = await http.post(f"/api/v3/batches/{made['id']}/items", content=body, headers=ndjson)
        assert sent.status_code == 200, sent.text
        for given in await worker.dequeue():
            assert given.payload_is_large
            await worker.start(given)
            await worker.finish(given, LARGE)
        page = (await http.get(f"/api/v1/batches/{made['id']}/results")).json()
    assert [msgspec.json.decode(item["output"]) for item in page["items"]] == [LARGE, LARGE]

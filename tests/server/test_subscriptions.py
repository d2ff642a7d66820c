"""Realtime from Python: both clients, until what they follow is over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_worker import KEY, TOKEN, FakeWorker, Start
from hands import at_work

from ports import kept_port
from torpor.config import Settings
from torpor.errors import NotFound
from torpor.sdk.async_client import AsyncClient
from torpor.sdk.client import Client
from torpor.server.serve import serve
from torpor.wire.http import Assignment

pytestmark = pytest.mark.anyio


async def test_a_run_is_told_by_the_names_of_a_run_until_it_has_ended(client: AsyncClient, worker: FakeWorker) -> None:
    tags = ["plain", 'with "quotes", a comma and \\']
    made = await client.trigger("echo", {"n": 1}, tags=tags, metadata={"k": None})
    told: list[dict[str, Any]] = []
    given: list[Assignment] = []
    async for run in client.subscribe(made["id"]):
        told.append(run)
        if run["status"] == "QUEUED":
            given.append(await worker.take_and_start())
        elif run["status"] == "EXECUTING":
            await worker.finish(given[0], [1])
    assert [run["status"] for run in told if run["status"] != "DEQUEUED"] == ["QUEUED", "EXECUTING", "COMPLETED"]
    whole = await client.run(made["id"])
    last = told[-1]
    names = ("id", "taskIdentifier", "payload", "output", "tags", "metadata", "isCompleted", "isSuccess", "isFailed")
    assert {name: last[name] for name in names} == {name: whole[name] for name in names}
    assert last["createdAt"][:19] == whole["createdAt"][:19]
    assert "error" not in last
    assert None not in last.values()


async def test_a_run_that_fails_is_told_with_its_error(client: AsyncClient, worker: FakeWorker) -> None:
    made = await client.trigger("echo")
    await worker.fail(await worker.take_and_start(), "no", retryable=False)
    (run,) = [run async for run in client.subscribe(made["id"], skip=["payload"])]
    assert run["error"] == {"name": "ValueError", "message": "no", "stackTrace": "Traceback …"}
    assert run["isFailed"]
    with pytest.raises(NotFound):
        await anext(aiter(client.subscribe("run_unknown")))


async def test_a_blocking_client_follows_a_batch_until_it_is_over(url: str) -> None:
    def follow() -> tuple[list[str], list[Any]]:
        with Client(url, KEY) as client:
            batch = client.batch_trigger("echo", [1, 2, 3])
            ended = {run["id"]: run["output"] for run in client.subscribe_to_batch(batch["id"]) if run["isCompleted"]}
            return client.batch(batch["id"])["runs"], [*ended.values()]

    async with at_work(url):
        runs, outputs = await asyncio.to_thread(follow)
    assert (len(runs), sorted(outputs)) == (3, [1, 2, 3])


async def test_a_tag_is_followed_for_ever(client: AsyncClient, worker: FakeWorker) -> None:
    seen: list[Any] = []
    for n in range(3):
        await client.trigger("echo", n, tags=["a", "b"])
    async for run in client.subscribe_to_tag(["a", "b"], period="1h"):
        seen.append(run["payload"])
        if len(seen) == 3:
            await client.trigger("echo", 3, tags=["b", "a"])
        if len(seen) == 4:
            break
    assert sorted(seen) == [0, 1, 2, 3]


async def test_large_payloads_and_outputs_are_fetched(start: Start, database_url: str) -> None:
    url = await start(database_url, offload_bytes=10)
    async with at_work(url), AsyncClient(url, KEY) as client:
        made = await client.trigger("echo", "a long payload")
        *_, run = [run async for run in client.subscribe(made["id"])]
        assert (run["payload"], run["output"]) == ("a long payload", "a long payload")


async def test_a_server_that_is_away_is_waited_for(database_url: str, tmp_path: Path) -> None:
    """It is stopped while a request is held, and comes back under the same address."""
    settings = Settings(port=kept_port(), secret_key=KEY, worker_token=TOKEN, data_dir=tmp_path / "data")
    told: asyncio.Queue[str] = asyncio.Queue()

    async def follow(client: AsyncClient, run_id: str) -> None:
        async for run in client.subscribe(run_id):
            told.put_nowait(run["status"])

    async with serving(settings, database_url) as url:
        worker, client = FakeWorker(url), AsyncClient(url, KEY)
        await worker.come_up()
        await worker.close()
        made = await client.trigger("echo", delay="1h")
        following = asyncio.create_task(follow(client, made["id"]))
        assert await told.get() == "DELAYED"
    async with serving(settings, database_url), client:
        assert not following.done()
        await client.cancel(made["id"])
        assert await told.get() == "CANCELED"
        await following


@asynccontextmanager
async def serving(settings: Settings, database_url: str) -> AsyncIterator[str]:
    """A server, until the end of the block."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(settings, database_url, stop=stop, ready=ready.set_result))
    try:
        yield await ready
    finally:
        stop.set()
        await server

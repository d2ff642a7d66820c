"""Environments are made, renamed and deleted through the API: what holds of their keys, their workers and what is in them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from ahead import Ahead
from facts import PATIENCE_S
from fake_worker import KEY, TOKEN, FakeWorker, Start, manifest

from torpor import ids
from torpor.config import Settings
from torpor.errors import Unauthorized, Unprocessable
from torpor.sdk.async_client import AsyncClient
from torpor.server.hub import Hub
from torpor.server.removal import remove_deleted
from torpor.store.database import Database
from torpor.wire import http as wire

pytestmark = pytest.mark.anyio


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def url(start: Start, database_url: str, data_dir: Path) -> str:
    return await start(database_url, data_dir=data_dir, offload_bytes=1000)


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url, KEY) as client:
        yield client


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def refused(asked: Any) -> str:
    with pytest.raises(Unprocessable) as caught:
        await asked
    return str(caught.value)


async def test_a_renamed_environment_keeps_its_keys_and_its_workers_and_a_new_worker_is_told(
    client: AsyncClient, url: str
) -> None:
    made = await client.create_environment("prod", project="shop", new_project=True)
    worker, late = (FakeWorker(url, TOKEN, "prod", "shop") for _ in range(2))
    await worker.come_up([manifest("echo")])
    async with AsyncClient(url, made["key"]) as prod:
        run = await prod.trigger("echo", 1)
        given = await worker.take_and_start()
        assert (await client.rename_environment(made["id"], "live"))["name"] == "live"
        assert [each["name"] for each in await client.rename_project("shop", "store")] == ["live"]
        assert (await prod.whoami())["project"] == "store"
        assert await worker.finish(given, "done") == "ok"
        assert (await prod.run(run["id"]))["status"] == "COMPLETED"
        await worker.come_up([manifest("echo")])  # one that the server had lost says hello again
    answer = await late.post("hello", wire.Introduction(late.worker_id, late.instance_id, "host", 1, True, {}))
    assert answer.status_code == 401
    assert "start this worker with TORPOR_PROJECT=store TORPOR_ENVIRONMENT=live" in answer.text
    # As long as a worker comes by the old name nobody else may have it: it would be taken for his.
    assert "start them anew first" in await refused(client.create_environment("prod", project="shop", new_project=True))
    worker.instance_id = ids.new("instance")
    answer = await worker.post("hello", wire.Introduction(worker.worker_id, worker.instance_id, "host", 1, True, {}))
    assert answer.status_code == 401
    # An old address of the dashboard leads on.
    link = await client.create_sign_in_link()
    async with httpx2.AsyncClient(base_url=url, headers={"accept": "text/html"}, follow_redirects=True) as browser:
        await browser.post(link["url"])
        page = await browser.get("/queues", params={"environment": "shop/live"})
        assert str(page.url) == f"{url}/queues?environment=store/live"
    for each in (worker, late):
        await each.close()


async def test_names_that_cannot_be_are_refused_and_the_servers_own_stays(client: AsyncClient) -> None:
    [own] = await client.environments()
    assert (own["project"], own["name"], own["isOwn"]) == ("default", "dev", True)
    made = await client.create_environment("prod")
    await client.create_environment("prod", project="shop", new_project=True)
    for asked, why in (
        (client.create_environment("prod"), "an environment prod in default already"),
        (client.create_environment("prod", project="ship"), "no project ship"),
        (client.create_environment("prod", project="shop", new_project=True), "a project shop already"),
        (client.create_environment("Prod!"), "small letters"),
        (client.create_environment("default"), "what paths call"),
        (client.rename_environment(made["id"], "dev"), "there is an environment dev"),
        (client.rename_environment(own["id"], "mine"), "keeps its name"),
        (client.rename_project("shop", "default"), "a project default already"),
        (client.rename_project("default", "mine"), "keeps its name"),
        (client.delete_environment(own["id"]), "can't be deleted"),
        (client.delete_project("default"), "can't be deleted"),
    ):
        assert why in await refused(asked)
    assert [(each["project"], each["name"]) for each in await client.environments()] == [
        ("default", "dev"),
        ("default", "prod"),
        ("shop", "prod"),
    ]


async def test_a_deleted_environment_lets_nobody_in_and_leaves_nothing_behind(
    client: AsyncClient, url: str, database: asyncpg.Connection, database_url: str, data_dir: Path
) -> None:
    made = await client.create_environment("prod", project="shop", new_project=True)
    other = await client.create_environment("dev", project="shop")
    worker, ours = FakeWorker(url, TOKEN, "prod", "shop"), FakeWorker(url)
    for each in (worker, ours):
        await each.come_up([manifest("echo")])
    large = "x" * 2000
    kept = await client.trigger("echo", large)
    await ours.finish(await ours.take_and_start(), large)
    async with AsyncClient(url, made["key"]) as prod:
        await prod.trigger("echo", large)
        await prod.create_schedule("echo", "0 0 29 2 *", deduplication_key="each leap year")
        await prod.create_token(title="Pay?")
        token = await prod.create_public_token(["read:runs"])
        why = await refused(client.delete_project("shop"))
        assert "shop/prod has 1 run that has not ended and 1 worker: cancel the runs and stop the workers" in why
        assert len(await client.environments()) == 3, "all of a project, or none"
        await worker.finish(await worker.take_and_start(), large)
        await database.execute("update workers set expires_at = now() where environment_id = $1", made["id"])
        await client.delete_environment(made["id"])
        async with AsyncClient(url, token) as stranger:
            for shut_out in (prod.whoami(), prod.trigger("echo", 1), stranger.run(kept["id"])):
                with pytest.raises(Unauthorized):
                    await shut_out
    answer = await worker.post("dequeue", wire.DequeueRequest(worker.worker_id, worker.instance_id, 1, ["v1"], True, 0))
    assert answer.status_code == 401
    again = await client.create_environment("prod", project="shop")
    assert again["id"] != made["id"], "its name is free"
    assert {each["id"] for each in await client.delete_project("shop")} == {other["id"], again["id"]}

    hub = Hub(Settings(data_dir=data_dir), await Database.connect(database_url), Ahead(hours=2))
    async with asyncio.timeout(PATIENCE_S):
        while len(await database.fetch("select from environments")) > 1:
            await remove_deleted(hub, pause_s=0)
    await hub.database.close()
    own = (await client.environments())[0]["id"]
    for table in ("runs", "waitpoints", "schedules", "workers", "api_keys", "data_keys", "presets", "tasks"):
        assert {row[0] for row in await database.fetch(f"select environment_id from {table}")} <= {own}, table
    assert [each.parent.name for each in (data_dir / "objects").glob("*/*") if each.parent.name != "store"] == [
        own,
        own,
    ]
    assert (await client.run(kept["id"]))["output"] == large
    for each in (worker, ours):
        await each.close()

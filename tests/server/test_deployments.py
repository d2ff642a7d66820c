"""Deployments are the versions that workers have reported."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx2
import pytest
from ahead import Ahead
from fake_worker import KEY, TASKS, FakeWorker, Start

from torpor.config import Settings
from torpor.errors import NotFound
from torpor.sdk.async_client import AsyncClient
from torpor.server.hub import Hub
from torpor.server.pruning import prune
from torpor.store import migrate
from torpor.store.database import Database
from torpor.wire import http as wire

pytestmark = pytest.mark.anyio


async def report(worker: FakeWorker, version: str, tasks: list[Any] = TASKS) -> None:
    await worker.say("versions", wire.VersionReport(worker.worker_id, version, tasks), wire.VersionAccepted)


async def versions(client: AsyncClient, **filters: Any) -> list[str]:
    return [each["version"] async for each in client.deployments(**filters)]


async def test_there_is_none_before_a_worker_has_reported_one(client: AsyncClient) -> None:
    assert await versions(client) == []
    for which in ("current", "latest", "deployment_x"):
        with pytest.raises(NotFound):
            await client.deployment(which)


async def test_every_version_is_a_deployment_however_often_it_is_reported(
    client: AsyncClient, worker: FakeWorker
) -> None:
    first = await client.deployment()
    assert first["id"].startswith("deployment_")
    assert first["shortCode"] in first["id"]
    instants = {"createdAt", "deployedAt"}
    assert {name: value for name, value in first.items() if name not in {"id", "shortCode", *instants}} == {
        "version": "v1",
        "runtime": "python",
        "runtimeVersion": "3.12.1",
        "status": "DEPLOYED",
    }
    await report(worker, "v1")
    assert await client.deployment() == first, "nothing was deployed"
    await report(worker, "v2", [])
    await report(worker, "v3", TASKS[:1])
    await report(worker, "v1")  # rolled back
    assert await versions(client) == ["v3", "v2", "v1"]
    assert await versions(client, page_size=1) == ["v3", "v2", "v1"], "page by page"
    now = await client.deployment()
    assert (now["id"], now["createdAt"]) == (first["id"], first["createdAt"])
    assert now["deployedAt"] > first["deployedAt"]
    assert (await client.deployment("latest"))["version"] == "v3"
    latest = await client.deployment((await client.deployment("latest"))["id"])
    assert (latest["version"], latest["tasks"]) == ("v3", ["echo"])


async def test_they_are_filtered_by_status_and_by_age(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    await report(worker, "v2")
    assert await versions(client, status="DEPLOYED") == ["v2", "v1"]
    assert await versions(client, status=["FAILED", "DEPLOYED"]) == ["v2", "v1"]
    assert await versions(client, status="FAILED") == []
    assert await versions(client, period="1h") == ["v2", "v1"]
    second = datetime.fromisoformat((await client.deployment())["createdAt"])
    assert await versions(client, since=second) == ["v2"]
    assert await versions(client, until=second - timedelta(microseconds=1)) == ["v1"]
    assert await versions(client, since=datetime.now(UTC) + timedelta(hours=1)) == []
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        for query in ("status=SHIPPED", "from=soon", "period=1", "page[size]=0", "page[after]=z.z"):
            assert (await http.get(f"/api/v1/deployments?{query}")).status_code == 400, query


async def test_a_version_that_is_refused_is_no_deployment(client: AsyncClient, worker: FakeWorker) -> None:
    refused = wire.VersionReport(worker.worker_id, "v2", TASKS, machine="gigantic")
    assert (await worker.post("versions", refused)).status_code == 422
    assert await versions(client) == ["v1"]


async def test_a_deployment_is_forgotten_after_its_tasks(
    client: AsyncClient, worker: FakeWorker, database_url: str
) -> None:
    for version in ("v2", "v3"):
        await report(worker, version)
    database = await Database.connect(database_url)
    try:
        await prune(Hub(Settings(), database, Ahead(days=60)), pause_s=0)
    finally:
        await database.close()
    assert await versions(client) == ["v3"], "the one that is current"


async def test_versions_from_before_are_deployments_too(bare_url: str, start: Start) -> None:
    """As the migration makes them."""
    known = migrate.migrations()
    await migrate.upgrade(bare_url, known[: [one.name for one in known].index("deployments")])
    connection = await asyncpg.connect(bare_url)
    try:
        await connection.execute(
            """insert into environments (id, slug, created_at, current_version, checkpoint_retention_s)
                   values ('env_1', 'dev', now(), 'old', 0);
               insert into tasks (environment_id, version, id, file, line, is_async, parameters, payload_schema, retry,
                                  reported_at)
                   values ('env_1', 'old', 'a', 'a.py', 1, true, 'none', '{}', '{}', '2026-01-01'),
                          ('env_1', 'old', 'b', 'a.py', 1, true, 'none', '{}', '{}', '2026-01-02')"""
        )
    finally:
        await connection.close()
    async with AsyncClient(await start(bare_url), KEY) as client:
        (only,) = [each async for each in client.deployments()]
        current = await client.deployment()
    assert (only["version"], only["runtimeVersion"], only["createdAt"][:10]) == ("old", None, "2026-01-01")
    assert current == only

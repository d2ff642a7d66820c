"""A worker that somebody asks to leave: it gets no more runs, hears of it, and comes back as a new instance."""

import asyncpg
import pytest
from fake_worker import FakeWorker, manifest

from torpor import ids
from torpor.errors import ApiError
from torpor.sdk.async_client import AsyncClient
from torpor.wire import http as wire

pytestmark = pytest.mark.anyio


async def test_it_gets_no_runs_and_its_heartbeat_says_why(client: AsyncClient, worker: FakeWorker) -> None:
    await worker.come_up([manifest("echo")])
    assert not (await worker.heartbeat()).drain
    asked = await client.drain_worker(worker.worker_id)
    again = await client.drain_worker(worker.worker_id)
    assert asked["drainAskedAt"] == again["drainAskedAt"]
    run = await client.trigger("echo")
    assert await worker.dequeue(wait_s=0) == []
    assert (await worker.heartbeat()).drain
    worker.instance_id = ids.new("instance")
    await worker.come_up([manifest("echo")])
    assert not (await worker.heartbeat()).drain
    assert (await worker.take()).run_id == run["id"]


async def test_one_that_is_gone_or_was_never_there_is_refused(
    client: AsyncClient, worker: FakeWorker, database_url: str
) -> None:
    await worker.come_up([])
    connection = await asyncpg.connect(database_url)
    await connection.execute("update workers set expires_at = now() - interval '1 hour'")
    await connection.close()
    with pytest.raises(ApiError, match="is gone: nothing was heard of it since") as refused:
        await client.drain_worker(worker.worker_id)
    assert refused.value.status == 422
    with pytest.raises(ApiError) as refused:
        await client.drain_worker("worker_none")
    assert refused.value.status == 404


async def test_it_tells_of_its_disk(client: AsyncClient, worker: FakeWorker) -> None:
    await worker.come_up([])
    assert "disk" not in await client.worker(worker.worker_id)
    beat = wire.HeartbeatRequest(worker.worker_id, worker.instance_id, [], wire.Disk(200, 50))
    await worker.say("heartbeat", beat, wire.HeartbeatReply)
    assert (await client.worker(worker.worker_id))["disk"] == {"sizeBytes": 200, "freeBytes": 50}

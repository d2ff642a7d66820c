"""Queues and the environment over HTTP, with the Python client."""

from typing import Any

import pytest
from fake_worker import FakeWorker

from torpor.errors import ApiError, NotFound
from torpor.sdk.async_client import AsyncClient
from torpor.wire.runner import QueueManifest

pytestmark = pytest.mark.anyio


@pytest.fixture
async def emails(worker: FakeWorker) -> QueueManifest:
    """A declared queue that nobody uses yet."""
    queue = QueueManifest("emails/today", 5)
    await worker.come_up(queues=[queue])
    return queue


async def test_a_queue_is_listed_retrieved_and_changed(client: AsyncClient, emails: QueueManifest):
    """Q6: list, retrieve, pause, resume, override, reset; a slash in a name is no obstacle."""
    names = [queue["name"] async for queue in client.queues()]
    assert emails.name in names
    told = await client.queue(emails.name)
    assert (told["type"], told["concurrencyLimit"], told["paused"]) == ("custom", 5, False)
    assert (await client.pause_queue(told["id"]))["paused"] is True
    assert (await client.resume_queue(emails.name))["paused"] is False
    limited = await client.limit_queue(emails.name, 2)
    assert limited["concurrency"] | {"overriddenAt": None} == {
        "current": 2,
        "base": 5,
        "override": 2,
        "overriddenAt": None,
        "overriddenBy": None,
    }
    assert (await client.reset_queue(emails.name))["concurrencyLimit"] == 5


async def test_a_tasks_own_queue_goes_by_the_task(client: AsyncClient, worker: FakeWorker):
    """Q1: `task/` is how it is kept, not how it is called. An unknown one is 404 with near names."""
    assert (await client.queue("echo"))["name"] == "echo"
    assert (await client.queue("task/echo"))["type"] == "task"
    with pytest.raises(NotFound, match=r"did you mean echo"):
        await client.queue("ecco")


async def test_a_limit_that_is_none_is_refused(client: AsyncClient, worker: FakeWorker):
    limits: list[Any] = [-1, 100_001, 1.5, True, "2", None]
    for limit in limits:
        with pytest.raises(ApiError, match="concurrencyLimit: a whole number from 0 to 100000"):
            await client.limit_queue("echo", limit)


async def test_what_an_environment_allows_is_shown_and_set(client: AsyncClient, worker: FakeWorker):
    """Q3, Q4: what isn't named stays."""
    assert (await client.environment())["concurrencyLimit"] is None
    await client.environment(concurrency_limit=4, burst_factor=1.5)
    told = await client.environment(paused=True)
    assert told == {
        "project": "default",
        "slug": "dev",
        "concurrencyLimit": 4,
        "burstFactor": 1.5,
        "maxQueued": None,
        "acceptsUnknownTasks": False,
        "paused": True,
    }
    assert (await client.environment(concurrency_limit=None))["concurrencyLimit"] is None
    with pytest.raises(ApiError, match="burstFactor"):
        await client.environment(burst_factor=0.5)
    with pytest.raises(TypeError, match="there are"):
        await client.environment(limit=3)

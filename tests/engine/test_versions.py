"""Runs that no version can start wait for one."""

from datetime import timedelta
from typing import Any

import pytest

from torpor import engine
from torpor.engine import Matched, RunState, TriggerRequest
from torpor.wire.http import VersionReport
from torpor.wire.runner import QueueManifest, RetryPolicy

from .conftest import World, manifest

pytestmark = pytest.mark.anyio


async def accept_unknown(world: World) -> None:
    async with world.db.transaction() as tx:
        await tx.execute("update environments set accepts_unknown_tasks = true")


async def register(world: World, version: str, *tasks: Any, queues: list[QueueManifest] | None = None) -> None:
    report = VersionReport("w1", version, list(tasks), queues=queues or [])
    await world.do(engine.register_version, world.environment_id, report)


async def state(world: World, run_id: str) -> str:
    return (await world.run(run_id)).state


async def test_an_unknown_task_is_refused_unless_the_environment_accepts_it(world: World):
    """G16: then its run waits for a version that has the task, and takes that task's settings."""
    refused = await world.do(engine.trigger, world.environment_id, TriggerRequest("later"))
    assert refused == engine.UnknownTask([])
    await accept_unknown(world)
    run_id = await world.trigger("later", payload="1")
    assert await state(world, run_id) == RunState.PENDING_VERSION
    (triggered,) = await world.story(run_id)
    assert triggered.data["pending"] == "no version has the task later yet"
    assert await world.dequeue() == []

    world.later(100)
    later = manifest("later", queue=QueueManifest("slow"), ttl_s=60.0, retry=RetryPolicy(max_attempts=7))
    await register(world, "v2", later)
    run = await world.run(run_id)
    assert (run.state, run.queue, run.max_attempts, run.ttl_s) == (RunState.QUEUED, "slow", 7, 60.0)
    assert run.expires_at == world.now + timedelta(seconds=60)
    assert await world.kinds(run_id) == ["run.triggered", "run.version_found"]
    assert [each.run_id for each in await world.dequeue(versions=["v2"])] == [run_id]


async def test_what_the_trigger_said_outlasts_the_wait_for_a_version(world: World):
    """G16: options of the trigger come before those of the task that turns up."""
    await accept_unknown(world)
    run_id = await world.trigger("later", max_attempts=2, ttl_s=500, queue="later", max_duration_s=9)
    expires_at = world.now + timedelta(seconds=500)
    world.later(100)
    await register(world, "v2", manifest("later", queue=QueueManifest("slow"), ttl_s=60.0))
    run = await world.run(run_id)
    assert (run.max_attempts, run.ttl_s, run.queue, run.max_duration_s) == (2, 500.0, "task/later", 9.0)
    assert run.expires_at == expires_at


async def test_an_unknown_queue_is_waited_for_too(world: World):
    """G16: a queue that a later version declares."""
    await accept_unknown(world)
    run_id = await world.trigger(queue="mails")
    assert await state(world, run_id) == RunState.PENDING_VERSION
    await register(world, "v2", manifest("hello"))
    assert await state(world, run_id) == RunState.PENDING_VERSION
    await register(world, "v3", manifest("hello"), queues=[QueueManifest("mails")])
    assert (await world.run(run_id)).queue == "mails"
    assert await state(world, run_id) == RunState.QUEUED


async def test_a_run_locked_to_a_version_waits_for_it_for_an_hour(world: World):
    """G13: unless its trigger gave a ttl."""
    await accept_unknown(world)
    for_good = await world.trigger(lock_to_version="v9", ttl_s=0)
    for_long = await world.trigger(lock_to_version="v9", ttl_s=7200)
    run_id = await world.trigger(lock_to_version="v9")
    fired = await world.do(engine.fire_due)
    assert fired.next_due == world.now + timedelta(hours=1)
    world.later(3600)
    await world.do(engine.fire_due)
    assert [await state(world, each) for each in (run_id, for_good, for_long)] == [
        RunState.EXPIRED,
        RunState.PENDING_VERSION,
        RunState.PENDING_VERSION,
    ]
    assert (await world.run(run_id)).error == {
        "name": "Expired",
        "message": "version v9 did not come in time",
        "stack_trace": "",
        "causes": [],
    }
    await register(world, "v8", manifest("hello"))
    assert await state(world, for_long) == RunState.PENDING_VERSION
    await register(world, "v9", manifest("hello"))
    assert await state(world, for_long) == await state(world, for_good) == RunState.QUEUED
    assert (await world.run(for_good)).expires_at is None


async def test_the_hour_is_for_the_version_only(world: World):
    """G13: once it is here the run may be queued for as long as its task allows."""
    await accept_unknown(world)
    run_id = await world.trigger(lock_to_version="v9")
    await register(world, "v9", manifest("hello"))
    assert (await world.run(run_id)).expires_at is None


async def test_a_version_without_the_task_parks_its_queued_runs(world: World):
    """G16: they come back with a version that has it, in their place in the line."""
    first = await world.trigger()
    locked = await world.trigger(lock_to_version="v1")
    retried = await world.trigger()
    world.later(1)
    await register(world, "v2", manifest("other"))
    assert await state(world, first) == await state(world, retried) == RunState.PENDING_VERSION
    assert await state(world, locked) == RunState.QUEUED
    (*_, told) = await world.story(first)
    assert (told.kind, told.data) == ("run.pending_version", {"reason": "version v2 has no task hello"})
    world.later(1)
    newer = await world.do(engine.trigger, world.environment_id, TriggerRequest("hello"))
    assert newer == engine.UnknownTask([])
    await register(world, "v3", manifest("hello"))
    assert await world.kinds(first) == ["run.triggered", "run.pending_version", "run.version_found"]
    assert await state(world, first) == RunState.QUEUED
    assert await world.do(engine.match_versions) == Matched(0, 0)


async def test_a_released_run_follows_the_version_of_its_release(world: World):
    """G7: which version performs a delayed run is decided when it is due."""
    run_id = await world.trigger(delay_until=world.now + timedelta(hours=1))
    gone = await world.trigger(delay_until=world.now + timedelta(hours=1), max_attempts=1)
    report = manifest("hello", queue=QueueManifest("slow"), retry=RetryPolicy(max_attempts=9), ttl_s=60.0)
    await register(world, "v2", report)
    world.later(3600)
    await world.do(engine.fire_due, only=[run_id])
    run = await world.run(run_id)
    assert (run.state, run.queue, run.max_attempts) == (RunState.QUEUED, "slow", 9)
    assert run.expires_at == world.now + timedelta(seconds=60)
    await register(world, "v3", manifest("other"))
    await world.do(engine.fire_due)
    assert await state(world, gone) == RunState.PENDING_VERSION
    assert (await world.kinds(gone))[-1] == "run.pending_version"
    await register(world, "v4", report)
    assert (await world.run(gone)).max_attempts == 1


async def test_a_run_that_waits_for_a_version_says_so_again_after_a_while(world: World):
    await accept_unknown(world)
    run_id = await world.trigger("helo")
    world.later(31)
    await world.do(engine.heartbeat, world.worker_id, world.instance_id, [], lease_s=30)
    assert await world.do(engine.tell_stranded) == [run_id]
    (*_, told) = await world.story(run_id)
    assert told.data["reason"] == "the current version v1 has no task helo; similar names: hello"

"""A queued run that nobody can take says why."""

import asyncio

import pytest

from torpor import engine
from torpor.engine import Lease, RunState
from torpor.wire.http import Introduction, VersionReport

from .conftest import World, manifest, time_wait

pytestmark = pytest.mark.anyio


async def tell(world: World) -> list[str]:
    return await world.do(engine.tell_stranded)


async def reasons(world: World, run_id: str) -> list[str]:
    return [event.data["reason"] for event in await world.story(run_id) if event.kind == "run.stranded"]


async def beat(world: World) -> None:
    await world.do(engine.heartbeat, world.worker_id, world.instance_id, [], lease_s=30)


async def frozen_and_woken(world: World) -> str:
    """A run that is queued to be restored by w1."""
    lease = await world.begin()
    await world.block(lease, time_wait("wait_1", 10))
    await world.suspend(lease)
    world.later(11)
    await world.do(engine.fire_due)
    assert (await world.run(lease.run_id)).state == RunState.QUEUED
    return lease.run_id


async def test_a_run_whose_workers_are_only_busy_is_not_stranded(world: World):
    await frozen_and_woken(world)
    await world.trigger()
    for _ in range(5):
        world.later(20)
        await beat(world)
        assert await tell(world) == []


async def test_without_any_worker_it_is_told_once_who_was_the_last(world: World):
    run_id = await world.trigger()
    delayed = await world.run_in(RunState.DELAYED)
    world.later(29)
    assert await tell(world) == []
    world.later(2)
    assert await tell(world) == [run_id]
    world.later(600)
    assert await tell(world) == []
    assert await reasons(world, run_id) == [
        "no worker is connected; the last one was worker w1 on here, last seen 2026-01-01 12:00:00 UTC"
    ]
    assert await reasons(world, delayed.run_id) == []
    assert (await world.run(run_id)).state == RunState.QUEUED


async def test_an_image_on_a_worker_that_is_away_is_told_although_others_are_there(world: World):
    run_id = await frozen_and_woken(world)
    world.later(60)
    intro = Introduction("w2", "i2", host="there", slots=10, can_freeze=True, facts={})
    await world.do(engine.register_worker, world.environment_id, intro, lease_s=30)
    assert await tell(world) == [run_id]
    assert await reasons(world, run_id) == [
        "its checkpoint is on worker w1 on here, which is not connected, last seen 2026-01-01 12:00:00 UTC"
    ]


async def test_an_image_on_a_worker_that_can_no_longer_restore_is_told(world: World):
    run_id = await frozen_and_woken(world)
    world.later(60)
    intro = Introduction("w1", "i2", host="here", slots=10, can_freeze=False, facts={})
    await world.do(engine.register_worker, world.environment_id, intro, lease_s=30)
    assert await tell(world) == [run_id]
    assert await reasons(world, run_id) == [
        "its checkpoint is on worker w1 on here, which is connected but can't restore"
    ]


async def test_a_task_that_the_current_version_no_longer_has_is_told_with_names_like_it(world: World):
    run_id = await world.trigger()
    report = VersionReport("w1", "v2", [manifest("hallo"), manifest("other")])
    await world.do(engine.register_version, world.environment_id, report)
    world.later(40)
    await beat(world)
    assert await tell(world) == [run_id]
    assert await reasons(world, run_id) == ["the current version v2 has no task hello; similar names: hallo"]


async def test_a_current_version_that_no_connected_worker_has_is_told(world: World):
    run_id = await world.trigger()
    intro = Introduction("w2", "i2", host="there", slots=10, can_freeze=True, facts={})
    await world.do(engine.register_worker, world.environment_id, intro, lease_s=30)
    await world.do(engine.register_version, world.environment_id, VersionReport("w2", "v2", world.tasks))
    world.later(40)
    await beat(world)
    assert await tell(world) == [run_id]
    assert await reasons(world, run_id) == ["no connected worker has imported the current version v2"]


async def test_another_reason_is_told_too_and_the_same_one_again_after_it_was_taken(world: World):
    run_id = await world.trigger()
    world.later(31)
    await tell(world)
    await beat(world)
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v2", [manifest("other")]))
    await tell(world)
    gone = "the current version v2 has no task hello"
    assert (await reasons(world, run_id))[1:] == [gone]
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v3", world.tasks))
    (given,) = await world.dequeue(versions=["v3"])
    await world.start(Lease(run_id, given.lease))
    world.later(31)
    assert await world.do(engine.rescue, max_rescues=5) == [run_id]
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v2", [manifest("other")]))
    world.later(31)
    await beat(world)
    assert await tell(world) == [run_id]
    assert (await reasons(world, run_id))[2:] == [gone]


async def test_many_are_told_in_batches_and_by_two_servers_once(world: World):
    run_ids = {await world.trigger() for _ in range(12)}
    world.later(31)
    first = await world.do(engine.tell_stranded, limit=5)
    assert len(first) == 5
    rest = await asyncio.gather(tell(world), tell(world))
    told = [*first, *(run_id for some in rest for run_id in some), *await tell(world)]
    assert sorted(told) == sorted(run_ids)
    for run_id in run_ids:
        assert len(await reasons(world, run_id)) == 1

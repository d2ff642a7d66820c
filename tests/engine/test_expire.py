"""Runs that nobody started in time end."""

from datetime import timedelta
from typing import Any

import pytest

from torpor import engine
from torpor.engine import RunState
from torpor.wire.http import Refusal, VersionReport

from .conftest import World, manifest, run_wait

pytestmark = pytest.mark.anyio


async def state(world: World, run_id: str) -> str:
    return (await world.run(run_id)).state


async def test_a_run_that_nobody_started_in_time_is_expired(world: World):
    """G8: within its ttl, from when it was queued; its idempotency key is free again."""
    run_id = await world.trigger(ttl_s=10, idempotency_key="k")
    patient = await world.trigger()
    assert await world.do(engine.fire_due) == engine.FiredTimers(0, world.now + timedelta(seconds=10))
    world.later(9.9)
    assert (await world.do(engine.fire_due)).count == 0
    world.later(0.1)
    assert await world.do(engine.fire_due) == engine.FiredTimers(1, None)
    run = await world.run(run_id)
    assert (run.state, run.finished_at) == (RunState.EXPIRED, world.now)
    assert run.error is not None
    assert run.error["message"] == "not started within its ttl of 10 s"
    assert await state(world, patient) == RunState.QUEUED
    again = await world.do(engine.trigger, world.environment_id, engine.TriggerRequest("hello", idempotency_key="k"))
    assert not again.is_cached


async def test_a_run_that_has_started_does_not_expire(world: World):
    """G8: not while it executes, and not while it is queued for another attempt."""
    run_id = await world.trigger(ttl_s=10)
    lease = await world.begin(run_id)
    world.later(20)
    assert await world.do(engine.fire_due) == engine.FiredTimers(0, None)
    await world.finish(lease, "crashed")
    assert await state(world, run_id) == RunState.QUEUED
    assert await world.do(engine.fire_due) == engine.FiredTimers(0, None)


async def test_a_run_that_was_handed_out_in_vain_expires_too(world: World):
    """G8: seed 340: refused before its start, it had an attempt that could not be closed, and no timer fired any more."""
    run_id = await world.trigger(ttl_s=10)
    lease = await world.take(run_id)
    await world.do(engine.refuse, lease, Refusal(lease.number, "no room"))
    world.later(10)
    assert await world.do(engine.fire_due) == engine.FiredTimers(1, None)
    assert await state(world, run_id) == RunState.EXPIRED


async def test_the_ttl_of_a_delayed_run_begins_at_its_release(world: World):
    """G8: what is delayed isn't late."""
    run_id = await world.trigger(ttl_s=10, delay_until=world.now + timedelta(seconds=60))
    world.later(60)
    fired = await world.do(engine.fire_due)
    assert fired == engine.FiredTimers(1, world.now + timedelta(seconds=10))
    world.later(10)
    await world.do(engine.fire_due)
    assert await state(world, run_id) == RunState.EXPIRED


async def test_the_triggers_ttl_comes_before_the_tasks(world: World):
    """G8: 0 opts out."""
    report = VersionReport("w1", "v1", [manifest("hello", ttl_s=60.0)])
    await world.do(engine.register_version, world.environment_id, report)
    expected: list[tuple[dict[str, Any], float | None]] = [({}, 60), ({"ttl_s": 5}, 5), ({"ttl_s": 0}, None)]
    for options, ttl_s in expected:
        run = await world.run(await world.trigger(**options))
        assert run.expires_at == (world.now + timedelta(seconds=ttl_s) if ttl_s else None)


async def test_who_waits_for_an_expired_run_is_told(world: World):
    """G8: the parent gets a failed answer with the status EXPIRED."""
    lease = await world.begin()
    child = await world.trigger(parent_lease=lease, ttl_s=10)
    await world.block(lease, run_wait("wait_1", child))
    world.later(10)
    await world.do(engine.fire_due)
    blocked = await world.do(engine.collect, lease, ["wait_1"])
    (answer,) = blocked.answers
    assert (answer.status, answer.run_status, answer.error.name) == ("failed", "EXPIRED", "Expired")


async def test_many_expire_in_small_steps(world: World):
    await world.do(
        engine.trigger_all, world.environment_id, [engine.TriggerRequest("hello", ttl_s=1) for _ in range(25)]
    )
    world.later(1)
    steps = 0
    while (fired := await world.do(engine.fire_due, limit=10)).count:
        assert fired.count <= 10
        steps += 1
    assert steps == 3


async def test_one_that_is_being_started_is_left_alone(world: World):
    run_id = await world.trigger(ttl_s=1)
    world.later(1)
    async with world.db.transaction() as tx:
        await tx.fetch("select from runs where id = $1 for no key update", run_id)
        assert (await world.do(engine.fire_due)).count == 0
    assert (await world.do(engine.fire_due)).count == 1

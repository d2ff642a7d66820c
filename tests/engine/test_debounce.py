"""Triggers that come in quick succession share a run."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from torpor import engine
from torpor.engine import Debounce, RunState, Triggered, TriggerRequest
from torpor.store.database import Database

from .conftest import World, until_blocked

pytestmark = pytest.mark.anyio

QUIET = Debounce("cart-1", delay_s=10)
NEWEST = Debounce("cart-1", delay_s=10, mode="trailing")


async def trigger(world: World, debounce: Debounce = QUIET, **options: Any) -> Any:
    return await world.do(engine.trigger, world.environment_id, TriggerRequest("hello", debounce=debounce, **options))


async def test_triggers_with_one_key_push_one_run_on(world: World):
    """G10: leading, the first payload is performed when it has been quiet for the delay."""
    first = await trigger(world, payload="1")
    assert not first.is_cached
    world.later(6)
    assert await trigger(world, payload="2") == Triggered(first.run_id, is_cached=True)
    assert await trigger(world, Debounce("cart-2", 10)) != first
    run = await world.run(first.run_id)
    assert (run.state, run.payload, run.delay_until) == (RunState.DELAYED, "1", world.now + timedelta(seconds=10))
    assert await world.kinds(first.run_id) == ["run.triggered", "run.debounced"]
    world.later(9)
    await world.do(engine.fire_due, only=[first.run_id])
    assert (await world.run(first.run_id)).state == RunState.DELAYED
    world.later(1)
    await world.do(engine.fire_due, only=[first.run_id])
    assert (await world.run(first.run_id)).state == RunState.QUEUED
    # It is on its way: the next one is another run.
    assert (await trigger(world)).run_id != first.run_id


async def test_trailing_takes_the_newest_payload(world: World):
    """G10: and the newest metadata and tags."""
    first = await trigger(world, NEWEST, payload="1", tags=["a"], metadata={"n": 1})
    await trigger(world, NEWEST, payload="2", tags=["b"], metadata={"n": 2})
    run = await world.run(first.run_id)
    assert (run.payload, run.tags, run.metadata) == ("2", ["b"], {"n": 2})


async def test_nothing_pushes_a_run_beyond_its_latest_time(world: World):
    """G10: max_delay, from the first trigger on."""
    asked = Debounce("cart-1", delay_s=10, max_delay_s=15)
    begin = world.now
    first = await trigger(world, asked)
    for _ in range(3):
        world.later(4)
        assert (await trigger(world, asked)).run_id == first.run_id
    assert (await world.run(first.run_id)).available_at == begin + timedelta(seconds=15)


async def test_a_shorter_delay_brings_nothing_forward(world: World):
    first = await trigger(world)
    await trigger(world, Debounce("cart-1", delay_s=1))
    assert (await world.run(first.run_id)).available_at == world.now + timedelta(seconds=10)


async def test_the_idempotency_key_comes_first(world: World):
    """G10: a key that stands for a run pushes nothing on; a new one stands for the run that is there."""
    done = await world.trigger(idempotency_key="done")
    first = await trigger(world)
    world.later(5)
    assert await trigger(world, idempotency_key="done") == Triggered(done, is_cached=True)
    assert await world.kinds(first.run_id) == ["run.triggered"]
    assert (await trigger(world, idempotency_key="new")).run_id == first.run_id
    assert await world.trigger(idempotency_key="new") == first.run_id


async def test_a_retry_does_not_meet_the_next_run_of_its_key(world: World):
    """G10: the key is about runs that have not started."""
    first = await trigger(world)
    world.later(10)
    await world.do(engine.fire_due)
    lease = await world.begin(first.run_id)
    second = await trigger(world)
    assert second.run_id != first.run_id
    await world.fail(lease)
    assert (await world.run(first.run_id)).state == RunState.DELAYED
    assert (await trigger(world)).run_id == second.run_id


async def test_requests_of_one_call_share_a_run_by_their_debounce_key(world: World):
    made: list[Any] = await world.do(
        engine.trigger_all, world.environment_id, [TriggerRequest("hello", debounce=QUIET) for _ in range(3)]
    )
    assert {each.run_id for each in made} == {made[0].run_id}
    assert [each.is_cached for each in made] == [False, True, True]


async def test_two_triggers_at_once_meet_in_one_run(world: World, database_url: str):
    """G10: the second waits until the first is there, then pushes it on."""
    other = await Database.connect(database_url, pool_size=2)
    try:
        async with world.db.transaction() as tx:
            request = TriggerRequest("hello", debounce=NEWEST, payload="1")
            first = await engine.trigger(tx, world.environment_id, request, now=world.now)
            assert isinstance(first, Triggered)

            async def come_second() -> Any:
                async with other.transaction() as tx:
                    request = TriggerRequest("hello", debounce=NEWEST, payload="2")
                    return await engine.trigger(tx, world.environment_id, request, now=world.now)

            second = asyncio.create_task(come_second())
            await until_blocked(other)
        assert await second == Triggered(first.run_id, is_cached=True)
    finally:
        await other.close()
    assert (await world.run(first.run_id)).payload == "2"


async def test_a_release_and_a_trigger_at_once_make_two_runs(world: World, database_url: str):
    """G10: who comes while the run is being released finds it gone."""
    first = await trigger(world)
    world.later(10)
    other = await Database.connect(database_url, pool_size=2)
    try:
        async with world.db.transaction() as tx:
            await engine.fire_due(tx, now=world.now)

            async def come_late() -> Any:
                async with other.transaction() as tx:
                    request = TriggerRequest("hello", debounce=QUIET)
                    return await engine.trigger(tx, world.environment_id, request, now=world.now)

            late = asyncio.create_task(come_late())
            await until_blocked(other)
        made = await late
    finally:
        await other.close()
    assert not made.is_cached
    assert made.run_id != first.run_id

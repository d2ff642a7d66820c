"""Which run an idempotency key stands for."""

import asyncio
from typing import Any

import pytest

from torpor import engine
from torpor.engine import Triggered, TriggerRequest
from torpor.store.database import Database

from .conftest import World, until_blocked

pytestmark = pytest.mark.anyio


async def trigger(world: World, **options: Any) -> Any:
    return await world.do(engine.trigger, world.environment_id, TriggerRequest("hello", idempotency_key="k", **options))


async def test_a_run_that_was_canceled_keeps_its_key(world: World):
    """G9: so does one that completed; a failed one gives it back."""
    run_id = await world.trigger(idempotency_key="k")
    await world.do(engine.cancel, world.environment_id, run_id)
    assert await trigger(world) == Triggered(run_id, is_cached=True)


async def test_a_key_that_is_reset_makes_a_new_run(world: World):
    """G9: reset by key, whatever its run does."""
    run_id = await world.trigger(idempotency_key="k")
    reset = [await world.do(engine.reset_key, world.environment_id, "hello", "k") for _ in range(2)]
    assert reset == [engine.KeyReset(), engine.Unknown()]
    assert (await trigger(world)).run_id != run_id


async def test_a_key_that_has_expired_is_no_longer_there_to_reset(world: World):
    """G9: the same answer as for a key that never was."""
    await world.trigger(idempotency_key="k", idempotency_key_ttl_s=1)
    world.later(1)
    assert await world.do(engine.reset_key, world.environment_id, "hello", "k") == engine.Unknown()


async def test_a_key_belongs_to_one_task(world: World):
    """G9: its scope is task and environment."""
    await world.trigger(idempotency_key="k")
    assert await world.do(engine.reset_key, world.environment_id, "other", "k") == engine.Unknown()


async def test_two_triggers_at_once_with_one_key_make_one_run(world: World, database_url: str):
    """G9: the second waits until the first is there, and gets its run."""
    other = await Database.connect(database_url, pool_size=2)
    try:
        async with world.db.transaction() as tx:
            request = TriggerRequest("hello", idempotency_key="k")
            first = await engine.trigger(tx, world.environment_id, request, now=world.now)
            assert isinstance(first, Triggered)

            async def come_second() -> Any:
                async with other.transaction() as tx:
                    return await engine.trigger(tx, world.environment_id, request, now=world.now)

            second = asyncio.create_task(come_second())
            await until_blocked(other)
        assert await second == Triggered(first.run_id, is_cached=True)
    finally:
        await other.close()


async def test_two_calls_with_the_same_keys_in_another_order_do_not_lock_each_other_out(
    world: World, database_url: str
):
    """G9: keys are claimed in one order."""
    other = await Database.connect(database_url, pool_size=2)

    async def call(database: Database, keys: list[str]) -> Any:
        async with database.transaction() as tx:
            requests = [TriggerRequest("hello", idempotency_key=key) for key in keys]
            return await engine.trigger_all(tx, world.environment_id, requests, now=world.now)

    keys = [f"k{n}" for n in range(200)]
    try:
        there, back = await asyncio.gather(call(world.db, keys), call(other, keys[::-1]))
    finally:
        await other.close()
    assert [each.run_id for each in there] == [each.run_id for each in back[::-1]]

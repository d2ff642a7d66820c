"""Keys and one-time tokens, as verbs: two at once, and what is forgotten."""

import asyncio
from datetime import timedelta

import pytest

from torpor import engine
from torpor.engine import NewApiKey

from .conftest import World, until_blocked

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600.0


def key(name: str, **more: object) -> NewApiKey:
    return NewApiKey(f"apikey_{name}", name.encode(), name, **more)  # pyright: ignore[reportArgumentType]


async def names(world: World) -> list[str]:
    async with world.db.transaction() as tx:
        return sorted(each.key_hash.decode() for each in await engine.api_keys(tx, world.environment_id))


async def test_of_two_keys_that_are_revoked_at_once_one_is_the_last(world: World):
    await world.do(engine.create_key, world.environment_id, key("a"))
    configured = await configured_key(world)
    async with world.db.transaction() as tx:
        first = await engine.revoke_key(tx, world.environment_id, "apikey_a", now=world.now)
        other = asyncio.create_task(world.do(engine.revoke_key, world.environment_id, configured))
        await until_blocked(world.db)
    assert isinstance(first, engine.KeyRevoked)
    assert await other == engine.LastKey()


async def test_a_personal_token_does_not_count_as_a_secret_key(world: World):
    await world.do(engine.create_key, world.environment_id, key("ada", is_personal=True))
    last = await configured_key(world)
    assert await world.do(engine.revoke_key, world.environment_id, last) == engine.LastKey()
    assert isinstance(await world.do(engine.revoke_key, world.environment_id, "apikey_ada"), engine.KeyRevoked)


async def configured_key(world: World) -> str:
    async with world.db.transaction() as tx:
        [found] = [each.id for each in await engine.api_keys(tx, world.environment_id) if each.is_configured]
    return found


async def test_what_is_over_is_forgotten_after_a_month_but_not_what_a_setting_names(world: World):
    for name in ("a", "b", "c"):
        await world.do(engine.create_key, world.environment_id, key(name))
    await world.do(engine.revoke_key, world.environment_id, "apikey_a")
    await world.do(engine.revoke_key, world.environment_id, await configured_key(world))
    await world.do(
        engine.rotate_key, world.environment_id, "apikey_b", lambda old: key("d", scopes=old.scopes), overlap_s=DAY_S
    )
    world.later(30 * DAY_S)
    assert await world.do(engine.forget_keys) == 1
    assert await names(world) == ["b", "c", "d", "k"]
    world.later(DAY_S)
    assert await world.do(engine.forget_keys) == 1
    assert await names(world) == ["c", "d", "k"]


async def test_the_last_use_of_a_key_is_written_once_an_hour(world: World):
    for minutes in (0, 59, 2):
        world.later(minutes * 60)
        async with world.db.transaction() as tx:
            found = await engine.key_by_hash(tx, b"k")
            assert found is not None
            await engine.touch_key(tx, found[0], now=world.now)
        async with world.db.transaction() as tx:
            [touched] = await engine.api_keys(tx, world.environment_id)
        assert touched.last_used_at == world.now - timedelta(minutes=59 if minutes == 59 else 0)


async def test_a_token_is_used_by_the_one_whose_transaction_commits(world: World):
    end = world.now + timedelta(hours=1)
    async with world.db.transaction() as tx:
        assert await engine.use_token(tx, b"t", "run_1", end)
        other = asyncio.create_task(use(world, "run_2"))
        same = asyncio.create_task(use(world, "run_1"))
        await until_blocked(world.db)
    assert (await other, await same) == (False, True)


async def test_a_token_whose_use_was_rolled_back_is_still_good(world: World):
    end = world.now + timedelta(hours=1)
    async with world.db.transaction() as tx:
        savepoint = tx.savepoint()
        await savepoint.start()
        assert await engine.use_token(tx, b"t", "run_1", end)
        await savepoint.rollback()
    assert await use(world, "run_2")
    world.later(3600)
    assert (await world.do(engine.forget_tokens)).rows == 1


async def use(world: World, run_id: str) -> bool:
    async with world.db.transaction() as tx:
        return await engine.use_token(tx, b"t", run_id, world.now + timedelta(hours=1))

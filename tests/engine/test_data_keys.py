"""What images are sealed with: one key at a time, older ones as long as something needs them."""

import pytest

from torpor import engine
from torpor.engine import NewKey

from .conftest import World

pytestmark = pytest.mark.anyio


async def keys(world: World) -> list[tuple[str, bool]]:
    async with world.db.transaction() as tx:
        found = await engine.data_keys(tx, world.environment_id)
    return [(key.id, key.retired_at is None) for key in found]


async def current(world: World) -> str | None:
    return (await world.do(engine.heartbeat, "w1", "i1", [], lease_s=30)).current_key


async def test_the_first_key_is_made_once_and_heartbeats_name_it(fleet: World):
    assert await current(fleet) is None
    assert await fleet.do(engine.make_key, fleet.environment_id, NewKey("key_1", b"sealed", "m"))
    assert not await fleet.do(engine.make_key, fleet.environment_id, NewKey("key_2", b"sealed", "m"))
    assert await current(fleet) == "key_1"


async def test_a_retired_key_stays_as_long_as_something_is_sealed_with_it(fleet: World):
    await fleet.do(engine.make_key, fleet.environment_id, NewKey("key_1", b"sealed", "m"))
    lease = await fleet.begin()
    await fleet.save(lease)
    await fleet.do(engine.rotate_data_key, fleet.environment_id, NewKey("key_2", b"sealed", "m"))
    assert await keys(fleet) == [("key_1", False), ("key_2", True)]
    assert await current(fleet) == "key_2"
    fleet.later(86400)
    assert await fleet.do(engine.drop_keys) == []
    await fleet.do(engine.cancel, fleet.environment_id, lease.run_id, at_once=True)
    fleet.later(86400)
    await fleet.do(engine.expire_checkpoints)
    fleet.later(600)
    await fleet.do(engine.condemn)
    assert await fleet.do(engine.drop_keys) == ["key_1"]


async def test_a_key_that_nothing_was_sealed_with_yet_is_kept_for_reports_on_their_way(fleet: World):
    await fleet.do(engine.make_key, fleet.environment_id, NewKey("key_1", b"sealed", "m"))
    await fleet.do(engine.rotate_data_key, fleet.environment_id, NewKey("key_2", b"sealed", "m"))
    assert await fleet.do(engine.drop_keys) == []
    fleet.later(86400)
    assert await fleet.do(engine.drop_keys) == ["key_1"]


async def test_a_new_master_key_wraps_them_anew(fleet: World):
    await fleet.do(engine.make_key, fleet.environment_id, NewKey("key_1", b"old", "m1"))
    async with fleet.db.transaction() as tx:
        assert [key.id for key in await engine.keys_to_rewrap(tx, "m2")] == ["key_1"]
        await engine.rewrap(tx, NewKey("key_1", b"new", "m2"))
    async with fleet.db.transaction() as tx:
        assert await engine.keys_to_rewrap(tx, "m2") == []
        assert [key.wrapped for key in await engine.data_keys(tx, fleet.environment_id)] == [b"new"]

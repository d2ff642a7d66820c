"""Environment variables, as verbs: all or none, within bounds, and who learns that they have changed."""

import asyncio
from datetime import timedelta

import pytest

from torpor import engine
from torpor.engine import NewVariable, VariableBounds

from .conftest import World, until_blocked

pytestmark = pytest.mark.anyio

BOUNDS = VariableBounds(3, 100)


def new(name: str, size: int = 10, *, secret: bool | None = None, sealed: bytes = b"sealed") -> NewVariable:
    return NewVariable(name, sealed, "m", size, secret)


async def setting(
    world: World, *variables: NewVariable, override: bool = True, bounds: VariableBounds = BOUNDS
) -> object:
    return await world.do(engine.set_variables, world.environment_id, variables, override=override, bounds=bounds)


async def there(world: World) -> dict[str, bytes]:
    async with world.db.transaction() as tx:
        _, found = await engine.variables(tx, world.environment_id)
    return {each.name: each.sealed for each in found}


async def test_all_are_set_or_none(world: World):
    assert await setting(world, new("A"), new("B"), override=False) == engine.VariablesChanged(1)
    assert await setting(world, new("C"), new("B", sealed=b"x"), override=False) == engine.AlreadySet(["B"])
    assert await there(world) == {"A": b"sealed", "B": b"sealed"}
    assert await setting(world, new("C"), new("B", sealed=b"x")) == engine.VariablesChanged(2)
    assert await there(world) == {"A": b"sealed", "B": b"x", "C": b"sealed"}


async def test_there_are_only_so_many_of_so_many_bytes_but_what_is_there_may_be_changed(world: World):
    assert await setting(world, new("A"), new("B"), new("C")) == engine.VariablesChanged(1)
    assert await setting(world, new("D")) == engine.TooManyVariables(4, 40)
    assert await setting(world, new("C", 81)) == engine.TooManyVariables(3, 101)
    fewer = VariableBounds(1, 20)
    assert await setting(world, new("C", 9), bounds=fewer) == engine.VariablesChanged(2)
    assert await setting(world, new("C", 10), bounds=fewer) == engine.TooManyVariables(3, 30)


async def test_a_secret_stays_one_until_it_is_said_otherwise(world: World):
    async def is_secret() -> bool:
        async with world.db.transaction() as tx:
            found = await engine.variable(tx, world.environment_id, "A")
        assert found is not None
        return found.is_secret

    for given, then in [(None, False), (True, True), (None, True), (False, False)]:
        await setting(world, new("A", secret=given))
        assert await is_secret() == then


async def test_only_what_is_there_is_changed_or_unset(world: World):
    environment = world.environment_id
    assert await world.do(engine.change_variable, environment, new("A"), bounds=BOUNDS) == engine.Unknown()
    async with world.db.transaction() as tx:
        assert await engine.unset_variable(tx, environment, "A") == engine.Unknown()
    await setting(world, new("A"))
    world.later(1)
    done = await world.do(engine.change_variable, environment, new("A", sealed=b"x"), bounds=BOUNDS)
    assert done == engine.VariablesChanged(2)
    async with world.db.transaction() as tx:
        found = await engine.variable(tx, environment, "A")
        assert found is not None
        assert (found.sealed, found.updated_at - found.created_at) == (b"x", timedelta(seconds=1))
        assert await engine.unset_variable(tx, environment, "A") == engine.VariablesChanged(3)
        assert await engine.variable(tx, environment, "A") is None


async def test_of_two_changes_at_once_the_second_sees_the_first(world: World):
    async with world.db.transaction() as tx:
        await engine.set_variables(
            tx, world.environment_id, [new("A"), new("B")], override=False, bounds=BOUNDS, now=world.now
        )
        other = asyncio.create_task(setting(world, new("C"), new("D")))
        await until_blocked(world.db)
    assert await other == engine.TooManyVariables(4, 40)


async def test_hand_outs_and_heartbeats_name_the_revision(fleet: World):
    await setting(fleet, new("A"))
    beat = await fleet.do(engine.heartbeat, "w1", "i1", [], lease_s=30)
    assert beat.variables_revision == 1
    await fleet.trigger()
    [assignment] = await fleet.dequeue()
    assert assignment.variables_revision == 1

"""The children of a canceled run are canceled too, in small steps."""

import pytest

from torpor import engine
from torpor.engine import RunState

from .conftest import World

pytestmark = pytest.mark.anyio


async def cascade_all(world: World, **options: int) -> list[int]:
    """Every step that there is to do: how many runs each canceled."""
    steps: list[int] = []
    while (count := await world.do(engine.cascade, **options)) is not None:
        steps.append(count)
        assert len(steps) < 100
    return steps


async def cancel(world: World, run_id: str, *, at_once: bool = False) -> None:
    await world.do(engine.cancel, world.environment_id, run_id, at_once=at_once)


async def test_G18_a_cancel_goes_down_the_tree(world: World):
    """G18: parent and root are linked, and a cancel cascades to children and to theirs."""
    top = await world.begin()
    middle = await world.begin(await world.trigger(parent_lease=top))
    lower = await world.begin(await world.trigger(parent_lease=middle))
    leaf_id = await world.trigger(parent_lease=lower)
    bystander_id = await world.trigger()
    assert (await world.run(leaf_id)).depth == 3
    assert (await world.run(leaf_id)).root_run_id == top.run_id

    await cancel(world, top.run_id)
    assert (await world.run(middle.run_id)).cancel_requested_at is None, "that is left to the duty"
    assert await cascade_all(world) == [1, 1, 1], "each asks its own children in turn"
    assert [(await world.run(lease.run_id)).state for lease in (top, middle, lower)] == [RunState.EXECUTING] * 3
    for lease in (top, middle, lower):
        await world.finish(lease, "canceled")
    assert {(await world.run(run_id)).state for run_id in (top.run_id, middle.run_id, lower.run_id, leaf_id)} == {
        RunState.CANCELED
    }
    assert (await world.story(leaf_id))[-1].data == {"reason": f"its parent {lower.run_id} was canceled"}
    assert (await world.run(bystander_id)).state == RunState.QUEUED
    assert await cascade_all(world) == []


async def test_many_children_are_canceled_in_small_steps(world: World):
    parent = await world.begin()
    children = [await world.trigger(parent_lease=parent) for _ in range(7)]
    await cancel(world, parent.run_id, at_once=True)
    assert await cascade_all(world, limit=3) == [3, 3, 1]
    assert {(await world.run(run_id)).state for run_id in children} == {RunState.CANCELED}


async def test_a_run_that_ends_otherwise_leaves_its_children_alone(world: World):
    for outcome in ("completed", "failed", "timed_out"):
        parent = await world.begin()
        child_id = await world.trigger(parent_lease=parent)
        await world.finish(parent, outcome, retryable=False)
        assert await cascade_all(world) == []
        assert (await world.run(child_id)).state == RunState.QUEUED
        await world.finish(await world.begin(child_id))


async def test_what_a_run_triggers_as_its_cleanup_goes_on(world: World):
    parent = await world.begin()
    child_id = await world.trigger(parent_lease=parent)
    await cancel(world, parent.run_id)
    world.later(1)
    cleanup_id = await world.trigger(parent_lease=parent)
    await world.finish(parent, "canceled")
    await cascade_all(world)
    assert (await world.run(child_id)).state == RunState.CANCELED
    assert (await world.run(cleanup_id)).state == RunState.QUEUED


async def test_a_run_without_children_leaves_no_note(world: World):
    parent = await world.begin()
    await world.finish(await world.begin(await world.trigger(parent_lease=parent)))
    await cancel(world, parent.run_id, at_once=True)
    assert await world.do(engine.cascade) is None


async def test_a_child_that_cannot_end_yet_is_asked_once(world: World):
    parent = await world.begin()
    child = await world.begin(await world.trigger(parent_lease=parent))
    await cancel(world, parent.run_id, at_once=True)
    assert await cascade_all(world) == [1]
    assert (await world.run(child.run_id)).cancel_requested_at == world.now
    assert await cascade_all(world) == []

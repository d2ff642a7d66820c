"""Which image a run comes back from, and which a worker may delete."""

import pytest

from torpor import engine
from torpor.engine import Lease, Ok, RunState, Stale
from torpor.wire.http import Refusal

from .conftest import World, time_wait

pytestmark = pytest.mark.anyio


async def frozen_twice(world: World) -> Lease:
    """A run with a current and a previous image, handed out for the third time."""
    lease = await world.begin()
    for nth in (1, 2):
        await world.block(lease, time_wait(f"w{nth}", 1))
        await world.suspend(lease, f"checkpoint_{nth}")
        world.later(1)
        await world.do(engine.fire_due)
        lease = await world.take(lease.run_id)
        if nth == 1:
            await world.start(lease, ["w1"])
    return lease


async def keep(world: World, *ids: str, worker_id: str = "w1") -> set[str]:
    return set(await world.do(engine.keep, worker_id, list(ids)))


async def test_the_current_image_and_the_one_before_are_kept(world: World):
    lease = await world.begin()
    ids = [f"checkpoint_{nth}" for nth in range(4)]
    for nth in range(4):
        await world.block(lease, time_wait(f"w{nth}", 1))
        await world.suspend(lease, ids[nth])
        assert await keep(world, *ids) == set(ids[max(nth - 1, 0) : nth + 1])
        world.later(1)
        await world.do(engine.fire_due)
        lease = await world.begin(lease.run_id)
    assert await keep(world, *ids, worker_id="w2") == set(), "another worker's images are not its business"
    await world.finish(lease)
    assert await keep(world, *ids) == set(), "a run that has ended needs none"


async def test_an_image_found_damaged_when_its_run_had_started_is_never_handed_out_again(world: World):
    """Memory that comes later is verified later: the run may have gone on by then."""
    lease = await frozen_twice(world)
    await world.start(lease, ["w2"])
    refusal = Refusal(lease.number, "page 7 was changed", checkpoint_unusable=True)
    assert await world.do(engine.refuse, lease, refusal) == Stale(lease.number)
    refusal = Refusal(lease.number, "page 7 was changed", checkpoint_unusable=True, lost=True)
    assert await world.do(engine.refuse, lease, refusal) == Ok()
    (assignment,) = await world.dequeue()
    assert assignment.checkpoint is not None
    assert assignment.checkpoint.id == "checkpoint_1"
    assert assignment.context.attempt == 1


async def test_a_damaged_image_is_never_handed_out_again_and_the_one_before_takes_over(world: World):
    lease = await frozen_twice(world)
    refusal = Refusal(lease.number, "page 7 was changed", checkpoint_unusable=True)
    assert await world.do(engine.refuse, lease, refusal) == Ok()
    (assignment,) = await world.dequeue()
    assert assignment.checkpoint is not None
    assert assignment.checkpoint.id == "checkpoint_1"
    assert assignment.context.attempt == 1, "nothing of the user's ran"
    assert [answer.wait_id for answer in assignment.answers] == ["w1"], "what the older image waits for"
    assert await keep(world, "checkpoint_1", "checkpoint_2") == {"checkpoint_1"}
    event = next(event for event in await world.story(lease.run_id) if event.kind == "run.checkpoint_refused")
    assert event.data["reason"] == "page 7 was changed"
    assert event.data["continues"] == "previous checkpoint"


async def test_without_another_image_a_new_attempt_starts_from_the_top(world: World):
    lease = await frozen_twice(world)
    await world.do(engine.refuse, lease, Refusal(lease.number, "damaged", checkpoint_unusable=True))
    lease = await world.take(lease.run_id)
    await world.do(engine.refuse, lease, Refusal(lease.number, "damaged", checkpoint_unusable=True))
    (assignment,) = await world.dequeue()
    assert (assignment.checkpoint, assignment.context.attempt) == (None, 2)
    async with world.db.transaction() as tx:
        states = [checkpoint.state for checkpoint in await engine.read.checkpoints(tx, lease.run_id)]
    assert states == ["unusable", "unusable"]


async def test_without_image_and_attempts_the_run_has_crashed_and_says_why(world: World):
    lease = await world.begin(max_attempts=1)
    await world.block(lease, time_wait("w1", 1))
    await world.suspend(lease, "checkpoint_1")
    world.later(1)
    await world.do(engine.fire_due)
    lease = await world.take(lease.run_id)
    await world.do(engine.refuse, lease, Refusal(lease.number, "cut short", checkpoint_unusable=True))
    run = await world.run(lease.run_id)
    assert run.state == RunState.CRASHED
    assert run.error is not None
    assert "cut short" in run.error["message"]


async def test_an_image_is_restored_only_where_it_lies_and_only_by_who_can(world: World):
    lease = await world.run_in(RunState.SUSPENDED)
    world.later(3600)
    await world.do(engine.fire_due)
    await world.do(engine.register_worker, world.environment_id, world.introduction("i2", "w2"), lease_s=30)
    given = {"free": 9, "versions": ["v1"], "lease_s": 30.0}
    assert await world.do(engine.dequeue, "w2", "i2", can_restore=True, **given) == []
    assert await world.dequeue(can_restore=False) == []
    assert [run.run_id for run in await world.dequeue(versions=[])] == [lease.run_id], "a restore needs no zygote"


async def test_runs_to_restore_come_before_new_ones(world: World):
    lease = await world.run_in(RunState.SUSPENDED)
    fresh = await world.trigger()
    world.later(3600)
    await world.do(engine.fire_due)
    assert [run.run_id for run in await world.dequeue()] == [lease.run_id, fresh]

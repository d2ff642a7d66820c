"""How long an attempt has worked: only while it executes."""

import pytest

from torpor import engine
from torpor.engine import Lease, RunState, active
from torpor.wire.http import VersionReport
from torpor.wire.runner import TaskError

from .conftest import World, manifest, time_wait

pytestmark = pytest.mark.anyio


async def worked_ms(world: World, run_id: str) -> float:
    return active.total_ms(await world.run(run_id), world.now)


async def test_T7_only_the_time_in_which_an_attempt_works_counts(world: World):
    """T7: max_duration counts active time of one attempt and leaves out what it waits, held or frozen, and its queueing."""
    run_id = await world.trigger()
    world.later(100)
    lease = await world.begin(run_id)
    world.later(2)
    assert await worked_ms(world, run_id) == 2000
    await world.block(lease, time_wait("a", 60))
    world.later(60)
    assert await worked_ms(world, run_id) == 2000
    await world.do(engine.fire_due)
    await world.do(engine.collect, lease, ["a"])
    world.later(3)
    await world.block(lease, time_wait("b", 3600))
    await world.suspend(lease)
    assert await worked_ms(world, run_id) == 5000
    world.later(3600)
    await world.do(engine.fire_due)
    (assignment,) = await world.dequeue()
    assert assignment.active_s == 5, "the worker's clock goes on from there"
    world.later(10)
    lease = Lease(run_id, assignment.lease)
    await world.start(lease, ["b"])
    world.later(1)
    await world.finish(lease)
    run = await world.run(run_id)
    assert (run.active_ms, run.active_since) == (6000, None)
    world.later(100)
    assert await worked_ms(world, run_id) == 6000


async def test_a_new_attempt_starts_at_nothing(world: World):
    lease = await world.begin()
    world.later(7)
    await world.fail(lease)
    assert await worked_ms(world, lease.run_id) == 7000
    world.later(1)
    await world.do(engine.fire_due)
    (assignment,) = await world.dequeue()
    assert (assignment.context.attempt, assignment.active_s) == (2, 0)
    assert await worked_ms(world, lease.run_id) == 0


async def test_a_run_that_is_taken_back_goes_on_counting_from_its_checkpoint_only(world: World):
    lease = await world.begin()
    world.later(31)
    await world.do(engine.rescue, max_rescues=5)
    (assignment,) = await world.dequeue()
    assert (assignment.context.attempt, assignment.active_s) == (1, 0), "from the top: nothing of it is left"
    lease = Lease(lease.run_id, assignment.lease)
    await world.start(lease)
    world.later(2)
    await world.block(lease, time_wait("a", 60))
    await world.suspend(lease)
    world.later(60)
    await world.do(engine.fire_due)
    await world.begin(lease.run_id)
    world.later(31)
    await world.do(engine.rescue, max_rescues=5)
    (assignment,) = await world.dequeue()
    assert assignment.active_s == 33, "the same attempt, and it has worked all that"


async def test_a_clock_that_is_set_back_gives_no_time(world: World):
    lease = await world.begin()
    world.later(-50)
    assert await worked_ms(world, lease.run_id) == 0
    await world.finish(lease)
    assert (await world.run(lease.run_id)).active_ms == 0


async def test_the_limit_is_the_runs_own_or_its_tasks(world: World):
    report = VersionReport("w1", "v1", [manifest("hello", max_duration_s=60.0)])
    await world.do(engine.register_version, world.environment_id, report)
    first, second = await world.trigger(), await world.trigger()
    async with world.db.transaction() as tx:
        await tx.execute("update runs set max_duration_s = 5 where id = $1", second)
    limits = {given.run_id: given.context.max_duration_s for given in await world.dequeue()}
    assert limits == {first: 60, second: 5}


async def test_a_run_that_worked_for_too_long_is_over(world: World):
    """T7: it times out without another attempt, and its parent learns of it."""
    lease = await world.begin(max_attempts=5)
    error = TaskError("MaxDurationExceeded", "60 s")
    assert await world.finish(lease, "timed_out", error=error) == engine.Finished(RunState.TIMED_OUT)
    run = await world.run(lease.run_id)
    assert run.error is not None
    assert run.error["name"] == "MaxDurationExceeded"

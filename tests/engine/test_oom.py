"""A run whose memory was used up goes on with a larger machine, once; and what runs have used adds up."""

import pytest

from torpor import engine
from torpor.engine import Finished, Lease, RunState, usage
from torpor.wire.http import FinishReport, MoveReport, OutOfMemory, SuspendReport, Usage, VersionReport
from torpor.wire.presets import GB
from torpor.wire.runner import RetryPolicy, TaskError

from .conftest import World, manifest, time_wait

pytestmark = pytest.mark.anyio

KILLED = TaskError("OutOfMemory", "its memory was used up")
OOM = OutOfMemory(limit_bytes=GB // 2, used_bytes=GB // 2)


async def with_policy(world: World, *, max_attempts: int = 1, on_oom: str | None = "large-1x") -> None:
    policy = RetryPolicy(max_attempts=max_attempts, on_oom=on_oom)
    report = VersionReport("w1", "v1", [manifest("hello", retry=policy)])
    await world.do(engine.register_version, world.environment_id, report)


async def out_of_memory(world: World, lease: Lease) -> Finished:
    return await world.finish(lease, "crashed", error=KILLED, oom=OOM)


async def told(world: World, run_id: str, kind: str = "run.out_of_memory") -> list[dict[str, object]]:
    return [event.data for event in await world.story(run_id) if event.kind == kind]


# -- the larger machine -------------------------------------------------------------------------------------------------


async def test_it_goes_on_from_its_newest_checkpoint_and_no_attempt_is_used_up(world: World):
    """R4, BB6: with max_attempts=1, from where it was saved last."""
    await with_policy(world)
    lease = await world.begin()
    await world.save(lease, name="older")
    await world.save(lease, name="newest")
    assert await out_of_memory(world, lease) == Finished(RunState.QUEUED, world.now)
    (again,) = await world.dequeue()
    assert (again.preset.name, again.context.attempt) == ("large-1x", 1)
    assert again.checkpoint is not None
    assert again.checkpoint.name == "newest"
    assert await told(world, lease.run_id) == [
        {
            "limit_bytes": GB // 2,
            "used_bytes": GB // 2,
            "machine": "small-1x",
            "next_machine": "large-1x",
            "from_checkpoint": again.checkpoint.id,
        }
    ]


async def test_without_a_checkpoint_it_begins_again(world: World):
    await with_policy(world)
    lease = await world.begin()
    await out_of_memory(world, lease)
    (again,) = await world.dequeue()
    assert (again.preset.name, again.checkpoint, again.context.attempt) == ("large-1x", None, 1)


async def test_it_happens_once(world: World):
    """On the larger machine it is a crash like any other: attempts are used up, and it ends."""
    await with_policy(world, max_attempts=2)
    lease = await world.begin()
    await world.save(lease)
    for attempt in (1, 1, 2):
        assert (await world.run(lease.run_id)).attempt == attempt
        await out_of_memory(world, lease)
        if attempt == 2:
            break
        (again,) = await world.dequeue()
        lease = Lease(lease.run_id, again.lease)
        await world.start(lease)
    run = await world.run(lease.run_id)
    assert (run.state, run.preset) == (RunState.CRASHED, "large-1x")
    assert len(await told(world, lease.run_id)) == 1
    (retried,) = await told(world, lease.run_id, "run.retrying")
    assert retried["out_of_memory"] == {"limit_bytes": GB // 2, "used_bytes": GB // 2}


async def test_later_attempts_keep_the_larger_machine(world: World):
    await with_policy(world, max_attempts=3)
    lease = await world.begin()
    await out_of_memory(world, lease)
    (again,) = await world.dequeue()
    await world.start(Lease(lease.run_id, again.lease))
    await world.fail(Lease(lease.run_id, again.lease))
    world.later(100)
    await world.do(engine.fire_due)
    (third,) = await world.dequeue()
    assert (third.preset.name, third.context.attempt) == ("large-1x", 2)


@pytest.mark.parametrize(("has", "named"), [("small-1x", None), ("large-1x", "large-1x"), ("large-2x", "large-1x")])
async def test_only_a_named_machine_with_more_memory_counts(world: World, has: str, named: str | None):
    await with_policy(world, on_oom=named)
    lease = await world.begin(preset=has)
    assert await out_of_memory(world, lease) == Finished(RunState.CRASHED)
    assert (await world.run(lease.run_id)).preset == has


async def test_without_a_larger_machine_the_same_checkpoint_is_tried_as_often_as_there_are_attempts(world: World):
    """A run that needs more memory than it may have ends, however often it is saved on the way."""
    await with_policy(world, max_attempts=3, on_oom=None)
    lease = await world.begin()
    for _ in range(3):
        await world.save(lease)
        await out_of_memory(world, lease)
        for again in await world.dequeue():
            lease = Lease(lease.run_id, again.lease)
            await world.start(lease)
    assert (await world.run(lease.run_id)).state == RunState.CRASHED


async def test_a_crash_for_another_reason_moves_nothing(world: World):
    await with_policy(world)
    lease = await world.begin()
    assert await world.finish(lease, "crashed", error=KILLED) == Finished(RunState.CRASHED)


async def test_a_run_that_was_asked_to_end_is_canceled_whatever_killed_it(world: World):
    await with_policy(world)
    lease = await world.begin()
    await world.do(engine.cancel, world.environment_id, lease.run_id)
    await out_of_memory(world, lease)
    assert (await world.run(lease.run_id)).state == RunState.CANCELED


# -- what it has used ---------------------------------------------------------------------------------------------------


async def test_use_adds_up_over_leases_and_counts_once_within_one(world: World):
    lease = await world.begin()
    await world.save(lease, usage=Usage(100, 5000))
    await world.save(lease, usage=Usage(300, 4000))
    await world.block(lease, time_wait("wait_1", 10))
    report = SuspendReport(lease.number, world.stored(), usage=Usage(400, 4000))
    await world.do(engine.suspend, lease, report, worker_id="w1")
    world.later(11)
    await world.do(engine.fire_due)
    (given,) = await world.dequeue()
    lease = Lease(lease.run_id, given.lease)
    await world.start(lease)
    report = MoveReport(lease.number, world.stored(kind="move"), [], usage=Usage(50, 6000))
    await world.do(engine.move, lease, report, worker_id="w1")
    (given,) = await world.dequeue()
    lease = Lease(lease.run_id, given.lease)
    await world.start(lease)
    await world.do(engine.finish, lease, FinishReport(lease.number, "completed", usage=Usage(7, 1)), jitter=lambda: 0.0)
    run = await world.run(lease.run_id)
    assert (usage.cpu_ms(run), run.peak_memory_bytes) == (457, 6000)


async def test_what_a_lost_process_had_told_stays(world: World):
    lease = await world.begin()
    await world.save(lease, usage=Usage(100, 10))
    world.later(31)
    await world.do(engine.rescue, max_rescues=5)
    (given,) = await world.dequeue()
    await world.start(Lease(lease.run_id, given.lease))
    await world.save(Lease(lease.run_id, given.lease), usage=Usage(5, 1))
    run = await world.run(lease.run_id)
    assert (usage.cpu_ms(run), run.peak_memory_bytes) == (105, 10)


async def test_frozen_time_is_from_the_freeze_to_the_next_hand_out(world: World):
    lease = await world.begin()
    await world.block(lease, time_wait("wait_1", 60))
    world.later(5)
    await world.suspend(lease)
    world.later(40)
    assert usage.frozen_ms(await world.run(lease.run_id), world.now) == 40_000
    world.later(20)
    await world.do(engine.fire_due)
    world.later(10)
    (given,) = await world.dequeue()
    await world.start(Lease(lease.run_id, given.lease))
    world.later(100)
    assert usage.frozen_ms(await world.run(lease.run_id), world.now) == 70_000


async def test_a_frozen_run_that_is_canceled_is_frozen_no_longer(world: World):
    lease = await world.begin()
    await world.block(lease, time_wait("wait_1", 60))
    await world.suspend(lease)
    world.later(30)
    await world.do(engine.cancel, world.environment_id, lease.run_id)
    world.later(1000)
    assert usage.frozen_ms(await world.run(lease.run_id), world.now) == 30_000


async def test_a_fork_begins_with_nothing_used(fleet: World):
    lease = await fleet.begin(preset="small-2x")
    await fleet.save(lease, name="here", usage=Usage(500, 5000))
    fleet.later(60)
    forked = await fleet.do(engine.fork, fleet.environment_id, lease.run_id, engine.ForkRequest())
    run = await fleet.run(forked.run_id)
    assert (usage.cpu_ms(run), run.peak_memory_bytes, usage.frozen_ms(run, fleet.now)) == (0, 0, 0)
    assert run.preset == "small-2x"

"""Save points: the run goes on, and comes back from the newest one."""

import pytest

from torpor import engine
from torpor.engine import ImageRejected, Ok, RunState, Stale
from torpor.wire.http import Refusal, VersionReport
from torpor.wire.runner import CheckpointPolicy, RetryPolicy

from .conftest import World, manifest, time_wait, token_wait

pytestmark = pytest.mark.anyio


async def report(world: World) -> None:
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v1", world.tasks))


async def test_a_run_that_is_saved_goes_on_and_tells_so(fleet: World):
    lease = await fleet.begin()
    where = [{"task": "main", "file": "jobs.py", "line": 7, "source": "await checkpoint('trained')"}]
    assert await fleet.save(lease, name="trained", waiting_at=where) == Ok()
    run = await fleet.run(lease.run_id)
    assert (run.state, run.lease) == (RunState.EXECUTING, lease.number)
    event = (await fleet.story(lease.run_id))[-1]
    assert (event.kind, event.data["name"], event.data["waiting_at"]) == ("run.saved", "trained", where)
    assert await fleet.finish(lease) == engine.Finished(RunState.COMPLETED)


@pytest.mark.parametrize("how", ["crashed", "rescued"])
async def test_a_lost_process_comes_back_from_its_newest_save_point(fleet: World, how: str):
    lease = await fleet.begin()
    await fleet.block(lease, time_wait("a", 1))
    await fleet.suspend(lease)
    fleet.later(1)
    await fleet.do(engine.fire_due)
    lease = await fleet.begin(lease.run_id)
    await fleet.save(lease, stored=fleet.stored("checkpoint_saved", kind="named", name="half way"))
    if how == "crashed":
        await fleet.finish(lease, "crashed")
    else:
        fleet.later(31)
        await fleet.do(engine.rescue, max_rescues=5)
    (assignment,) = await fleet.dequeue()
    assert assignment.checkpoint is not None
    assert (assignment.checkpoint.id, assignment.checkpoint.kind) == ("checkpoint_saved", "named")
    assert assignment.context.attempt == (2 if how == "crashed" else 1)


async def test_a_save_point_brings_back_the_waits_that_were_open_then(fleet: World):
    """Its process had entered one, got its answer since, and entered another."""
    first, second = await fleet.token(), await fleet.token()
    lease = await fleet.begin()
    await fleet.block(lease, token_wait("a", first), idle=False)
    await fleet.save(lease, open_waits=["a"])
    await fleet.complete(first)
    assert len((await fleet.do(engine.collect, lease, ["a"])).answers) == 1
    await fleet.block(lease, token_wait("b", second), dropped=["a"])
    await fleet.finish(lease, "crashed")
    (assignment,) = await fleet.dequeue()
    assert [answer.wait_id for answer in assignment.answers] == ["a"], "delivered before, to a process that is gone"
    await fleet.complete(second)
    assert await fleet.kinds(lease.run_id)


async def test_the_same_report_twice_saves_once(fleet: World):
    lease = await fleet.begin()
    stored = fleet.stored("checkpoint_1", kind="auto")
    assert await fleet.save(lease, stored=stored, nth=3) == Ok()
    assert await fleet.save(lease, stored=stored, nth=3) == Ok()
    assert len(await fleet.checkpoints(lease.run_id)) == 1
    assert await fleet.save(lease, stored=fleet.stored(kind="auto"), nth=2) == Stale(lease.number), "a late copy"


async def test_a_save_point_is_progress(fleet: World):
    lease = await fleet.begin()
    for _ in range(6):
        fleet.later(31)
        await fleet.do(engine.rescue, max_rescues=2)
        lease = await fleet.begin(lease.run_id)
        await fleet.save(lease)
    assert (await fleet.run(lease.run_id)).rescues == 0


async def test_a_failure_goes_on_from_the_newest_save_point_if_its_task_says_so(fleet: World):
    """BB4: an exception need not cost what was done before."""
    retry = RetryPolicy(max_attempts=3, min_delay_s=10, jitter=False, resume="checkpoint")
    fleet.tasks = [manifest("hello", retry=retry)]
    await report(fleet)
    lease = await fleet.begin()
    await fleet.save(lease, stored=fleet.stored("checkpoint_1", kind="auto"))
    assert (await fleet.fail(lease)).state == RunState.DELAYED
    event = (await fleet.story(lease.run_id))[-1]
    assert event.data["from_checkpoint"] == "checkpoint_1"
    fleet.later(10)
    await fleet.do(engine.fire_due)
    (assignment,) = await fleet.dequeue()
    assert assignment.checkpoint is not None
    assert (assignment.checkpoint.id, assignment.context.attempt) == ("checkpoint_1", 2)


async def test_a_failure_begins_again_from_the_top_otherwise(fleet: World):
    lease = await fleet.begin()
    await fleet.save(lease, name="half way")
    await fleet.fail(lease)
    fleet.later(60)
    await fleet.do(engine.fire_due)
    (assignment,) = await fleet.dequeue()
    assert (assignment.checkpoint, assignment.context.attempt) == (None, 2)
    assert [checkpoint.state for checkpoint in await fleet.checkpoints(lease.run_id)] == ["kept"], "for forks"


async def test_while_it_lives_the_named_ones_and_the_newest_others_are_kept(fleet: World):
    fleet.tasks = [manifest("hello", checkpoints=CheckpointPolicy(keep_last=1))]
    await report(fleet)
    lease = await fleet.begin()
    for name in ("load", None, "epoch", "epoch", None, None):
        await fleet.save(lease, name=name)
    kept = [(each.number, each.name) for each in await fleet.checkpoints(lease.run_id) if each.state == "usable"]
    assert kept == [(1, "load"), (3, "epoch"), (4, "epoch"), (6, None)]


async def test_a_task_says_how_often_its_runs_are_saved_by_themselves(fleet: World):
    fleet.tasks = [manifest("hello", checkpoints=CheckpointPolicy(every_s=600.0))]
    await report(fleet)
    await fleet.trigger()
    (assignment,) = await fleet.dequeue()
    assert assignment.save_every_s == 600.0


async def test_a_damaged_save_point_is_passed_by_for_the_one_before(fleet: World):
    lease = await fleet.begin()
    for nth in (1, 2, 3):
        await fleet.save(lease, stored=fleet.stored(f"checkpoint_{nth}", kind="named", name=f"step {nth}"))
    await fleet.finish(lease, "crashed")
    for nth in (3, 2):
        lease = await fleet.take(lease.run_id)
        refusal = Refusal(lease.number, "a bit has changed", checkpoint_unusable=True)
        await fleet.do(engine.refuse, lease, refusal)
        assert (await fleet.run(lease.run_id)).checkpoint_id == f"checkpoint_{nth - 1}"


async def test_an_image_that_was_taken_for_garbage_is_not_accepted(fleet: World):
    lease = await fleet.begin()
    await fleet.do(engine.note_strays, fleet.environment_id, "store_1", ["images/checkpoint_1"])
    stored = fleet.stored("checkpoint_1", kind="auto")
    assert await fleet.save(lease, stored=stored) == ImageRejected()
    assert (await fleet.run(lease.run_id)).checkpoint_id is None
    assert await fleet.checkpoints(lease.run_id) == []

"""When a worker can't use a checkpoint: another worker, patience, an earlier checkpoint, a new attempt, the end."""

from typing import Any

import pytest

from torpor import engine
from torpor.engine import Lease, Ok, RunState
from torpor.wire.http import Introduction, Refusal

from .conftest import World, time_wait

pytestmark = pytest.mark.anyio

PATIENCE_S = 600.0


async def saved(world: World, *, count: int = 2, **options: Any) -> Lease:
    """A run whose process was lost after so many save points: queued."""
    lease = await world.begin(**options)
    for nth in range(1, count + 1):
        await world.save(lease, stored=world.stored(f"checkpoint_{nth}", kind="named", name=f"step {nth}"))
    world.later(31)
    await world.do(engine.rescue, max_rescues=5)
    return lease


async def refuse(world: World, run_id: str, worker_id: str = "w1", reason: str = "it needs avx512f") -> None:
    """The worker is given the run, and can't use its image."""
    given = await (world.dequeue() if worker_id == "w1" else world.dequeue_as(worker_id))
    (assignment,) = [each for each in given if each.run_id == run_id]
    refusal = Refusal(assignment.lease, reason, unfit=True)
    assert await world.do(engine.refuse, Lease(run_id, assignment.lease), refusal) == Ok()


async def steps(world: World, run_id: str) -> list[tuple[str | None, str]]:
    return [
        (event.data["checkpoint_id"], event.data["continues"])
        for event in await world.story(run_id)
        if event.kind == "run.checkpoint_refused"
    ]


async def test_an_image_that_one_worker_can_not_use_goes_to_another(fleet: World):
    """BB5: a mixed fleet."""
    lease = await saved(fleet)
    await fleet.hello("w2", "store_1", "fit_2")
    await refuse(fleet, lease.run_id)
    assert await steps(fleet, lease.run_id) == [("checkpoint_2", "another worker")]
    assert await fleet.dequeue() == [], "never to this one again"
    await fleet.hello("w3", "store_1", "fit_1")
    assert await fleet.dequeue_as("w3") == [], "nor to one that is like it"
    (given,) = await fleet.dequeue_as("w2")
    assert given.checkpoint is not None
    assert (given.checkpoint.id, given.context.attempt) == ("checkpoint_2", 1)
    assert (await fleet.run(lease.run_id)).rescues == 1, "a refusal is no failure to make progress"


async def test_only_workers_that_read_its_store_get_an_image(fleet: World):
    await fleet.hello("w2", "store_2", "fit_1")
    lease = await saved(fleet)
    assert await fleet.dequeue_as("w2") == []
    assert [given.run_id for given in await fleet.dequeue()] == [lease.run_id]


async def test_when_nobody_here_can_use_it_the_run_waits_for_somebody_to_come(fleet: World):
    lease = await saved(fleet)
    await refuse(fleet, lease.run_id)
    assert await steps(fleet, lease.run_id) == [("checkpoint_2", "when a worker comes that can use it")]
    fleet.later(PATIENCE_S - 1)
    assert await fleet.do(engine.give_up, patience_s=PATIENCE_S) == []
    await fleet.hello("w2", "store_1", "fit_2")
    fleet.later(1)
    assert await fleet.do(engine.give_up, patience_s=PATIENCE_S) == [], "somebody has come, and may be busy"
    (given,) = await fleet.dequeue_as("w2")
    assert given.checkpoint is not None
    assert given.checkpoint.id == "checkpoint_2"


async def test_when_nobody_comes_it_goes_on_from_the_checkpoint_before_then_from_the_top_then_it_has_crashed(
    fleet: World,
):
    lease = await saved(fleet, max_attempts=2)
    for checkpoint in ("checkpoint_2", "checkpoint_1"):
        assert (await fleet.run(lease.run_id)).checkpoint_id == checkpoint
        await refuse(fleet, lease.run_id)
        await keep_connected(fleet, PATIENCE_S)
        assert await fleet.do(engine.give_up, patience_s=PATIENCE_S) == [lease.run_id]
    (given,) = await fleet.dequeue()
    assert (given.checkpoint, given.context.attempt) == (None, 2)
    assert [step for _, step in await steps(fleet, lease.run_id)] == [
        "when a worker comes that can use it",
        "previous checkpoint",
        "when a worker comes that can use it",
        "new attempt",
    ]
    reasons = [event.data["reason"] for event in await fleet.story(lease.run_id) if event.data.get("continues")]
    assert "no worker can use it: it needs avx512f" in reasons
    lease = Lease(lease.run_id, given.lease)
    await fleet.start(lease)
    await fleet.save(lease, stored=fleet.stored("checkpoint_3", kind="auto"))
    fleet.later(31)
    await fleet.do(engine.rescue, max_rescues=5)
    await refuse(fleet, lease.run_id)
    await keep_connected(fleet, PATIENCE_S)
    await fleet.do(engine.give_up, patience_s=PATIENCE_S)
    run = await fleet.run(lease.run_id)
    assert run.state == RunState.CRASHED
    assert "avx512f" in str(run.error)


async def keep_connected(world: World, seconds: float) -> None:
    world.later(seconds)
    await world.do(engine.heartbeat, "w1", "i1", [], lease_s=30)


async def test_a_checkpoint_that_everybody_refuses_can_still_be_forked(fleet: World):
    lease = await saved(fleet, count=1)
    await refuse(fleet, lease.run_id)
    await keep_connected(fleet, PATIENCE_S)
    await fleet.do(engine.give_up, patience_s=PATIENCE_S)
    assert [checkpoint.state for checkpoint in await fleet.checkpoints(lease.run_id)] == ["kept"]


async def test_the_checkpoint_before_is_passed_by_as_well_if_everybody_has_refused_it(fleet: World):
    """A fork's image was refused, and is that of the run's older checkpoint too."""
    lease = await saved(fleet)
    async with fleet.db.transaction() as tx:
        await tx.execute("insert into refusals values ('checkpoint_1', 'fit_1', 'no', $1)", fleet.now)
    lease = await fleet.take(lease.run_id)
    await fleet.do(engine.refuse, lease, Refusal(lease.number, "damaged", checkpoint_unusable=True))
    assert await steps(fleet, lease.run_id) == [("checkpoint_2", "new attempt")]


async def test_the_story_says_that_everybody_has_refused_it(fleet: World):
    lease = await saved(fleet)
    await refuse(fleet, lease.run_id)
    await keep_connected(fleet, 60)
    assert await fleet.do(engine.tell_stranded) == [lease.run_id]
    last = (await fleet.story(lease.run_id))[-1]
    assert last.data["reason"] == "every connected worker that can read its checkpoint has refused it"


async def test_the_story_says_that_nobody_reads_its_store(fleet: World):
    lease = await saved(fleet)
    await fleet.hello("w2", "store_2", "fit_1")
    fleet.later(3600)
    await fleet.do(engine.heartbeat, "w2", "of w2", [], lease_s=30)
    assert await fleet.do(engine.tell_stranded) == [lease.run_id]
    reason = (await fleet.story(lease.run_id))[-1].data["reason"]
    assert reason.startswith(
        "no worker that reads its checkpoint's object store is connected; the last one was worker w1"
    )


async def test_images_that_a_worker_left_on_its_disk_are_given_up_when_it_has_an_object_store(world: World):
    """After an upgrade: the worker comes back, and reads its own disk no longer."""
    lease = await world.begin()
    await world.block(lease, time_wait("a", 60))
    await world.suspend(lease)
    world.later(60)
    await world.do(engine.fire_due)
    assert await world.do(engine.give_up) == []
    intro = Introduction("w1", "i2", "here", 10, True, {}, store_id="store_1", fitness="fit_1")
    await world.do(engine.register_worker, world.environment_id, intro, lease_s=30)
    assert await world.do(engine.give_up) == [lease.run_id]
    (event,) = [event for event in await world.story(lease.run_id) if event.kind == "run.checkpoint_refused"]
    assert event.data["continues"] == "new attempt"
    assert "own disk" in event.data["reason"]
    assert (await world.run(lease.run_id)).checkpoint_id is None


async def test_a_fork_of_an_image_that_everybody_has_refused_does_not_wait_for_ever(fleet: World):
    """Seed 130: it was never handed out, so nobody refused it on its own account."""
    lease = await saved(fleet)
    await refuse(fleet, lease.run_id)
    done = await fleet.do(engine.fork, fleet.environment_id, lease.run_id, engine.ForkRequest())
    await keep_connected(fleet, PATIENCE_S)
    assert await fleet.do(engine.give_up, patience_s=PATIENCE_S) == sorted([lease.run_id, done.run_id])

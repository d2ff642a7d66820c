"""Processes that leave their machine in the middle of their work."""

import pytest

from torpor import engine
from torpor.engine import Awake, Lease, Ok, RunState, Stale, Suspended

from .conftest import World, time_wait, token_wait

pytestmark = pytest.mark.anyio


async def test_a_moved_run_goes_on_elsewhere_ahead_of_new_work(fleet: World):
    """Its worker drains, another one has the same object store."""
    lease = await fleet.begin()
    fresh = await fleet.trigger()
    fleet.later(5)
    assert await fleet.move(lease, stored=fleet.stored("checkpoint_1", kind="move"), reason="draining") == Suspended()
    await fleet.hello("w2", "store_1", "fit_2")
    first, second = await fleet.dequeue_as("w2")
    assert (first.run_id, second.run_id) == (lease.run_id, fresh)
    assert first.checkpoint is not None
    assert (first.checkpoint.id, first.checkpoint.kind, first.checkpoint.digest) == (
        "checkpoint_1",
        "move",
        "digest of checkpoint_1",
    )
    assert (first.context.attempt, first.lease, first.active_s) == (1, lease.number + 2, 5.0)
    event = next(event for event in await fleet.story(lease.run_id) if event.kind == "run.moved")
    assert (event.data["reason"], event.data["worker_id"]) == ("draining", "w1")


async def test_a_moved_run_gives_its_slot_back(fleet: World):
    await fleet.do(engine.queues.configure, fleet.environment_id, concurrency_limit=1)
    lease = await fleet.begin()
    other = await fleet.trigger()
    assert await fleet.dequeue() == []
    await fleet.move(lease)
    (given,) = await fleet.dequeue()
    assert given.run_id == lease.run_id, "ahead of new work"
    await fleet.start(Lease(lease.run_id, given.lease))
    await fleet.finish(Lease(lease.run_id, given.lease))
    assert [each.run_id for each in await fleet.dequeue()] == [other]


async def test_a_run_that_waits_may_be_moved_and_waits_on(fleet: World):
    token = await fleet.token()
    lease = await fleet.begin()
    await fleet.block(lease, token_wait("a", token))
    assert await fleet.move(lease, open_waits=["a"]) == Suspended()
    lease = await fleet.begin(lease.run_id)
    reply = await fleet.do(engine.collect, lease, ["a"], idle=True)
    assert [wait.wait_id for wait in reply.open] == ["a"]
    assert (await fleet.run(lease.run_id)).state == RunState.WAITING
    assert await fleet.complete(token) == engine.Completed([lease.run_id])


async def test_an_answer_that_came_while_it_moved_is_there_when_it_arrives(fleet: World):
    token = await fleet.token()
    lease = await fleet.begin()
    await fleet.block(lease, token_wait("a", token))
    await fleet.move(lease, open_waits=["a"])
    await fleet.complete(token)
    (assignment,) = await fleet.dequeue()
    assert [answer.wait_id for answer in assignment.answers] == ["a"]


async def test_a_move_counts_as_progress(fleet: World):
    lease = await fleet.begin()
    for _ in range(5):
        fleet.later(31)
        await fleet.do(engine.rescue, max_rescues=1)
        lease = await fleet.begin(lease.run_id)
        assert await fleet.move(lease) == Suspended()
        lease = await fleet.begin(lease.run_id)
    assert (await fleet.run(lease.run_id)).state == RunState.EXECUTING


async def test_a_run_that_is_to_end_or_has_not_begun_stays(fleet: World):
    lease = await fleet.begin()
    await fleet.do(engine.cancel, fleet.environment_id, lease.run_id)
    assert await fleet.move(lease) == Awake()
    dequeued = await fleet.take(await fleet.trigger())
    assert await fleet.move(dequeued) == Awake()


async def test_a_late_copy_of_a_move_changes_nothing(fleet: World):
    lease = await fleet.begin()
    stored = fleet.stored(kind="move")
    assert await fleet.move(lease, stored=stored, nth=2) == Suspended()
    assert await fleet.move(lease, stored=stored, nth=2) == Stale(lease.number + 1)
    again = await fleet.begin(lease.run_id)
    await fleet.block(again, time_wait("b", 60), nth=4)
    assert await fleet.move(again, nth=3) == Stale(again.number)
    assert (await fleet.run(lease.run_id)).state == RunState.WAITING
    assert await fleet.save(again, nth=5) == Ok()

"""Copies of a worker's reports about waits that arrive when it has long gone on. Each was found by the simulation."""

from typing import Any

import pytest

from torpor import engine
from torpor.engine import Awake, Blocked, Lease, Ok, RunState, Stale
from torpor.wire.http import BlockReport, StoredCheckpoint, SuspendReport
from torpor.wire.runner import NewWait

from .conftest import World, token_wait

pytestmark = pytest.mark.anyio


async def block(world: World, lease: Lease, nth: int, *waits: NewWait) -> Any:
    return await world.do(engine.block, lease, BlockReport(lease.number, list(waits), idle=True, nth=nth))


async def suspend(world: World, lease: Lease, nth: int, checkpoint_id: str = "checkpoint_1") -> Any:
    report = SuspendReport(lease.number, StoredCheckpoint(checkpoint_id, 1), nth=nth)
    return await world.do(engine.suspend, lease, report, worker_id="w1")


async def test_an_image_that_its_worker_was_told_to_drop_is_not_accepted_later(world: World):
    """Seed 248: told Awake, the worker deletes the image and goes on; then a late copy of `suspend` was accepted."""
    first, second = await world.token(), await world.token()
    lease = await world.begin()
    await block(world, lease, 1, token_wait("a", first), token_wait("b", second))
    await world.complete(first)
    assert await suspend(world, lease, 2) == Awake()
    assert len((await world.do(engine.collect, lease, ["a", "b"], nth=3)).answers) == 1
    await block(world, lease, 4)
    assert await suspend(world, lease, 2) == Stale(lease.number)
    run = await world.run(lease.run_id)
    assert (run.state, run.checkpoint_id) == (RunState.WAITING, None)


async def test_a_late_copy_of_block_does_not_swallow_an_answer(world: World):
    """Seed 630: the copy named the waits of long ago, was given an answer that nobody read, and the run slept for ever."""
    token = await world.token()
    lease = await world.begin()
    await block(world, lease, 1, token_wait("a", token))
    assert len((await world.do(engine.collect, lease, ["a"], nth=2)).open) == 1
    await world.complete(token)
    assert await block(world, lease, 1, token_wait("a", token)) == Stale(lease.number)
    assert await suspend(world, lease, 3) == Awake(), "its answer is still to come"


async def test_a_copy_of_the_latest_report_gives_an_answer_without_counting_it_as_delivered(world: World):
    """The first copy's answer was read, this one's may not be: the heartbeat still speaks of it."""
    token = await world.token()
    lease = await world.begin()
    await block(world, lease, 1, token_wait("a", token))
    await world.complete(token)
    copy = await block(world, lease, 1, token_wait("a", token))
    assert isinstance(copy, Blocked)
    assert len(copy.answers) == 1
    assert await suspend(world, lease, 2) == Awake()
    assert len((await world.do(engine.collect, lease, ["a"], nth=3)).answers) == 1


async def test_a_late_copy_of_collect_does_not_drop_what_was_entered_since(world: World):
    """Seed 773: the run waited for a token that it was not tied to any more."""
    first, second = await world.token(), await world.token()
    lease = await world.begin()
    await block(world, lease, 1, token_wait("a", first))
    await world.complete(first)
    await world.do(engine.collect, lease, ["a"], nth=2)
    await block(world, lease, 3, token_wait("b", second))
    assert await world.do(engine.collect, lease, ["a"], nth=2) == Stale(lease.number)
    assert await world.complete(second) == engine.Completed([lease.run_id])


async def test_each_lease_counts_its_reports_anew(world: World):
    token = await world.token()
    lease = await world.begin()
    await block(world, lease, 7, token_wait("a", token))
    await suspend(world, lease, 8)
    await world.complete(token)
    (assignment,) = await world.dequeue()
    again = Lease(lease.run_id, assignment.lease)
    assert await world.start(again, ["a"]) == Ok()
    assert isinstance(await world.do(engine.collect, again, [], nth=1), Blocked)

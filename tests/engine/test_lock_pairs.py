"""Pairs of verbs that want the same rows: the second waits for the first, and finds what it left. (Blocks, suspends and
completions are in test_locks.py, batches in test_batch.py, circles in test_cycles.py.)
"""

import asyncio

import pytest

from torpor import engine
from torpor.engine import Lease, RunState, Stale, queues
from torpor.wire.http import FinishReport

from .conftest import World, time_wait, token_wait
from .test_locks import meanwhile

pytestmark = pytest.mark.anyio


def done(lease: Lease) -> FinishReport:
    return FinishReport(lease.number, "completed")


async def child_of(world: World, parent: Lease) -> Lease:
    run_id = await world.trigger(parent_lease=parent)
    return await world.begin(run_id)


async def test_a_cancel_that_comes_second_finds_the_run_over(world: World):
    lease = await world.begin()
    async with world.db.transaction() as tx:
        await engine.finish(tx, lease, done(lease), jitter=lambda: 0.0, now=world.now)
        async with meanwhile(world, world.do(engine.cancel, world.environment_id, lease.run_id)) as (canceling,):
            pass
    assert await canceling == engine.AlreadyEnded(RunState.COMPLETED)


async def test_a_finish_that_comes_after_the_request_to_end_is_canceled(world: World):
    lease = await world.begin()
    async with world.db.transaction() as tx:
        assert await engine.cancel(tx, world.environment_id, lease.run_id, now=world.now) == engine.CancelRequested()
        async with meanwhile(world, world.finish(lease)) as (finishing,):
            pass
    assert await finishing == engine.Finished(RunState.CANCELED)


async def test_a_finish_that_comes_after_a_kill_is_stale(world: World):
    lease = await world.begin()
    async with world.db.transaction() as tx:
        await engine.cancel(tx, world.environment_id, lease.run_id, at_once=True, now=world.now)
        async with meanwhile(world, world.finish(lease)) as (finishing,):
            pass
    assert await finishing == Stale(lease.number + 1)


async def test_a_child_that_ends_while_the_cascade_comes_has_ended_by_itself(world: World):
    parent = await world.begin()
    child = await child_of(world, parent)
    await world.do(engine.cancel, world.environment_id, parent.run_id)
    async with world.db.transaction() as tx:
        await engine.finish(tx, child, done(child), jitter=lambda: 0.0, now=world.now)
        async with meanwhile(world, world.do(engine.cascade)) as (cascading,):
            pass
    assert await cascading == 0
    assert (await world.run(child.run_id)).state == RunState.COMPLETED


async def test_a_child_that_ends_after_the_cascade_is_canceled(world: World):
    parent = await world.begin()
    child = await child_of(world, parent)
    await world.do(engine.cancel, world.environment_id, parent.run_id)
    async with world.db.transaction() as tx:
        assert await engine.cascade(tx, now=world.now) == 1
        async with meanwhile(world, world.finish(child)) as (finishing,):
            pass
    assert await finishing == engine.Finished(RunState.CANCELED)


async def test_two_cascades_at_once_cancel_each_child_once(world: World):
    parent = await world.begin()
    child = await child_of(world, parent)
    await world.do(engine.cancel, world.environment_id, parent.run_id)
    async with world.db.transaction() as tx:
        assert await engine.cascade(tx, now=world.now) == 1
        async with meanwhile(world, world.do(engine.cascade)) as (cascading,):
            pass
    assert await cascading in (0, 1)
    assert (await world.kinds(child.run_id)).count("run.cancel_requested") == 1


async def test_a_collect_that_waits_for_the_timers_gets_what_they_fired(world: World):
    lease = await world.begin()
    await world.block(lease, time_wait("a", 10))
    world.later(10)
    async with world.db.transaction() as tx:
        assert (await engine.fire_due(tx, now=world.now)).count == 1
        async with meanwhile(world, world.do(engine.collect, lease, ["a"])) as (collecting,):
            pass
    assert [answer.wait_id for answer in (await collecting).answers] == ["a"]


async def test_of_an_answer_and_a_deadline_the_first_counts(world: World):
    """Both orders, each while the other waits for its locks."""
    for answer_first in (True, False):
        token = await world.token()
        lease = await world.begin()
        wait = token_wait("a", token)
        wait = type(wait)(wait.wait_id, "token", waitpoint_id=token, timeout_s=10)
        await world.block(lease, wait)
        world.later(10)
        async with world.db.transaction() as tx:
            if answer_first:
                await engine.complete_waitpoint(tx, token, output="1", now=world.now)
                other = world.do(engine.fire_due)
            else:
                await engine.fire_due(tx, now=world.now)
                other = world.complete(token)
            async with meanwhile(world, other) as (second,):
                pass
        await second
        (answer,) = (await world.do(engine.collect, lease, ["a"])).answers
        assert answer.status == ("completed" if answer_first else "timed_out")
        await world.finish(lease)


async def test_two_dequeues_at_once_never_exceed_a_limit(world: World):
    await world.do(queues.configure, world.environment_id, concurrency_limit=1)
    await world.do(engine.register_worker, world.environment_id, world.introduction("i2", "w2"), lease_s=30)
    for _ in range(3):
        await world.trigger()
    given = {"versions": ["v1"], "can_restore": True, "lease_s": 30.0, "free": 5}
    async with world.db.transaction() as tx:
        first = await engine.dequeue(tx, "w1", "i1", **given, now=world.now)
        async with meanwhile(world, world.do(engine.dequeue, "w2", "i2", **given)) as (second,):
            pass
    assert (len(first), len(await second)) == (1, 0)


async def test_grant_waits_for_a_dequeue_and_not_for_an_end(world: World):
    await world.do(queues.configure, world.environment_id, concurrency_limit=1)
    token = await world.token()
    waiting = await world.begin()
    await world.block(waiting, token_wait("a", token))
    working = await world.begin()
    await world.complete(token)
    async with world.db.transaction() as tx:
        await engine.finish(tx, working, done(working), jitter=lambda: 0.0, now=world.now)
        async with asyncio.timeout(60):
            assert await world.do(engine.grant, world.environment_id) == 0, "that slot isn't free before the commit"
    await world.trigger()
    async with world.db.transaction() as tx:
        given = {"versions": ["v1"], "can_restore": True, "lease_s": 30.0, "free": 5}
        assert await engine.dequeue(tx, "w1", "i1", **given, now=world.now) == [], "who stands in line goes first"
        async with meanwhile(world, world.do(engine.grant, world.environment_id)) as (granting,):
            pass
    assert await granting == 0
    assert (await world.run(waiting.run_id)).state == RunState.EXECUTING

"""Two connections, one rule: whichever comes first, the run sees the answer or is woken, and nobody deadlocks.

Each test holds one verb's transaction open, starts the other, waits until Postgres reports it as blocked, and lets go.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from torpor import engine
from torpor.engine import Awake, Lease, RunState, Stale, Suspended
from torpor.wire.http import BlockReport, FinishReport, HeldLease, Introduction, StoredCheckpoint, SuspendReport
from torpor.wire.runner import NewWait

from .conftest import World, blocked_backends, run_wait, time_wait, token_wait

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def meanwhile(world: World, *others: Any) -> AsyncIterator[list["asyncio.Task[Any]"]]:
    """Start these, and go on when the database says that each is blocked. Leave the block, then await them."""
    tasks = [asyncio.ensure_future(other) for other in others]
    async with world.db.transaction() as tx:
        async with asyncio.timeout(60):
            while await blocked_backends(tx) < len(tasks):
                assert not any(task.done() for task in tasks), "it was not blocked"
                await tx.execute("select pg_stat_clear_snapshot()")
    yield tasks


def report(lease: Lease, *waits: NewWait) -> BlockReport:
    return BlockReport(lease.number, list(waits), idle=True)


async def test_block_first_then_the_completion_wakes_it(world: World):
    token = await world.token()
    lease = await world.begin()
    async with world.db.transaction() as tx:
        blocked = await engine.block(tx, lease, report(lease, token_wait("a", token)), now=world.now)
        assert blocked.answers == []  # pyright: ignore[reportAttributeAccessIssue]
        async with meanwhile(world, world.complete(token)) as (completing,):
            pass
    assert await completing == engine.Completed([lease.run_id])
    assert len((await world.do(engine.collect, lease, ["a"])).answers) == 1


async def test_the_completion_first_then_block_reads_the_answer(world: World):
    token = await world.token()
    lease = await world.begin()
    async with world.db.transaction() as tx:
        await engine.complete_waitpoint(tx, token, output="1", now=world.now)
        async with meanwhile(world, world.block(lease, token_wait("a", token))) as (blocking,):
            pass
    assert [answer.wait_id for answer in (await blocking).answers] == ["a"]


async def test_a_child_ends_while_its_parent_blocks_on_it(world: World):
    child, parent = await world.begin(), await world.begin()
    async with world.db.transaction() as tx:
        await engine.block(tx, parent, report(parent, run_wait("a", child.run_id)), now=world.now)
        async with meanwhile(world, world.finish(child)) as (finishing,):
            pass
    await finishing
    assert len((await world.do(engine.collect, parent, ["a"])).answers) == 1


async def test_a_parent_blocks_on_a_child_that_is_ending(world: World):
    child, parent = await world.begin(), await world.begin()
    async with world.db.transaction() as tx:
        done = FinishReport(child.number, "completed")
        await engine.finish(tx, child, done, jitter=lambda: 0.0, now=world.now)
        async with meanwhile(world, world.block(parent, run_wait("a", child.run_id))) as (blocking,):
            pass
    assert [answer.status for answer in (await blocking).answers] == ["completed"]


async def test_suspend_first_then_the_completion_resumes(world: World):
    token = await world.token()
    lease = await world.begin()
    await world.block(lease, token_wait("a", token))
    async with world.db.transaction() as tx:
        image = SuspendReport(lease.number, StoredCheckpoint("checkpoint_1", 1))
        assert await engine.suspend(tx, lease, image, worker_id="w1", now=world.now) == Suspended()
        async with meanwhile(world, world.complete(token)) as (completing,):
            pass
    await completing
    assert (await world.run(lease.run_id)).state == RunState.QUEUED


async def test_the_completion_first_then_suspend_stays_awake(world: World):
    token = await world.token()
    lease = await world.begin()
    await world.block(lease, token_wait("a", token))
    async with world.db.transaction() as tx:
        await engine.complete_waitpoint(tx, token, output="1", now=world.now)
        async with meanwhile(world, world.suspend(lease)) as (suspending,):
            pass
    assert await suspending == Awake()


async def test_a_run_tied_while_a_completion_waits_is_woken_too(world: World):
    """The completion has looked up the first run and is kept waiting; a second run ties itself meanwhile."""
    token = await world.token()
    first, second = await world.begin(), await world.begin()
    await world.block(first, token_wait("a", token))
    async with world.db.transaction() as tx:
        await tx.execute("select 1 from runs where id = $1 for no key update", first.run_id)
        async with meanwhile(world, world.complete(token)) as (completing,):
            await world.block(second, token_wait("a", token))
    assert await completing == engine.Completed(sorted([first.run_id, second.run_id]))


async def test_two_answers_at_once_resume_once(world: World):
    tokens = [await world.token(), await world.token()]
    lease = await world.begin()
    await world.block(lease, token_wait("a", tokens[0]), token_wait("b", tokens[1]))
    await world.suspend(lease)
    async with world.db.transaction() as tx:
        await engine.complete_waitpoint(tx, tokens[0], output="1", now=world.now)
        async with meanwhile(world, world.complete(tokens[1])) as (completing,):
            pass
    await completing
    assert (await world.kinds(lease.run_id)).count("run.resuming") == 1
    (assignment,) = await world.dequeue()
    assert len(assignment.answers) == 2


async def test_one_token_is_answered_once_by_two_at_once(world: World):
    token = await world.token()
    async with world.db.transaction() as tx:
        await engine.complete_waitpoint(tx, token, output="1", now=world.now)
        async with meanwhile(world, world.complete(token, "2")) as (completing,):
            pass
    assert await completing == engine.AlreadyCompleted("completed")


async def test_a_rescue_and_a_late_finish_of_the_same_lease(world: World):
    lease = await world.begin()
    world.later(31)
    async with world.db.transaction() as tx:
        assert await engine.rescue(tx, max_rescues=5, now=world.now) == [lease.run_id]
        async with meanwhile(world, world.finish(lease)) as (finishing,):
            pass
    assert await finishing == Stale(lease.number + 1)
    assert (await world.run(lease.run_id)).state == RunState.QUEUED


async def test_a_heartbeat_that_is_quicker_than_the_rescue_saves_the_lease(world: World):

    lease = await world.begin()
    world.later(31)
    async with world.db.transaction() as tx:
        held = [HeldLease(lease.run_id, lease.number)]
        await engine.heartbeat(tx, "w1", "i1", held, lease_s=30, now=world.now)
        async with meanwhile(world, world.do(engine.rescue, max_rescues=5)) as (rescuing,):
            pass
    assert await rescuing == []


async def test_two_workers_get_their_runs_one_after_the_other_and_never_the_same(world: World):
    """Hand-outs of an environment take turns: two at once would both see the last free slot."""
    for _ in range(4):
        await world.trigger()
    await world.do(engine.register_worker, world.environment_id, world.introduction("i2", "w2"), lease_s=30)
    given = {"versions": ["v1"], "can_restore": True, "lease_s": 30.0}
    async with world.db.transaction() as tx:
        first = await engine.dequeue(tx, "w1", "i1", free=2, **given, now=world.now)
        second = world.do(engine.dequeue, "w2", "i2", free=9, **given)
        async with meanwhile(world, second) as (waiting,):
            pass
    assert len(first) == len(await waiting) == 2
    assert not {run.run_id for run in first} & {run.run_id for run in await waiting}


async def test_a_new_instance_takes_back_what_the_old_one_is_being_given(world: World):
    run_id = await world.trigger()
    hello = Introduction("w1", "i2", "here", 10, True, {})
    async with world.db.transaction() as tx:
        given = {"versions": ["v1"], "can_restore": True, "lease_s": 30.0, "now": world.now}
        assert len(await engine.dequeue(tx, "w1", "i1", free=1, **given)) == 1
        registering = world.do(engine.register_worker, world.environment_id, hello, lease_s=30)
        async with meanwhile(world, registering) as (coming,):
            pass
    assert await coming == 1
    assert (await world.run(run_id)).state == RunState.QUEUED


async def test_crosswise_blocks_and_completions_do_not_deadlock(world: World):
    """Many runs on the same tokens, in opposite orders, all at once: a deadlock would surface as an error here."""
    tokens = [await world.token() for _ in range(4)]
    leases = [await world.begin() for _ in range(6)]

    async def wait_for_all(lease: Lease, order: list[str]) -> None:
        await world.block(lease, *[token_wait(f"w{token}", token) for token in order])
        await world.suspend(lease)

    async with asyncio.timeout(60):
        await asyncio.gather(
            *[wait_for_all(lease, tokens[::-1] if nth % 2 else tokens) for nth, lease in enumerate(leases)],
            *[world.complete(token) for token in tokens],
        )
    for lease in leases:
        run = await world.run(lease.run_id)
        assert run.state != RunState.SUSPENDED, "every token is complete: nobody may sleep"
        if run.state == RunState.WAITING:
            assert (await world.do(engine.collect, lease, [f"w{token}" for token in tokens])).answers


async def test_a_family_that_waits_for_each_other_does_not_deadlock(world: World):
    """A parent waits for two children, one of which waits for the other; both end while the parent blocks."""
    for _ in range(5):
        parent, first, second = await world.begin(), await world.begin(), await world.begin()
        async with asyncio.timeout(60):
            await asyncio.gather(
                world.block(parent, run_wait("a", first.run_id), run_wait("b", second.run_id)),
                world.block(second, run_wait("c", first.run_id)),
                world.finish(first),
                world.finish(second),
            )
        assert len((await world.do(engine.collect, parent, ["a", "b"])).answers) == 2
        await world.finish(parent)


async def test_one_idempotency_key_makes_one_run_of_two_triggers_at_once(world: World):
    request = engine.TriggerRequest("hello", idempotency_key="k")
    async with world.db.transaction() as tx:
        first = await engine.trigger(tx, world.environment_id, request, now=world.now)
        async with meanwhile(world, world.do(engine.trigger, world.environment_id, request)) as (triggering,):
            pass
    assert isinstance(first, engine.Triggered)
    assert await triggering == engine.Triggered(first.run_id, is_cached=True)


async def test_a_child_is_not_triggered_by_a_process_whose_lease_is_being_ended(world: World):
    lease = await world.begin()
    async with world.db.transaction() as tx:
        await engine.cancel(tx, world.environment_id, lease.run_id, at_once=True, now=world.now)
        request = engine.TriggerRequest("hello", parent_lease=lease)
        async with meanwhile(world, world.do(engine.trigger, world.environment_id, request)) as (triggering,):
            pass
    assert await triggering == Stale(lease.number + 1)


async def test_a_time_wait_of_another_run_is_not_held_up(world: World):
    """Locks are per run: a long transaction on one run leaves the others alone."""
    first, second = await world.begin(), await world.begin()
    async with world.db.transaction() as tx:
        await engine.block(tx, first, report(first, time_wait("a", 60)), now=world.now)
        async with asyncio.timeout(60):
            await world.block(second, time_wait("a", 60))
            await world.finish(second)


async def test_two_runs_complete_each_others_tokens_at_once(world: World):
    """From inside runs: the server asks `holds`, then completes, in one transaction."""
    first, second = await world.begin(), await world.begin()
    tokens = {first.run_id: await world.token(), second.run_id: await world.token()}
    await world.block(first, token_wait("a", tokens[first.run_id]))
    await world.block(second, token_wait("a", tokens[second.run_id]))
    both_hold = asyncio.Barrier(2)

    async def complete_for(lease: Lease, other: Lease) -> object:
        async with world.db.transaction() as tx:
            assert await engine.holds(tx, lease)
            await both_hold.wait()
            return await engine.complete_waitpoint(tx, tokens[other.run_id], output="1", now=world.now)

    async with asyncio.timeout(60):
        done = await asyncio.gather(complete_for(first, second), complete_for(second, first))
    assert done == [engine.Completed([second.run_id]), engine.Completed([first.run_id])]

"""Ends, retries, rescues."""

from datetime import timedelta

import msgspec
import pytest

from torpor import engine
from torpor.engine import Finished, Lease, RunState, Stale
from torpor.wire.http import HeldLease, Refusal, VersionReport
from torpor.wire.runner import RetryPolicy

from .conftest import World, manifest, run_wait, time_wait

pytestmark = pytest.mark.anyio

POLICY = RetryPolicy(min_delay_s=1, factor=2, max_delay_s=10, jitter=False)


@pytest.mark.parametrize(("attempt", "delay_s"), [(1, 1), (2, 2), (4, 8), (5, 10), (10_000, 10)])
def test_the_delay_grows_by_the_factor_up_to_the_maximum(attempt: int, delay_s: float):
    assert engine.retry_delay_s(POLICY, attempt, lambda: 1.0) == delay_s


@pytest.mark.parametrize(("jitter", "delay_s"), [(0.0, 4), (0.5, 6), (1.0, 8)])
def test_jitter_stretches_the_delay_up_to_twice(jitter: float, delay_s: float):
    policy = msgspec.structs.replace(POLICY, jitter=True)
    assert engine.retry_delay_s(policy, 3, lambda: jitter) == delay_s
    assert engine.retry_delay_s(policy, 9, lambda: jitter) == 10, "never beyond the maximum"


async def test_a_failed_attempt_is_tried_again_from_the_top_after_its_delay(world: World):
    lease = await world.run_in(RunState.SUSPENDED)
    world.later(3600)
    await world.do(engine.fire_due)
    lease = await world.begin(lease.run_id)
    retry_at = world.now + timedelta(seconds=1)
    assert await world.fail(lease) == Finished(RunState.DELAYED, retry_at)
    run = await world.run(lease.run_id)
    assert (run.checkpoint_id, run.available_at, run.attempt) == (None, retry_at, 1)
    assert (await world.do(engine.fire_due)).next_due == retry_at
    assert await world.dequeue() == []
    world.later(1)
    assert (await world.do(engine.fire_due)).count == 1
    (assignment,) = await world.dequeue()
    assert (assignment.context.attempt, assignment.checkpoint, assignment.answers) == (2, None, [])
    async with world.db.transaction() as tx:
        first, second = await engine.read.attempts(tx, lease.run_id)
    assert (first.outcome, first.error and first.error["name"]) == ("failed", "ValueError")
    assert (second.outcome, second.number) == (None, 2)


async def test_the_last_attempt_fails_for_good(world: World):
    run_id = await world.trigger(max_attempts=2)
    await world.fail(await world.begin(run_id))
    world.later(1)
    await world.do(engine.fire_due)
    assert await world.fail(await world.begin(run_id)) == Finished(RunState.FAILED)
    run = await world.run(run_id)
    assert (run.attempt, run.error and run.error["message"]) == (2, "no")
    assert (await world.kinds(run_id))[-4:] == ["run.retrying", "run.dequeued", "run.started", "run.failed"]


async def test_without_a_delay_a_failed_attempt_is_queued_at_once(world: World):
    at_once = RetryPolicy(max_attempts=2, min_delay_s=0, jitter=False)
    report = VersionReport("w1", "v1", [manifest("hello", retry=at_once)])
    await world.do(engine.register_version, world.environment_id, report)
    for state in (RunState.DEQUEUED, RunState.EXECUTING, RunState.WAITING):
        lease = await world.run_in(state)
        assert (await world.fail(lease)).state == RunState.QUEUED
        assert (await world.run(lease.run_id)).state == RunState.QUEUED
        await world.do(engine.cancel, world.environment_id, lease.run_id, at_once=True)


async def test_what_is_not_retryable_fails_at_the_first_attempt(world: World):
    assert await world.fail(await world.begin(), retryable=False) == Finished(RunState.FAILED)


async def test_the_same_finish_twice_is_stale_and_changes_nothing(world: World):
    lease = await world.begin()
    await world.finish(lease, output=msgspec.Raw(b"1"))
    assert await world.finish(lease, output=msgspec.Raw(b"2")) == Stale(lease.number + 1)
    assert (await world.run(lease.run_id)).output == "1"


async def test_a_crash_goes_on_from_the_newest_checkpoint_and_uses_an_attempt_up(world: World):
    lease = await world.run_in(RunState.SUSPENDED)
    checkpoint_id = (await world.run(lease.run_id)).checkpoint_id
    world.later(3600)
    await world.do(engine.fire_due)
    for attempt in (1, 2, 3):
        (assignment,) = await world.dequeue()
        assert assignment.checkpoint is not None
        assert (assignment.checkpoint.id, assignment.context.attempt) == (checkpoint_id, attempt)
        assert [answer.wait_id for answer in assignment.answers] == ["wait_0"]
        lease = Lease(lease.run_id, assignment.lease)
        await world.start(lease, ["wait_0"])
        state = (await world.finish(lease, "crashed")).state
        assert state == (RunState.QUEUED if attempt < 3 else RunState.CRASHED)
    assert (await world.run(lease.run_id)).checkpoint_id is None


async def test_a_crash_without_a_checkpoint_starts_from_the_top(world: World):
    lease = await world.run_in(RunState.WAITING)
    await world.finish(lease, "crashed")
    (assignment,) = await world.dequeue()
    assert (assignment.context.attempt, assignment.checkpoint) == (2, None)
    run = await world.run(lease.run_id)
    assert run.state == RunState.DEQUEUED
    world.later(3600)
    await world.do(engine.fire_due)
    assert (await world.do(engine.heartbeat, "w1", "i1", [], lease_s=30)).news == []


# -- rescue ------------------------------------------------------------------------------------------------------------


async def test_a_lease_that_ran_out_is_taken_back_in_the_same_attempt(world: World):
    lease = await world.begin()
    world.later(30)
    assert await world.do(engine.rescue, max_rescues=5) == []
    world.later(1)
    assert await world.do(engine.rescue, max_rescues=5) == [lease.run_id]
    (assignment,) = await world.dequeue()
    assert (assignment.context.attempt, assignment.lease) == (1, lease.number + 2)
    assert await world.finish(lease) == Stale(assignment.lease), "the zombie's late word counts for nothing"


async def test_a_rescued_run_keeps_its_checkpoint(world: World):
    lease = await world.run_in(RunState.SUSPENDED)
    world.later(3600)
    await world.do(engine.fire_due)
    await world.begin(lease.run_id)
    world.later(31)
    await world.do(engine.rescue, max_rescues=5)
    (assignment,) = await world.dequeue()
    assert assignment.checkpoint is not None
    assert [answer.wait_id for answer in assignment.answers] == ["wait_0"]


async def test_rescues_without_progress_end_in_a_system_failure_and_answer_the_parent(world: World):
    parent = await world.begin()
    child_id = await world.trigger(parent_lease=parent)
    await world.block(parent, run_wait("a", child_id))
    await world.suspend(parent)
    for _ in range(3):
        await world.begin(child_id)
        world.later(31)
        await world.do(engine.rescue, max_rescues=2)
    run = await world.run(child_id)
    assert run.state == RunState.SYSTEM_FAILURE
    assert run.error is not None
    assert "3 times" in run.error["message"]
    assert (await world.run(parent.run_id)).state == RunState.QUEUED


async def test_progress_forgives_earlier_rescues(world: World):
    run_id = await world.trigger()
    for nth in range(4):
        await world.begin(run_id)
        world.later(31)
        await world.do(engine.rescue, max_rescues=5)
        lease = await world.begin(run_id)
        await world.block(lease, time_wait(f"w{nth}", 1))
        await world.suspend(lease)
        assert (await world.run(run_id)).rescues == 0
        world.later(1)
        await world.do(engine.fire_due)


async def test_a_heartbeat_renews_the_lease_and_tells_what_is_over(world: World):
    kept, lost = await world.begin(), await world.begin()
    await world.do(engine.cancel, world.environment_id, lost.run_id, at_once=True)
    world.later(29)
    held = [HeldLease(kept.run_id, kept.number), HeldLease(lost.run_id, lost.number), HeldLease("run_x", 1)]
    reply = await world.do(engine.heartbeat, "w1", "i1", held, lease_s=30)
    assert reply.known
    assert {(news.kind, news.run_id) for news in reply.news} == {("stale", lost.run_id), ("stale", "run_x")}
    world.later(29)
    assert await world.do(engine.rescue, max_rescues=5) == []
    assert not (await world.do(engine.heartbeat, "w1", "i0", [], lease_s=30)).known


async def test_a_new_instance_takes_its_formers_runs_back_at_once(world: World):
    lease = await world.begin()
    hello = (engine.register_worker, world.environment_id, world.introduction("i2"))
    assert await world.do(*hello, lease_s=30) == 1
    assert await world.do(*hello, lease_s=30) == 0, "the same hello twice"
    assert (await world.run(lease.run_id)).state == RunState.QUEUED
    assert await world.dequeue() == [], "the former instance gets no work any more"
    world.instance_id = "i2"
    assert len(await world.dequeue()) == 1


# -- refuse ----------------------------------------------------------------------------------------------------


async def test_a_run_whose_process_was_lost_goes_back_in_the_same_attempt(world: World):
    """It had started, and its memory could not be had: no fault of the run's."""
    lease = await world.run_in(RunState.EXECUTING)
    assert await world.do(engine.refuse, lease, Refusal(lease.number, "no memory")) == Stale(lease.number)
    refusal = Refusal(lease.number, "no memory", lost=True)
    assert await world.do(engine.refuse, lease, refusal) == engine.Ok()
    assert await world.do(engine.refuse, lease, refusal) == Stale(lease.number + 1)
    (assignment,) = await world.dequeue()
    assert assignment.context.attempt == 1
    assert (await world.run(lease.run_id)).rescues == 1


async def test_a_refused_start_goes_back_without_using_an_attempt(world: World):
    lease = await world.run_in(RunState.DEQUEUED)
    refusal = Refusal(lease.number, "no room")
    assert await world.do(engine.refuse, lease, refusal) == engine.Ok()
    assert await world.do(engine.refuse, lease, refusal) == Stale(lease.number + 1)
    (assignment,) = await world.dequeue()
    assert assignment.context.attempt == 1
    assert (await world.run(lease.run_id)).rescues == 1

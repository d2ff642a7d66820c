"""Blocking, answers, and who is woken by what."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from torpor import engine
from torpor.engine import Awake, Lease, RunState, Stale, Suspended
from torpor.wire.http import HeldLease, News
from torpor.wire.runner import NewWait

from .conftest import World, manifest, run_wait, time_wait, token_wait

pytestmark = pytest.mark.anyio


async def heartbeat(world: World, *leases: Lease) -> list[News]:
    held = [HeldLease(lease.run_id, lease.number) for lease in leases]
    return (await world.do(engine.heartbeat, "w1", "i1", held, lease_s=30)).news


async def test_a_time_that_is_over_is_answered_at_once(world: World):
    lease = await world.begin()
    past = (world.now - timedelta(days=1)).isoformat()
    blocked = await world.block(lease, NewWait("a", "time", until=past), time_wait("b", -5), time_wait("c", 9))
    assert {answer.wait_id for answer in blocked.answers} == {"a", "b"}
    assert [wait.wait_id for wait in blocked.open] == ["c"]
    assert (await world.run(lease.run_id)).state == RunState.EXECUTING


async def test_a_wait_beyond_the_calendar_is_never_due(world: World):
    lease = await world.begin()
    blocked = await world.block(lease, time_wait("a", 1e300), time_wait("b", float("nan")))
    assert len(blocked.open) == 2


async def test_the_same_block_twice_ties_once(world: World):
    lease = await world.begin()
    first = await world.block(lease, time_wait("a", 60))
    again = await world.block(lease, time_wait("a", 60))
    assert again == first
    async with world.db.transaction() as tx:
        assert await tx.fetchval("select count(*) from waitpoints") == 1
    assert (await world.kinds(lease.run_id)).count("run.waiting") == 1


async def test_a_repeated_block_gives_the_answers_of_its_own_waits_again(world: World):
    """The first reply may have been lost with the server that wrote it."""
    lease = await world.begin()
    token = await world.token()
    await world.complete(token)
    first = await world.block(lease, token_wait("a", token))
    assert [answer.wait_id for answer in first.answers] == ["a"]
    assert await world.block(lease, token_wait("a", token)) == first


async def test_a_process_blocked_on_nothing_is_told_its_last_answers_again(world: World):
    lease = await world.begin()
    token = await world.token()
    await world.block(lease, token_wait("a", token))
    await world.complete(token)
    first = await world.block(lease)  # this reply is lost
    assert [answer.wait_id for answer in first.answers] == ["a"]
    assert await world.block(lease) == first


async def test_dropped_waits_no_longer_wake_the_run(world: World):
    lease = await world.begin()
    token = await world.token()
    await world.block(lease, token_wait("a", token), time_wait("b", 60))
    blocked = await world.block(lease, dropped=["a"])
    assert [wait.wait_id for wait in blocked.open] == ["b"]
    assert await world.suspend(lease) == Suspended()
    await world.complete(token)
    assert (await world.run(lease.run_id)).state == RunState.SUSPENDED


async def test_a_busy_run_is_held_and_its_story_says_by_what_once(world: World):
    lease = await world.begin()
    for _ in range(2):
        await world.block(lease, time_wait("a", 60), idle=False, blockers=["a thread in time.sleep"])
    story = await world.story(lease.run_id)
    assert [event.data for event in story if event.kind == "run.held"] == [{"blockers": ["a thread in time.sleep"]}]
    assert (await world.run(lease.run_id)).state == RunState.EXECUTING


@pytest.mark.parametrize("wait", [run_wait("a", "run_unknown"), token_wait("a", "waitpoint_unknown")])
async def test_a_wait_for_what_does_not_exist_fails_instead_of_lasting_for_ever(world: World, wait: NewWait):
    lease = await world.begin()
    (answer,) = (await world.block(lease, wait)).answers
    assert answer.status == "failed"
    assert answer.error is not None
    assert "doesn't exist" in answer.error.message


async def test_an_answer_tells_the_living_process_and_wakes_the_frozen_one(world: World):
    heard: list[tuple[str, dict[str, object]]] = []
    await world.db.listen(lambda kind, data: heard.append((kind, data)))
    token = await world.token()
    living, frozen = await world.begin(), await world.begin()
    for lease in (living, frozen):
        await world.block(lease, token_wait("a", token))
    await world.suspend(frozen)
    done = await world.complete(token, '{"approved": true}', by="ada")
    assert done == engine.Completed(sorted([living.run_id, frozen.run_id]))
    assert (await world.run(frozen.run_id)).state == RunState.QUEUED
    assert await heartbeat(world, living) == [News("answered", living.run_id, living.number)]
    (answer,) = (await world.do(engine.collect, living, ["a"])).answers
    assert (answer.status, bytes(answer.output)) == ("completed", b'{"approved": true}')
    assert (await world.run(living.run_id)).state == RunState.EXECUTING
    assert await heartbeat(world, living) == [], "collected"
    async with world.db.transaction() as tx:
        await tx.fetchval("select 1")
    news = {"worker_id": "w1", "run_id": living.run_id, "lease": living.number, "kind": "answered"}
    assert ("news", news) in heard
    assert ("work", {"environment_id": world.environment_id}) in heard


async def test_the_first_answer_wins(world: World):
    token = await world.token(timeout_s=60)
    assert await world.complete(token, "1") == engine.Completed([])
    assert await world.complete(token, "2") == engine.AlreadyCompleted("completed")
    world.later(61)
    assert (await world.do(engine.fire_due)).count == 0
    async with world.db.transaction() as tx:
        view = await engine.read.token(tx, world.environment_id, token)
    assert view is not None
    assert view.token.output == "1"


async def test_a_token_times_out_once_and_then_takes_no_answer(world: World):
    token = await world.token(timeout_s=60)
    lease = await world.begin()
    await world.block(lease, token_wait("a", token))
    await world.suspend(lease)
    world.later(61)
    assert (await world.do(engine.fire_due)).count == 1
    assert await world.complete(token) == engine.AlreadyCompleted("timed_out")
    (assignment,) = await world.dequeue()
    assert [answer.status for answer in assignment.answers] == ["timed_out"]


async def test_only_tokens_are_completed_from_outside(world: World):
    lease = await world.begin()
    await world.block(lease, time_wait("a", 60))
    async with world.db.transaction() as tx:
        waitpoint_id = await tx.fetchval("select id from waitpoints")
    assert await world.complete(str(waitpoint_id)) == engine.Unknown()
    assert await world.complete("waitpoint_unknown") == engine.Unknown()


async def test_the_first_of_several_waits_wakes_and_the_others_stay_open(world: World):
    """asyncio.wait(FIRST_COMPLETED), then frozen again, twice."""
    lease = await world.begin()
    await world.block(lease, time_wait("a", 10), time_wait("b", 20), time_wait("c", 30))
    await world.suspend(lease, "checkpoint_1")
    for nth, (wait_id, still_open) in enumerate([("a", ["b", "c"]), ("b", ["c"])], start=2):
        world.later(10)
        await world.do(engine.fire_due)
        (assignment,) = await world.dequeue()
        assert [answer.wait_id for answer in assignment.answers] == [wait_id]
        lease = Lease(lease.run_id, assignment.lease)
        await world.start(lease, [wait_id])
        collected = await world.do(engine.collect, lease, still_open)
        assert [wait.wait_id for wait in collected.open] == still_open
        await world.block(lease)
        assert await world.suspend(lease, f"checkpoint_{nth}") == Suspended()


# -- parent and child --------------------------------------------------------------------------------------------------


async def test_a_parent_gets_its_childs_output(world: World):
    parent = await world.begin()
    child_id = await world.trigger(parent_lease=parent, trigger_function="triggerAndWait")
    await world.block(parent, run_wait("a", child_id))
    await world.suspend(parent)
    child = await world.begin(child_id)
    await world.finish(child, output=msgspec.Raw(b"42"))
    (assignment,) = await world.dequeue()
    (answer,) = assignment.answers
    assert (assignment.run_id, answer.run_id, bytes(answer.output)) == (parent.run_id, child_id, b"42")
    assert (answer.status, answer.run_status) == ("completed", "COMPLETED")
    run = await world.run(child_id)
    assert (run.parent_run_id, run.root_run_id, run.depth) == (parent.run_id, parent.run_id, 1)


async def test_a_child_that_has_ended_before_is_answered_at_once(world: World):
    child = await world.begin()
    await world.fail(child, retryable=False)
    parent = await world.begin()
    (answer,) = (await world.block(parent, run_wait("a", child.run_id))).answers
    assert (answer.status, answer.run_status) == ("failed", "FAILED")
    assert answer.error is not None
    assert answer.error.name == "ValueError"


async def test_a_canceled_child_fails_its_parents_wait(world: World):
    parent = await world.begin()
    child_id = await world.trigger(parent_lease=parent)
    await world.block(parent, run_wait("a", child_id))
    await world.do(engine.cancel, world.environment_id, child_id)
    (answer,) = (await world.do(engine.collect, parent, ["a"])).answers
    assert (answer.status, answer.run_status, answer.error) == ("failed", "CANCELED", None)


async def test_a_child_that_is_retried_answers_only_at_its_end(world: World):
    world.tasks.append(manifest("hasty"))
    parent = await world.begin()
    child_id = await world.trigger(parent_lease=parent, max_attempts=2)
    await world.block(parent, run_wait("a", child_id))
    await world.suspend(parent)
    await world.fail(await world.begin(child_id))
    assert (await world.run(parent.run_id)).state == RunState.SUSPENDED
    world.later(5)
    await world.do(engine.fire_due)
    await world.fail(await world.begin(child_id))
    assert (await world.run(parent.run_id)).state == RunState.QUEUED


async def test_two_parents_wait_for_one_run(world: World):
    child_id = await world.trigger()
    child = await world.begin(child_id)
    first, second = await world.begin(), await world.begin()
    await world.block(first, run_wait("a", child_id))
    await world.block(second, run_wait("a", child_id))
    await world.suspend(first)
    await world.finish(child)
    assert (await world.run(first.run_id)).state == RunState.QUEUED
    assert len((await world.do(engine.collect, second, ["a"])).answers) == 1


# -- answers and images ------------------------------------------------------------------------------------------------


async def test_an_answer_during_the_dump_keeps_the_run_awake(world: World):
    lease = await world.begin()
    token = await world.token()
    await world.block(lease, token_wait("a", token))
    await world.complete(token)
    assert await world.suspend(lease) == Awake()
    run = await world.run(lease.run_id)
    assert (run.state, run.checkpoint_id, run.lease) == (RunState.WAITING, None, lease.number)


async def test_the_same_suspend_twice_is_stale(world: World):
    lease = await world.run_in(RunState.WAITING)
    assert await world.suspend(lease, "checkpoint_1") == Suspended()
    assert await world.suspend(lease, "checkpoint_1") == Stale(lease.number + 1)


async def test_a_restored_process_is_told_again_what_its_dead_successor_knew(world: World):
    """Frozen on a and b; woken by a, dropped b, died. Its image still waits for both."""
    lease = await world.begin()
    token = await world.token()
    await world.block(lease, time_wait("a", 10), token_wait("b", token))
    await world.suspend(lease, "checkpoint_1")
    world.later(11)
    await world.do(engine.fire_due)
    (assignment,) = await world.dequeue()
    lease = Lease(lease.run_id, assignment.lease)
    await world.start(lease, ["a"])
    await world.block(lease, time_wait("c", 99), dropped=["b"])
    await world.finish(lease, "crashed")

    (assignment,) = await world.dequeue()
    assert assignment.checkpoint is not None
    assert assignment.context.attempt == 2, "a crash uses an attempt up, though it goes on from the image"
    assert [answer.wait_id for answer in assignment.answers] == ["a"]
    lease = Lease(lease.run_id, assignment.lease)
    await world.start(lease, ["a"])
    collected = await world.do(engine.collect, lease, ["a", "b"])
    assert [answer.wait_id for answer in collected.answers] == ["a"]
    assert [wait.wait_id for wait in collected.open] == ["b"], "the wait that was dropped is tied again"
    await world.block(lease, dropped=["a"])
    assert await world.suspend(lease) == Suspended()
    await world.complete(token)
    assert (await world.run(lease.run_id)).state == RunState.QUEUED


async def test_hundreds_of_timers_fire_in_portions(world: World):
    lease = await world.begin()
    await world.block(lease, *[time_wait(f"w{n}", 10) for n in range(25)])
    await world.suspend(lease)
    world.later(10)
    first = await world.do(engine.fire_due, limit=20)
    assert first.count == 20
    assert first.next_due <= world.now
    assert await world.do(engine.fire_due, limit=20) == engine.FiredTimers(5, None)
    assert (await world.kinds(lease.run_id)).count("run.resuming") == 1


# -- deadlines of waits ------------------------------------------------------------------------------------------------


async def test_a_wait_with_a_deadline_times_out_and_wakes_a_frozen_run(world: World):
    """BB3: timeouts on each kind of wait, whatever is waited for."""
    child_id = (await world.begin()).run_id
    token = await world.token()
    lease = await world.begin()
    await world.block(lease, timing_out(run_wait("a", child_id), 60), timing_out(token_wait("b", token), 90))
    await world.suspend(lease)
    assert (await world.do(engine.fire_due)).next_due == world.now + timedelta(seconds=60)
    world.later(60)
    assert (await world.do(engine.fire_due)).count == 1
    (assignment,) = await world.dequeue()
    (answer,) = assignment.answers
    assert (answer.wait_id, answer.status, answer.run_id) == ("a", "timed_out", child_id)
    assert assignment.due_at == "2026-01-01T12:01:00Z"
    resuming = [event.data for event in await world.story(lease.run_id) if event.kind == "run.resuming"]
    assert [(data["kind"], data["status"]) for data in resuming] == [("run", "timed_out")]


def timing_out(wait: NewWait, seconds: float) -> NewWait:
    return msgspec.structs.replace(wait, timeout_s=seconds)


async def test_a_wait_that_timed_out_is_not_answered_later_and_wakes_nobody(world: World):
    token = await world.token()
    lease = await world.begin()
    await world.block(lease, timing_out(token_wait("a", token), 10), time_wait("b", 1000))
    world.later(10)
    await world.do(engine.fire_due)
    assert await heartbeat(world, lease) == [News("answered", lease.run_id, lease.number)]
    (answer,) = (await world.do(engine.collect, lease, ["a", "b"])).answers
    assert (answer.wait_id, answer.status) == ("a", "timed_out")
    await world.block(lease)
    assert await world.suspend(lease) == Suspended()
    assert await world.complete(token) == engine.Completed([])
    assert (await world.run(lease.run_id)).state == RunState.SUSPENDED
    world.later(1000)
    await world.do(engine.fire_due)
    (assignment,) = await world.dequeue()
    collected = await world.do(engine.collect, Lease(lease.run_id, assignment.lease), ["a", "b"])
    assert [(each.wait_id, each.status) for each in collected.answers] == [("a", "timed_out"), ("b", "completed")]


async def test_an_answer_in_time_ends_a_waits_deadline(world: World):
    token = await world.token()
    lease = await world.begin()
    await world.block(lease, timing_out(token_wait("a", token), 10))
    await world.complete(token)
    world.later(60)
    await world.do(engine.fire_due)
    (answer,) = (await world.do(engine.collect, lease, ["a"])).answers
    assert answer.status == "completed"
    assert await world.do(engine.fire_due) == engine.FiredTimers(0, None)


async def test_a_wait_without_any_time_asks_whether_there_is_an_answer(world: World):
    here, missing = await world.token(), await world.token()
    await world.complete(here)
    lease = await world.begin()
    waits = [timing_out(token_wait("a", here), 0), timing_out(token_wait("b", missing), 0)]
    answers = (await world.block(lease, *waits)).answers
    assert {answer.wait_id: answer.status for answer in answers} == {"a": "completed", "b": "timed_out"}


async def test_a_dropped_waits_deadline_wakes_nobody_and_counts_again_for_an_older_image(world: World):
    """BB3: cancelling a waiting asyncio task drops its block."""
    token = await world.token()
    lease = await world.begin()
    await world.block(lease, timing_out(token_wait("a", token), 100), time_wait("b", 10))
    await world.suspend(lease, "checkpoint_1")
    world.later(10)
    await world.do(engine.fire_due)
    (assignment,) = await world.dequeue()
    lease = Lease(lease.run_id, assignment.lease)
    await world.start(lease, ["b"])
    await world.block(lease, time_wait("c", 1000), dropped=["a"])
    world.later(100)
    assert (await world.do(engine.fire_due)).count == 0
    await world.finish(lease, "crashed")
    (assignment,) = await world.dequeue()
    assert [answer.wait_id for answer in assignment.answers] == ["b"]
    assert (await world.do(engine.fire_due)).count == 1
    collected = await world.do(engine.collect, Lease(lease.run_id, assignment.lease), ["a", "b"])
    assert {answer.wait_id: answer.status for answer in collected.answers} == {"a": "timed_out", "b": "completed"}


async def test_the_worker_is_told_the_nearest_deadline(world: World):
    token = await world.token(timeout_s=60)
    lease = await world.begin()
    blocked = await world.block(lease, timing_out(token_wait("a", token), 5), timing_out(token_wait("b", token), 90))
    assert {wait.wait_id: wait.due_in_s for wait in blocked.open} == {"a": 5.0, "b": 60.0}
    (waiting,) = [event.data for event in await world.story(lease.run_id) if event.kind == "run.waiting"]
    assert waiting["due_at"] == "2026-01-01T12:00:05Z"


async def test_a_timer_that_is_fired_by_itself_may_be_a_waits_deadline(world: World):
    token = await world.token()
    lease = await world.begin()
    await world.block(lease, timing_out(token_wait("a", token), 5))
    world.later(6)
    assert await world.do(engine.due) == [lease.run_id]
    assert (await world.do(engine.fire_due, skip=[lease.run_id])).count == 0
    assert (await world.do(engine.fire_due, only=[lease.run_id])).count == 1


# -- idempotent waits --------------------------------------------------------------------------------------------------


def keyed(wait_id: str, key: str, seconds: float, ttl_s: float | None = None) -> NewWait:
    return NewWait(wait_id, "time", duration_s=seconds, idempotency_key=key, idempotency_key_ttl_s=ttl_s)


async def test_a_retried_attempt_skips_what_was_waited_for_already(world: World):
    """W6: the same key is the same wait, also in a later attempt."""
    lease = await world.begin()
    await world.block(lease, keyed("a", "k", 60))
    world.later(60)
    await world.do(engine.fire_due)
    await world.do(engine.collect, lease, ["a"])
    await world.fail(lease)
    world.later(5)
    await world.do(engine.fire_due)
    lease = await world.begin(lease.run_id)
    blocked = await world.block(lease, keyed("b", "k", 60))
    assert [(answer.wait_id, answer.status) for answer in blocked.answers] == [("b", "completed")]


async def test_a_key_whose_wait_is_not_over_waits_for_the_rest(world: World):
    """W6: two waits with one key are one waitpoint."""
    first, second = await world.begin(), await world.begin()
    await world.block(first, keyed("a", "k", 60))
    world.later(20)
    (left,) = (await world.block(second, keyed("a", "k", 60))).open
    assert left.due_in_s == 40
    world.later(40)
    assert (await world.do(engine.fire_due)).count == 1
    for lease in (first, second):
        assert len((await world.do(engine.collect, lease, ["a"])).answers) == 1


async def test_a_keys_time_may_run_out(world: World):
    """W6: after the key's ttl it stands for a new wait."""
    lease = await world.begin()
    await world.block(lease, keyed("a", "k", 1, ttl_s=10))
    world.later(11)
    await world.do(engine.fire_due)
    blocked = await world.block(lease, keyed("b", "k", 1, ttl_s=10))
    assert [wait.wait_id for wait in blocked.open] == ["b"]


async def test_one_report_may_name_a_key_twice_and_a_tokens_key_is_no_waits_key(world: World):
    await world.token(idempotency_key="k")
    lease = await world.begin()
    blocked = await world.block(lease, keyed("a", "k", 60), keyed("b", "k2", 60), keyed("c", "k2", 60))
    assert len(blocked.open) == 3
    async with world.db.transaction() as tx:
        assert await tx.fetchval("select count(distinct waitpoint_id) from waits") == 2


# -- batches -----------------------------------------------------------------------------------------------------------


async def test_a_batch_is_waited_for_by_its_waitpoint(world: World):
    """BB3: a batch is a wait like the others."""
    waitpoint_id = await world.make_batch("batch_1")
    lease = await world.begin()
    blocked = await world.block(
        lease, NewWait("a", "batch", batch_id="batch_1"), NewWait("b", "batch", batch_id="nope")
    )
    assert [(answer.wait_id, answer.status) for answer in blocked.answers] == [("b", "failed")]
    assert [(wait.wait_id, wait.kind) for wait in blocked.open] == [("a", "batch")]
    assert await world.complete(waitpoint_id) == engine.Unknown(), "not from outside"


async def test_whoever_follows_a_run_hears_of_each_change_of_its_status(world: World):
    """A note of the run goes out with each; else who follows it live would learn of it by chance, much later."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    await world.db.listen(lambda kind, data: heard.put_nowait(data["run_id"]) if kind in ("run", "mark") else None)

    async def told(run_id: str, state: RunState) -> None:
        assert (await world.run(run_id)).state == state
        async with world.db.transaction() as tx:
            await tx.notify("mark", run_id="mark")
        notes = [await heard.get()]
        while notes[-1] != "mark":
            notes.append(await heard.get())
        assert run_id in notes, state

    run_id = await world.trigger(delay_until=world.now + timedelta(seconds=5))
    world.later(6)
    await world.do(engine.fire_due)
    await told(run_id, RunState.QUEUED)
    lease = await world.take(run_id)
    await told(run_id, RunState.DEQUEUED)
    await world.start(lease)
    await told(run_id, RunState.EXECUTING)
    for wait_id in ("a", "b"):  # the second time where slots are limited
        token = await world.token()
        await world.block(lease, token_wait(wait_id, token))
        await told(run_id, RunState.WAITING)
        await world.complete(token)
        if wait_id == "b":
            assert await world.do(engine.grant, world.environment_id) == 1
        else:
            await world.do(engine.collect, lease, [wait_id])
            await world.do(engine.queues.configure, world.environment_id, concurrency_limit=1)
        await told(run_id, RunState.EXECUTING)

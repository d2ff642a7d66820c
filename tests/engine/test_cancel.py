"""Cancel: at once without a process, by asking where there is one, and by force when asking doesn't help."""

import asyncio
from typing import Any

import msgspec
import pytest

from torpor import engine
from torpor.engine import Awake, Canceled, CancelRequested, RunState, Stale
from torpor.engine.cancel import MAX_REASON_CHARS
from torpor.wire.http import HeldLease
from torpor.wire.runner import TaskError

from .conftest import World, run_wait, time_wait

pytestmark = pytest.mark.anyio


async def cancel(world: World, run_id: str, **options: Any) -> Any:
    return await world.do(engine.cancel, world.environment_id, run_id, **options)


async def heard_news(world: World) -> list[dict[str, Any]]:
    """The notes to workers from now on; those of earlier transactions may still be on their way."""
    heard: list[dict[str, Any]] = []
    since = asyncio.Event()

    def hear(kind: str, data: dict[str, Any]) -> None:
        if kind == "mark":
            since.set()
        elif kind == "news" and since.is_set():
            heard.append(data)

    await world.db.listen(hear)
    async with world.db.transaction() as tx:
        await tx.notify("mark")
    await since.wait()
    return heard


async def until_heard(world: World) -> None:
    """All that was noted so far has arrived."""
    arrived = asyncio.Event()
    await world.db.listen(lambda kind, _: arrived.set() if kind == "mark" else None)
    async with world.db.transaction() as tx:
        await tx.notify("mark")
    await arrived.wait()


async def test_a_run_with_a_process_is_asked_to_end_and_its_worker_is_told(world: World):
    lease = await world.begin()
    heard = await heard_news(world)
    assert await cancel(world, lease.run_id, reason="too dear") == CancelRequested()
    run = await world.run(lease.run_id)
    assert (run.state, run.cancel_reason, run.cancel_requested_at) == (RunState.EXECUTING, "too dear", world.now)
    await until_heard(world)
    told = {"worker_id": "w1", "run_id": lease.run_id, "lease": lease.number, "kind": "cancel", "reason": "too dear"}
    assert heard == [told]


async def test_it_may_end_by_itself_and_is_canceled_whatever_it_made_of_it(world: World):
    for outcome in ("completed", "failed", "crashed", "timed_out", "canceled"):
        lease = await world.begin()
        await cancel(world, lease.run_id, reason="no")
        world.later(10)
        done = await world.finish(lease, outcome, output=msgspec.Raw(b"1"))
        assert done == engine.Finished(RunState.CANCELED)
        run = await world.run(lease.run_id)
        assert (run.state, run.output, run.error) == (RunState.CANCELED, None, None)
        async with world.db.transaction() as tx:
            (attempt,) = await engine.read.attempts(tx, lease.run_id)
        assert attempt.outcome == "canceled"
        last = (await world.story(lease.run_id))[-1]
        assert (last.kind, last.data["reason"]) == ("run.canceled", "no")


async def test_the_story_says_how_a_process_was_ended(world: World):
    lease = await world.begin()
    await cancel(world, lease.run_id)
    await world.finish(lease, "canceled", error=TaskError("NotEnded", "killed after 30 s"))
    assert await world.kinds(lease.run_id) == [
        "run.triggered",
        "run.dequeued",
        "run.started",
        "run.cancel_requested",
        "run.canceled",
    ]
    assert (await world.story(lease.run_id))[-1].data == {"note": "NotEnded: killed after 30 s"}


async def test_asked_twice_is_told_twice_and_written_once(world: World):
    lease = await world.begin()
    heard = await heard_news(world)
    await cancel(world, lease.run_id, reason="first")
    world.later(5)
    assert await cancel(world, lease.run_id, reason="second") == CancelRequested()
    await until_heard(world)
    assert [news["reason"] for news in heard] == ["first", "first"]
    assert (await world.kinds(lease.run_id)).count("run.cancel_requested") == 1


async def test_at_once_takes_the_run_away_from_its_worker(world: World):
    lease = await world.begin()
    await cancel(world, lease.run_id, reason="slowly")
    heard = await heard_news(world)
    assert await cancel(world, lease.run_id, at_once=True) == Canceled()
    assert await cancel(world, lease.run_id) == engine.AlreadyEnded(RunState.CANCELED)
    assert await cancel(world, "run_unknown") == engine.Unknown()
    assert await world.do(engine.cancel, "env_other", lease.run_id) == engine.Unknown()
    await until_heard(world)
    assert heard == [{"worker_id": "w1", "run_id": lease.run_id, "lease": lease.number, "kind": "stale"}]
    assert (await world.story(lease.run_id))[-1].data == {"reason": "slowly"}
    assert await world.finish(lease) == Stale(lease.number + 1)


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.DELAYED, RunState.SUSPENDED, RunState.PENDING_VERSION])
async def test_a_run_without_a_process_is_canceled_at_once(world: World, state: RunState):
    lease = await world.run_in(state)
    assert await cancel(world, lease.run_id) == Canceled()
    run = await world.run(lease.run_id)
    assert (run.state, run.checkpoint_id, run.cancel_requested_at) == (RunState.CANCELED, None, None)
    world.later(3600)
    await world.do(engine.fire_due)
    assert await world.dequeue() == []


async def test_a_heartbeat_repeats_what_may_have_been_lost(world: World):
    lease = await world.begin()
    await cancel(world, lease.run_id, reason="no")
    held = [HeldLease(lease.run_id, lease.number)]
    (news,) = (await world.do(engine.heartbeat, "w1", "i1", held, lease_s=30)).news
    assert (news.kind, news.lease, news.reason) == ("cancel", lease.number, "no")


async def test_a_dump_that_crossed_with_the_request_is_in_vain(world: World):
    lease = await world.run_in(RunState.WAITING)
    await cancel(world, lease.run_id)
    assert await world.suspend(lease) == Awake()
    await world.finish(lease, "canceled")
    assert (await world.run(lease.run_id)).state == RunState.CANCELED


async def test_a_run_may_wait_in_its_cleanup(world: World):
    lease = await world.run_in(RunState.WAITING)
    await cancel(world, lease.run_id)
    await world.block(lease, time_wait("cleanup", 5), dropped=["wait_0"])
    world.later(5)
    await world.do(engine.fire_due)
    assert len((await world.do(engine.collect, lease, ["cleanup"])).answers) == 1


async def test_BB8_a_worker_that_is_silent_costs_the_cancel_a_minute_not_more(world: World):
    """BB8: heartbeats are the supervisor's, so nothing but its silence keeps a run from ending; then the server ends it."""
    lease = await world.begin()
    other = await world.begin()
    await cancel(world, lease.run_id, reason="no")
    held = [HeldLease(lease.run_id, lease.number), HeldLease(other.run_id, other.number)]
    for _ in range(3):
        world.later(20)
        assert await world.do(engine.rescue, max_rescues=5) == []
        await world.do(engine.heartbeat, "w1", "i1", held, lease_s=30)
    world.later(1)
    assert await world.do(engine.rescue, max_rescues=5) == [lease.run_id]
    assert await world.do(engine.rescue, max_rescues=5) == []
    assert (await world.run(lease.run_id)).state == RunState.CANCELED
    assert (await world.run(other.run_id)).state == RunState.EXECUTING
    assert (await world.story(lease.run_id))[-1].data["reason"] == "no"


async def test_whoever_waits_for_a_canceled_run_is_answered_when_it_has_ended(world: World):
    parent = await world.begin()
    child = await world.begin(await world.trigger(parent_lease=parent))
    await world.block(parent, run_wait("a", child.run_id))
    await cancel(world, child.run_id)
    assert (await world.do(engine.collect, parent, ["a"])).answers == []
    await world.finish(child, "canceled")
    (answer,) = (await world.do(engine.collect, parent, ["a"])).answers
    assert (answer.status, answer.run_status) == ("failed", "CANCELED")


async def test_a_long_reason_is_cut(world: World):
    lease = await world.begin()
    await cancel(world, lease.run_id, reason="ü" * 10_000)
    assert (await world.run(lease.run_id)).cancel_reason == "ü" * MAX_REASON_CHARS

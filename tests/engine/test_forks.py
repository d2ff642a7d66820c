"""Forks: another run goes on from a checkpoint, with the same answers or with another one."""

from typing import Any

import pytest

from torpor import engine
from torpor.engine import Forked, ForkRequest, Lease, NoCheckpoint, RunState, Unknown, WhichWait
from torpor.store.records import Run

from .conftest import World, run_wait, time_wait, token_wait
from .test_locks import meanwhile

pytestmark = pytest.mark.anyio


async def fork(world: World, origin: str, **request: Any) -> Any:
    return await world.do(engine.fork, world.environment_id, origin, ForkRequest(**request))


async def forked(world: World, run_id: str, **request: Any) -> Run:
    done = await fork(world, run_id, **request)
    assert isinstance(done, Forked), done
    return await world.run(done.run_id)


async def frozen(world: World, *waits: Any, checkpoint_id: str = "checkpoint_1", **trigger: Any) -> Lease:
    lease = await world.begin(**trigger)
    await world.block(lease, *waits)
    await world.suspend(lease, checkpoint_id)
    return lease


async def test_a_fork_waits_for_what_the_original_waits_for(fleet: World):
    token = await fleet.token()
    lease = await frozen(fleet, token_wait("a", token), payload='"Ada"', tags=["t"], metadata={"n": 1}, priority_s=3)
    twin = await forked(fleet, lease.run_id)
    origin = await fleet.run(lease.run_id)
    assert (twin.state, twin.attempt, twin.forked_from) == (RunState.SUSPENDED, 1, origin.id)
    assert twin.forked_checkpoint_id == "checkpoint_1"
    for name in ("task_id", "version", "payload", "tags", "metadata", "queue", "priority_s", "max_attempts"):
        assert getattr(twin, name) == getattr(origin, name), name
    assert await fleet.complete(token) == engine.Completed(sorted([origin.id, twin.id]))
    given = {each.run_id: each for each in await fleet.dequeue()}
    assert given.keys() == {origin.id, twin.id}
    ours, theirs = given[twin.id], given[origin.id]
    assert ours.checkpoint is not None
    assert theirs.checkpoint is not None
    assert ours.checkpoint.id != theirs.checkpoint.id
    assert ours.checkpoint.image_id == theirs.checkpoint.image_id == "checkpoint_1"
    assert ours.checkpoint.digest == theirs.checkpoint.digest
    assert [answer.output for answer in ours.answers] == [answer.output for answer in theirs.answers]
    assert ours.context.run_id == twin.id


async def test_both_stories_tell_of_it(fleet: World):
    lease = await frozen(fleet, token_wait("a", await fleet.token()))
    twin = await forked(fleet, lease.run_id, answer="true")
    (event,) = [event for event in await fleet.story(twin.id) if event.kind == "run.forked"]
    assert event.data["from"] == {"checkpoint_id": "checkpoint_1", "run_id": lease.run_id, "answered": "a"}
    last = (await fleet.story(lease.run_id))[-1]
    assert (last.kind, last.data) == ("run.forked", {"as": twin.id, "checkpoint_id": "checkpoint_1"})


async def test_a_run_that_is_over_goes_on_in_a_fork_with_another_answer(fleet: World):
    """BB17: what would have become of it, had the answer been no?"""
    token = await fleet.token()
    lease = await frozen(fleet, token_wait("a", token))
    await fleet.complete(token, '"yes"')
    await fleet.finish(await fleet.begin(lease.run_id))
    same = await forked(fleet, lease.run_id)
    other = await forked(fleet, lease.run_id, answer='"no"')
    assert {same.state, other.state} == {RunState.QUEUED}, "answered: they go on at once"
    outputs = {each.run_id: [bytes(answer.output) for answer in each.answers] for each in await fleet.dequeue()}
    assert outputs == {same.id: [b'"yes"'], other.id: [b'"no"']}
    tokens = [view.token.id for view in (await listed(fleet)).items]
    assert tokens == [token], "the other answer is no token that somebody made"


async def listed(world: World) -> Any:
    async with world.db.transaction() as tx:
        return await engine.read.tokens(tx, world.environment_id)


async def test_a_fork_answers_a_wait_for_a_run_or_a_time_too(fleet: World):
    child = await fleet.trigger()
    (given,) = await fleet.dequeue()
    lease = Lease(await fleet.trigger(), 1)
    lease = await fleet.begin(lease.run_id)
    await fleet.block(lease, run_wait("a", child), time_wait("b", 3600))
    await fleet.suspend(lease)
    for wait_id in ("a", "b"):
        twin = await forked(fleet, lease.run_id, answer="7", wait_id=wait_id)
        (assignment,) = await fleet.dequeue()
        assert assignment.run_id == twin.id
        (answer,) = assignment.answers
        assert (answer.wait_id, answer.status, bytes(answer.output)) == (wait_id, "completed", b"7")
    assert given.run_id == child


async def test_an_answer_that_could_be_for_several_waits_names_them(fleet: World):
    tokens = [await fleet.token(), await fleet.token()]
    waits = [token_wait("a", tokens[0]), token_wait("b", tokens[1]), time_wait("alarm_1", 60)]
    lease = await frozen(fleet, *waits)
    assert await fork(fleet, lease.run_id, answer="1") == WhichWait([("a", "token"), ("b", "token")])
    assert await fork(fleet, lease.run_id, answer="1", wait_id="z") == WhichWait([("a", "token"), ("b", "token")])
    assert await fork(fleet, lease.run_id, answer="1", wait_id="alarm_1") == WhichWait([("a", "token"), ("b", "token")])
    assert isinstance(await fork(fleet, lease.run_id, answer="1", wait_id="b"), Forked)


async def test_one_wait_beside_an_alarm_needs_no_name(fleet: World):
    lease = await frozen(fleet, token_wait("a", await fleet.token()), time_wait("alarm_1", 60))
    assert (await forked(fleet, lease.run_id, answer="1")).state == RunState.QUEUED


async def test_a_save_point_is_forked_by_its_id_and_goes_on_at_once(fleet: World):
    lease = await fleet.begin()
    for nth in (1, 2):
        await fleet.save(lease, stored=fleet.stored(f"checkpoint_{nth}", kind="named", name=f"epoch {nth}"))
    first, newest = await forked(fleet, lease.run_id, checkpoint_id="checkpoint_1"), await forked(fleet, lease.run_id)
    assert (first.forked_checkpoint_id, newest.forked_checkpoint_id) == ("checkpoint_1", "checkpoint_2")
    assert {first.state, newest.state} == {RunState.QUEUED}
    assert (await fleet.run(lease.run_id)).state == RunState.EXECUTING, "the original doesn't notice"


async def test_what_is_not_kept_any_more_can_not_be_forked(fleet: World):
    lease = await fleet.begin()
    for nth in range(3):
        await fleet.save(lease, stored=fleet.stored(f"checkpoint_{nth}", kind="auto"))
    outcome = await fork(fleet, lease.run_id, checkpoint_id="checkpoint_0")
    assert outcome == NoCheckpoint("checkpoint checkpoint_0 is not kept any more")
    assert isinstance(await fork(fleet, lease.run_id, checkpoint_id="checkpoint_9"), NoCheckpoint)
    assert isinstance(await fork(fleet, await fleet.trigger()), NoCheckpoint)
    assert await fork(fleet, "run_unknown") == Unknown()


async def test_a_run_that_is_over_can_be_forked_as_long_as_its_checkpoints_are_kept(fleet: World):
    lease = await frozen(fleet, time_wait("a", 1))
    fleet.later(1)
    await fleet.do(engine.fire_due)
    await fleet.finish(await fleet.begin(lease.run_id))
    (checkpoint,) = await fleet.checkpoints(lease.run_id)
    assert checkpoint.kept_until is not None
    assert (checkpoint.kept_until - fleet.now).total_seconds() == 86400
    assert await fleet.do(engine.expire_checkpoints) == 0
    fleet.later(86400)
    assert await fleet.do(engine.expire_checkpoints) == 1
    assert isinstance(await fork(fleet, lease.run_id), NoCheckpoint)


async def test_an_image_on_a_workers_own_disk_can_not_be_forked(world: World):
    lease = await frozen(world, time_wait("a", 60))
    assert isinstance(await fork(world, lease.run_id), NoCheckpoint)


async def test_the_same_request_twice_forks_once(fleet: World):
    lease = await frozen(fleet, token_wait("a", await fleet.token()))
    first = await fork(fleet, lease.run_id, run_id="run_twin")
    again = await fork(fleet, lease.run_id, run_id="run_twin")
    assert isinstance(first, Forked)
    assert (again.run_id, again.checkpoint_id, again.is_cached) == (first.run_id, first.checkpoint_id, True)


async def test_a_fork_can_be_forked(fleet: World):
    lease = await frozen(fleet, token_wait("a", await fleet.token()))
    twin = await forked(fleet, lease.run_id)
    grandchild = await forked(fleet, twin.id, answer="1")
    assert (grandchild.forked_from, grandchild.state) == (twin.id, RunState.QUEUED)
    (checkpoint,) = await fleet.checkpoints(grandchild.id)
    assert checkpoint.image_id == "checkpoint_1"


async def test_a_fork_and_an_answer_at_once_wake_the_fork(fleet: World):
    token = await fleet.token()
    lease = await frozen(fleet, token_wait("a", token))
    async with fleet.db.transaction() as tx:
        done = await engine.fork(tx, fleet.environment_id, lease.run_id, ForkRequest(), now=fleet.now)
        async with meanwhile(fleet, fleet.complete(token)) as (completing,):
            pass
    assert isinstance(done, Forked)
    assert await completing == engine.Completed(sorted([lease.run_id, done.run_id]))
    assert (await fleet.run(done.run_id)).state == RunState.QUEUED


async def test_a_fork_that_comes_after_the_answer_reads_it(fleet: World):
    token = await fleet.token()
    lease = await frozen(fleet, token_wait("a", token))
    async with fleet.db.transaction() as tx:
        await engine.complete_waitpoint(tx, token, output="1", now=fleet.now)
        async with meanwhile(fleet, fork(fleet, lease.run_id)) as (forking,):
            pass
    assert not (await forking).is_suspended

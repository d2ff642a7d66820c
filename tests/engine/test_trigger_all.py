"""Many requests in one call: the same outcomes as one by one."""

from typing import Any

import pytest

from torpor import engine
from torpor.engine import PayloadMisfit, QueueFull, Stale, Triggered, TriggerRequest, UnknownTask
from torpor.wire.http import VersionReport
from torpor.wire.runner import QueueManifest

from .conftest import World, manifest

pytestmark = pytest.mark.anyio


async def trigger_all(world: World, *requests: TriggerRequest) -> list[Any]:
    return await world.do(engine.trigger_all, world.environment_id, list(requests))


async def limit_queues(world: World, limit: int) -> None:
    async with world.db.transaction() as tx:
        await tx.execute("update environments set max_queued = $1", limit)


async def test_a_thousand_requests_become_runs_that_line_up_in_their_order(world: World):
    made = await trigger_all(world, *(TriggerRequest("hello", payload=str(n)) for n in range(1000)))
    assert not any(each.is_cached for each in made)
    assert len({each.run_id for each in made}) == 1000
    world.later(1)
    taken = await world.dequeue(free=1000)
    assert [each.run_id for each in taken] == [each.run_id for each in made]
    assert [bytes(each.payload) for each in taken[:3]] == [b"0", b"1", b"2"]
    assert await world.kinds(made[999].run_id) == ["run.triggered", "run.dequeued"]


async def test_a_refused_request_does_not_stop_the_others(world: World):
    tasks = [manifest("hello"), manifest("number", payload_schema={"type": "integer"})]
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v1", tasks))
    outcomes = await trigger_all(
        world,
        TriggerRequest("hello"),
        TriggerRequest("helo"),
        TriggerRequest("number", payload='"x"'),
        TriggerRequest("number", payload="1"),
    )
    assert [type(outcome) for outcome in outcomes] == [Triggered, UnknownTask, PayloadMisfit, Triggered]
    assert outcomes[1] == UnknownTask(["hello"])


async def test_requests_of_one_call_share_a_run_by_their_idempotency_key(world: World):
    """BB24: a key that comes twice in one call stands for one run."""
    old = await world.trigger(idempotency_key="old")
    outcomes = await trigger_all(
        world,
        TriggerRequest("hello", idempotency_key="new"),
        TriggerRequest("hello", idempotency_key="old"),
        TriggerRequest("hello", idempotency_key="new"),
        TriggerRequest("hello"),
    )
    assert outcomes[1] == Triggered(old, is_cached=True)
    assert outcomes[2] == Triggered(outcomes[0].run_id, is_cached=True)
    assert not outcomes[0].is_cached
    assert not outcomes[3].is_cached


async def test_the_same_call_twice_makes_its_runs_once(world: World):
    requests = [TriggerRequest("hello", run_id=f"run_{n}", idempotency_key=f"k{n % 2}") for n in range(4)]
    first = await trigger_all(world, *requests)
    assert [each.run_id for each in first] == ["run_0", "run_1", "run_0", "run_1"]
    again = await trigger_all(world, *requests)
    assert again == [Triggered(each.run_id, is_cached=True) for each in first]


async def test_all_requests_of_a_run_that_has_ended_are_stale(world: World):
    lease = await world.begin()
    await world.finish(lease)
    outcomes = await trigger_all(world, TriggerRequest("hello", parent_lease=lease), TriggerRequest("hello"))
    assert outcomes[0] == Stale(lease.number + 1)
    assert isinstance(outcomes[1], Triggered)


async def test_children_know_their_batch_and_their_parent(world: World):
    """G18: root, parent and depth."""
    lease = await world.begin()
    (child,) = await trigger_all(
        world, TriggerRequest("hello", parent_lease=lease, batch_id="batch_1", batch_index=3, schedule_id="sched_1")
    )
    run = await world.run(child.run_id)
    assert (run.parent_run_id, run.root_run_id, run.depth) == (lease.run_id, lease.run_id, 1)
    assert (run.batch_id, run.batch_index, run.schedule_id) == ("batch_1", 3, "sched_1")
    world.later(1)
    grandchild = await world.trigger(parent_lease=await world.begin(child.run_id))
    run = await world.run(grandchild)
    assert (run.parent_run_id, run.root_run_id, run.depth) == (child.run_id, lease.run_id, 2)


async def test_a_queue_takes_as_many_runs_as_it_may_hold(world: World):
    """Q9: what is too much is refused, and told which queue, which limit, how many."""
    await limit_queues(world, 3)
    first = await world.trigger(idempotency_key="k")
    outcomes = await trigger_all(world, *(TriggerRequest("hello", idempotency_key=f"k{n}") for n in range(4)))
    assert [type(outcome) for outcome in outcomes] == [Triggered, Triggered, QueueFull, QueueFull]
    assert outcomes[2] == QueueFull("task/hello", limit=3, queued=3)
    assert await world.do(engine.trigger, world.environment_id, TriggerRequest("hello")) == outcomes[2]
    # A run that is there already is no further one.
    assert await world.trigger(idempotency_key="k") == first
    # A refused request has not used up its key.
    world.later(1)
    await world.dequeue(free=1)
    again = await world.do(engine.trigger, world.environment_id, TriggerRequest("hello", idempotency_key="k2"))
    assert again == Triggered(again.run_id, is_cached=False)


async def test_a_long_queue_is_not_counted_at_every_trigger(world: World):
    """Q9: above a thousand a count may be a second old, and goes on by itself meanwhile."""
    await limit_queues(world, 1001)
    await trigger_all(world, *(TriggerRequest("hello") for _ in range(1000)))
    outcomes = await trigger_all(world, TriggerRequest("hello"), TriggerRequest("hello"))
    assert [type(outcome) for outcome in outcomes] == [Triggered, QueueFull]
    world.later(0.5)
    assert len(await world.dequeue(free=10)) == 10
    full = await world.do(engine.trigger, world.environment_id, TriggerRequest("hello"))
    assert full == QueueFull("task/hello", limit=1001, queued=1001)
    world.later(0.6)
    await world.trigger()


async def test_a_run_lines_up_in_the_queue_that_its_trigger_names(world: World):
    """G11: a declared queue, or the task's own by either name; and Q8: a child is not in its parent's queue."""
    report = VersionReport("w1", "v1", [manifest("hello")], queues=[QueueManifest("mails", 5)])
    await world.do(engine.register_version, world.environment_id, report)
    first = await world.trigger(queue="mails", concurrency_key="org-1")
    assert ((await world.run(first)).queue, (await world.run(first)).concurrency_key) == ("mails", "org-1")
    child = await world.run(await world.trigger(parent_lease=await world.begin(first)))
    assert (child.queue, child.concurrency_key) == ("task/hello", "")
    for name in ("hello", "task/hello"):
        assert (await world.run(await world.trigger(queue=name))).queue == "task/hello"
    unknown = await world.do(engine.trigger, world.environment_id, TriggerRequest("hello", queue="mail"))
    assert unknown == engine.UnknownQueue("mail", ["mails"])


async def test_a_task_decides_where_its_trigger_says_nothing(world: World):
    """G11: queue, ttl and max duration of a run are its trigger's, else its task's."""
    mails = QueueManifest("mails")
    task = manifest("mail", queue=mails, ttl_s=60.0, max_duration_s=30.0)
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v1", [task]))
    run = await world.run(await world.trigger("mail"))
    assert (run.queue, run.ttl_s, run.max_duration_s, run.max_attempts) == ("mails", 60.0, 30.0, 3)
    run = await world.run(await world.trigger("mail", queue="mail", ttl_s=0, max_duration_s=5, max_attempts=1))
    assert (run.queue, run.ttl_s, run.max_duration_s, run.max_attempts) == ("task/mail", None, 5.0, 1)


async def test_a_head_start_overtakes_who_came_earlier(world: World):
    """G11: a run with priority lines up as if it had come so many seconds earlier."""
    plain = await world.trigger()
    world.later(9)
    urgent = await world.trigger(priority_s=10)
    assert [each.run_id for each in await world.dequeue()] == [urgent, plain]


async def test_tags_are_handed_down_only_when_asked(world: World):
    """BB18: to the children of a run that says so, and to theirs; a run's own tags come first."""
    for inherits in (False, True):
        lease = await world.begin(tags=["a", "b"], inherit_tags=inherits)
        child = await world.trigger(parent_lease=lease, tags=["b", "c"])
        assert (await world.run(child)).tags == (["b", "c", "a"] if inherits else ["b", "c"])
        world.later(1)
        grandchild = await world.trigger(parent_lease=await world.begin(child))
        assert (await world.run(grandchild)).tags == (["b", "c", "a"] if inherits else [])
        await world.do(engine.cancel, world.environment_id, grandchild)


async def test_tags_that_find_no_room_are_told(world: World):
    """BB18: ten tags at most; what is left out is in the story."""
    lease = await world.begin(tags=["x", "y"], inherit_tags=True)
    own = [f"t{n}" for n in range(9)]
    child = await world.trigger(parent_lease=lease, tags=own)
    assert (await world.run(child)).tags == [*own, "x"]
    (triggered,) = await world.story(child)
    assert triggered.data["tags_left_out"] == ["y"]


async def test_a_run_is_locked_to_a_version_that_is_known(world: World):
    """G13: the task is looked up in that version."""
    report = VersionReport("w1", "v2", [manifest("hello", retry=manifest("x").retry), manifest("late")])
    await world.do(engine.register_version, world.environment_id, report)
    assert (await world.run(await world.trigger(lock_to_version="v1"))).locked_version == "v1"
    unknown = await world.do(engine.trigger, world.environment_id, TriggerRequest("hello", lock_to_version="v9"))
    assert unknown == engine.UnknownVersion("v9", current="v2")
    late = await world.do(engine.trigger, world.environment_id, TriggerRequest("late", lock_to_version="v1"))
    assert late == UnknownTask([])

"""Queues, their limits, and whose turn it is."""

from collections import Counter
from typing import Any

import pytest

from torpor import engine
from torpor.engine import Lease, RunState, read
from torpor.engine.queues import Changed, own_queue
from torpor.wire.http import OpenWait, VersionReport
from torpor.wire.runner import QueueManifest

from .conftest import World, manifest, time_wait, token_wait

pytestmark = pytest.mark.anyio


async def line_up(world: World, count: int = 1, *, queue: str | None = None, key: str = "") -> list[str]:
    """So many runs in one line, in order, each a millisecond after the other."""
    ids: list[str] = []
    for _ in range(count):
        world.later(0.001)
        ids.append(await world.trigger())
    async with world.db.transaction() as tx:
        await tx.execute(
            "update runs set queue = coalesce($2, queue), concurrency_key = $3 where id = any($1::text[])",
            ids,
            queue,
            key,
        )
    return ids


async def queue_id(world: World, name: str = own_queue("hello")) -> str:
    async with world.db.transaction() as tx:
        view = await read.queue(tx, world.environment_id, name=name)
    assert view is not None
    return view.queue.id


async def limit(world: World, most: int, name: str = own_queue("hello")) -> None:
    assert isinstance(
        await world.do(engine.queues.override, world.environment_id, await queue_id(world, name), most), Changed
    )


async def configure(world: World, **changes: Any) -> None:
    await world.do(engine.queues.configure, world.environment_id, **changes)


async def taken(world: World, free: int = 10) -> list[str]:
    return [assignment.run_id for assignment in await world.dequeue(free)]


async def test_every_task_has_a_queue_and_declared_ones_have_their_limits(world: World):
    """Q1: implicit per task and shared queues."""
    emails = QueueManifest("emails", 5)
    tasks = [manifest("send", queue=emails), manifest("hello")]
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v2", tasks, [emails]))
    async with world.db.transaction() as tx:
        views = await read.queues(tx, world.environment_id)
    told = [(view.queue.name, view.queue.kind, view.queue.concurrency_limit) for view in views.items]
    assert told == [("emails", "custom", 5), ("task/hello", "task", None), ("task/send", "task", None)]


async def test_no_more_runs_of_a_queue_work_than_its_limit(world: World):
    """Q1: an end gives the slot to the next in line."""
    first, second, third = await line_up(world, 3)
    await limit(world, 2)
    (a, b) = await world.dequeue()
    assert [a.run_id, b.run_id] == [first, second]
    assert await taken(world) == []
    await world.finish(Lease(first, a.lease))
    assert await taken(world) == [third]


async def test_each_concurrency_key_has_the_limit_for_itself(world: World):
    """Q2: per-tenant copies of a queue."""
    await limit(world, 1)
    ann = await line_up(world, 2, key="ann")
    bob = await line_up(world, 2, key="bob")
    assert await taken(world) == [ann[0], bob[0]]


async def test_an_environment_has_a_limit_and_a_burst_that_no_queue_has_alone(world: World):
    """Q3: all queues together may have the limit times the burst factor; one queue never more than the limit."""
    await configure(world, concurrency_limit=2, burst_factor=1.5)
    await line_up(world, 4, queue="a")
    await line_up(world, 4, queue="b")
    given = await world.dequeue()
    async with world.db.transaction() as tx:
        rows = await tx.fetch("select queue from runs where state = 'dequeued'")
    assert len(given) == 3
    assert Counter(row["queue"] for row in rows) == {"a": 2, "b": 1}


async def test_a_paused_queue_hands_nothing_out_and_stops_nobody(world: World):
    """Q4: pause and resume of a queue."""
    working, _ = await line_up(world, 2)
    (a,) = await world.dequeue(free=1)
    assert a.run_id == working
    other = await line_up(world, 1, queue="other")
    await world.do(engine.queues.pause, world.environment_id, await queue_id(world))
    assert await taken(world) == other
    await world.finish(Lease(a.run_id, a.lease))
    assert await taken(world) == []
    await world.do(engine.queues.unpause, world.environment_id, await queue_id(world))
    assert len(await taken(world)) == 1


async def test_a_paused_environment_hands_nothing_out(world: World):
    """Q4: pause and resume of an environment."""
    ids = await line_up(world, 1)
    await configure(world, is_paused=True)
    assert await taken(world) == []
    await configure(world, is_paused=False)
    assert await taken(world) == ids


async def test_a_limit_set_while_running_outlives_a_new_version_until_it_is_reset(world: World):
    """Q5: override and reset."""
    await limit(world, 1)
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v1", world.tasks))
    await line_up(world, 3)
    assert len(await taken(world)) == 1
    await world.do(engine.queues.reset, world.environment_id, await queue_id(world))
    assert len(await taken(world)) == 2


async def test_a_lower_limit_stops_nobody(world: World):
    """Q5: those who work go on; new ones wait until there is room."""
    ids = await line_up(world, 3)
    given = await world.dequeue(free=2)
    await limit(world, 1)
    await world.finish(Lease(ids[0], given[0].lease))
    assert await taken(world) == []
    await world.finish(Lease(ids[1], given[1].lease))
    assert await taken(world) == [ids[2]]


async def test_within_a_line_runs_go_in_order(world: World):
    """Q7: by their place in the line."""
    ids = await line_up(world, 5)
    assert await taken(world, 2) + await taken(world, 3) == ids


@pytest.mark.parametrize("free", [1, 3])
async def test_a_long_line_delays_anothers_single_run_by_one_turn_at_most(world: World, free: int):
    """Q10: fair between tenants, whatever their names."""
    await line_up(world, 20, key="crowd")
    await taken(world, free)
    for name in ("aaa", "zzz", ""):
        (single,) = await line_up(world, 1, key=name)
        assert single in await taken(world, free) + await taken(world, free), f"the key {name!r}"


async def test_every_line_has_its_turn(world: World):
    """Q10: among many lines each gives one run before any gives a second one."""
    names = [f"tenant-{number}" for number in range(7)]
    for name in names:
        await line_up(world, 3, key=name)
    for _ in range(3):
        got: list[str] = []
        for _ in range(7):
            (assignment,) = await world.dequeue(free=1)
            got.append(assignment.context.concurrency_key or "")
        assert sorted(got) == names


async def test_a_line_at_its_limit_is_passed_by(world: World):
    """Q2: blocked keys do not block others, in one hand-out nor over several."""
    await limit(world, 1)
    for number in range(20):
        await line_up(world, 2, key=f"k{number:02}")
    assert len(await taken(world, 20)) == 20
    free = await line_up(world, 1, key="k10b")
    assert await taken(world, 5) == free


async def test_a_waiting_run_holds_no_slot_from_the_moment_it_blocks(world: World):
    """BB2: a parent never starves its child, even with one slot for both."""
    await limit(world, 1)
    parent = await world.begin()
    (child,) = await line_up(world)
    assert await taken(world) == []
    await world.block(parent, time_wait("w", 3600))
    assert await taken(world) == [child]


async def test_a_run_in_memory_with_its_answer_stands_in_line_for_a_slot(world: World):
    """BB2: it stays `waiting`, is given its answer with the slot, and goes before new runs."""
    await limit(world, 1)
    token = await world.token()
    parent = await world.begin()
    await world.block(parent, token_wait("w", token))
    (child, fresh) = await line_up(world, 2)
    (given,) = await world.dequeue()
    await world.complete(token)
    assert (await world.run(parent.run_id)).state == RunState.WAITING
    told = await world.do(engine.collect, parent, ["w"], idle=True)
    assert told == engine.Blocked([], [OpenWait("w", "slot", None)])
    assert await world.do(engine.grant, world.environment_id) == 0
    await world.finish(Lease(child, given.lease))
    assert await taken(world) == [], "the one in memory goes first"
    assert (await world.run(parent.run_id)).state == RunState.EXECUTING
    answers = (await world.do(engine.collect, parent, ["w"], idle=True)).answers
    assert [answer.wait_id for answer in answers] == ["w"]
    await world.finish(parent)
    assert await taken(world) == [fresh]


async def test_without_limits_an_answered_run_goes_on_at_once(world: World):
    """BB2: standing in line is for where there are limits."""
    token = await world.token()
    lease = await world.begin()
    await world.block(lease, token_wait("w", token))
    await world.complete(token)
    assert (await world.do(engine.collect, lease, ["w"], idle=True)).answers
    assert (await world.run(lease.run_id)).state == RunState.EXECUTING


async def test_a_run_frozen_while_it_stands_in_line_is_queued_with_its_place(world: World):
    """BB2: memory is given back also while a slot is awaited, and the run still goes before new ones."""
    await limit(world, 1)
    token = await world.token()
    lease = await world.begin()
    await world.block(lease, token_wait("w", token))
    (other, _) = await line_up(world, 2)
    (given,) = await world.dequeue()
    await world.complete(token)
    assert await world.suspend(lease) == engine.Suspended()
    assert (await world.run(lease.run_id)).state == RunState.QUEUED
    await world.finish(Lease(other, given.lease))
    (resumed,) = await world.dequeue()
    assert resumed.run_id == lease.run_id
    assert [answer.wait_id for answer in resumed.answers] == ["w"]


async def test_a_run_let_go_on_for_a_wait_that_it_has_dropped_gives_its_slot_back(world: World):
    """BB2: the answer came, then the process lost interest, then the slot: nobody would ever use it."""
    await limit(world, 1)
    token, other_token = await world.token(), await world.token()
    lease = await world.begin()
    await world.block(lease, token_wait("w", token), token_wait("x", other_token))
    (child,) = await line_up(world)
    (given,) = await world.dequeue()
    await world.complete(token)
    await world.block(lease, dropped=["w"])
    await world.finish(Lease(child, given.lease))
    await world.do(engine.grant, world.environment_id)
    blocked = await world.do(engine.collect, lease, ["x"], idle=True)
    assert not blocked.answers
    assert (await world.run(lease.run_id)).state == RunState.WAITING
    assert len(await line_up(world)) == len(await taken(world)) == 1


async def test_resumed_runs_go_before_new_ones_and_need_a_slot_too(world: World):
    """Q12, BB2: a resumed run is ahead of the line, and limits hold for it."""
    await limit(world, 1)
    token = await world.token()
    lease = await world.begin()
    await world.block(lease, token_wait("w", token))
    await world.suspend(lease)
    busy, fresh = await line_up(world, 2)
    (given,) = await world.dequeue()
    await world.complete(token)
    assert await taken(world) == []
    await world.finish(Lease(busy, given.lease))
    (resumed,) = await world.dequeue()
    assert resumed.run_id == lease.run_id
    assert await taken(world) == []
    await world.finish(Lease(lease.run_id, resumed.lease))
    assert await taken(world) == [fresh]


async def test_a_run_locked_to_a_version_waits_for_a_worker_that_has_it(world: World):
    """G13: and does not hold up those behind it."""
    locked, free = await line_up(world, 2)
    async with world.db.transaction() as tx:
        await tx.execute("update runs set locked_version = 'v0' where id = $1", locked)
    assert await taken(world, 1) == [free]
    assert [one.run_id for one in await world.dequeue(versions=["v0"])] == [locked]
    assert (await world.run(locked)).version == "v0"


async def test_a_run_keeps_its_head_start_when_it_is_queued_again(world: World):
    """Q7: a crash costs it its place, not its priority."""
    urgent = await world.trigger(priority_s=60)
    (given,) = await world.dequeue()
    (plain,) = await line_up(world)
    world.later(10)
    await world.finish(Lease(urgent, given.lease), "crashed")
    assert await taken(world, 1) == [urgent]
    assert await taken(world, 1) == [plain]

"""Rows are corrupted by hand, and put right."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest

from torpor import engine
from torpor.engine import Fault, FaultKind, Lease, RunState
from torpor.engine.repair import SETTLED_S

from .conftest import World, run_wait, time_wait, token_wait

pytestmark = pytest.mark.anyio


async def change(world: World, statement: str, *args: Any) -> None:
    async with world.db.transaction() as tx:
        await tx.execute(statement, *args)


async def look(world: World, limit: int = 500) -> list[Fault]:
    faults: list[Fault] = []
    place: str | None = ""
    while place is not None:
        page = await world.do(engine.find_faults, place=place, limit=limit)
        faults += page.faults
        place = page.place
    return faults


async def heal(world: World, *expected: Fault) -> None:
    """These faults are found and repaired, and then there are none."""
    assert await look(world) == list(expected)
    for fault in expected:
        assert await world.do(engine.repair, fault)
        assert not await world.do(engine.repair, fault), "once"
    assert await look(world) == []


async def told(world: World, run_id: str) -> str:
    (event,) = [event for event in await world.story(run_id) if event.kind == "run.repaired"]
    return event.data["reason"]


async def answer_in_silence(world: World) -> None:
    """An answer that wakes nobody: what a lost transaction half would look like."""
    await change(world, "update waitpoints set status = 'completed', completed_at = $1, output = '1'", world.now)


@pytest.mark.parametrize("state", [state for state in RunState if state != RunState.PENDING_VERSION])
async def test_a_run_in_order_has_no_fault(world: World, state: RunState):
    await world.run_in(state)
    assert await look(world) == []


async def test_all_runs_are_looked_at_page_by_page(world: World):
    leases = [await world.run_in(RunState.SUSPENDED) for _ in range(5)]
    await answer_in_silence(world)
    assert {fault.id for fault in await look(world, limit=2)} == {lease.run_id for lease in leases}


async def test_a_frozen_run_whose_answer_woke_nobody_is_queued(world: World):
    lease = await world.run_in(RunState.SUSPENDED)
    await answer_in_silence(world)
    await heal(world, Fault(FaultKind.NOT_RESUMED, lease.run_id))
    (assignment,) = await world.dequeue()
    assert assignment.checkpoint is not None
    assert [answer.wait_id for answer in assignment.answers] == ["wait_0"]
    assert await told(world, lease.run_id) == FaultKind.NOT_RESUMED


async def test_a_frozen_run_that_waits_for_nothing_is_queued(world: World):
    lease = await world.run_in(RunState.SUSPENDED)
    await change(world, "update waits set detached_at = $1", world.now)
    await heal(world, Fault(FaultKind.NOT_RESUMED, lease.run_id))
    assert (await world.run(lease.run_id)).state == RunState.QUEUED


async def test_a_waiting_run_that_was_not_told_is_told(world: World):
    lease = await world.run_in(RunState.WAITING)
    await answer_in_silence(world)
    assert await look(world) == [], "the next heartbeat tells it"
    world.later(SETTLED_S + 1)
    heard: list[object] = []
    await world.db.listen(lambda kind, data: heard.append((kind, data.get("kind"))))
    (fault,) = await look(world)
    assert fault == Fault(FaultKind.NOT_TOLD, lease.run_id)
    assert await world.do(engine.repair, fault)
    while ("news", "answered") not in heard:
        await anyio.sleep(0.01)
    assert await told(world, lease.run_id) == FaultKind.NOT_TOLD


async def test_a_run_in_line_without_an_answer_leaves_it(world: World):
    lease = await world.run_in(RunState.WAITING)
    await change(world, "update runs set ready_at = $1", world.now - timedelta(hours=1))
    await heal(world, Fault(FaultKind.READY_FOR_NOTHING, lease.run_id))
    assert (await world.run(lease.run_id)).ready_at is None


async def test_who_waits_for_a_run_that_has_ended_is_answered(world: World):
    parent = await world.begin()
    child_id = await world.trigger(parent_lease=parent)
    await world.block(parent, run_wait("a", child_id))
    await world.suspend(parent)
    child = await world.begin(child_id)
    await world.finish(child)
    await change(
        world,
        "update waitpoints set status = 'pending', completed_at = null where awaited_run_id = $1",
        child_id,
    )
    await change(world, "update runs set state = 'suspended' where id = $1", parent.run_id)
    await heal(world, Fault(FaultKind.NOT_ANSWERED, child_id))
    assert (await world.run(parent.run_id)).state == RunState.QUEUED
    assert await told(world, parent.run_id) == FaultKind.NOT_ANSWERED


@pytest.mark.parametrize("how", ["delete from workers", "update workers set instance_id = 'another'"])
async def test_a_run_whose_worker_is_not_there_is_taken_back(world: World, how: str):
    lease = await world.run_in(RunState.WAITING)
    await change(world, "update waitpoints set due_at = $1", world.now + timedelta(days=1))
    await change(world, how)
    assert await look(world) == [], "a worker that lives says hello again"
    world.later(SETTLED_S + 1)
    await heal(world, Fault(FaultKind.HELD_BY_NOBODY, lease.run_id))
    assert (await world.run(lease.run_id)).state == RunState.QUEUED


async def test_a_queued_run_is_kept_for_the_store_that_has_its_image(world: World):
    lease = await world.run_in(RunState.SUSPENDED)
    world.later(3600)
    await world.do(engine.fire_due)
    await change(world, "update runs set image_store_id = 'elsewhere'")
    await heal(world, Fault(FaultKind.WRONG_STORE, lease.run_id))
    assert (await world.run(lease.run_id)).image_store_id == "worker:w1"


async def test_a_run_whose_version_is_there_is_queued(world: World):
    run_id = await world.trigger()
    await change(world, "update runs set state = 'pending_version'")
    await heal(world, Fault(FaultKind.NOT_RELEASED, run_id))
    assert (await world.run(run_id)).state == RunState.QUEUED


async def make_batch(world: World, *run_ids: str) -> str:
    async with world.db.transaction() as tx:
        await tx.execute(
            """insert into waitpoints (id, environment_id, kind, batch_id, created_at)
               values ('waitpoint_b', $1, 'batch', 'batch_1', $2)""",
            world.environment_id,
            world.now,
        )
        await tx.execute(
            """insert into batches (id, environment_id, waitpoint_id, run_count, pending, is_sealed, created_at, updated_at,
                                    sealed_at,
                                    completed_at, settled_at)
               values ('batch_1', $1, 'waitpoint_b', $2, $2, true, $3, $3, $3, $4, $4)""",
            world.environment_id,
            len(run_ids),
            world.now,
            None if run_ids else world.now,
        )
        for index, run_id in enumerate(run_ids):
            await tx.execute(
                "insert into batch_items (batch_id, index, task_id, run_id) values ('batch_1', $1, 'hello', $2)",
                index,
                run_id,
            )
    return "batch_1"


async def batch(world: World) -> Any:
    async with world.db.transaction() as tx:
        return await tx.fetchrow("select * from batches")


async def test_a_batch_that_counts_wrongly_counts_again(world: World):
    batch_id = await make_batch(world, await world.trigger(), await world.trigger())
    assert await look(world) == []
    await change(world, "update batches set pending = 1")
    await heal(world, Fault(FaultKind.WRONG_COUNT, batch_id))
    assert ((await batch(world))["pending"], (await batch(world))["completed_at"]) == (2, None)


async def test_a_batch_whose_runs_have_all_ended_is_complete(world: World):
    lease = await world.begin()
    batch_id = await make_batch(world, lease.run_id)
    await change(world, "update runs set state = 'canceled', finished_at = $1, lease_expires_at = null,"
                        " worker_id = null, instance_id = null, active_since = null", world.now)  # fmt: skip
    await heal(world, Fault(FaultKind.WRONG_COUNT, batch_id))
    assert (await batch(world))["completed_at"] == world.now


async def test_a_batch_that_answered_nobody_is_settled_again(world: World):
    batch_id = await make_batch(world)
    await heal(world, Fault(FaultKind.NOT_SETTLED, batch_id))
    assert (await batch(world))["settled_at"] is None


Meddle = Callable[[World, Lease], Awaitable[Any]]


@pytest.mark.parametrize(
    "meddle",
    [
        lambda world, lease: world.do(engine.cancel, world.environment_id, lease.run_id),
        lambda world, lease: change(world, "update waitpoints set status = 'pending', completed_at = null"),
    ],
    ids=["the run ended", "it was none"],
)
async def test_a_fault_that_has_passed_is_let_be(world: World, meddle: Meddle):
    lease = await world.run_in(RunState.SUSPENDED)
    await answer_in_silence(world)
    (fault,) = await look(world)
    await meddle(world, lease)
    before = await world.run(lease.run_id)
    assert not await world.do(engine.repair, fault)
    assert await world.run(lease.run_id) == before


async def test_what_waits_for_a_token_in_peace_is_no_fault(world: World):
    lease = await world.begin()
    await world.block(lease, token_wait("a", await world.token()), time_wait("b", 10**6))
    await world.suspend(lease)
    world.later(10**5)
    assert await look(world) == []

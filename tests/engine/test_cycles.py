"""BB12: runs that could only wait for each other for ever are told so."""

import asyncio
import itertools

import asyncpg
import msgspec
import pytest

from torpor import engine
from torpor.engine import Lease, RunState
from torpor.wire.http import BlockReport
from torpor.wire.runner import Answer, NewWait

from .conftest import World, run_wait, time_wait, token_wait

pytestmark = pytest.mark.anyio


async def working(world: World, count: int) -> list[Lease]:
    return [await world.begin() for _ in range(count)]


def refusal(answers: list[Answer]) -> str:
    (answer,) = answers
    assert answer.status == "failed"
    assert answer.error is not None
    assert answer.error.name == "WaitCycle"
    assert answer.run_status is None, "no run has failed: the wait was refused"
    return answer.error.message


async def test_two_runs_that_wait_for_each_other_are_told(world: World):
    """BB12: the wait that closes the circle is answered with an error that names it."""
    first, second = await working(world, 2)
    assert (await world.block(first, run_wait("a", second.run_id))).answers == []
    message = refusal((await world.block(second, run_wait("b", first.run_id))).answers)
    assert message == (
        f"{second.run_id} waits for {first.run_id}, which waits for {second.run_id}: none of them could ever go on"
    )
    assert (await world.run(second.run_id)).state == RunState.EXECUTING
    await world.fail(second, retryable=False)
    (answer,) = (await world.do(engine.collect, first, ["a"])).answers
    assert answer.status == "failed", "the other goes on when the told one ends"


async def test_a_circle_of_many_with_frozen_runs_in_it_is_found(world: World):
    """BB12: transitively, in memory or not."""
    leases = await working(world, 5)
    for lease, following in itertools.pairwise(leases):
        await world.block(lease, run_wait("a", following.run_id))
        await world.suspend(lease)
    message = refusal((await world.block(leases[-1], run_wait("a", leases[0].run_id))).answers)
    ids = [leases[-1].run_id, *(lease.run_id for lease in leases)]
    assert message.startswith(", which waits for ".join(ids).replace(", which waits for ", " waits for ", 1))


async def test_a_run_in_an_outer_wait_for_a_circle_is_not_blamed_for_it(world: World):
    """The shortest way back is told, without those that only lead to it."""
    outer, first, second = await working(world, 3)
    await world.block(outer, run_wait("a", first.run_id))
    await world.block(first, run_wait("a", second.run_id))
    assert outer.run_id not in refusal((await world.block(second, run_wait("a", first.run_id))).answers)


@pytest.mark.parametrize("way_out", ["token", "time", "deadline", "busy", "another child"])
async def test_any_way_out_is_enough(world: World, way_out: str):
    """BB12: only what could never go on is refused."""
    first, second, third = await working(world, 3)
    wait = run_wait("a", second.run_id)
    match way_out:
        case "token":
            await world.block(first, wait, token_wait("t", await world.token()))
        case "time":
            await world.block(first, wait, time_wait("t", 60))
        case "deadline":
            await world.block(first, msgspec.structs.replace(wait, timeout_s=60))
        case "busy":
            await world.block(first, wait, idle=False)
        case _:
            await world.block(first, wait, run_wait("c", third.run_id))
    blocked = await world.block(second, run_wait("b", first.run_id))
    assert blocked.answers == []
    assert (await world.run(second.run_id)).state == RunState.WAITING


async def test_a_way_out_that_closes_later_is_noticed(world: World):
    """BB12: a run that drops its token and becomes idle again closes the circle, and is told."""
    first, second = await working(world, 2)
    token = await world.token()
    await world.block(first, run_wait("a", second.run_id), token_wait("t", token))
    assert (await world.block(second, run_wait("b", first.run_id))).answers == []
    assert first.run_id in refusal((await world.block(first, dropped=["t"])).answers)


async def test_an_answer_that_is_on_its_way_is_a_way_out(world: World):
    first, second = await working(world, 2)
    token = await world.token()
    await world.block(first, run_wait("a", second.run_id), token_wait("t", token))
    await world.complete(token)
    assert (await world.block(second, run_wait("b", first.run_id))).answers == []


async def test_a_batch_that_holds_its_waiter_is_a_circle(world: World):
    """BB12: through batches; one run of the batch that can't end is enough."""
    parent, child, sibling = await working(world, 3)
    await world.make_batch("batch_1", child.run_id, sibling.run_id)
    assert (await world.block(parent, NewWait("a", "batch", batch_id="batch_1"))).answers == []
    refusal((await world.block(child, run_wait("b", parent.run_id))).answers)


async def test_a_batch_is_told_as_well_when_it_comes_last(world: World):
    parent, child, sibling = await working(world, 3)
    await world.make_batch("batch_1", child.run_id, sibling.run_id)
    assert (await world.block(child, run_wait("b", parent.run_id))).answers == []
    assert child.run_id in refusal((await world.block(parent, NewWait("a", "batch", batch_id="batch_1"))).answers)


async def test_many_children_are_no_circle(world: World):
    parent = await world.begin()
    children = [await world.trigger(parent_lease=parent) for _ in range(30)]
    assert len((await world.block(parent, *[run_wait(child, child) for child in children])).open) == 30
    await world.block(parent, idle=False)
    assert (await world.block(parent)).answers == []


async def test_the_same_block_again_gets_the_same_refusal(world: World):
    first, second = await working(world, 2)
    await world.block(first, run_wait("a", second.run_id))
    refused = await world.block(second, run_wait("b", first.run_id))
    assert await world.block(second, run_wait("b", first.run_id)) == refused


async def persistently(world: World, lease: Lease, *waits: NewWait) -> list[Answer]:
    """As a worker does: a message that collided is sent again."""
    report = BlockReport(lease.number, list(waits), idle=True)
    while True:
        try:
            async with world.db.transaction() as tx:
                blocked = await engine.block(tx, lease, report, now=world.now)
        except asyncpg.DeadlockDetectedError:
            continue
        assert isinstance(blocked, engine.Blocked)
        return blocked.answers


@pytest.mark.parametrize("size", [2, 3, 4, 6])
async def test_runs_that_close_a_circle_at_once_do_not_all_sleep(world: World, size: int):
    """BB12: in whatever order their transactions commit, at least one is told."""
    for is_told_before in (False, True):
        leases = await working(world, size)
        waits = [run_wait("a", leases[(nth + 1) % size].run_id) for nth in range(size)]
        if is_told_before:  # then their rows are not locked together when they become idle
            for lease, wait in zip(leases, waits, strict=True):
                await world.block(lease, wait, idle=False)
            waits = []
        async with asyncio.timeout(60):
            answers = await asyncio.gather(
                *[persistently(world, lease, *waits[nth : nth + 1]) for nth, lease in enumerate(leases)]
            )
        assert any(answers), f"{size} runs wait for each other and nobody knows (told before: {is_told_before})"


async def test_two_that_look_at_each_other_in_the_same_instant(world: World):
    """BB12: each has found the other at work and is yet to commit. Postgres may end one; repeated, it finds the circle."""
    first, second = await working(world, 2)
    await world.block(first, run_wait("a", second.run_id), idle=False)
    await world.block(second, run_wait("b", first.run_id), idle=False)
    both_begun = asyncio.Barrier(2)

    async def becomes_idle(lease: Lease) -> list[Answer]:
        try:
            async with world.db.transaction() as tx:
                await tx.execute("select 1 from runs where id = $1 for no key update", lease.run_id)
                await both_begun.wait()
                report = BlockReport(lease.number, idle=True)
                return (await engine.block(tx, lease, report, now=world.now)).answers  # pyright: ignore
        except asyncpg.DeadlockDetectedError:
            return await persistently(world, lease)

    async with asyncio.timeout(60):
        answers = await asyncio.gather(becomes_idle(first), becomes_idle(second))
    assert len([each for each in answers if each]) == 1

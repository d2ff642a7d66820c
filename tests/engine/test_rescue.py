"""Runs that a worker was given and nobody ended: it is silent, it never got them, or it never starts them."""

from typing import Any

import pytest

from torpor import engine
from torpor.engine import Lease, RunState, Stale
from torpor.wire.http import HeldLease, Refusal

from .conftest import World, time_wait

pytestmark = pytest.mark.anyio

PATIENCE_S = 120.0
"""What the worker of these tests says of itself."""


@pytest.fixture
async def patient(world: World) -> World:
    async with world.db.transaction() as tx:
        await tx.execute("update workers set facts = jsonb_build_object('start_patience_s', $1::float8)", PATIENCE_S)
    return world


async def beat(world: World, *leases: Lease) -> Any:
    held = [HeldLease(lease.run_id, lease.number) for lease in leases]
    return await world.do(engine.heartbeat, "w1", "i1", held, lease_s=30)


async def rescue(world: World, **options: float) -> list[str]:
    return await world.do(engine.rescue, **({"max_rescues": 5, "boot_timeout_s": 60.0} | options))


async def keep_alive(world: World, seconds: float, *leases: Lease) -> list[str]:
    """The worker's supervisor beats every ten seconds for so long; what was taken back all the same."""
    for _ in range(int(seconds / 10)):
        world.later(10)
        await beat(world, *leases)
        if taken := await rescue(world):
            return taken
    return []


# -- leases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [RunState.EXECUTING, RunState.WAITING])
async def test_a_run_whose_supervisor_beats_is_never_taken_back(patient: World, state: RunState):
    """H1, BB8: however long its own code says nothing, a run is no stall while its worker lives."""
    lease = await patient.run_in(state)
    async with patient.db.transaction() as tx:
        await tx.execute("update waitpoints set due_at = $1", patient.now.replace(year=2100))
    assert await keep_alive(patient, 1800, lease) == []
    assert (await patient.run(lease.run_id)).state == state


async def test_the_runs_of_a_dead_worker_are_queued_again_and_what_it_still_says_is_void(world: World):
    """H1: a worker that falls silent loses its runs when their leases have run out, wherever these stood."""
    leases = [await world.run_in(state) for state in (RunState.WAITING, RunState.EXECUTING, RunState.DEQUEUED)]
    world.later(31)
    assert sorted(await rescue(world)) == sorted(lease.run_id for lease in leases)
    for lease in leases:
        assert (await world.run(lease.run_id)).state == RunState.QUEUED
        assert await world.finish(lease) == Stale(lease.number + 1)


async def test_a_canceled_run_that_is_taken_back_is_canceled(world: World):
    lease = await world.begin()
    async with world.db.transaction() as tx:
        await tx.execute(
            "update runs set cancel_requested_at = $1, cancel_reason = 'enough' where id = $2", world.now, lease.run_id
        )
    world.later(31)
    assert await rescue(world) == [lease.run_id]
    assert (await world.run(lease.run_id)).state == RunState.CANCELED
    assert (await world.story(lease.run_id))[-1].data == {"reason": "enough", "note": "its worker went silent"}


async def test_a_worker_that_does_not_end_a_canceled_run_loses_it(world: World):
    """H1: a cancel is forced a minute after it was asked for."""
    lease = await world.begin()
    async with world.db.transaction() as tx:
        await tx.execute("update runs set cancel_requested_at = $1 where id = $2", world.now, lease.run_id)
    assert await keep_alive(world, 60, lease) == []
    assert await keep_alive(world, 10, lease) == [lease.run_id]
    assert (await world.run(lease.run_id)).state == RunState.CANCELED


# -- boot time-outs ---------------------------------------------------------------------------------------------------


async def test_a_run_that_does_not_start_is_taken_back_though_its_lease_is_renewed(patient: World):
    """H1: the boot time-out begins when the worker's own patience with the start is over."""
    lease = await patient.take(await patient.trigger())
    assert await keep_alive(patient, PATIENCE_S + 60, lease) == []
    assert await keep_alive(patient, 10, lease) == [lease.run_id]
    run = await patient.run(lease.run_id)
    assert (run.state, run.rescues, run.attempt) == (RunState.QUEUED, 1, 1)
    rescued = (await patient.story(lease.run_id))[-1]
    assert rescued.data["reason"] == "its worker did not start it within 190 s"
    assert await patient.start(lease) == Stale(lease.number + 1), "too late"


async def test_a_worker_that_tells_no_patience_has_the_time_out_alone(world: World):
    lease = await world.take(await world.trigger())
    assert await keep_alive(world, 60, lease) == []
    assert await keep_alive(world, 10, lease) == [lease.run_id]


async def test_a_restore_that_never_ends_is_taken_back_with_its_checkpoint(world: World):
    lease = await world.run_in(RunState.SUSPENDED)
    world.later(3600)
    await world.do(engine.fire_due)
    lease = await world.take(lease.run_id)
    assert await keep_alive(world, 70, lease) == [lease.run_id]
    (assignment,) = await world.dequeue()
    assert assignment.checkpoint is not None


# -- poison -----------------------------------------------------------------------------------------------------------


async def test_a_run_that_fails_every_hand_out_is_a_system_failure_with_all_the_reasons(world: World):
    """H1: a poison run ends after so many failed hand-outs, and its error tells each of them."""
    run_id = await world.trigger()
    await world.take(run_id)
    world.later(31)
    await rescue(world, max_rescues=2)
    lease = await world.take(run_id)
    await world.do(engine.refuse, lease, Refusal(lease.number, "the disk is full"), max_rescues=2)
    lease = await world.take(run_id)
    for _ in range(8):
        world.later(10)
        await beat(world, lease)
    assert await rescue(world, max_rescues=2) == [run_id]
    run = await world.run(run_id)
    assert run.state == RunState.SYSTEM_FAILURE
    assert run.error == {
        "name": "SystemFailure",
        "message": "handed out 3 times without progress, and taken back or refused each time:\n"
        "2026-01-01 12:00:31 UTC, w1: its worker went silent\n"
        "2026-01-01 12:00:31 UTC, w1: the disk is full\n"
        "2026-01-01 12:01:51 UTC, w1: its worker did not start it within 80 s",
    }


async def test_reasons_from_before_some_progress_are_not_told(world: World):
    run_id = await world.trigger()
    await world.begin(run_id)
    world.later(31)
    await rescue(world)
    lease = await world.begin(run_id)
    await world.block(lease, time_wait("a", 1))
    await world.suspend(lease)
    world.later(1)
    await world.do(engine.fire_due)
    lease = await world.take(run_id)
    await world.do(engine.refuse, lease, Refusal(lease.number, "no room"), max_rescues=0)
    error = (await world.run(run_id)).error
    assert error is not None
    assert error["message"].splitlines()[1:] == ["2026-01-01 12:00:32 UTC, w1: no room"]


# -- a lost reply -----------------------------------------------------------------------------------------------------


async def ask(world: World, number: int, *holding: Lease) -> list[str]:
    """The n-th request for work of this instance arrives, before it is answered; what was taken back."""
    held = [HeldLease(lease.run_id, lease.number) for lease in holding]
    return await world.do(engine.take_back_lost, "w1", world.instance_id, number, held, max_rescues=5)


async def hand_out(world: World, number: int) -> Lease:
    """One run, in the reply to that request."""
    await world.trigger()
    (given,) = await world.dequeue(free=1, number=number)
    return Lease(given.run_id, given.lease)


async def test_an_assignment_whose_reply_was_lost_is_queued_again_at_once(world: World):
    """No lease has to run out for it."""
    got, lost = await hand_out(world, 1), await hand_out(world, 2)
    assert await ask(world, 3, got) == [lost.run_id]
    assert (await world.run(got.run_id)).state == RunState.DEQUEUED
    assert (await world.run(lost.run_id)).state == RunState.QUEUED
    assert (await world.story(lost.run_id))[-1].data["reason"].startswith("its worker never got it")
    assert await ask(world, 4, got) == [], "the same again"
    assert await world.start(lost) == Stale(lost.number + 1)


async def test_a_late_copy_of_an_older_request_takes_nothing_back(world: World):
    """Request 1 was given up and repeated as 2; 2 was answered; now 1 arrives. It can't know what 2 has brought."""
    got = await hand_out(world, 2)
    assert await ask(world, 1) == []
    assert await ask(world, 2) == [], "nor does a copy of 2 itself"
    assert (await world.run(got.run_id)).state == RunState.DEQUEUED


async def test_what_a_dead_connections_request_is_handed_later_is_found_by_the_next(world: World):
    assert await ask(world, 2) == []
    lost = await hand_out(world, 1)  # the server held request 1 still, and has not noticed that nobody listens
    assert await ask(world, 2) == [lost.run_id], "2 was sent after 1 was given up"


async def test_a_run_that_has_started_is_not_taken_back_whatever_the_list_says(world: World):
    lease = await hand_out(world, 1)
    await world.start(lease)
    assert await ask(world, 2) == []


async def test_another_lease_on_the_same_run_is_not_the_one_that_is_held(world: World):
    lost = await hand_out(world, 1)
    assert await ask(world, 2, Lease(lost.run_id, lost.number - 1)) == [lost.run_id]


async def test_other_instances_and_workers_that_do_not_count_are_left_alone(world: World):
    lease = await hand_out(world, 1)
    held: list[HeldLease] = []
    assert await world.do(engine.take_back_lost, "w2", "i1", 9, held, max_rescues=5) == []
    assert await world.do(engine.take_back_lost, "w1", "i2", 9, held, max_rescues=5) == []
    assert await world.do(engine.take_back_lost, "w1", "i1", 0, held, max_rescues=5) == []
    assert await world.do(engine.take_back_lost, "w1", "i1", 9, None, max_rescues=5) == []
    assert (await world.run(lease.run_id)).state == RunState.DEQUEUED
    await hand_out(world, 0)
    assert await ask(world, 9, lease) == [], "handed out without a number"


async def test_an_assignment_that_is_lost_again_and_again_ends(world: World):
    """As one whose reply the worker can't read."""
    run_id = await world.trigger()
    for number in range(1, 7):
        await world.dequeue(free=1, number=number)
        assert await ask(world, number + 1) == [run_id]
    assert (await world.run(run_id)).state == RunState.SYSTEM_FAILURE

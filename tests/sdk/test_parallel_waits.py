"""Shapes of parallel waits, each frozen and thawed."""

import asyncio

from fake_supervisor import Supervisor, alarm_of, one_by_one

from torpor import task, wait
from torpor.wire.runner import Answer


async def hours(count: float) -> float:
    await wait.for_(hours=count)
    return count


def test_gathered_waits_are_frozen_again_for_the_others(supervisor: Supervisor) -> None:
    """BB3: gather."""

    @task
    async def gathers() -> list[object]:
        return list(await asyncio.gather(hours(1), asyncio.gather(hours(2)), hours(3)))

    supervisor.start(gathers)
    one_by_one(supervisor, [2, 3, 1])
    assert supervisor.output_of_run() == [1, [2], 3]


def test_a_task_group_with_waits_is_frozen(supervisor: Supervisor) -> None:
    """BB3: TaskGroup, nested in helper functions."""

    async def helper(group: asyncio.TaskGroup) -> list[asyncio.Task[float]]:
        return [group.create_task(hours(1)), group.create_task(hours(2))]

    @task
    async def groups() -> list[float]:
        async with asyncio.TaskGroup() as group:
            tasks = await helper(group)
            first = await hours(3)
        return [first, *(each.result() for each in tasks)]

    supervisor.start(groups)
    one_by_one(supervisor, [1, 3, 2])
    assert supervisor.output_of_run() == [3, 1, 2]


def test_the_first_of_several_waits_is_enough(supervisor: Supervisor) -> None:
    """BB3: FIRST_COMPLETED; the other is canceled and its wait dropped."""

    @task
    async def races() -> float:
        done, pending = await asyncio.wait(
            [asyncio.create_task(hours(1)), asyncio.create_task(hours(2))], return_when=asyncio.FIRST_COMPLETED
        )
        for each in pending:
            each.cancel()
        await hours(3)
        return done.pop().result()

    supervisor.start(races)
    one_by_one(supervisor, [2])
    block = supervisor.expect_idle()
    assert len(block.dropped) == 1
    supervisor.answer(block.waits[0].wait_id)
    assert supervisor.output_of_run() == 2


def test_waits_as_they_are_completed(supervisor: Supervisor) -> None:
    """BB3: as_completed."""

    @task
    async def collects() -> list[float]:
        return [await each for each in asyncio.as_completed([hours(1), hours(2), hours(3)])]

    supervisor.start(collects)
    one_by_one(supervisor, [3, 1, 2])
    assert supervisor.output_of_run() == [3, 1, 2]


def test_a_shielded_wait_outlives_who_waited_for_it(supervisor: Supervisor) -> None:
    """BB3: shield; and a time-out around it."""

    @task
    async def shields() -> list[object]:
        kept = asyncio.create_task(hours(1))
        try:
            async with asyncio.timeout(1):
                await asyncio.shield(kept)
        except TimeoutError:
            return ["kept", await kept]
        return []

    supervisor.start(shields)
    block = supervisor.expect_idle()
    alarm = alarm_of(block)
    (kept,) = [new for new in block.waits if new is not alarm]
    block = supervisor.expect_idle()
    assert block.dropped == [alarm.wait_id]
    supervisor.suspend()
    assert supervisor.wake(Answer(kept.wait_id, "completed")).open_waits == [kept.wait_id]
    assert supervisor.output_of_run() == ["kept", 1]

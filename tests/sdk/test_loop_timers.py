"""Timers of the event loop beside waits: a freeze doesn't stop them, and an alarm wakes the run for the earliest."""

import asyncio
import os
import time

from fake_supervisor import Supervisor, alarm_of

import torpor.sdk.loop as loop_door
from torpor import task, wait
from torpor.wire.runner import Answer, Block, Finished


class LateClock:
    """Time as the loop's door knows it, on a day when a file says that it is late: as after a long freeze."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self, file: str) -> None:
        self.file = file

    def time(self) -> float:
        return time.time() + (2 * 3600 if os.path.exists(self.file) else 0)


def test_a_timeout_around_a_wait_counts_the_time_asleep(supervisor: Supervisor) -> None:
    """BB3: asyncio.timeout around a wait fires when it is due, also in a frozen run."""

    @task
    async def limited(late: str) -> list[object]:
        loop_door.time = LateClock(late)  # pyright: ignore[reportAttributeAccessIssue]
        before = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(3600):
                await wait.for_token("waitpoint_1")
        except TimeoutError:
            return ["timed out", asyncio.get_running_loop().time() - before > 7199]
        return ["answered"]

    late = supervisor.directory / "late"
    supervisor.start(limited, str(late))
    block = supervisor.expect(Block)
    assert block.idle
    assert len(block.waits) == 2
    alarm = alarm_of(block)
    assert 3590 < (alarm.duration_s or 0) <= 3600
    supervisor.suspend()
    late.touch()
    assert set(supervisor.wake(Answer(alarm.wait_id, "completed")).open_waits) == {new.wait_id for new in block.waits}
    assert supervisor.output_of_run() == ["timed out", True]


def test_whichever_comes_first_of_an_answer_and_a_timeout(supervisor: Supervisor) -> None:
    """BB3: wait_for around waits; the alarm goes with the last of them."""

    @task
    async def first() -> list[object]:
        got = [await asyncio.wait_for(wait.for_token("waitpoint_1"), 3600)]
        got.append(await wait.for_token("waitpoint_2"))
        return got

    supervisor.start(first)
    block = supervisor.expect_idle()
    alarm = alarm_of(block)
    supervisor.answer(next(new.wait_id for new in block.waits if new is not alarm), "in time")
    block = supervisor.expect(Block)
    assert (block.idle, block.dropped) == (True, [alarm.wait_id])
    (second,) = block.waits
    supervisor.answer(second.wait_id, "no limit")
    assert supervisor.output_of_run() == ["in time", "no limit"]


def test_the_alarm_follows_the_earliest_timer_and_a_timer_in_memory_fires_by_itself(supervisor: Supervisor) -> None:
    """BB3: call_later, and nested time-outs."""

    @task
    async def nested() -> str:
        rung = asyncio.Event()
        asyncio.get_running_loop().call_later(1.5, rung.set)
        async with asyncio.timeout(500):
            await asyncio.wait(
                [asyncio.create_task(rung.wait()), asyncio.create_task(wait.for_("1h"))],
                return_when=asyncio.FIRST_COMPLETED,
            )
            async with asyncio.timeout(100):
                await wait.for_("2h")
        return "not before"

    supervisor.start(nested)
    short = alarm_of(supervisor.expect(Block))
    assert (short.duration_s or 0) < 1.51
    block = supervisor.expect(Block)
    assert block.dropped == [short.wait_id]
    assert 90 < (alarm_of(block).duration_s or 0) <= 100


def test_an_alarm_alone_keeps_nothing_waiting(supervisor: Supervisor) -> None:
    @task
    async def naps() -> str:
        async with asyncio.timeout(100):
            await asyncio.sleep(0.2)
        return "done"

    supervisor.start(naps)
    assert isinstance(supervisor.receive(), Finished)

"""Who is woken by what."""

import asyncio

import pytest

from torpor.server.wakeups import Wakeups

pytestmark = pytest.mark.anyio

WORK = ("work", "env_1")


async def test_work_wakes_the_one_who_has_waited_longest() -> None:
    wakeups = Wakeups()
    with wakeups.listen(*WORK) as first, wakeups.listen(*WORK) as second:
        wakeups.hear("work", {"environment_id": "env_1"})
        assert (first.is_woken, second.is_woken) == (True, False)
        wakeups.hear("work", {"environment_id": "env_1"})
        assert second.is_woken


async def test_a_wake_up_is_passed_on_down_the_line() -> None:
    wakeups = Wakeups()
    with wakeups.listen(*WORK) as first, wakeups.listen(*WORK) as second, wakeups.listen(*WORK) as third:
        wakeups.hear("work", {"environment_id": "env_1"})
        assert await first.wait(3600)
        first.pass_on()
        assert (first.is_woken, second.is_woken, third.is_woken) == (False, True, False)
        third.pass_on()
        assert not first.is_woken


async def test_who_leaves_after_being_woken_leaves_the_work_to_another() -> None:
    wakeups = Wakeups()
    with wakeups.listen(*WORK) as second_to_be:
        with wakeups.listen(*WORK):
            wakeups.hear("work", {"environment_id": "env_1"})
            await second_to_be.wait(3600)
            wakeups.hear("work", {"environment_id": "env_1"})
            wakeups.hear("work", {"environment_id": "env_1"})
            await second_to_be.wait(3600)
        assert second_to_be.is_woken


async def test_news_are_kept_for_each_listener_until_read() -> None:
    wakeups = Wakeups()
    with wakeups.listen("news", "worker_1") as one, wakeups.listen("news", "worker_2") as other:
        for number in range(2):
            wakeups.hear("news", {"worker_id": "worker_1", "run_id": f"run_{number}"})
        assert [said["run_id"] for said in one.heard] == ["run_0", "run_1"]
        assert not other.is_woken


async def test_after_a_gap_everybody_looks_again() -> None:
    wakeups = Wakeups()
    with wakeups.listen("run", "run_1") as run, wakeups.listen("timer") as timer, wakeups.listen(*WORK) as work:
        wakeups.hear("reconnected", {})
        assert all([run.is_woken, timer.is_woken, work.is_woken])


async def test_when_it_closes_nobody_is_held_any_more() -> None:
    wakeups = Wakeups()
    with wakeups.listen("run", "run_1") as ear:
        waiting = asyncio.create_task(ear.wait(3600))
        await asyncio.sleep(0)
        wakeups.close()
        await waiting
        assert not await ear.wait(3600)


async def test_nothing_is_kept_of_who_has_left() -> None:
    wakeups = Wakeups()
    with wakeups.listen("run", "run_1"):
        pass
    wakeups.hear("run", {"run_id": "run_1"})
    wakeups.hear("something new", {})
    assert not wakeups._ears

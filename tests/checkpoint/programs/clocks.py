"""Time, which stands still for a frozen process and goes on for everybody else; and what must not repeat itself."""

import asyncio
import random
import time

from freezing import freeze, freeze_blocking, program

from torpor import wait

# The tests leave each run frozen for at least this long.
FROZEN_S = 1.0


@program
async def monotonic_and_wall_clocks() -> None:
    """Wall time jumps over the freeze. The others stand still: they neither run backwards nor jump."""

    def readings() -> list[float]:
        return [time.monotonic(), time.perf_counter(), time.clock_gettime(time.CLOCK_BOOTTIME)]

    for _ in range(2):
        before, wall = readings(), time.time()
        await freeze()
        passed = [later - earlier for later, earlier in zip(readings(), before, strict=True)]
        took = time.time() - wall
        assert all(0 <= seconds <= took - FROZEN_S for seconds in passed), (passed, took)
    began = time.monotonic()
    await asyncio.sleep(0.05)
    assert 0.05 <= time.monotonic() - began < 20


@program
async def timeouts_across_the_freeze() -> None:
    """Time-outs of asyncio count the time asleep, and wake the run when they are due."""
    loop = asyncio.get_running_loop()
    began, wall = loop.time(), time.time()
    called: list[float] = []
    loop.call_later(3600, called.append, 0.0)
    for _ in range(2):
        async with asyncio.timeout(3600) as patience:
            await freeze()
        assert not patience.expired()
        assert abs((loop.time() - began) - (time.time() - wall)) < 0.5
    try:
        async with asyncio.timeout(2):
            await wait.for_(hours=1)
        raise AssertionError("no time-out")
    except TimeoutError:
        assert time.time() - wall >= 2
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.05)
        raise AssertionError("no time-out")
    except TimeoutError:
        assert called == []


@program
async def asyncio_sleep_after_a_freeze() -> None:
    """A sleep that is begun afterwards takes its time, though the loop's clock has jumped."""
    for _ in range(2):
        await freeze()
        began = time.monotonic()
        results = await asyncio.gather(asyncio.sleep(0.2, "a"), asyncio.sleep(0.1, "b"))
        assert results == ["a", "b"]
        assert time.monotonic() - began >= 0.2


@program
def blocking_sleep_after_a_freeze() -> None:
    for _ in range(2):
        freeze_blocking()
        began = time.monotonic()
        time.sleep(0.1)
        assert time.monotonic() - began >= 0.1


@program
async def seeded_random_numbers_go_on() -> None:
    """Who has seeded a generator wants its sequence, and gets it."""
    random.seed(7)
    own = random.Random(8)
    expected = [random.random() for _ in range(3)], [random.Random(8).random()]
    random.seed(7)
    for n in range(3):
        assert random.random() == expected[0][n]
        if n < 2:
            await freeze()
    assert own.random() == expected[1][0]

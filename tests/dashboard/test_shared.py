"""What many look at is read once for all of them, and never shown as it was before they asked."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from torpor.dashboard import shared as module
from torpor.dashboard.shared import shared

pytestmark = pytest.mark.anyio


class Source:
    """Something that changes, and takes a moment to read. `readings` counts."""

    def __init__(self) -> None:
        self.here: Any = SimpleNamespace(shown={})
        self.value = self.readings = 0
        self.may_answer = asyncio.Event()

    async def read(self) -> int:
        self.readings += 1
        value = self.value
        await self.may_answer.wait()
        return value

    def asked(self, **options: bool) -> "asyncio.Task[int]":
        return asyncio.create_task(shared(self.here, ("key",), self.read, **options))


async def test_all_who_ask_during_a_reading_share_the_next_one() -> None:
    source = Source()
    first = source.asked()
    while not source.readings:
        await asyncio.sleep(0)
    source.value = 1
    others = [source.asked() for _ in range(20)]
    await asyncio.sleep(0)
    source.may_answer.set()
    assert (await first, await asyncio.gather(*others)) == (0, [1] * 20)
    assert source.readings == 2
    source.value = 2
    assert await source.asked() == 2


async def test_what_may_age_is_remembered_for_as_long_as_it_took_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    source = Source()
    first = source.asked(may_age=True)
    while not source.readings:
        await asyncio.sleep(0)
    now += 0.125  # it took so long
    source.may_answer.set()
    assert await first == 0
    source.value = 1
    now += 2.25
    assert await source.asked(may_age=True) == 0
    now += 0.5
    assert await source.asked(may_age=True) == 1


async def test_a_reading_that_fails_is_no_ones_answer() -> None:
    source = Source()

    async def fail() -> int:
        raise LookupError

    with pytest.raises(LookupError):
        await shared(source.here, ("key",), fail, may_age=True)
    source.may_answer.set()
    assert await source.asked(may_age=True) == 0


async def test_no_more_is_remembered_than_some_hundreds() -> None:
    source = Source()
    source.may_answer.set()
    for number in range(3 * module.MOST_KEPT):
        await shared(source.here, (number,), source.read)
    assert len(source.here.shown) <= module.MOST_KEPT

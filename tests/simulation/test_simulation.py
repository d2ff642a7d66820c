"""Some hundred seeds at each run of the tests, always the same ones; and that a seed is one story."""

from collections.abc import AsyncIterator

import pytest

from .postgres import Store, served
from .seed import play

pytestmark = pytest.mark.anyio

SHARE = 30


@pytest.fixture(scope="module")
async def store() -> AsyncIterator[Store]:
    async with served() as (url,):
        store = await Store.connect(url)
        yield store
        await store.close()


@pytest.mark.parametrize("first", range(0, 120, SHARE))
async def test_every_run_ends_and_no_rule_is_broken(store: Store, first: int) -> None:
    for seed in range(first, first + SHARE):
        report = await play(seed, store)
        story = "\n".join([*report.trace[-30:], *report.failures])
        assert not report.failures, f"replay: python -m tests.simulation --seed {seed}\n{story}"


@pytest.mark.parametrize("seed", [3, 11, 17])
async def test_one_seed_is_one_story(store: Store, seed: int) -> None:
    first = await play(seed, store)
    await play(seed + 1, store)
    again = await play(seed, store)
    assert again.trace == first.trace

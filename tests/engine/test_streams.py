"""M10, M11: parts are numbered without gaps in the order of their commits, each once, and none after the run's end."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from torpor import engine
from torpor.engine import Appended, Lease, Part, RunIsOver, Stale, StreamFull, TooManyStreams, Unknown, read_streams
from torpor.engine.streams import MAX_STREAMS
from torpor.wire.http import FinishReport

from .conftest import World
from .test_locks import meanwhile

pytestmark = pytest.mark.anyio

MAX = 10_000


def parts(*ids: str) -> list[Part]:
    return [Part(id, f'"{id}"') for id in ids]


async def say(world: World, lease: Lease, key: str, *ids: str, target: Any = "self", max_bytes: int = MAX) -> Any:
    return await world.do(engine.report_parts, lease, target, key, parts(*ids), max_bytes=max_bytes)


async def send(world: World, run_id: str, key: str, *ids: str, direction: Any = "input") -> Any:
    return await world.do(engine.append_parts, world.environment_id, run_id, direction, key, parts(*ids), max_bytes=MAX)


async def stands(world: World, run_id: str, key: str, *, direction: Any = "output", after: int = -1) -> Any:
    """What there is, and whether that was all."""
    async with world.db.transaction() as tx:
        page = await read_streams.page(tx, run_id, direction, key, after=after)
    return page and ([(each.seq, each.part_id) for each in page.parts], page.is_last)


async def test_parts_are_numbered_from_0_and_one_that_comes_again_adds_nothing(world: World):
    lease = await world.begin()
    assert await say(world, lease, "log", "a", "b", "b") == Appended(2, 1)
    assert await say(world, lease, "log", "b", "c", "a") == Appended(1, 2)
    assert await say(world, lease, "log", "a") == Appended(0, 2)
    assert await stands(world, lease.run_id, "log") == ([(0, "a"), (1, "b"), (2, "c")], False)
    assert await stands(world, lease.run_id, "log", after=1) == ([(2, "c")], False)
    assert await stands(world, lease.run_id, "other") == ([], False)
    assert await stands(world, "run_x", "log") is None


async def test_the_key_of_an_output_is_told_with_its_first_part_and_an_inputs_is_not(world: World):
    lease = await world.begin()
    await send(world, lease.run_id, "chat", "a")
    await say(world, lease, "log", "a")
    await say(world, lease, "log", "b")
    await say(world, lease, "tokens", "a")
    assert (await world.run(lease.run_id)).stream_keys == ["log", "tokens"]
    assert await stands(world, lease.run_id, "chat", direction="input") == ([(0, "a")], False)
    assert await stands(world, lease.run_id, "chat") == ([], False)


async def test_parts_go_to_the_parent_or_the_root_if_the_run_says_so(world: World):
    root = await world.begin()
    parent = await world.begin(await world.trigger(parent_lease=root))
    lease = await world.begin(await world.trigger(parent_lease=parent))
    for target in ("self", "parent", "root"):
        await say(world, lease, "log", f"to {target}", target=target)
        await say(world, root, "log", f"root to {target}", target=target)
    assert await stands(world, lease.run_id, "log") == ([(0, "to self")], False)
    assert await stands(world, parent.run_id, "log") == ([(0, "to parent")], False)
    at_root = ["root to self", "root to parent", "to root", "root to root"]
    assert await stands(world, root.run_id, "log") == ([*enumerate(at_root)], False)


async def test_one_that_waits_for_another_has_the_next_number(world: World):
    lease = await world.begin()
    await say(world, lease, "log", "a")
    async with world.db.transaction() as tx:
        await engine.report_parts(tx, lease, "self", "log", parts("b"), max_bytes=MAX, now=world.now)
        outside = send(world, lease.run_id, "log", "c", direction="output")
        async with meanwhile(world, outside) as (waiting,):
            # It is not to be seen before what it waits for.
            assert await stands(world, lease.run_id, "log") == ([(0, "a")], False)
    assert await waiting == Appended(1, 2)
    assert await stands(world, lease.run_id, "log", after=0) == ([(1, "b"), (2, "c")], False)


async def test_the_first_parts_of_one_stream_by_two_at_once_make_one_stream(world: World):
    lease = await world.begin()
    async with world.db.transaction() as tx:
        await engine.report_parts(tx, lease, "self", "log", parts("a"), max_bytes=MAX, now=world.now)
        async with meanwhile(world, say(world, lease, "log", "a", "b")) as (second,):
            pass
    assert await second == Appended(1, 1)
    assert (await world.run(lease.run_id)).stream_keys == ["log"]


async def test_streams_of_one_run_do_not_wait_for_each_other(world: World):
    lease = await world.begin()
    await say(world, lease, "log", "a")
    await say(world, lease, "tokens", "a")
    async with world.db.transaction() as tx:
        await engine.report_parts(tx, lease, "self", "log", parts("b"), max_bytes=MAX, now=world.now)
        assert await say(world, lease, "tokens", "b") == Appended(1, 1)


async def test_who_finds_that_the_run_is_over_finds_all_of_its_stream(world: World):
    """An append that was first is waited for by the end; one that comes second is refused."""
    lease = await world.begin()
    await say(world, lease, "log", "a")
    async with world.db.transaction() as tx:
        await engine.report_parts(tx, lease, "self", "log", parts("b"), max_bytes=MAX, now=world.now)
        async with meanwhile(world, world.finish(lease)) as (ending,):
            assert await stands(world, lease.run_id, "log") == ([(0, "a")], False)
    await ending
    assert await stands(world, lease.run_id, "log") == ([(0, "a"), (1, "b")], True)
    assert await say(world, lease, "log", "c") == Stale(lease.number + 1)
    assert await send(world, lease.run_id, "log", "c") == RunIsOver(lease.run_id)


async def test_an_append_that_waits_for_the_end_is_refused(world: World):
    lease = await world.begin()
    async with world.db.transaction() as tx:
        await engine.finish(tx, lease, FinishReport(lease.number, "completed"), jitter=lambda: 0.0, now=world.now)
        first, second = say(world, lease, "log", "a"), send(world, lease.run_id, "chat", "a")
        async with meanwhile(world, first, second) as waiting:
            pass
    assert await asyncio.gather(*waiting) == [Stale(lease.number + 1), RunIsOver(lease.run_id)]


async def test_a_child_whose_parent_is_over_is_told_so(world: World):
    parent = await world.begin()
    lease = await world.begin(await world.trigger(parent_lease=parent))
    await world.finish(parent)
    assert await say(world, lease, "log", "a", target="parent") == RunIsOver(parent.run_id)


async def test_limits_hold_and_what_is_refused_leaves_nothing(world: World):
    lease = await world.begin()
    assert await say(world, lease, "log", "a", max_bytes=6) == Appended(1, 0)
    assert await say(world, lease, "log", "b", "c", max_bytes=6) == StreamFull(9)
    assert await say(world, lease, "log", "a", "b", max_bytes=6) == Appended(1, 1)
    for n in range(MAX_STREAMS - 1):
        await say(world, lease, f"key {n}", "a")
    assert await say(world, lease, "one more", "a") == TooManyStreams()
    assert len((await world.run(lease.run_id)).stream_keys) == MAX_STREAMS
    assert await send(world, lease.run_id, "chat", "a") == Appended(1, 0)
    assert await send(world, "run_x", "chat", "a") == Unknown()


async def test_a_page_holds_about_so_many_bytes_and_at_least_one_part(world: World):
    lease = await world.begin()
    long = [Part(str(n), f'"{str(n) * (read_streams.PAGE_BYTES // 2)}"') for n in range(5)]
    longest = Part("longest", f'"{"ü" * read_streams.PAGE_BYTES}"')
    await world.do(engine.report_parts, lease, "self", "log", [longest, *long], max_bytes=1 << 30)
    await world.finish(lease)
    assert await stands(world, lease.run_id, "log") == ([(0, "longest")], False)
    assert await stands(world, lease.run_id, "log", after=0) == ([(1, "0"), (2, "1")], False)
    assert await stands(world, lease.run_id, "log", after=4) == ([(5, "4")], True)


async def test_parts_go_when_they_are_old_and_numbers_go_on(world: World):
    lease = await world.begin()
    await say(world, lease, "log", "a", "b")
    world.now += timedelta(days=20)
    await say(world, lease, "log", "c")
    world.now += timedelta(days=20)
    before = world.now - timedelta(days=28)
    steps = [(await world.do(engine.prune_streams, before=before, rows=1)).rows for _ in range(3)]
    assert steps == [1, 1, 0]
    assert await stands(world, lease.run_id, "log") == ([(2, "c")], False)
    assert await say(world, lease, "log", "d", max_bytes=6) == Appended(1, 3), "the room of what went is free"


async def test_streams_go_with_their_run(world: World):
    lease = await world.begin()
    await say(world, lease, "log", *(str(n) for n in range(10)))
    await send(world, lease.run_id, "chat", "a")
    await world.finish(lease)
    world.now += timedelta(days=31)
    place, gone = None, 0
    for _ in range(100):
        step = await world.do(engine.prune_runs, before=world.now - timedelta(days=30), place=place, rows=4)
        assert step.rows <= 6
        place, gone = step.place, gone + step.ended
        if place is None:
            break
    assert gone == 1
    async with world.db.transaction() as tx:
        assert await tx.fetchval("select (select count(*) from streams) + (select count(*) from stream_chunks)") == 0

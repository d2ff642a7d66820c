"""What pages read of a long history is bounded: they stop, count no further, and go on from where they were."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from torpor import engine
from torpor.engine import Listing, Page, RunFilter, read, read_checkpoints, read_runs, read_totals, read_waiting
from torpor.wire.http import VersionReport

from .conftest import World, manifest, time_wait

pytestmark = pytest.mark.anyio


async def walked(ask: Callable[[Page], Awaitable[Listing[Any]]], size: int) -> list[list[str]]:
    """The ids of each page, from the first to the last; the same pages are read backwards."""
    pages: list[Listing[Any]] = [await ask(Page(size))]
    while pages[-1].next:
        pages.append(await ask(Page(size, after=pages[-1].next)))
        assert len(pages) < 20
    found = [[item.id for item in page.items] for page in pages]
    for nth in range(len(pages) - 1, 0, -1):
        assert pages[nth].previous == found[nth][0]
        back = await ask(Page(size, before=pages[nth].previous))
        assert [item.id for item in back.items] == found[nth - 1]
    return found


WAYS: list[dict[str, Any]] = [
    {"tags": ["a", "b"]},
    {"task_ids": ["hello"]},
    {"queues": ["task/hello"]},
    {"schedule_ids": ["sched_1"]},
    {"versions": ["v1"]},
    {"batch_id": "batch_1"},
    {"bulk_id": "bulk_1"},
    {"search": "hel"},
]


@pytest.mark.parametrize("where", WAYS, ids=lambda where: next(iter(where)))
async def test_a_page_stops_where_what_fits_is_rare_and_goes_on_from_there(
    world: World, where: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_runs, "STEPS", (2, 2))
    ids: list[str] = []
    for number in range(9):
        world.later(1)
        ids.insert(0, await world.trigger("hello", tags=["a", "b"], is_test=number in (0, 6)))
    async with world.db.transaction() as tx:
        await tx.execute(
            "update runs set version = 'v1', schedule_id = 'sched_1', batch_id = 'batch_1', batch_index = 0"
        )
        await tx.execute(
            """insert into bulk_runs (bulk_id, place, run_id, shown_id, shown_at)
               select 'bulk_1', row_number() over (), id, id, created_at from runs"""
        )
    wanted = RunFilter(is_test=True, **where)

    async def look(**page: Any) -> tuple[list[str], str | None, Any]:
        async with world.db.transaction() as tx:
            found, stopped_at = await read_runs.looked_for(tx, world.environment_id, wanted, Page(5, **page))
            if stopped_at is not None:
                stopped_at = await tx.fetchval("select id from runs where created_at = $1", stopped_at)
        return [run.id for run in found.items], found.previous if page.get("before") else found.next, stopped_at

    assert await look() == ([ids[2]], ids[3], ids[3])
    assert await look(after=ids[3]) == ([], ids[7], ids[7])
    assert await look(after=ids[7]) == ([ids[8]], None, None)
    assert await look(before=ids[8]) == ([], ids[4], ids[4])
    assert await look(before=ids[4]) == ([ids[2]], ids[0], ids[0])
    async with world.db.transaction() as tx:
        whole = await read.runs(tx, world.environment_id, wanted, Page(5))
    assert [run.id for run in whole.items] == [ids[2], ids[8]], "who asks for all gets all"


async def test_of_several_ways_the_one_that_leaves_fewest_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_runs, "STEPS", (2,))
    rare = await world.trigger("hello", tags=["a"], queue="task/hello")
    for _ in range(5):
        world.later(1)
        await world.trigger("hello", tags=["a"])
    async with world.db.transaction() as tx:
        await tx.execute("update runs set version = 'v0' where id = $1", rare)
        where = RunFilter(tags=["a"], task_ids=["hello"], versions=["v0"])
        found, stopped_at = await read_runs.looked_for(tx, world.environment_id, where, Page(5))
    assert ([run.id for run in found.items], stopped_at) == ([rare], None)


async def test_what_somebody_is_asked_comes_in_the_order_in_which_it_times_out(world: World) -> None:
    late = await world.token(title="Late?", timeout_s=3600)
    plain = await world.token(timeout_s=5)
    soon = await world.token(title="Soon?", timeout_s=60)
    done = await world.token(title="Done?", timeout_s=30)
    latest = await world.token(title="Latest?", timeout_s=7200)
    await world.complete(done)
    async with world.db.transaction() as tx:

        async def ask(page: Page) -> Listing[Any]:
            found = await read_waiting.open_tokens(tx, world.environment_id, page)
            return Listing([view.token for view in found.items], found.next, found.previous)

        assert await walked(ask, 2) == [[soon, late], [latest, plain]]
        assert await walked(ask, 3) == [[soon, late, latest], [plain]]


async def test_checkpoints_are_listed_in_every_order_and_summed_up(world: World) -> None:
    ids: list[str] = []
    for size, own in ((20, 7), (30, 5), (10, 6)):
        world.later(1)
        lease = await world.begin(await world.trigger())
        await world.block(lease, time_wait("w", 3600))
        ids.append(f"checkpoint_{size}")
        await world.suspend(lease, ids[-1])
        async with world.db.transaction() as tx:
            changes = "size_bytes = $2, new_bytes = $3, shared_bytes = $2 - $3::bigint"
            await tx.execute(f"update checkpoints set {changes} where id = $1", ids[-1], size, own)
    gone = await world.begin(await world.trigger())
    await world.block(gone, time_wait("w", 3600))
    await world.suspend(gone)
    async with world.db.transaction() as tx:
        await tx.execute("update checkpoints set state = 'dropped' where run_id = $1", gone.run_id)
        first, second, third = ids
        for order, expected in {
            "newest": [[third, second], [first]],
            "oldest": [[first, second], [third]],
            "size": [[second, first], [third]],
            "own": [[first, third], [second]],
            "shared": [[second, first], [third]],
        }.items():
            found = await walked(
                lambda page, order=order: read_checkpoints.stored(tx, world.environment_id, page, order=order), 2
            )
            assert found == expected, order
        totals = await read_checkpoints.checkpoint_totals(tx, world.environment_id)
        assert (totals.count, totals.size_bytes, totals.new_bytes, totals.shared_bytes) == (3, 60, 18, 42)
        assert (await read_checkpoints.checkpoint_totals(tx, "environment_other")).count == 0
        assert (await read_totals.frozen_by(tx, world.environment_id)).by_worker == {"w1": 4}


async def test_a_queue_is_counted_no_further_than_asked(world: World) -> None:
    report = VersionReport("w1", "v1", [manifest("hello"), manifest("help")])
    await world.do(engine.register_version, world.environment_id, report)
    await world.begin(await world.trigger("help"))
    oldest = world.now
    for key in ("a", "b", "b", ""):
        await world.trigger("hello", concurrency_key=key)
        world.later(1)
    async with world.db.transaction() as tx:
        for most, queued in ((None, 4), (2, 2)):
            found = await read.queues(tx, world.environment_id, most=most)
            counts = {view.queue.name: (view.queued, view.running) for view in found.items}
            assert counts == {"task/hello": (queued, 0), "task/help": (0, 1)}
        lines = await read_totals.queue_lines(tx, world.environment_id, ["task/hello", "task/help"])
    assert lines == {"task/hello": read_totals.QueueLines(2, oldest), "task/help": read_totals.QueueLines(0, None)}


async def test_a_batch_counts_its_runs_and_those_that_its_items_have_joined(world: World) -> None:
    joined = (await world.begin()).run_id
    own = await world.trigger()
    await world.make_batch("batch_1", own, joined)
    async with world.db.transaction() as tx:
        await tx.execute("update runs set batch_id = 'batch_1', batch_index = 0 where id = $1", own)
        await tx.execute("update batch_items set is_cached = true where run_id = $1", joined)
    async with world.db.transaction() as tx:
        assert await read_totals.batch_states(tx, "batch_1") == {"queued": 1, "executing": 1}

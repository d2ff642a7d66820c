"""Many runs, one end: whatever happens in whatever order, the batch is complete when all its runs have ended."""

import asyncio
import itertools
from datetime import timedelta
from random import Random
from typing import Any

import asyncpg
import msgspec
import pytest

from torpor import engine
from torpor.engine import BatchRequest, Lease, NewItem, RunState, TriggerRequest
from torpor.engine.read_batch import results, run_ids
from torpor.store.records import Batch
from torpor.wire.runner import NewWait

from .conftest import World, manifest
from .test_locks import meanwhile

pytestmark = pytest.mark.anyio


def item(index: int, task_id: str = "hello", **options: Any) -> NewItem:
    return NewItem(index, task_id, TriggerRequest(task_id, **options))


async def open_batch(world: World, run_count: int | None, **options: Any) -> str:
    made = await world.do(engine.create_batch, world.environment_id, BatchRequest(run_count=run_count, **options))
    assert isinstance(made, engine.BatchCreated)
    return made.batch_id


async def add(world: World, batch_id: str, *items: NewItem, **more: Any) -> Any:
    return await world.do(engine.add_items, world.environment_id, batch_id, items, **more)


async def batch_of(world: World, *items: NewItem) -> str:
    batch_id = await open_batch(world, len(items))
    assert (await add(world, batch_id, *items)).is_sealed
    return batch_id


async def look(world: World, batch_id: str) -> Batch:
    async with world.db.transaction() as tx:
        return Batch.of(await tx.fetchrow("select * from batches where id = $1", batch_id))


async def runs_of(world: World, batch_id: str) -> list[str]:
    async with world.db.transaction() as tx:
        return await run_ids(tx, batch_id)


async def end(world: World, run_id: str) -> None:
    await world.do(engine.cancel, world.environment_id, run_id)


def batch_wait(wait_id: str, batch_id: str) -> NewWait:
    return NewWait(wait_id, "batch", batch_id=batch_id)


async def settled(world: World, batch_id: str) -> bool:
    """Whether the batch is over for everybody, once the timers have looked."""
    fired = await world.do(engine.fire_due)
    assert fired.next_due is None or fired.next_due > world.now, "nothing due is left"
    return (await look(world, batch_id)).settled_at is not None


# -- items become runs -------------------------------------------------------------------------------------------------


async def test_each_item_becomes_a_run_in_its_place(world: World):
    """B1, G2: items come in chunks, each with options of its own, and start in their order."""
    batch_id = await open_batch(world, 3)
    first = await add(world, batch_id, item(1, payload='"b"'), item(0, payload='"a"', tags=["x"]))
    assert (first.is_sealed, first.accepted, first.item_count) == (False, 2, 2)
    world.later(1)
    assert (await add(world, batch_id, item(2, payload='"c"'))).is_sealed
    runs = [await world.run(run_id) for run_id in await runs_of(world, batch_id)]
    assert [(run.batch_index, run.payload, run.tags) for run in runs] == [
        (0, '"a"', ["x"]),
        (1, '"b"', []),
        (2, '"c"', []),
    ]
    assert {run.batch_id for run in runs} == {batch_id}
    world.later(1)
    started = [(await world.dequeue(free=1))[0].run_id for _ in runs]
    assert started == [run.id for run in runs]


async def test_a_failed_item_neither_hides_nor_stops_the_others(world: World):
    """B3: it has its reason, and counts as failed."""
    world.tasks = [manifest("hello", payload_schema={"type": "integer"})]
    await world.do(engine.register_version, world.environment_id, _version(world))
    added = await add(
        world,
        await open_batch(world, 5),
        item(0, payload="1"),
        item(1, "hallo", payload="1"),
        item(2, payload='"one"'),
        NewItem(3, "hello", error="options.delay: no"),
        item(4, payload="2", tags=["nul \0"]),
    )
    assert added.is_sealed
    assert [bool(each.run_id) for each in added.items] == [True, False, False, False, False]
    whys = [each.error or "" for each in added.items]
    assert [why.partition("(")[0] for why in whys] == [
        "",
        "hallo: UnknownTask",
        "hello: PayloadMisfit",
        "options.delay: no",
        "hello: Unstorable",
    ]
    batch = await look(world, added.items[0].batch_id)
    assert (batch.failed_items, batch.pending) == (4, 1)


def _version(world: World) -> Any:
    from torpor.wire.http import VersionReport

    return VersionReport("w1", "v1", world.tasks)


async def test_the_same_item_twice_counts_once(world: World):
    """G15: a chunk whose answer was lost is sent again."""
    batch_id = await open_batch(world, 3)
    first = await add(world, batch_id, item(0), item(1, "unknown"))
    again = await add(world, batch_id, item(0), item(1, "unknown"))
    assert again.items == first.items
    assert (again.accepted, again.item_count) == (0, 2)
    assert (await look(world, batch_id)).pending == 2
    await add(world, batch_id, item(2), item(2))
    assert len(await runs_of(world, batch_id)) == 2
    late = await add(world, batch_id, item(0))  # sealed meanwhile
    assert late.is_sealed
    assert late.items == first.items[:1]


async def test_a_batch_that_was_not_counted_grows_until_it_is_sealed(world: World):
    """G15: items may come from an iterator."""
    batch_id = await open_batch(world, None)
    for index in range(3):
        assert not (await add(world, batch_id, item(index))).is_sealed
    sealed = await add(world, batch_id, item(3), seal=True)
    assert (sealed.is_sealed, sealed.run_count) == (True, 4)
    assert await add(world, batch_id, item(4)) == engine.BatchClosed(4, is_aborted=False)


async def test_a_batch_sealed_early_asks_for_nothing_more(world: World):
    batch_id = await open_batch(world, 5)
    sealed = await add(world, batch_id, item(0), seal=True)
    assert (sealed.is_sealed, sealed.run_count) == (True, 1)
    await end(world, (await runs_of(world, batch_id))[0])
    assert await settled(world, batch_id)


async def test_an_index_beyond_what_was_announced_is_refused(world: World):
    batch_id = await open_batch(world, 1)
    assert await add(world, batch_id, item(0), item(1)) == engine.Misplaced(1, 1)
    assert (await look(world, batch_id)).item_count == 0
    assert await add(world, "batch_unknown", item(0)) == engine.Unknown()


async def test_the_same_request_and_the_same_key_are_the_same_batch(world: World):
    asked = BatchRequest("batch_1", 2, idempotency_key="k", idempotency_key_ttl_s=60)
    first = await world.do(engine.create_batch, world.environment_id, asked)
    assert (first.is_cached, first.is_sealed) == (False, False)
    assert (await world.do(engine.create_batch, world.environment_id, asked)).is_cached
    other = BatchRequest("batch_2", 9, idempotency_key="k")
    cached = await world.do(engine.create_batch, world.environment_id, other)
    assert (cached.batch_id, cached.run_count, cached.is_cached) == ("batch_1", 2, True)
    world.later(61)
    assert (await world.do(engine.create_batch, world.environment_id, other)).batch_id == "batch_2"


async def test_a_void_process_creates_and_adds_nothing(world: World):
    lease = await world.begin()
    stale = Lease(lease.run_id, lease.number - 1)
    asked = BatchRequest(run_count=1, parent_lease=stale)
    assert await world.do(engine.create_batch, world.environment_id, asked) == engine.Stale(lease.number)
    batch_id = await open_batch(world, 1, parent_lease=lease)
    given = item(0, parent_lease=stale)
    assert await add(world, batch_id, given, lease=stale) == engine.Stale(lease.number)
    assert await add(world, batch_id, item(0, parent_lease=lease), lease=lease)
    child = await world.run((await runs_of(world, batch_id))[0])
    assert child.parent_run_id == lease.run_id
    assert [kind for kind in await world.kinds(lease.run_id) if "batch" in kind] == ["batch.created", "batch.sealed"]


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_a_parent_wakes_once_when_the_last_run_has_ended(world: World):
    """B4: a batch of any size wakes whoever waits for it once."""
    parent = await world.begin()
    batch_id = await batch_of(world, *map(item, range(4)))
    assert len((await world.block(parent, batch_wait("a", batch_id))).open) == 1
    await world.suspend(parent)
    for run_id in await runs_of(world, batch_id):
        assert (await world.run(parent.run_id)).state == RunState.SUSPENDED
        assert not await settled(world, batch_id)
        await end(world, run_id)
    assert await settled(world, batch_id)
    assert (await world.kinds(parent.run_id)).count("run.resuming") == 1
    (assignment,) = await world.dequeue(free=1)
    told = msgspec.json.decode(assignment.answers[0].output)
    assert [(one["index"], one["status"]) for one in told] == [(index, "CANCELED") for index in range(4)]


async def test_an_empty_batch_is_complete_at_once(world: World):
    parent = await world.begin()
    batch_id = await open_batch(world, 0)
    blocked = await world.block(parent, batch_wait("a", batch_id))
    assert [bytes(answer.output) for answer in blocked.answers] == [b"[]"]


async def test_an_uncounted_batch_of_nothing_is_complete_when_it_is_sealed(world: World):
    batch_id = await open_batch(world, None)
    await add(world, batch_id, seal=True)
    assert await settled(world, batch_id)


async def test_a_batch_of_failed_items_only_is_complete(world: World):
    batch_id = await batch_of(world, item(0, "unknown"), item(1, "unknown"))
    assert await settled(world, batch_id)


async def test_a_wait_for_a_batch_that_does_not_exist_fails(world: World):
    parent = await world.begin()
    (answer,) = (await world.block(parent, batch_wait("a", "batch_none"))).answers
    assert answer.error is not None
    assert answer.error.message == "the batch batch_none doesn't exist: nothing could ever answer this wait"


async def test_a_parent_that_comes_late_is_answered_at_once(world: World):
    batch_id = await batch_of(world, item(0))
    await end(world, (await runs_of(world, batch_id))[0])
    assert await settled(world, batch_id)
    parent = await world.begin()
    assert len((await world.block(parent, batch_wait("a", batch_id))).answers) == 1


# -- runs that were there before ---------------------------------------------------------------------------------------


async def test_items_that_join_an_ended_run_are_not_pending(world: World):
    """BB24: duplicates by idempotency key don't hang the parent."""
    old = await world.trigger(idempotency_key="k")
    lease = await world.take(old)
    await world.start(lease)
    await world.finish(lease)
    batch_id = await batch_of(world, item(0, idempotency_key="k"), item(1))
    assert (await look(world, batch_id)).pending == 1
    await end(world, (await runs_of(world, batch_id))[1])
    assert await settled(world, batch_id)


async def test_two_items_that_share_a_run_each_count(world: World):
    """BB24: the run's one end counts for both."""
    batch_id = await open_batch(world, 3)
    await add(world, batch_id, item(0, idempotency_key="k"), item(1, idempotency_key="k"))
    added = await add(world, batch_id, item(2, idempotency_key="k"))
    assert added.items[0].is_cached
    (run_id,) = await runs_of(world, batch_id)
    assert (await look(world, batch_id)).pending == 3
    await end(world, run_id)
    assert await settled(world, batch_id)


async def test_one_run_in_two_batches_counts_in_both(world: World):
    """BB24: also when both wait for it."""
    batches = [await batch_of(world, item(0, idempotency_key="k"), item(1)) for _ in range(2)]
    runs = {run_id for batch_id in batches for run_id in await runs_of(world, batch_id)}
    assert len(runs) == 3
    for run_id in runs:
        await end(world, run_id)
    assert [await settled(world, batch_id) for batch_id in batches] == [True, True]


async def test_a_run_that_ends_while_an_item_joins_it_is_counted(world: World):
    """BB24: the item is written first, so that the run's end waits, and finds it."""
    run_id = await world.trigger(idempotency_key="k")
    batch_id = await open_batch(world, 1)
    async with world.db.transaction() as tx:
        joining = await engine.add_items(
            tx, world.environment_id, batch_id, [item(0, idempotency_key="k")], now=world.now
        )
        assert isinstance(joining, engine.ItemsAdded)
        async with meanwhile(world, end(world, run_id)) as (ending,):
            pass
    await ending
    assert joining.items[0].run_id == run_id
    assert await settled(world, batch_id)


async def test_an_item_that_joins_a_run_which_is_just_ending_sees_its_end(world: World):
    """BB24: the end is first, so the item waits, and counts as over."""
    run_id = await world.trigger(idempotency_key="k")
    batch_id = await open_batch(world, 1)
    async with world.db.transaction() as tx:
        await engine.cancel(tx, world.environment_id, run_id, now=world.now)
        async with meanwhile(world, add(world, batch_id, item(0, idempotency_key="k"))) as (joining,):
            pass
    assert (await joining).items[0].run_id == run_id
    assert (await look(world, batch_id)).pending == 0
    assert await settled(world, batch_id)


async def test_a_key_that_is_taken_while_an_item_wants_it_is_joined(world: World):
    """BB24: another trigger is about to commit the run of this key when the item asks for it."""
    batch_id = await open_batch(world, 1)
    async with world.db.transaction() as tx:
        first = await engine.trigger(
            tx, world.environment_id, TriggerRequest("hello", idempotency_key="k"), now=world.now
        )
        assert isinstance(first, engine.Triggered)
        async with meanwhile(world, add(world, batch_id, item(0, idempotency_key="k"))) as (joining,):
            pass
    assert (await joining).items[0].run_id == first.run_id
    await end(world, first.run_id)
    assert await settled(world, batch_id)


async def test_one_chunk_at_a_time(world: World):
    """G15: a chunk comes again while its first copy is still being worked on."""
    batch_id = await open_batch(world, 2)
    async with world.db.transaction() as tx:
        first = await engine.add_items(tx, world.environment_id, batch_id, [item(0)], now=world.now)
        async with meanwhile(world, add(world, batch_id, item(0), item(1))) as (again,):
            pass
    assert isinstance(first, engine.ItemsAdded)
    added = await again
    assert added.items[0] == first.items[0]
    assert (added.accepted, added.is_sealed) == (1, True)


async def test_the_last_runs_of_a_batch_end_at_the_same_time(world: World):
    batch_id = await batch_of(world, item(0), item(1))
    first, second = await runs_of(world, batch_id)
    async with world.db.transaction() as tx:
        await engine.cancel(tx, world.environment_id, first, now=world.now)
        async with meanwhile(world, end(world, second)) as (ending,):
            pass
    await ending
    assert await settled(world, batch_id)


async def test_two_batches_with_the_same_keys_in_opposite_order_do_not_deadlock(world: World):
    """BB24: each waits for the other's keys, but never in a circle."""
    first, second = await open_batch(world, 2), await open_batch(world, 2)
    async with world.db.transaction() as tx:
        keys = [item(0, idempotency_key="a"), item(1, idempotency_key="b")]
        await engine.add_items(tx, world.environment_id, first, keys, now=world.now)
        turned = (item(0, idempotency_key="b"), item(1, idempotency_key="a"))
        async with meanwhile(world, add(world, second, *turned)) as (joining,):
            pass
    assert [one.is_cached for one in (await joining).items] == [True, True]
    assert await runs_of(world, second) == (await runs_of(world, first))[::-1]


@pytest.mark.parametrize("order", list(itertools.permutations(["add", "end old", "block", "end new"])))
async def test_no_order_of_events_leaves_a_parent_waiting(world: World, order: tuple[str, ...]):
    """BB24: of a batch with a failed item, a new run, and two items that join one that was there before."""
    parent = await world.begin()
    old = await world.trigger(idempotency_key="k")
    batch_id = await open_batch(world, 4)
    await add(world, batch_id, item(0), item(1, "unknown"))
    (new,) = await runs_of(world, batch_id)
    for step in order:
        match step:
            case "add":
                await add(world, batch_id, item(2, idempotency_key="k"), item(3, idempotency_key="k"))
            case "end old":
                await end(world, old)
            case "end new":
                await end(world, new)
            case _:
                await world.block(parent, batch_wait("a", batch_id))
                await world.suspend(parent)
        await world.do(engine.fire_due)
    assert await settled(world, batch_id)
    run = await world.run(parent.run_id)
    assert run.state in (RunState.QUEUED, RunState.EXECUTING), "answered"


# -- batches whose items never come ------------------------------------------------------------------------------------


async def test_a_batch_that_is_never_sealed_is_aborted(world: World):
    """B2: after 30 minutes without a new item what is missing counts as failed, and the waiting parent goes on."""
    parent = await world.begin()
    batch_id = await open_batch(world, 3)
    world.later(29 * 60)
    await add(world, batch_id, item(1))
    await world.block(parent, batch_wait("a", batch_id))
    await world.suspend(parent)
    world.later(29 * 60)
    assert await world.do(engine.abort_batches) == []
    world.later(60)
    assert await world.do(engine.abort_batches) == [batch_id]
    assert await world.do(engine.abort_batches) == []
    batch = await look(world, batch_id)
    assert (batch.is_aborted, batch.failed_items, batch.pending) == (True, 2, 1)
    assert await add(world, batch_id, item(7)) == engine.BatchClosed(7, is_aborted=True)
    (run_id,) = await runs_of(world, batch_id)
    await end(world, run_id)
    assert await settled(world, batch_id)
    assert (await world.run(parent.run_id)).state == RunState.QUEUED
    async with world.db.transaction() as tx:
        page, _ = await results(tx, batch_id, max_bytes=1 << 20)
    assert [one.item.error is None for one in page] == [False, True, False]


async def test_an_aborted_batch_gives_its_key_back(world: World):
    """B2: an attempt that comes again makes its batch anew."""
    first = await open_batch(world, 2, idempotency_key="k")
    assert await open_batch(world, 2, idempotency_key="k") == first
    world.later(31 * 60)
    assert await world.do(engine.abort_batches) == [first]
    assert await open_batch(world, 2, idempotency_key="k") != first


async def test_a_batch_without_any_item_is_aborted_and_complete(world: World):
    """B2: counted or not."""
    batches = [await open_batch(world, None), await open_batch(world, 2)]
    world.later(timedelta(minutes=31).total_seconds())
    assert sorted(await world.do(engine.abort_batches)) == sorted(batches)
    assert [await settled(world, batch_id) for batch_id in batches] == [True, True]


async def test_a_chunk_that_comes_in_just_then_saves_its_batch(world: World):
    """B2: who adds items holds the batch; the duty passes it by."""
    batch_id = await open_batch(world, 2)
    world.later(31 * 60)
    async with world.db.transaction() as tx:
        await engine.add_items(tx, world.environment_id, batch_id, [item(0)], now=world.now)
        assert await world.do(engine.abort_batches) == []
    assert await world.do(engine.abort_batches) == []


async def test_results_come_in_pages_in_the_order_of_the_items(world: World):
    """B4: limited by bytes, at least one at a time."""
    batch_id = await batch_of(world, *(item(index) for index in (3, 1, 0, 2)), item(4, "unknown"))
    world.later(1)
    for _ in range(4):
        (assignment,) = await world.dequeue(free=1)
        lease = Lease(assignment.run_id, assignment.lease)
        await world.start(lease)
        await world.finish(lease, output=msgspec.Raw(b'"' + b"x" * 500 + b'"'))
    after, pages = -1, []
    async with world.db.transaction() as tx:
        while after is not None:
            page, after = await results(tx, batch_id, after=after, max_bytes=1100)
            pages.append([one.item.index for one in page])
    assert pages == [[0, 1], [2, 3, 4]] or pages == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("seed", range(5))
async def test_batches_that_share_runs_all_end_whatever_happens_at_the_same_time(world: World, seed: int):
    """BB24: items of four batches come in, twice, while the runs that they share end and begin anew."""
    rng = Random(seed)
    keys = [None, *(f"k{number}" for number in range(12))]
    batches = [await open_batch(world, 40 if nth % 2 else None) for nth in range(4)]

    async def fill(batch_id: str) -> None:
        items = [
            item(index, rng.choice(["hello"] * 9 + ["unknown"]), idempotency_key=rng.choice(keys))
            for index in range(40)
        ]
        chunks = [items[start : start + 8] for start in range(0, 40, 8)] * 2
        rng.shuffle(chunks)
        for chunk in chunks:
            await again_after_deadlocks(lambda chunk=chunk: add(world, batch_id, *chunk))
        assert (await again_after_deadlocks(lambda: add(world, batch_id, seal=True))).is_sealed

    async def end_some() -> None:
        for _ in range(25):
            async with world.db.transaction() as tx:
                rows = await tx.fetch("select id, idempotency_key from runs where finished_at is null order by id")
            for row in rng.sample(rows, min(len(rows), 4)):
                await again_after_deadlocks(lambda row=row: world.do(engine.cancel, world.environment_id, row["id"]))
            await world.do(engine.fire_due)

    async with asyncio.timeout(60):
        await asyncio.gather(*map(fill, batches), end_some(), end_some())
    async with world.db.transaction() as tx:
        left = await tx.fetch("select id from runs where finished_at is null")
    for row in left:
        await end(world, row["id"])
    assert [await settled(world, batch_id) for batch_id in batches] == [True] * 4
    assert [(await look(world, batch_id)).pending for batch_id in batches] == [0] * 4


async def again_after_deadlocks(do: Any) -> Any:
    """As the server has its callers do: a message that collided is said again."""
    while True:
        try:
            return await do()
        except asyncpg.DeadlockDetectedError:
            continue

"""M1, M2: what a run tells of itself, by whom, how often, and what becomes of it when two do so at once."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest

from torpor import engine
from torpor.engine import (
    EndedLongAgo,
    Lease,
    Metadata,
    MetadataChange,
    MetadataTooLarge,
    Stale,
    Tagged,
    TooManyTags,
    Unknown,
)
from torpor.engine.metadata import BOUNDS, CHANGEABLE_S
from torpor.wire.http import FinishReport, MetadataReport, VersionReport
from torpor.wire.operations import apply
from torpor.wire.runner import Op, TaskError

from .conftest import World, manifest, time_wait
from .test_locks import meanwhile

pytestmark = pytest.mark.anyio

MORE = Op("increment", "n", 1)


async def family(world: World) -> tuple[Lease, Lease, Lease]:
    """A run, its parent and its root, all at work."""
    root = await world.begin()
    parent = await world.begin(await world.trigger(parent_lease=root))
    return await world.begin(await world.trigger(parent_lease=parent)), parent, root


async def say(world: World, lease: Lease, number: int, *own: Op, **more: Any) -> Any:
    return await world.do(engine.report_metadata, lease, MetadataReport(lease.number, number, [*own], **more))


async def change(world: World, run_id: str, *own: Op, **more: Any) -> Any:
    return await world.do(engine.change_metadata, world.environment_id, run_id, MetadataChange([*own], **more))


async def metadata(world: World, lease: Lease) -> Any:
    return (await world.run(lease.run_id)).metadata


async def test_operations_of_one_report_reach_the_run_its_parent_and_its_root(world: World):
    lease, parent, root = await family(world)
    done = await say(
        world, lease, 1, Op("set", "a", 1), parent_operations=[MORE], root_operations=[Op("append", "$.l.o", "x")]
    )
    assert done == Metadata({"a": 1}, [])
    assert [await metadata(world, each) for each in (lease, parent, root)] == [{"a": 1}, {"n": 1}, {"l": {"o": ["x"]}}]


async def test_what_a_run_without_a_parent_tells_its_parent_and_root_it_tells_itself(world: World):
    lease = await world.begin()
    done = await say(world, lease, 1, MORE, parent_operations=[MORE], root_operations=[MORE])
    assert done.metadata == {"n": 3}


async def test_a_report_that_comes_again_or_late_changes_nothing(world: World):
    lease, parent, _ = await family(world)
    assert (await say(world, lease, 2, MORE, parent_operations=[MORE], tags=["a"])).metadata == {"n": 1}
    for number in (2, 1):
        again = await say(world, lease, number, MORE, parent_operations=[MORE], tags=["b"])
        assert again == Metadata({"n": 1}, ["a"])
    assert await metadata(world, parent) == {"n": 1}
    assert (await say(world, lease, 3, MORE)).metadata == {"n": 2}


async def test_each_lease_counts_its_reports_from_one(world: World):
    lease = await world.begin()
    await say(world, lease, 5, MORE)
    await world.block(lease, time_wait("w", 60))
    await world.suspend(lease)
    world.later(61)
    await world.do(engine.fire_due)
    (given,) = await world.dequeue()
    again = Lease(lease.run_id, given.lease)
    assert (await say(world, again, 1, MORE)).metadata == {"n": 2}
    assert await say(world, lease, 6, MORE) == Stale(again.number)
    assert await metadata(world, lease) == {"n": 2}


async def test_the_same_report_twice_at_once_counts_once(world: World):
    lease = await world.begin()
    report = MetadataReport(lease.number, 1, [MORE])
    async with world.db.transaction() as tx:
        await engine.report_metadata(tx, lease, report, now=world.now)
        async with meanwhile(world, say(world, lease, 1, MORE)) as (again,):
            pass
    assert (await again).metadata == {"n": 1}


async def test_a_report_that_waited_for_the_runs_end_is_stale(world: World):
    lease = await world.begin()
    async with world.db.transaction() as tx:
        await engine.finish(tx, lease, FinishReport(lease.number, "completed"), jitter=lambda: 0.0, now=world.now)
        async with meanwhile(world, say(world, lease, 1, MORE)) as (late,):
            pass
    assert await late == Stale(lease.number + 1)
    assert await metadata(world, lease) is None


async def test_children_that_count_on_their_root_at_once_lose_nothing(world: World):
    root = await world.begin()
    children = [await world.begin(await world.trigger(parent_lease=root)) for _ in range(4)]
    async with world.db.transaction() as tx:
        await tx.execute("select from runs where id = $1 for no key update", root.run_id)
        told = [
            say(world, each, n, MORE, parent_operations=[MORE], root_operations=[MORE])
            for n in (1,)
            for each in children[:3]
        ]
        async with meanwhile(world, *told[:2]) as waiting:
            pass
    await asyncio.gather(*waiting, told[2])
    assert await metadata(world, root) == {"n": 6}


async def test_children_that_tell_their_parent_never_deadlock_with_its_end_and_the_cascade(world: World):
    """All of them lock runs by id, whichever of parent and child has the smaller one."""
    for round in range(6):
        parent = await world.begin()
        children = [await world.begin(await world.trigger(parent_lease=parent)) for _ in range(3)]

        async def chatter(child: Lease, parent: Lease) -> None:
            for number in range(1, 8):
                done = await say(world, child, number, MORE, parent_operations=[MORE], root_operations=[MORE])
                assert isinstance(done, Metadata | Stale)

        async def fall(parent: Lease, at_once: bool) -> None:
            await world.do(engine.cancel, world.environment_id, parent.run_id, at_once=at_once)
            while await world.do(engine.cascade) is not None:
                pass

        await asyncio.gather(*(chatter(child, parent) for child in children), fall(parent, round % 2 == 0))


async def test_reports_that_are_lost_repeated_and_late_add_up_to_what_a_model_says(world: World):
    lease, parent, root = await family(world)
    chance = random.Random(7)
    keys = ["a", "b", "$.a.x", "$.b.0"]
    expected: list[Any] = [{}, {}, {}]

    def some() -> list[Op]:
        def one() -> Op:
            match chance.randrange(4):
                case 0:
                    return Op("set", chance.choice(keys), chance.choice([1, "t", [1], {"x": [2]}]))
                case 1:
                    return Op("append", chance.choice(keys), chance.randrange(3))
                case 2:
                    return Op("remove", chance.choice(keys), chance.randrange(3))
                case _:
                    return Op("increment", chance.choice(keys), chance.randrange(1, 4))

        return [one() for _ in range(chance.randrange(4))]

    sent: list[MetadataReport] = []
    for number in range(1, 40):
        sent.append(MetadataReport(lease.number, number, some(), some(), some()))
        for index, wanted in enumerate((sent[-1].operations, sent[-1].parent_operations, sent[-1].root_operations)):
            expected[index] = apply(expected[index], wanted)
        for report in [sent[-1], *chance.choices(sent, k=chance.randrange(3))]:
            await world.do(engine.report_metadata, lease, report)
    assert [await metadata(world, each) for each in (lease, parent, root)] == expected


async def test_too_much_of_it_is_refused_and_the_whole_report_with_it(world: World):
    lease, parent, _ = await family(world)
    long = Op("set", "long", "x" * BOUNDS.size_bytes)
    refused = await say(world, lease, 1, MORE, parent_operations=[long], tags=["t"])
    assert refused == MetadataTooLarge(parent.run_id, BOUNDS.size_bytes + len('{"long":""}'))
    # Its number is not used up: what can be done of it may be said again.
    assert await say(world, lease, 1, MORE) == Metadata({"n": 1}, [])
    exactly = Op("set", "long", "x" * (BOUNDS.size_bytes - len('{"long":""}')))
    assert isinstance(await say(world, parent, 1, exactly), Metadata)


async def test_tags_are_added_up_to_ten(world: World):
    lease = await world.begin(tags=["a"])
    assert (await say(world, lease, 1, tags=["b", "a", "b"])).tags == ["a", "b"]
    many = [f"t{n}" for n in range(9)]
    assert await say(world, lease, 2, MORE, tags=many) == TooManyTags(11)
    assert await metadata(world, lease) is None
    added = await world.do(engine.add_tags, world.environment_id, lease.run_id, ["b", *many[:8]])
    assert added == Tagged(["a", "b", *many[:8]], 8)
    assert await world.do(engine.add_tags, world.environment_id, lease.run_id, ["one more"]) == TooManyTags(11)
    assert await world.do(engine.add_tags, "env_x", lease.run_id, ["c"]) == Unknown()


async def test_two_who_add_tags_at_once_both_do(world: World):
    lease = await world.begin()
    async with world.db.transaction() as tx:
        await engine.add_tags(tx, world.environment_id, lease.run_id, ["a"], now=world.now)
        second = world.do(engine.add_tags, world.environment_id, lease.run_id, ["b"])
        async with meanwhile(world, second) as (adding,):
            pass
    assert await adding == Tagged(["a", "b"], 1)


async def test_a_run_may_be_told_of_for_a_while_after_its_end(world: World):
    lease = await world.begin()
    await world.finish(lease)
    ended = world.now
    assert isinstance(await change(world, lease.run_id, MORE), Metadata)
    world.later(CHANGEABLE_S)
    assert await change(world, lease.run_id, MORE) == EndedLongAgo(ended)
    assert await metadata(world, lease) == {"n": 1}


async def test_a_child_goes_on_though_its_parent_is_over_for_long(world: World):
    child, parent, _ = await family(world)
    await world.finish(parent)
    world.now += timedelta(seconds=CHANGEABLE_S)
    assert (await say(world, child, 1, MORE, parent_operations=[MORE])).metadata == {"n": 1}
    assert await metadata(world, parent) is None


async def test_a_change_moves_updated_at_and_no_change_does_not(world: World):
    lease = await world.begin()
    before = world.now
    world.later(5)
    await say(world, lease, 1, Op("delete", "nothing"), Op("remove", "neither", 1))
    assert (await world.run(lease.run_id)).updated_at == before
    await say(world, lease, 2, Op("set", "on", 1))
    assert (await world.run(lease.run_id)).updated_at == world.now
    world.later(5)
    await say(world, lease, 3, Op("set", "on", True))
    assert (await world.run(lease.run_id)).updated_at == world.now, "true is not 1"


async def test_metadata_is_kept_by_the_next_attempt_and_a_replay_begins_with_what_was_given(world: World):
    lease = await world.begin(metadata={"given": 1})
    await say(world, lease, 1, MORE)
    await world.fail(lease)
    assert await metadata(world, lease) == {"given": 1, "n": 1}
    replayed = await world.do(engine.replay, world.environment_id, lease.run_id, {})
    assert (await world.run(replayed.run_id)).metadata == {"given": 1}


async def test_a_trailing_debounce_gives_it_anew(world: World):
    debounce = engine.Debounce("k", 10.0, "trailing", None)
    run_id = await world.trigger(metadata={"given": 1}, debounce=debounce)
    await change(world, run_id, MORE)
    assert await world.trigger(metadata={"given": 2}, debounce=debounce) == run_id
    replayed = await world.do(engine.replay, world.environment_id, run_id, {})
    assert (await world.run(replayed.run_id)).metadata == {"given": 2}


async def test_it_is_not_in_the_story(world: World):
    lease = await world.begin()
    before = await world.kinds(lease.run_id)
    await say(world, lease, 1, MORE, tags=["a"])
    assert await world.kinds(lease.run_id) == before


async def test_a_hook_speaks_for_the_run_whose_hook_it_is(world: World):
    """Its own run is in no list: nobody would see what it says there."""
    tasks = [manifest("hello", hooks=["on_failure"])]
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v1", tasks))
    parent = await world.begin()
    lease = await world.begin(await world.trigger(parent_lease=parent, max_attempts=1))
    await say(world, lease, 1, Op("set", "state", "works"))
    await world.finish(lease, "crashed", error=TaskError("Oops", "it broke"))
    (given,) = await world.dequeue()
    assert given.hook is not None
    hook = Lease(given.run_id, given.lease)
    told = {"state": "failed", "n": 1}
    for _ in range(2):  # its answer was lost
        done = await say(world, hook, 1, Op("set", "state", "failed"), MORE, parent_operations=[MORE], tags=["failed"])
        assert done == Metadata(told, ["failed"])
    assert [await metadata(world, each) for each in (lease, parent, hook)] == [told, {"n": 1}, None]

"""Every filter of a list of runs, along whichever index it goes, and pages of each in both directions."""

from datetime import timedelta
from typing import Any

import pytest

from torpor import engine
from torpor.engine import Page, RunFilter, RunState
from torpor.wire.http import VersionReport
from torpor.wire.presets import BUILT_IN, GB, Preset
from torpor.wire.runner import QueueManifest

from .conftest import World, manifest

pytestmark = pytest.mark.anyio


async def found(world: World, where: RunFilter, **page: Any) -> list[str]:
    async with world.db.transaction() as tx:
        return [run.id for run in (await engine.read.runs(tx, world.environment_id, where, Page(**page))).items]


async def change(world: World, run_id: str, what: str, *values: Any) -> None:
    async with world.db.transaction() as tx:
        await tx.execute(f"update runs set {what} where id = $1", run_id, *values)


@pytest.fixture
async def crowd(world: World) -> World:
    """Two tasks, a declared queue, and a size of machine in a region."""
    report = VersionReport("w1", "v1", [manifest("hello"), manifest("help")], queues=[QueueManifest("mails")])
    await world.do(engine.register_version, world.environment_id, report)
    abroad = Preset("abroad", 1, GB, GB, 64, {"region": "eu"})
    await world.do(engine.ensure_environment, "dev", key_hash=b"k", presets=[*BUILT_IN.values(), abroad])
    return world


async def test_each_filter_finds_what_fits_and_nothing_else(crowd: World):
    world = crowd
    other = await world.trigger("help", tags=["common"])
    world.later(1)
    wanted = await world.trigger(
        "hello", tags=["rare", "common"], is_test=True, queue="mails", preset="abroad", run_id="run_abc1"
    )
    await change(world, wanted, "version = 'v7', schedule_id = 'sched_1', batch_id = 'batch_1', batch_index = 0")
    await change(world, wanted, "state = 'failed', finished_at = $2", world.now)
    fitting: dict[str, Any] = {
        "status": ["FAILED", "CRASHED"],
        "task_ids": ["hello", "unknown"],
        "versions": ["v7"],
        "tags": ["rare", "unknown"],
        "is_test": True,
        "presets": ["abroad"],
        "regions": ["eu"],
        "queues": ["mails"],
        "schedule_ids": ["sched_1"],
        "batch_id": "batch_1",
    }
    for name, value in fitting.items():
        assert await found(world, RunFilter(**{name: value})) == [wanted], name
        for also, another in fitting.items():
            assert await found(world, RunFilter(**{name: value, also: another})) == [wanted], (name, also)
        for searched in ("run_ab", "hell", "rare"):
            assert await found(world, RunFilter(search=searched, **{name: value})) == [wanted], (name, searched)
    for name in fitting:
        nothing: Any = False if name == "is_test" else "none" if name == "batch_id" else ["none"]
        left = await found(world, RunFilter(**{name: nothing}))
        assert left == ([other] if name == "is_test" else []), name
        assert await found(world, RunFilter(search="run_ab", **{name: nothing})) == []
    assert await found(world, RunFilter(tags=["common"])) == [wanted, other]
    assert await found(world, RunFilter(queues=["task/help", "mails"])) == [wanted, other]
    assert await found(world, RunFilter(search="hel")) == [wanted, other], "each once"
    assert await found(world, RunFilter(search="common", tags=["rare"])) == [wanted]
    assert await found(world, RunFilter(search="run_")) == [], "what would fit all is no search"


DRIVERS: list[dict[str, Any]] = [
    {},
    {"status": ["QUEUED", "DELAYED"]},
    {"task_ids": ["hello", "help"]},
    {"queues": ["task/hello", "task/help"]},
    {"presets": ["micro", "small-1x"]},
    {"tags": ["a", "b", "c"]},
    {"schedule_ids": ["sched_1", "sched_2"]},
    {"versions": ["v1", "v2"]},
    {"is_test": True},
    {"batch_id": "batch_1"},
    {"search": "hel"},
]


@pytest.mark.parametrize("where", DRIVERS, ids=lambda where: "-".join(where) or "all")
async def test_pages_lead_both_ways_whatever_is_listed(crowd: World, where: dict[str, Any]):
    """Several values take turns, and three runs were made in one instant: only ids tell them apart."""
    world = crowd
    for number in range(7):
        first = number % 2 == 0
        world.later(number % 3 == 0)
        delay = {} if first else {"delay_until": world.now + timedelta(hours=1)}
        run_id = await world.trigger(
            "hello" if first else "help",
            tags=["a", "c"] if first else ["b"],
            preset="micro" if first else "small-1x",
            is_test=True,
            **delay,
        )
        changes = "version = $2, schedule_id = $3, batch_id = 'batch_1', batch_index = $4"
        await change(world, run_id, changes, *(("v1", "sched_1") if first else ("v2", "sched_2")), number)
    async with world.db.transaction() as tx:
        rows = await tx.fetch("select id from runs order by created_at desc, id desc")
    ids, wanted = [row["id"] for row in rows], RunFilter(created_to=world.now, **where)
    forward = [ids[:3], ids[3:6], ids[6:]]
    cursor: dict[str, Any] = {}
    for expected in forward:
        assert await found(world, wanted, size=3, **cursor) == expected
        cursor = {"after": expected[-1]}
    assert await found(world, wanted, size=3, before=ids[6]) == forward[1]
    assert await found(world, wanted, size=3, before=ids[3]) == forward[0]
    assert await found(world, wanted, size=3, after="run_unknown") == []


async def test_a_run_that_an_item_has_joined_is_one_of_the_batchs(world: World):
    own, joined = await world.trigger(), await world.trigger()
    await world.make_batch("batch_1", own, joined)
    await change(world, own, "batch_id = 'batch_1', batch_index = 0")
    async with world.db.transaction() as tx:
        await tx.execute("update batch_items set is_cached = true where run_id = $1", joined)
    assert set(await found(world, RunFilter(batch_id="batch_1"))) == {own, joined}


async def test_a_hook_is_no_run_of_its_own_in_any_list(world: World):
    run_id = await world.trigger(tags=["a"])
    hook = await world.trigger(tags=["a"])
    await change(world, hook, "hook = 'on_failure', hook_of = $2", run_id)
    for where in (
        RunFilter(),
        RunFilter(status=["QUEUED"]),
        RunFilter(task_ids=["hello"]),
        RunFilter(tags=["a"]),
        RunFilter(search="hel"),
    ):
        assert await found(world, where) == [run_id]


@pytest.mark.parametrize("state", list(RunState))
async def test_every_state_is_listed_by_its_public_name(world: World, state: RunState):
    run_id = (await world.run_in(state)).run_id
    for status in sorted(set(engine.STATUS.values())):
        wanted: list[str] = [run_id] if status == engine.STATUS[state] else []
        assert await found(world, RunFilter(status=[status])) == wanted
        assert await found(world, RunFilter(status=[status], task_ids=["hello"])) == wanted


async def test_the_lists_of_tags_follow_the_runs(world: World):
    """By a trigger: whoever changes tags, or deletes runs, needs not think of them."""
    run_id = await world.trigger(tags=["a", "b"])
    await change(world, run_id, "tags = $2", ["b", "c"])
    assert [await found(world, RunFilter(tags=[tag])) for tag in "abc"] == [[], [run_id], [run_id]]
    async with world.db.transaction() as tx:
        await tx.execute("delete from events; delete from runs")
        assert await tx.fetchval("select count(*) from run_tags") == 0

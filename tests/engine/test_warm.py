"""Warm images: one for all workers that can use it, as long as somebody starts runs of that version."""

from typing import Any

import pytest

from torpor import engine
from torpor.engine import Gone, Ok
from torpor.wire.http import VersionReport, WarmReport

from .conftest import World

pytestmark = pytest.mark.anyio


async def warm(world: World, image_id: str, version: str = "v1", worker_id: str = "w1", *packs: str) -> Any:
    report = WarmReport(worker_id, version, world.stored(image_id, *packs, kind="warm"))
    return await world.do(engine.warm, world.environment_id, report)


async def find(world: World, worker_id: str = "w1", version: str = "v1") -> str | None:
    found = await world.do(engine.find_warm, world.environment_id, worker_id, version)
    return found.id if found else None


async def test_a_worker_that_has_never_seen_a_version_finds_its_warm_image(fleet: World):
    assert await find(fleet) is None
    assert await warm(fleet, "image_1") == Ok()
    assert await warm(fleet, "image_1") == Ok(), "told twice"
    await fleet.hello("w2", "store_1", "fit_2")
    await fleet.hello("w3", "store_2", "fit_1")
    assert await find(fleet, "w2") == "image_1"
    assert await find(fleet, "w3") is None, "it doesn't read that store"
    assert await find(fleet, "w2", "v2") is None


async def test_a_newer_one_replaces_it_for_workers_of_its_fitness(fleet: World):
    await fleet.hello("w2", "store_1", "fit_2")
    await warm(fleet, "image_1")
    fleet.later(1)
    await warm(fleet, "image_2", worker_id="w2")
    assert (await find(fleet), await find(fleet, "w2")) == ("image_1", "image_2"), "each finds its own first"
    fleet.later(1)
    await warm(fleet, "image_3")
    assert await find(fleet) == "image_3"
    fleet.later(600)
    assert (await fleet.do(engine.condemn)).images == ["image_1"]


async def test_who_can_not_thaw_it_is_not_given_it_again(fleet: World):
    await fleet.hello("w2", "store_1", "fit_2")
    await warm(fleet, "image_1")
    await fleet.do(engine.refuse_warm, fleet.environment_id, "w2", "image_1", "no avx2")
    assert (await find(fleet), await find(fleet, "w2")) == ("image_1", None)
    await fleet.do(engine.refuse_warm, fleet.environment_id, "w1", "image_1", "damaged", is_damaged=True)
    assert await find(fleet) is None


async def test_it_goes_when_its_version_does(fleet: World):
    await warm(fleet, "image_1")
    assert await fleet.do(engine.prune_warm) == 0
    await fleet.do(engine.register_version, fleet.environment_id, VersionReport("w1", "v2", fleet.tasks))
    assert await fleet.do(engine.prune_warm) == 1
    fleet.later(600)
    assert (await fleet.do(engine.condemn)).images == ["image_1"]


async def test_what_runs_share_with_it_outlives_it(fleet: World):
    await warm(fleet, "image_1", "v1", "w1", "base")
    lease = await fleet.begin()
    await fleet.save(lease, stored=fleet.stored("checkpoint_1", "base", "own", kind="auto", base="image_1"))
    await fleet.do(engine.register_version, fleet.environment_id, VersionReport("w1", "v2", fleet.tasks))
    await fleet.do(engine.prune_warm)
    fleet.later(600)
    assert await fleet.do(engine.condemn) == engine.Condemned(["image_1"], [], 1)


async def test_one_that_refers_to_what_is_deleted_is_made_again(fleet: World):
    await fleet.do(engine.note_strays, fleet.environment_id, "store_1", ["packs/base"])
    assert await warm(fleet, "image_1", "v1", "w1", "base") == Gone(["base"])

"""What is deleted, and that nothing live ever is: the orders of two transactions that want the same image or pack."""

from typing import Any

import pytest

from torpor import engine
from torpor.engine import Awake, Forked, ForkRequest, Gone, Lease, NoCheckpoint, Ok, Suspended
from torpor.wire.http import Pack, Refusal, StoredCheckpoint, SuspendReport

from .conftest import World, time_wait
from .test_locks import meanwhile

pytestmark = pytest.mark.anyio

GRACE_S = 600.0
DAY_S = 86400.0


async def blocked(world: World) -> Lease:
    lease = await world.begin()
    await world.block(lease, time_wait(f"wait of {lease.run_id}", 3600))
    return lease


async def suspended(world: World, checkpoint_id: str, *packs: str) -> Lease:
    lease = await blocked(world)
    assert await suspend(world, lease, checkpoint_id, *packs) == Suspended()
    return lease


async def suspend(world: World, lease: Lease, checkpoint_id: str, *packs: str) -> Any:
    report = SuspendReport(lease.number, world.stored(checkpoint_id, *packs))
    return await world.do(engine.suspend, lease, report, worker_id="w1")


async def cancel(world: World, lease: Lease) -> None:
    """The run is over and its checkpoints are kept no longer."""
    await world.do(engine.cancel, world.environment_id, lease.run_id)
    world.later(DAY_S)
    assert await world.do(engine.expire_checkpoints) >= 1


async def condemn(world: World) -> set[str]:
    done = await world.do(engine.condemn, grace_s=GRACE_S)
    return {*(f"images/{id}" for id in done.images), *(f"packs/{id}" for id in done.packs)}


async def told(world: World) -> list[str]:
    return await world.do(engine.condemned, world.environment_id, "store_1")


async def test_what_nothing_refers_to_is_condemned_after_the_grace_period_and_forgotten_when_deleted(fleet: World):
    """BB15, BB16: an image lives as long as a checkpoint that is kept, and no longer."""
    lease = await suspended(fleet, "checkpoint_1", "pack_1", "pack_2")
    assert await condemn(fleet) == set()
    await cancel(fleet, lease)
    assert await condemn(fleet) == set(), "not yet"
    fleet.later(GRACE_S)
    assert await condemn(fleet) == {"images/checkpoint_1", "packs/pack_1", "packs/pack_2"}
    names = await told(fleet)
    assert names == ["images/checkpoint_1", "packs/pack_1", "packs/pack_2"]
    assert await told(fleet) == [], "somebody is at it"
    fleet.later(60)
    assert await told(fleet) == names, "or isn't"
    assert await fleet.do(engine.confirm_deleted, fleet.environment_id, "store_1", names) == 3
    assert await fleet.do(engine.confirm_deleted, fleet.environment_id, "store_1", names) == 0
    fleet.later(60)
    assert await told(fleet) == []
    fleet.later(DAY_S)
    assert await fleet.do(engine.forget_deleted) == 3


async def test_a_pack_lives_as_long_as_one_image_refers_to_it(fleet: World):
    first = await suspended(fleet, "checkpoint_1", "base", "mine")
    second = await suspended(fleet, "checkpoint_2", "base", "yours")
    await cancel(fleet, first)
    fleet.later(GRACE_S)
    assert await condemn(fleet) == {"images/checkpoint_1", "packs/mine"}
    await cancel(fleet, second)
    fleet.later(GRACE_S)
    assert await condemn(fleet) == {"images/checkpoint_2", "packs/base", "packs/yours"}


async def test_a_fork_keeps_the_image_of_a_run_that_is_over(fleet: World):
    lease = await suspended(fleet, "checkpoint_1")
    twin = await fleet.do(engine.fork, fleet.environment_id, lease.run_id, ForkRequest())
    await cancel(fleet, lease)
    fleet.later(GRACE_S)
    assert await condemn(fleet) == set()
    await cancel(fleet, Lease(twin.run_id, 0))
    fleet.later(GRACE_S)
    assert await condemn(fleet) == {"images/checkpoint_1", "packs/pack_of_checkpoint_1"}


async def test_the_grace_period_begins_with_the_last_reference(fleet: World):
    lease = await suspended(fleet, "checkpoint_1")
    twin = await fleet.do(engine.fork, fleet.environment_id, lease.run_id, ForkRequest())
    await cancel(fleet, lease)
    await cancel(fleet, Lease(twin.run_id, 0))
    fleet.later(GRACE_S - 1)
    assert await condemn(fleet) == set()
    fleet.later(1)
    assert "images/checkpoint_1" in await condemn(fleet)


async def test_checkpoints_that_newer_ones_replace_are_let_go(fleet: World):
    lease = await fleet.begin()
    for nth in range(4):
        await fleet.save(lease, stored=fleet.stored(f"checkpoint_{nth}", kind="auto"))
    fleet.later(GRACE_S)
    assert {name for name in await condemn(fleet) if name.startswith("images")} == {
        "images/checkpoint_0",
        "images/checkpoint_1",
    }


async def condemnable(world: World) -> Lease:
    """An image whose time has come, and a blocked run that is about to refer to its pack."""
    old = await suspended(world, "checkpoint_old", "base")
    await cancel(world, old)
    world.later(GRACE_S)
    return await blocked(world)


async def test_a_pack_that_is_being_condemned_is_not_referred_to_any_more(fleet: World):
    """First order: condemn, then suspend, which waits for it."""
    lease = await condemnable(fleet)
    async with fleet.db.transaction() as tx:
        assert (await engine.condemn(tx, grace_s=GRACE_S, now=fleet.now)).packs == ["base"]
        async with meanwhile(fleet, suspend(fleet, lease, "checkpoint_new", "base", "own")) as (suspending,):
            pass
    assert await suspending == Gone(["base"])
    run = await fleet.run(lease.run_id)
    assert (run.lease, run.checkpoint_id) == (lease.number, None), "nothing has changed"
    assert await fleet.checkpoints(lease.run_id) == []
    assert await suspend(fleet, lease, "checkpoint_new", "own", "base again") == Suspended(), "published once more"


async def test_a_pack_that_is_being_referred_to_is_not_condemned(fleet: World):
    """Second order: suspend, then condemn, which waits for it."""
    lease = await condemnable(fleet)
    async with fleet.db.transaction() as tx:
        report = SuspendReport(lease.number, fleet.stored("checkpoint_new", "base", "own"))
        assert await engine.suspend(tx, lease, report, worker_id="w1", now=fleet.now) == Suspended()
        async with meanwhile(fleet, condemn(fleet)) as (condemning,):
            pass
    assert await condemning == {"images/checkpoint_old"}, "its image, but not the pack"


@pytest.mark.parametrize("fork_first", [True, False])
async def test_an_image_is_either_forked_or_condemned(fleet: World, fork_first: bool):
    """A fork that looked before the checkpoint was dropped, at the same time as the image is condemned."""
    lease = await suspended(fleet, "checkpoint_1")
    async with fleet.db.transaction() as tx:  # let go of by a fault of ours: the checkpoint is still kept
        await tx.execute("insert into let_go (image_id, at) values ('checkpoint_1', $1)", fleet.now)
    fleet.later(GRACE_S)
    if fork_first:
        async with fleet.db.transaction() as tx:
            done = await engine.fork(tx, fleet.environment_id, lease.run_id, ForkRequest(), now=fleet.now)
            assert isinstance(done, Forked)
            async with meanwhile(fleet, condemn(fleet)) as (condemning,):
                pass
        assert await condemning == set()
    else:
        async with fleet.db.transaction() as tx:
            await tx.execute("update images set condemned_at = $1 where id = 'checkpoint_1'", fleet.now)
            forking = fleet.do(engine.fork, fleet.environment_id, lease.run_id, ForkRequest())
            async with meanwhile(fleet, forking) as (waiting,):
                pass
        assert isinstance(await waiting, NoCheckpoint)


async def test_two_who_enter_the_same_packs_at_once_both_refer_to_them(fleet: World):
    first, second = await blocked(fleet), await blocked(fleet)
    async with fleet.db.transaction() as tx:
        report = SuspendReport(first.number, fleet.stored("checkpoint_1", "b", "a"))
        assert await engine.suspend(tx, first, report, worker_id="w1", now=fleet.now) == Suspended()
        async with meanwhile(fleet, suspend(fleet, second, "checkpoint_2", "a", "b")) as (suspending,):
            pass
    assert await suspending == Suspended()


async def test_a_stray_is_condemned_and_a_report_that_comes_later_is_told_so(fleet: World):
    lease = await blocked(fleet)
    strays = await fleet.do(engine.note_strays, fleet.environment_id, "store_1", ["packs/late", "images/nobodys", "x"])
    assert strays == ["images/nobodys", "packs/late"]
    assert await told(fleet) == ["images/nobodys", "packs/late"]
    assert await suspend(fleet, lease, "checkpoint_1", "late") == Gone(["late"])
    await fleet.do(engine.confirm_deleted, fleet.environment_id, "store_1", ["packs/late"])
    assert await suspend(fleet, lease, "checkpoint_1", "late") == Gone(["late"]), "also when it has been deleted"


async def test_what_the_engine_knows_is_no_stray(fleet: World):
    await suspended(fleet, "checkpoint_1", "pack_1")
    names = ["images/checkpoint_1", "packs/pack_1"]
    assert await fleet.do(engine.note_strays, fleet.environment_id, "store_1", names) == []
    assert await told(fleet) == []
    assert await fleet.do(engine.confirm_deleted, fleet.environment_id, "store_1", names) == 0, (
        "a worker can't talk us into it"
    )


@pytest.mark.parametrize("report_first", [True, False])
async def test_a_report_and_the_finding_of_its_pack_at_once(fleet: World, report_first: bool):
    lease = await blocked(fleet)
    finding = fleet.do(engine.note_strays, fleet.environment_id, "store_1", ["packs/a"])
    if report_first:
        async with fleet.db.transaction() as tx:
            report = SuspendReport(lease.number, fleet.stored("checkpoint_1", "a"))
            assert await engine.suspend(tx, lease, report, worker_id="w1", now=fleet.now) == Suspended()
            async with meanwhile(fleet, finding) as (found,):
                pass
        assert await found == [], "it is known"
    else:
        finding.close()
        async with fleet.db.transaction() as tx:
            await engine.note_strays(tx, fleet.environment_id, "store_1", ["packs/a"], now=fleet.now)
            async with meanwhile(fleet, suspend(fleet, lease, "checkpoint_1", "a")) as (suspending,):
                pass
        assert await suspending == Gone(["a"])


async def test_a_pack_that_is_said_to_be_known_and_is_not_is_gone(fleet: World):
    """A worker remembers a pack that was deleted long ago, row and all."""
    lease = await blocked(fleet)
    packs = [Pack("forgotten", 10, is_new=False), Pack("fresh", 10)]
    stored = StoredCheckpoint("checkpoint_1", 1, store_id="store_1", digest="d", key_id="k", packs=packs)
    report = SuspendReport(lease.number, stored)
    assert await fleet.do(engine.suspend, lease, report, worker_id="w1") == Gone(["forgotten"])


async def test_an_image_of_another_store_or_with_another_digest_is_not_taken_for_it(fleet: World):
    await suspended(fleet, "checkpoint_1", "pack_1")
    lease = await blocked(fleet)
    other = fleet.stored("checkpoint_2", "pack_1", store_id="store_2")
    assert await fleet.do(engine.suspend, lease, SuspendReport(lease.number, other), worker_id="w1") == Gone(["pack_1"])
    swapped = fleet.stored("checkpoint_3", "pack_1", image_id="checkpoint_1")
    outcome = await fleet.do(engine.suspend, lease, SuspendReport(lease.number, swapped), worker_id="w1")
    assert outcome == Awake()


async def test_what_was_never_let_go_of_is_noticed(fleet: World):
    lease = await suspended(fleet, "checkpoint_1")
    await suspended(fleet, "checkpoint_2")
    async with fleet.db.transaction() as tx:
        await tx.execute("update runs set checkpoint_id = null, state = 'queued' where id = $1", lease.run_id)
        await tx.execute("delete from checkpoints where run_id = $1", lease.run_id)
    assert await fleet.do(engine.notice) is None
    fleet.later(GRACE_S)
    assert await condemn(fleet) == {"images/checkpoint_1", "packs/pack_of_checkpoint_1"}


async def test_a_damaged_image_is_let_go(fleet: World):
    lease = await suspended(fleet, "checkpoint_1")
    fleet.later(3600)
    await fleet.do(engine.fire_due)
    lease = await fleet.take(lease.run_id)
    refusal = Refusal(lease.number, "a bit has changed", checkpoint_unusable=True)
    assert await fleet.do(engine.refuse, lease, refusal) == Ok()
    fleet.later(GRACE_S)
    assert "images/checkpoint_1" in await condemn(fleet)

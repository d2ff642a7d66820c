"""What is old goes, whole and in small steps; what anybody may still need stays."""

from datetime import timedelta
from typing import Any

import pytest

from torpor import engine
from torpor.engine import Lease, Place, Pruned, RunState
from torpor.wire.http import LogLine, LogReport, StoredCheckpoint, SuspendReport, VersionReport

from .conftest import World, run_wait, time_wait, token_wait

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600.0
THEIRS = ["runs", "events", "logs", "attempts", "waits", "waitpoints", "checkpoints", "idempotency_keys"]


async def walk(world: World, verb: Any, **options: Any) -> Pruned:
    """Every step of one pass, with what is older than thirty days."""
    total = Pruned()
    place: Place | None = None
    before = world.now - timedelta(days=30)
    for _ in range(1000):
        done = await world.do(verb, before=before, place=place, **options)
        total = Pruned(total.rows + done.rows, total.ended + done.ended, total.objects + done.objects)
        place = done.place
        if place is None:
            return total
    raise AssertionError("it never ends")


async def prune(world: World, **options: Any) -> int:
    """As the server does it; how many runs went."""
    await world.do(engine.prune_keys)
    await walk(world, engine.prune_batches, **options)
    await walk(world, engine.prune_tokens, **options)
    return (await walk(world, engine.prune_runs, **options)).ended


async def count(world: World, table: str) -> int:
    async with world.db.transaction() as tx:
        return int(await tx.fetchval(f"select count(*) from {table}") or 0)


async def counts(world: World) -> dict[str, int]:
    return {table: n for table in THEIRS if (n := await count(world, table))}


async def change(world: World, statement: str, *args: Any) -> None:
    async with world.db.transaction() as tx:
        await tx.execute(statement, *args)


async def log(world: World, lease: Lease, lines: int = 3, first: int = 0) -> None:
    at = world.now.isoformat()
    report = LogReport(lease.number, first, [LogLine(at, "info", f"line {n}") for n in range(lines)])
    await world.do(engine.append, lease.run_id, report)


async def a_whole_life(world: World) -> str:
    """A run with something in every table."""
    lease = await world.begin(idempotency_key="k", idempotency_key_ttl_s=60.0)
    await log(world, lease)
    token = await world.token(idempotency_key="t", idempotency_key_ttl_s=60.0)
    await world.block(lease, time_wait("a", 1), token_wait("b", token))
    await world.suspend(lease)
    await world.complete(token)
    lease = await world.begin(lease.run_id)
    await world.finish(lease)
    return lease.run_id


# -- what goes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 500])
async def test_an_old_run_goes_with_all_that_belongs_to_it(world: World, rows: int):
    """However small the steps are."""
    await a_whole_life(world)
    assert set(await counts(world)) == set(THEIRS)
    world.later(29 * DAY_S)
    assert await prune(world, rows=rows) == 0
    world.later(DAY_S + 1)
    assert await prune(world, rows=rows) == 1
    assert await counts(world) == {}


async def test_no_step_deletes_more_than_it_may(world: World):
    lease = await world.begin()
    for nth in range(10):
        await log(world, lease, 100, nth * 1000)
    await world.finish(lease)
    world.later(31 * DAY_S)
    before, place, steps = world.now - timedelta(days=30), None, 0
    while True:
        done = await world.do(engine.prune_runs, before=before, place=place, rows=200)
        assert done.rows <= 200 + 1
        steps += 1
        place = done.place
        if place is None:
            break
    assert steps >= 1000 / 200
    assert await counts(world) == {}


@pytest.mark.parametrize("state", sorted(engine.ENDS))
async def test_every_end_is_an_end(world: World, state: RunState):
    await world.run_in(state)
    world.later(31 * DAY_S)
    assert await prune(world) == 1
    assert await counts(world) == {}


async def test_a_family_that_is_over_goes(world: World):
    parent = await world.begin()
    child_id = await world.trigger(parent_lease=parent)
    await world.block(parent, run_wait("a", child_id))
    await world.suspend(parent)
    await world.finish(await world.begin(child_id))
    await world.finish(await world.begin(parent.run_id))
    world.later(31 * DAY_S)
    assert await prune(world) == 2
    assert await counts(world) == {}


async def test_a_child_goes_before_a_parent_that_ended_later(world: World):
    parent = await world.begin()
    child_id = await world.trigger(parent_lease=parent)
    await world.block(parent, run_wait("a", child_id))
    await world.suspend(parent)
    await world.finish(await world.begin(child_id))
    lease = await world.begin(parent.run_id)
    world.later(20 * DAY_S)
    await world.finish(lease)
    world.later(20 * DAY_S)
    assert await prune(world) == 1
    assert (await world.run(parent.run_id)).state == RunState.COMPLETED
    assert await world.story(parent.run_id)


async def test_images_of_runs_that_went_may_be_deleted(world: World):
    """The worker's census names an image of which no row tells any more."""
    lease = await world.begin()
    await world.block(lease, time_wait("a", 1))
    await world.do(
        engine.suspend, lease, SuspendReport(lease.number, StoredCheckpoint("checkpoint_1", 1)), worker_id="w1"
    )
    await world.do(engine.cancel, world.environment_id, lease.run_id)
    world.later(31 * DAY_S)
    assert await prune(world) == 1
    assert await world.do(engine.keep, "w1", ["checkpoint_1"]) == []


async def test_objects_are_named_unless_another_run_has_them_too(world: World):
    """G14: what went to the object store goes with its run."""
    first, second = await world.run_in(RunState.COMPLETED), await world.run_in(RunState.COMPLETED)
    await change(world, "update runs set payload_object = 'p', output_object = id where id = $1", first.run_id)
    await world.trigger()
    await change(world, "update runs set payload_object = 'p' where state = 'queued'")
    await change(world, "update runs set payload_object = 'q' where id = $1", second.run_id)
    world.later(31 * DAY_S)
    done = await walk(world, engine.prune_runs)
    assert sorted(done.objects) == sorted([first.run_id, "q"])


# -- what stays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [state for state in RunState if state not in engine.ENDS])
async def test_what_lives_stays_whole(world: World, state: RunState):
    await world.run_in(state)
    before = await counts(world)
    world.later(1000 * DAY_S)
    assert await prune(world) == 0
    assert await counts(world) == before


async def test_children_of_a_living_run_stay(world: World):
    parent = await world.begin()
    child = await world.begin(await world.trigger(parent_lease=parent))
    await world.finish(child)
    world.later(31 * DAY_S)
    assert await prune(world) == 0
    await world.finish(parent)
    assert await prune(world) == 1


async def test_a_run_that_a_living_one_has_waited_for_stays(world: World):
    """After a crash it goes on from an older image, and asks again."""
    awaited = await world.begin()
    waiter = await world.begin()
    await world.block(waiter, run_wait("a", awaited.run_id))
    await world.suspend(waiter)
    await world.finish(awaited)
    waiter = await world.begin(waiter.run_id)
    world.later(31 * DAY_S)
    before = await counts(world)
    assert await prune(world) == 0
    assert await counts(world) == before
    await world.finish(waiter)
    assert await prune(world) == 1


async def test_a_run_that_a_key_stands_for_stays_until_the_key_expires(world: World):
    run_id = await world.trigger(idempotency_key="k", idempotency_key_ttl_s=60 * DAY_S)
    await world.finish(await world.begin(run_id))
    world.later(59 * DAY_S)
    assert await prune(world) == 0
    assert await world.trigger(idempotency_key="k") == run_id
    world.later(2 * DAY_S)
    assert await prune(world) == 1
    assert await counts(world) == {}


async def test_a_run_whose_children_are_yet_to_be_canceled_stays(world: World):
    lease = await world.run_in(RunState.CANCELED)
    await change(world, "insert into cascades (run_id, created_at) values ($1, now())", lease.run_id)
    world.later(31 * DAY_S)
    assert await prune(world) == 0


async def test_a_run_stays_as_long_as_the_one_that_performs_its_hook(world: World):
    lease, hook_id = await world.run_in(RunState.CRASHED), await world.trigger()
    await change(world, "update runs set hook = 'on_failure', hook_of = $1 where id = $2", lease.run_id, hook_id)
    world.later(31 * DAY_S)
    assert await prune(world) == 0
    await world.finish(await world.begin(hook_id))
    world.later(31 * DAY_S)
    assert await prune(world) + await prune(world) == 2


async def test_what_another_transaction_holds_is_left_for_the_next_pass(world: World):
    """And a run that comes to wait meanwhile keeps what it waits for."""
    old = await world.run_in(RunState.COMPLETED)
    world.later(31 * DAY_S)
    waiter = await world.begin()
    async with world.db.transaction() as tx:
        await tx.fetch("select from runs where id = $1 for share", old.run_id)
        assert await prune(world) == 0
    await world.block(waiter, run_wait("a", old.run_id))
    assert await prune(world) == 0
    assert (await world.run(old.run_id)).state == RunState.COMPLETED


# -- tokens -----------------------------------------------------------------------------------------------------------


async def test_old_tokens_go_unless_somebody_may_need_them(world: World):
    answered, timed_out = await world.token(), await world.token(timeout_s=5.0)
    still_open, awaited = await world.token(), await world.token()
    keyed = await world.token(idempotency_key="t", idempotency_key_ttl_s=90 * DAY_S)
    lease = await world.begin()
    await world.block(lease, token_wait("a", awaited))
    world.later(10)
    await world.do(engine.fire_due)
    for token in (answered, awaited, keyed):
        await world.complete(token)
    world.later(31 * DAY_S)
    assert (await walk(world, engine.prune_tokens)).ended == 2
    async with world.db.transaction() as tx:
        left = {row["id"] for row in await tx.fetch("select id from waitpoints")}
    assert left == {still_open, awaited, keyed}
    assert {answered, timed_out}.isdisjoint(left)


async def test_a_token_outlives_the_run_that_made_it_if_another_waits_for_it(world: World):
    maker, waiter = await world.begin(), await world.begin()
    token = await world.token(lease=maker)
    await world.block(waiter, token_wait("a", token))
    await world.suspend(waiter)
    await world.finish(maker)
    world.later(31 * DAY_S)
    assert await prune(world) == 1
    await world.complete(token)
    assert (await world.run(waiter.run_id)).state == RunState.QUEUED


# -- batches ----------------------------------------------------------------------------------------------------------


async def make_batch(world: World, *run_ids: str, parent_run_id: str | None = None) -> None:
    await change(
        world,
        """insert into waitpoints (id, environment_id, kind, batch_id, status, created_at, completed_at)
           values ('waitpoint_b', $1, 'batch', 'batch_1', 'completed', $2, $2)""",
        world.environment_id,
        world.now,
    )
    await change(
        world,
        """insert into batches (id, environment_id, waitpoint_id, parent_run_id, run_count, pending, is_sealed, created_at,
                                updated_at,
                                sealed_at, completed_at, settled_at)
           values ('batch_1', $1, 'waitpoint_b', $2, $3, 0, true, $4, $4, $4, $4, $4)""",
        world.environment_id,
        parent_run_id,
        len(run_ids),
        world.now,
    )
    for index, run_id in enumerate(run_ids):
        statement = "insert into batch_items (batch_id, index, task_id, run_id) values ('batch_1', $1, 'hello', $2)"
        await change(world, statement, index, run_id)


@pytest.mark.parametrize("rows", [2, 500])
async def test_an_old_batch_goes_and_then_its_runs(world: World, rows: int):
    leases = [await world.run_in(RunState.COMPLETED) for _ in range(5)]
    world.later(10 * DAY_S)
    await make_batch(world, *(lease.run_id for lease in leases))
    world.later(25 * DAY_S)
    assert await prune(world, rows=rows) == 0, "the runs are old enough, their batch isn't"
    world.later(6 * DAY_S)
    assert await prune(world, rows=rows) == 5
    assert await counts(world) == {}
    assert (await count(world, "batches"), await count(world, "batch_items")) == (0, 0)


async def test_the_batch_of_a_living_run_stays(world: World):
    parent, child = await world.begin(), await world.run_in(RunState.COMPLETED)
    await make_batch(world, child.run_id, parent_run_id=parent.run_id)
    world.later(31 * DAY_S)
    assert await prune(world) == 0
    assert await count(world, "batches") == 1


# -- logs, versions, workers ------------------------------------------------------------------------------------------


async def test_logs_go_before_their_run(world: World):
    over, living = await world.begin(), await world.begin()
    await log(world, living)
    await log(world, over)
    await world.finish(over)
    world.later(8 * DAY_S)
    young = await world.begin()
    await log(world, young)
    await world.finish(young)
    place: int | None = 0
    deleted = 0
    while place is not None:
        before = world.now - timedelta(days=7)
        done, place = await world.do(engine.prune_logs, before=before, place=place, rows=2)
        deleted += done.rows
    assert deleted == 3
    async with world.db.transaction() as tx:
        assert len(await engine.read.logs(tx, living.run_id)) == 3
        assert len(await engine.read.logs(tx, young.run_id)) == 3
        assert await engine.read.logs(tx, over.run_id) == []


async def test_tasks_of_versions_that_nobody_needs_go(world: World):
    await world.run_in(RunState.SUSPENDED)
    for version in ("v2", "v3", "v4"):
        report = replace_version(world, version)
        await world.do(engine.register_version, world.environment_id, report)
    await change(world, "update workers set version = 'v3'")
    world.later(31 * DAY_S)
    await world.do(engine.prune_versions, before=world.now - timedelta(days=30))
    async with world.db.transaction() as tx:
        left = {row["version"] for row in await tx.fetch("select version from tasks")}
    assert left == {"v1", "v3", "v4"}, "of a living run, of a worker, and the current one"


def replace_version(world: World, version: str) -> Any:
    return VersionReport("w1", version, world.tasks)


async def test_workers_that_were_not_seen_for_a_month_are_forgotten(world: World):
    introductions = [world.introduction("i", worker_id) for worker_id in ("w2", "w3")]
    for intro in introductions:
        await world.do(engine.register_worker, world.environment_id, intro, lease_s=30)
    lease = await world.run_in(RunState.SUSPENDED)
    world.worker_id = "w2"
    world.later(31 * DAY_S)
    await world.do(engine.register_worker, world.environment_id, introductions[1], lease_s=30)
    assert (await world.do(engine.prune_workers)).rows == 1
    async with world.db.transaction() as tx:
        left = {row["id"] for row in await tx.fetch("select id from workers")}
    assert left == {"w1", "w3"}, "w1 has the image of a run"
    await world.do(engine.cancel, world.environment_id, lease.run_id)
    assert (await world.do(engine.prune_workers)).rows == 1

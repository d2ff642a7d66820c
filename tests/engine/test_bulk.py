"""Many runs canceled or replayed at once: which, in what order, each once, and what is counted."""

import asyncio
from typing import Any

import anyio
import pytest

from torpor import engine
from torpor.engine import BulkRequest, RunFilter, RunState
from torpor.store.records import BulkAction

from .conftest import World, run_wait, until_blocked

pytestmark = pytest.mark.anyio


def why(task_id: str, outcome: object) -> str:
    return f"{task_id}: {type(outcome).__name__}"


async def create(world: World, kind: Any = "cancel", **which: Any) -> str:
    given: dict[str, Any] = which if "run_ids" in which else {"where": RunFilter(**which)}
    return (await world.do(engine.create_bulk, world.environment_id, BulkRequest(kind, **given))).bulk_id


async def step(world: World, bulk_id: str, **options: Any) -> int | None:
    return await world.do(engine.work_off, bulk_id, why=why, **options)


async def work_off(world: World, bulk_id: str, **options: Any) -> BulkAction:
    while await step(world, bulk_id, **options):
        pass
    return await action(world, bulk_id)


async def action(world: World, bulk_id: str) -> BulkAction:
    async with world.db.transaction() as tx:
        found = await engine.read_bulk.bulk_action(tx, world.environment_id, bulk_id)
    assert found is not None
    return found


async def shown(world: World, bulk_id: str) -> list[str]:
    async with world.db.transaction() as tx:
        return [run.id for run in (await engine.read.runs(tx, world.environment_id, RunFilter(bulk_id=bulk_id))).items]


async def triggered(world: World, count: int, **options: Any) -> list[str]:
    made: list[str] = []
    for _ in range(count):
        world.later(1)
        made.append(await world.trigger(**options))
    return made


async def states(world: World, run_ids: list[str]) -> list[str]:
    return [(await world.run(run_id)).state for run_id in run_ids]


async def test_its_runs_are_those_that_fitted_when_it_was_made(world: World):
    """One that has started since is canceled, too; one that came later is not, though it would fit."""
    early = await triggered(world, 3)
    bulk_id = await create(world, status=["QUEUED"])
    lease = await world.begin(early[0])
    late = await world.trigger()
    done = await work_off(world, bulk_id, limit=2)
    assert (done.total, done.succeeded, done.failed, done.completed_at) == (3, 3, 0, world.now)
    assert (await world.run(early[0])).cancel_requested_at == world.now
    await world.finish(lease, "canceled")
    assert await states(world, early) == [RunState.CANCELED] * 3
    assert (await world.run(late)).state == RunState.QUEUED
    assert await shown(world, bulk_id) == early[::-1]
    assert (await world.story(early[1]))[-1].data == {"reason": f"canceled by the bulk action {bulk_id}"}


async def test_a_run_that_ends_before_its_turn_is_a_failure_of_a_cancel_and_none_of_a_replay(world: World):
    lease = await world.begin()
    canceling = await create(world, status=["EXECUTING"])
    replaying = await create(world, "replay", status=["EXECUTING"])
    await world.finish(lease)
    assert [
        (one.succeeded, one.failed) for one in (await work_off(world, canceling), await work_off(world, replaying))
    ] == [
        (0, 1),
        (1, 0),
    ]
    assert (await world.run(lease.run_id)).state == RunState.COMPLETED


async def test_steps_are_small_and_end_with_the_last_run(world: World):
    await triggered(world, 5)
    bulk_id = await create(world, task_ids=["hello"])
    assert [await step(world, bulk_id, limit=2) for _ in range(4)] == [2, 2, 1, None]
    async with world.db.transaction() as tx:
        assert await engine.open_bulk(tx) == []


async def test_what_has_ended_or_is_not_there_is_a_failure_with_its_reason(world: World):
    ended = (await world.run_in(RunState.COMPLETED)).run_id
    queued = await world.trigger()
    bulk_id = await create(world, run_ids=[ended, "run_unknown", queued, queued])
    done = await work_off(world, bulk_id)
    assert (done.total, done.succeeded, done.failed) == (3, 1, 2)
    async with world.db.transaction() as tx:
        problems = await engine.read_bulk.problems(tx, bulk_id)
    assert problems == [(ended, "it had ended: completed"), ("run_unknown", "there is no such run")]


async def test_a_run_of_another_environment_is_not_there(world: World):
    run_id = await world.trigger()
    other = await world.do(engine.ensure_environment, "prod", key_hash=b"p")
    for kind in ("cancel", "replay"):
        made = await world.do(engine.create_bulk, other.id, BulkRequest(kind, run_ids=[run_id]))
        await step(world, made.bulk_id)
        async with world.db.transaction() as tx:
            found = await engine.read_bulk.bulk_action(tx, other.id, made.bulk_id)
            assert await engine.read_bulk.bulk_action(tx, world.environment_id, made.bulk_id) is None
        assert found
        assert (found.succeeded, found.failed) == (0, 1)
    assert (await world.run(run_id)).state == RunState.QUEUED


async def test_replays_are_made_in_the_order_of_their_originals(world: World):
    """New ones fit the filter too, but they came later: an action doesn't replay its own."""
    olds = await triggered(world, 3, payload="1")
    bulk_id = await create(world, "replay", task_ids=["hello"])
    world.later(1)
    assert (await work_off(world, bulk_id)).succeeded == 3
    news = (await shown(world, bulk_id))[::-1]
    assert [(await world.run(run_id)).replayed_from for run_id in news] == olds
    assert (await world.story(olds[0]))[-1].data == {"as": news[0]}
    handed_out = [given.run_id for given in await world.dequeue()]
    assert handed_out == olds + news


async def test_a_replay_that_is_refused_is_a_failure_and_stops_no_other(world: World):
    run_ids = [await world.trigger(), await world.trigger()]
    async with world.db.transaction() as tx:
        await tx.execute("update runs set task_id = 'gone' where id = $1", run_ids[0])
    bulk_id = await create(world, "replay", run_ids=run_ids)
    done = await work_off(world, bulk_id)
    assert (done.succeeded, done.failed) == (1, 1)
    async with world.db.transaction() as tx:
        assert await engine.read_bulk.problems(tx, bulk_id) == [(run_ids[0], "gone: UnknownTask")]


async def test_a_parent_and_its_child_in_one_step_both_end_once(world: World):
    """The end of the child answers its parent, which has just ended itself, or ends next."""
    parent = await world.begin()
    child = await world.trigger(parent_lease=parent)
    await world.block(parent, run_wait("wait_1", child))
    await world.suspend(parent)
    for order in ([parent.run_id, child], [child, parent.run_id]):
        bulk_id = await create(world, run_ids=order)
        done = await work_off(world, bulk_id)
        if order[0] == parent.run_id:
            assert (done.succeeded, done.failed) == (2, 0)
    assert await states(world, [parent.run_id, child]) == [RunState.CANCELED] * 2


# -- many servers, and their deaths ------------------------------------------------------------------------------------


class Killed(Exception):
    pass


async def test_a_server_that_dies_at_any_statement_of_a_step_has_done_nothing_and_another_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """What was done and how far the action has come are in one transaction: each replay is made once."""
    olds = await triggered(world, 4)
    bulk_id = await create(world, "replay", run_ids=olds)
    died = 0
    while (await action(world, bulk_id)).completed_at is None:
        for statements in range(1, 100):
            try:
                async with world.db.transaction() as tx:
                    counted = Counted(tx, statements)
                    await engine.work_off(counted, bulk_id, why=why, limit=2, now=world.now)  # pyright: ignore[reportArgumentType]
                break
            except Killed:
                died += 1
                seen = await action(world, bulk_id)
                assert len(await shown(world, bulk_id)) == seen.succeeded
    assert died > 10
    news = await shown(world, bulk_id)
    assert sorted([(await world.run(run_id)).replayed_from or "" for run_id in news]) == sorted(olds)
    async with world.db.transaction() as tx:
        assert await tx.fetchval("select count(*) from runs") == 8


class Counted:
    """A transaction whose connection breaks before the nth statement."""

    def __init__(self, tx: Any, statements: int) -> None:
        self._tx, self._left = tx, statements

    def __getattr__(self, name: str) -> Any:
        send = getattr(self._tx, name)
        if name == "savepoint":
            return send

        async def counted(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if not self._left:
                raise Killed
            return await send(*args, **options)

        return counted


async def test_two_servers_never_give_a_run_two_turns(world: World):
    """They take turns at one action: whoever finds the other at it passes it by."""
    olds = await triggered(world, 12)
    bulk_id = await create(world, "replay", run_ids=olds)

    async def server() -> int:
        count = 0
        while (await action(world, bulk_id)).completed_at is None:
            count += await step(world, bulk_id, limit=1) or 0
            await asyncio.sleep(0)
        return count

    assert sum(await asyncio.gather(server(), server(), server())) == 12
    done = await action(world, bulk_id)
    assert (done.succeeded, done.failed) == (12, 0)
    assert len(set(await shown(world, bulk_id))) == 12
    async with world.db.transaction() as tx:
        assert await tx.fetchval("select count(*) from runs") == 24


async def test_an_abort_waits_for_the_step_that_is_at_work_and_then_nothing_more_is_done(world: World):
    olds = await triggered(world, 4)
    bulk_id = await create(world, run_ids=olds)
    held, release = anyio.Event(), anyio.Event()

    async def work() -> None:
        async with world.db.transaction() as tx:
            await engine.work_off(tx, bulk_id, why=why, limit=2, now=world.now)
            held.set()
            await release.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await held.wait()
        tasks.start_soon(world.do, engine.abort_bulk, world.environment_id, bulk_id)
        await until_blocked(world.db)
        release.set()
    assert await step(world, bulk_id) is None
    done = await action(world, bulk_id)
    assert (done.total, done.succeeded, done.failed, bool(done.aborted_at)) == (4, 2, 0, True)
    assert await states(world, olds) == [RunState.CANCELED] * 2 + [RunState.QUEUED] * 2


async def test_an_abort_said_again_or_too_late_changes_nothing(world: World):
    bulk_id = await create(world, run_ids=await triggered(world, 1))
    over = await work_off(world, bulk_id)
    abort = (engine.abort_bulk, world.environment_id)
    assert await world.do(*abort, bulk_id) == engine.BulkAborted()
    assert await action(world, bulk_id) == over
    assert await world.do(*abort, "bulk_unknown") == engine.Unknown()


async def test_the_same_request_twice_is_one_action_and_one_without_runs_is_over_at_once(world: World):
    run_id = await world.trigger()
    request = BulkRequest("cancel", run_ids=[run_id], bulk_id="bulk_1")
    create_ = (engine.create_bulk, world.environment_id)
    assert await world.do(*create_, request) == await world.do(*create_, request) == engine.BulkCreated("bulk_1", 1)
    empty = await action(world, await create(world, status=["FAILED"]))
    assert (empty.total, empty.completed_at) == (0, world.now)
    async with world.db.transaction() as tx:
        count = await engine.count_bulk(tx, world.environment_id, BulkRequest("cancel", RunFilter(search="hel")))
        assert count == 1
        assert await engine.open_bulk(tx) == ["bulk_1"]


async def test_a_run_that_cannot_have_its_turn_is_failed_and_passed_by(world: World):
    """The caller says so, after it has tried that one alone."""
    bulk_id = await create(world, run_ids=await triggered(world, 3))
    assert await step(world, bulk_id, problem="the database refused it") == 1
    done = await work_off(world, bulk_id)
    assert (done.succeeded, done.failed) == (2, 1)


async def test_an_action_that_was_over_for_long_is_deleted_in_steps(world: World):
    bulk_id = await create(world, run_ids=await triggered(world, 3))
    await work_off(world, bulk_id)
    pending = await create(world, run_ids=["run_1"])
    world.later(60)
    options = {"before": world.now, "rows": 2}
    assert [await world.do(engine.prune_bulk, **options) for _ in range(3)] == [2, 2, 0]
    async with world.db.transaction() as tx:
        assert await tx.fetchval("select count(*) from bulk_runs") == 1
    assert (await action(world, pending)).completed_at is None

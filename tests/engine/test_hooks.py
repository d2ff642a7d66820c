"""Hooks of runs that ended without a process: another one is made to call them."""

from typing import Any

import pytest

from torpor import engine
from torpor.engine import Lease, RunState
from torpor.wire.http import Assignment, FinishReport, VersionReport
from torpor.wire.runner import TaskError, TaskManifest

from .conftest import World, manifest

pytestmark = pytest.mark.anyio


async def with_hooks(world: World, *names: str, **changes: Any) -> None:
    tasks: list[TaskManifest] = [manifest("hello", hooks=list(names), **changes)]
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v1", tasks))


async def the_hook(world: World) -> Assignment:
    (given,) = await world.dequeue()
    assert given.hook is not None
    return given


async def hooks_of(world: World, run_id: str) -> list[str]:
    async with world.db.transaction() as tx:
        rows = await tx.fetch("select hook from runs where hook_of = $1 order by created_at", run_id)
    return [row["hook"] for row in rows]


@pytest.mark.parametrize(
    "state", [RunState.QUEUED, RunState.DELAYED, RunState.SUSPENDED, RunState.EXECUTING, RunState.WAITING]
)
async def test_BB13_on_cancel_is_called_for_a_run_without_a_process(world: World, state: RunState):
    """BB13: also for runs that are queued, delayed or frozen, and for those whose process was killed."""
    await with_hooks(world, "on_cancel", "on_failure")
    lease = await world.run_in(state)
    await world.do(engine.cancel, world.environment_id, lease.run_id, reason="no", at_once=True)
    given = await the_hook(world)
    hook = given.hook
    assert hook is not None
    assert (hook.name, hook.run_id, hook.status, hook.reason) == ("on_cancel", given.run_id, "CANCELED", "no")
    assert (given.context.run_id, bytes(given.payload), given.task_id) == (lease.run_id, b"null", "hello")


@pytest.mark.parametrize("outcome", ["crashed", "timed_out", "failed"])
async def test_BB13_on_failure_is_called_for_a_run_whose_process_has_not_done_it(world: World, outcome: Any):
    """BB13: a crash, a time-out, and a failure that the worker tells in the process's stead."""
    await with_hooks(world, "on_failure")
    lease = await world.begin(max_attempts=1, payload="7")
    await world.finish(lease, outcome, error=TaskError("Oops", "it broke"))
    given = await the_hook(world)
    assert given.hook is not None
    assert given.hook.error == TaskError("Oops", "it broke")
    assert given.hook.status == outcome.upper()
    assert (bytes(given.payload), given.context.attempt, given.context.max_duration_s) == (b"7", 1, 600)


async def test_BB13_a_system_failure_calls_on_failure(world: World):
    """BB13: nobody ever performed it to its end."""
    await with_hooks(world, "on_failure")
    lease = await world.begin()
    world.later(31)
    await world.do(engine.rescue, max_rescues=0)
    given = await the_hook(world)
    assert given.hook is not None
    assert (given.context.run_id, given.hook.status) == (lease.run_id, "SYSTEM_FAILURE")


async def test_what_the_process_has_performed_is_not_done_again(world: World):
    await with_hooks(world, "on_failure", "on_cancel")
    await world.fail(await world.begin(), retryable=False, hooks=["on_failure"])
    lease = await world.begin()
    await world.do(engine.cancel, world.environment_id, lease.run_id)
    await world.finish(lease, "canceled", hooks=["on_cancel"])
    assert await world.dequeue() == []


async def test_a_run_that_completes_or_is_tried_again_has_none(world: World):
    await with_hooks(world, "on_failure", "on_cancel")
    await world.finish(await world.begin())
    lease = await world.begin()
    await world.fail(lease)
    await world.finish(await world.begin(), "crashed")
    assert await hooks_of(world, lease.run_id) == []


async def test_a_task_without_that_hook_has_none(world: World):
    await with_hooks(world, "on_cancel")
    lease = await world.begin()
    await world.finish(lease, "crashed", retryable=False)
    assert await hooks_of(world, lease.run_id) == []


async def perform(world: World, given: Assignment, outcome: Any = "completed", **more: Any) -> None:
    lease = Lease(given.run_id, given.lease)
    await world.start(lease)
    report = FinishReport(lease.number, outcome, **more)
    await world.do(engine.finish, lease, report, jitter=lambda: 0.0)


async def test_the_story_of_the_run_tells_of_its_hook(world: World):
    await with_hooks(world, "on_failure")
    lease = await world.begin()
    await world.finish(lease, "crashed", retryable=False)
    given = await the_hook(world)
    await perform(world, given)
    story = await world.story(lease.run_id)
    assert [event.kind for event in story[-4:]] == ["run.crashed", "hook.queued", "hook.started", "hook.completed"]
    assert story[-1].data == {"hook": "on_failure", "run_id": given.run_id}
    assert (await world.run(lease.run_id)).state == RunState.CRASHED, "an end is final"


async def test_a_hook_that_fails_is_tried_three_times_and_has_no_hooks_itself(world: World):
    await with_hooks(world, "on_failure")
    lease = await world.begin()
    await world.finish(lease, "crashed", retryable=False)
    for attempt in (1, 2, 3):
        (given,) = await world.dequeue()
        await perform(world, given, "failed", error=TaskError("ValueError", f"try {attempt}"))
        world.later(60)
        await world.do(engine.fire_due)
    assert await world.dequeue() == []
    last = (await world.story(lease.run_id))[-1]
    assert (last.kind, last.data["error"]["message"]) == ("hook.failed", "try 3")
    assert await hooks_of(world, last.data["run_id"]) == []


async def test_lists_of_runs_leave_hooks_out(world: World):
    await with_hooks(world, "on_cancel")
    run_id = await world.trigger()
    await world.do(engine.cancel, world.environment_id, run_id)
    assert await hooks_of(world, run_id) == ["on_cancel"]
    async with world.db.transaction() as tx:
        listed = await engine.read.runs(tx, world.environment_id)
        assert [run.id for run in listed.items] == [run_id]
        assert await engine.read.children(tx, world.environment_id, run_id) == []


async def test_a_hook_run_can_be_canceled_and_that_is_all(world: World):
    await with_hooks(world, "on_cancel")
    run_id = await world.trigger()
    await world.do(engine.cancel, world.environment_id, run_id)
    async with world.db.transaction() as tx:
        hook_run_id = await tx.fetchval("select id from runs where hook_of = $1", run_id)
    await world.do(engine.cancel, world.environment_id, hook_run_id)
    assert await world.dequeue() == []
    assert (await world.kinds(run_id))[-1] == "hook.failed"

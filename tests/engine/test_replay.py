"""Moving delayed runs, and performing old ones again."""

from datetime import timedelta
from typing import Any

import pytest

from torpor import engine
from torpor.engine import ENDS, NotDelayed, Rescheduled, RunState, Triggered, Unknown
from torpor.wire.http import VersionReport
from torpor.wire.runner import QueueManifest

from .conftest import World, manifest

pytestmark = pytest.mark.anyio


async def reschedule(world: World, run_id: str, seconds: float) -> Any:
    return await world.do(engine.reschedule, world.environment_id, run_id, world.now + timedelta(seconds=seconds))


async def replay(world: World, run_id: str, **changes: Any) -> Any:
    return await world.do(engine.replay, world.environment_id, run_id, changes)


async def test_a_delayed_run_is_due_when_it_is_rescheduled_to(world: World):
    """G7: sooner or later than it was, or at once."""
    run_id = (await world.run_in(RunState.DELAYED)).run_id
    assert await reschedule(world, run_id, 60) == Rescheduled(world.now + timedelta(seconds=60))
    assert (await world.do(engine.fire_due)).next_due == world.now + timedelta(seconds=60)
    assert await reschedule(world, run_id, -60) == Rescheduled(world.now)
    await world.do(engine.fire_due)
    assert [each.run_id for each in await world.dequeue()] == [run_id]
    assert (await world.kinds(run_id))[:3] == ["run.triggered", "run.rescheduled", "run.rescheduled"]


@pytest.mark.parametrize("state", [state for state in RunState if state != RunState.DELAYED])
async def test_only_a_delayed_run_is_rescheduled(world: World, state: RunState):
    """G7: others are told their state, and nothing changes."""
    lease = await world.run_in(state)
    before = await world.run(lease.run_id)
    assert await reschedule(world, lease.run_id, 60) == NotDelayed(state)
    assert await world.run(lease.run_id) == before
    assert await reschedule(world, "run_unknown", 60) == Unknown()


@pytest.mark.parametrize("state", sorted(ENDS))
async def test_a_run_is_replayed_whatever_became_of_it(world: World, state: RunState):
    """G19: a new run, linked both ways."""
    lease = await world.run_in(state)
    done = await replay(world, lease.run_id)
    assert isinstance(done, Triggered)
    run = await world.run(done.run_id)
    assert (run.state, run.replayed_from, run.trigger_function) == (RunState.QUEUED, lease.run_id, "replay")
    (told,) = await world.story(done.run_id)
    assert told.data["replayed_from"] == lease.run_id
    (*_, told) = await world.story(lease.run_id)
    assert (told.kind, told.data) == ("run.replayed", {"as": done.run_id})


async def test_a_replay_takes_over_what_the_trigger_said(world: World):
    """G19: payload, tags, metadata, queue, concurrency key and the like; not the idempotency key, nor the delay."""
    report = VersionReport("w1", "v1", [manifest("hello")], queues=[QueueManifest("mails"), QueueManifest("slow")])
    await world.do(engine.register_version, world.environment_id, report)
    options: dict[str, Any] = {
        "payload": '{"a": 1}',
        "tags": ["t"],
        "metadata": {"m": 1},
        "queue": "mails",
        "concurrency_key": "org",
        "priority_s": 5,
        "max_attempts": 1,
        "ttl_s": 60,
        "is_test": True,
        "inherit_tags": True,
    }
    first = await world.trigger(
        **options, idempotency_key="k", lock_to_version="v1", delay_until=world.now + timedelta(hours=1)
    )
    run = await world.run((await replay(world, first)).run_id)
    assert {name: getattr(run, name) for name in options} == options
    assert (run.idempotency_key, run.locked_version, run.delay_until) == (None, None, None)
    changed = await world.run((await replay(world, first, payload="2", queue="slow", tags=[], is_test=False)).run_id)
    assert (changed.payload, changed.queue, changed.tags, changed.is_test) == ("2", "slow", [], False)


async def test_a_replay_follows_the_tasks_present_settings(world: World):
    """G19: where the trigger said nothing, the version that performs it decides."""
    first = await world.trigger()
    tasks = [manifest("hello", queue=QueueManifest("slow"), payload_schema={"type": "integer"})]
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v2", tasks))
    assert isinstance(await replay(world, first), engine.PayloadMisfit)
    done = await replay(world, first, payload="1")
    assert (await world.run(done.run_id)).queue == "slow"
    assert await replay(world, "run_unknown") == Unknown()

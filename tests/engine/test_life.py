"""A run's whole life, as server and worker live it."""

from datetime import timedelta

import msgspec
import pytest

from torpor import engine
from torpor.engine import Blocked, Lease, Ok, Suspended

from .conftest import World, time_wait

pytestmark = pytest.mark.anyio


async def test_a_run_waits_is_frozen_wakes_and_completes(world: World):
    run_id = await world.trigger(payload='{"a": 1}')
    (fresh,) = await world.dequeue()
    assert fresh.checkpoint is None
    assert bytes(fresh.payload) == b'{"a": 1}'
    assert (fresh.context.attempt, fresh.context.environment, fresh.version) == (1, "dev", "v1")
    lease = Lease(run_id, fresh.lease)
    assert await world.start(lease) == Ok()

    blocked = await world.block(lease, time_wait("wait_a", 60))
    assert isinstance(blocked, Blocked)
    assert blocked.answers == []
    assert [(wait.wait_id, wait.due_in_s) for wait in blocked.open] == [("wait_a", 60.0)]
    assert await world.suspend(lease, "checkpoint_a") == Suspended()
    assert await world.dequeue() == []

    due_at = world.now + timedelta(seconds=60)
    world.later(59)
    fired = await world.do(engine.fire_due)
    assert (fired.count, fired.next_due) == (0, due_at)
    world.later(3)
    fired = await world.do(engine.fire_due)
    assert (fired.count, fired.next_due) == (1, None)

    (restored,) = await world.dequeue()
    assert restored.checkpoint is not None
    assert restored.checkpoint.id == "checkpoint_a"
    assert restored.context.attempt == 1
    assert restored.due_at == "2026-01-01T12:01:00Z", "the figures count from when it was due, not from when it fired"
    assert [(answer.wait_id, answer.status) for answer in restored.answers] == [("wait_a", "completed")]
    lease = Lease(run_id, restored.lease)
    assert await world.start(lease, ["wait_a"]) == Ok()
    assert await world.finish(lease, output=msgspec.Raw(b'"done"')) == engine.Finished(engine.RunState.COMPLETED)

    run = await world.run(run_id)
    assert (run.state, run.output, run.attempt, run.checkpoint_id) == ("completed", '"done"', 1, None)
    assert await world.kinds(run_id) == [
        "run.triggered",
        "run.dequeued",
        "run.started",
        "run.waiting",
        "run.suspended",
        "run.resuming",
        "run.dequeued",
        "run.resumed",
        "run.completed",
    ]

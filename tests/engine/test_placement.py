"""Which worker has room for which run; that large runs are not starved; and nothing is counted twice."""

from typing import Any

import pytest

from torpor import engine
from torpor.engine import Lease, RunState
from torpor.engine.saving_up import PATIENCE_S
from torpor.store.records import Run
from torpor.wire.http import HeldLease, VersionReport
from torpor.wire.presets import BUILT_IN, GB, Preset

from .conftest import World, manifest, time_wait

pytestmark = pytest.mark.anyio

GPU = Preset("gpu-1x", 1, GB, GB, 100, {"gpu": "", "zone": "eu"})


async def joins(world: World, worker_id: str, cpu: float | None, memory_gb: float | None, **labels: str) -> None:
    """A worker that has so much to give."""
    memory_bytes = None if memory_gb is None else int(memory_gb * GB)
    await world.hello(worker_id, "store_1", "fit_1", cpu=cpu, memory_bytes=memory_bytes, labels=labels)
    await world.do(engine.register_version, world.environment_id, VersionReport(worker_id, "v1", world.tasks))


async def given(world: World, worker_id: str, free: int = 10) -> list[str]:
    return [assignment.run_id for assignment in await world.dequeue_as(worker_id, free)]


async def line_up(world: World, *machines: str, key: str = "") -> list[str]:
    """Runs with these machines in one line, in order."""
    ids: list[str] = []
    for machine in machines:
        world.later(0.001)
        ids.append(await world.trigger(preset=machine, concurrency_key=key))
    return ids


async def end(world: World, run_id: str) -> None:
    """A run that was handed out completes."""
    run = await world.run(run_id)
    await world.start(Lease(run_id, run.lease))
    await world.finish(Lease(run_id, run.lease))


async def alive(world: World, seconds: float, *worker_ids: str) -> None:
    """Time passes, and these workers are heard of; their leases are renewed."""
    world.later(seconds)
    for worker_id in worker_ids:
        async with world.db.transaction() as tx:
            rows = await tx.fetch("select id, lease from runs where worker_id = $1", worker_id)
        leases = [HeldLease(row["id"], row["lease"]) for row in rows]
        await world.do(engine.heartbeat, worker_id, f"of {worker_id}", leases, lease_s=30)


async def turn(world: World) -> Any:
    async with world.db.transaction() as tx:
        return await tx.fetchrow("select * from turns where environment_id = $1", world.environment_id)


# -- what a run's size is -----------------------------------------------------------------------------------------------


async def test_a_runs_size_is_its_triggers_else_its_tasks_else_the_projects_else_the_default(fleet: World):
    tasks = [manifest("large", machine="large-1x"), manifest("hello")]
    by_default = await fleet.trigger("hello")
    await fleet.do(engine.register_version, fleet.environment_id, VersionReport("w1", "v1", tasks, machine="micro"))
    sizes = [
        await fleet.trigger("large", preset="medium-1x"),
        await fleet.trigger("large"),
        await fleet.trigger("hello"),
        by_default,
    ]
    assert [(await fleet.run(id)).preset for id in sizes] == ["medium-1x", "large-1x", "micro", "small-1x"]
    assignments = {each.run_id: each for each in await fleet.dequeue()}
    assert assignments[sizes[1]].preset == BUILT_IN["large-1x"] == assignments[sizes[1]].context.machine


async def test_a_name_that_nobody_knows_is_refused_with_those_there_are(fleet: World):
    asked = engine.TriggerRequest("hello", preset="huge")
    refused = await fleet.do(engine.trigger, fleet.environment_id, asked)
    assert refused == engine.UnknownPreset("huge", ["small-1x", *(name for name in BUILT_IN if name != "small-1x")])


@pytest.mark.parametrize("where", ["task", "retry", "project"])
async def test_a_version_that_names_one_that_nobody_knows_is_refused_and_changes_nothing(fleet: World, where: str):
    from torpor.wire.runner import RetryPolicy

    task = manifest("hello", machine="huge" if where == "task" else None)
    if where == "retry":
        task = manifest("hello", retry=RetryPolicy(on_oom="huge"))
    report = VersionReport("w1", "v2", [task], machine="huge" if where == "project" else None)
    refused = await fleet.do(engine.register_version, fleet.environment_id, report)
    assert (refused.name, refused.task_id) == ("huge", None if where == "project" else "hello")
    async with fleet.db.transaction() as tx:
        assert (await engine.read.environment(tx, fleet.environment_id)).current_version == "v1"


async def test_a_delayed_run_follows_its_task_unless_its_trigger_said_otherwise(fleet: World):
    delayed = [(await fleet.run_in(RunState.DELAYED)).run_id]
    delayed.append(await fleet.trigger(delay_until=fleet.later(0).replace(year=2026, month=1, day=2), preset="micro"))
    tasks = [manifest("hello", machine="large-1x")]
    await fleet.do(engine.register_version, fleet.environment_id, VersionReport("w1", "v1", tasks))
    fleet.later(2 * 86_400)
    await fleet.do(engine.fire_due)
    assert [(await fleet.run(id)).preset for id in delayed] == ["large-1x", "micro"]


async def test_a_replay_keeps_what_the_trigger_said_and_takes_another(fleet: World):
    run_id = await fleet.trigger(preset="micro")
    same = await fleet.do(engine.replay, fleet.environment_id, run_id, {})
    other = await fleet.do(engine.replay, fleet.environment_id, run_id, {"preset": "large-1x"})
    assert [(await fleet.run(each.run_id)).preset for each in (same, other)] == ["micro", "large-1x"]


async def test_a_preset_that_is_no_longer_offered_stays_for_the_runs_that_have_it(fleet: World):
    run_id = await fleet.trigger(preset="micro")
    fewer = [preset for preset in BUILT_IN.values() if preset.name != "micro"]
    await fleet.do(engine.ensure_environment, "dev", key_hash=b"k", presets=fewer, default_preset="small-2x")
    asked = engine.TriggerRequest("hello", preset="micro")
    assert isinstance(await fleet.do(engine.trigger, fleet.environment_id, asked), engine.UnknownPreset)
    assert (await fleet.run(await fleet.trigger())).preset == "small-2x"
    assert run_id in [each.run_id for each in await fleet.dequeue()]


# -- where it fits ------------------------------------------------------------------------------------------------------


async def test_no_more_is_handed_out_than_fits_by_cpu_and_by_memory(fleet: World):
    await joins(fleet, "by_cpu", cpu=1, memory_gb=64)
    await joins(fleet, "by_memory", cpu=64, memory_gb=1)
    runs = await line_up(fleet, *["small-1x"] * 5)
    assert await given(fleet, "by_cpu") == runs[:2]
    assert await given(fleet, "by_memory") == runs[2:4]
    assert await given(fleet, "by_cpu") == await given(fleet, "by_memory") == []


async def test_what_could_never_fit_is_passed_by(fleet: World):
    """In its own line: a small worker isn't closed to a queue by a large run that stands before the others."""
    await joins(fleet, "small", cpu=1, memory_gb=1)
    await joins(fleet, "large", cpu=4, memory_gb=8)
    runs = await line_up(fleet, "large-1x", "large-2x", "small-1x", "small-1x")
    assert await given(fleet, "small") == runs[2:]
    assert await given(fleet, "large") == runs[:1]


async def test_what_fits_but_not_now_closes_its_line_and_no_other(fleet: World):
    await joins(fleet, "w", cpu=64, memory_gb=2)
    (works,) = await line_up(fleet, "small-2x", key="a")
    assert await given(fleet, "w", 1) == [works]
    large, _behind = await line_up(fleet, "medium-1x", "small-1x", key="b")
    (other,) = await line_up(fleet, "small-1x", key="c")
    assert await given(fleet, "w") == [other]
    await end(fleet, other)
    await end(fleet, works)
    assert await given(fleet, "w") == [large]


async def test_a_line_that_is_closed_here_is_open_elsewhere(fleet: World):
    await joins(fleet, "full", cpu=64, memory_gb=2)
    await joins(fleet, "free", cpu=64, memory_gb=4)
    await line_up(fleet, "small-2x")
    await given(fleet, "full", 1)
    runs = await line_up(fleet, "medium-1x", "small-1x")
    assert await given(fleet, "full") == []
    assert await given(fleet, "free") == runs


async def test_labels_of_a_preset_are_needed_of_the_worker(fleet: World):
    await fleet.do(engine.ensure_environment, "dev", key_hash=b"k", presets=[*BUILT_IN.values(), GPU])
    await joins(fleet, "plain", cpu=64, memory_gb=64)
    await joins(fleet, "half", cpu=64, memory_gb=64, gpu="")
    await joins(fleet, "able", cpu=64, memory_gb=64, gpu="", zone="eu", more="x")
    runs = await line_up(fleet, "gpu-1x", "small-1x")
    assert await given(fleet, "plain", 1) == runs[1:]
    assert await given(fleet, "half") == []
    assert await given(fleet, "able") == runs[:1]


async def test_a_worker_that_does_not_say_what_it_has_takes_anything(fleet: World):
    await joins(fleet, "any", cpu=None, memory_gb=None)
    runs = await line_up(fleet, *["large-2x"] * 9)
    assert await given(fleet, "any") == runs


async def test_restores_need_room_like_starts(fleet: World):
    await joins(fleet, "w", cpu=64, memory_gb=1)
    lease = await fleet.begin(preset="small-2x")
    await fleet.block(lease, time_wait("wait_1", 60))
    await fleet.suspend(lease)
    await line_up(fleet, "small-1x")
    (works,) = await given(fleet, "w")
    fleet.later(61)
    await fleet.do(engine.fire_due)
    await alive(fleet, 0, "w")
    assert await given(fleet, "w") == []
    await end(fleet, works)
    (restored,) = await fleet.dequeue_as("w")
    assert (restored.run_id, restored.preset.name) == (lease.run_id, "small-2x")
    assert restored.checkpoint is not None


# -- what is counted ----------------------------------------------------------------------------------------------------


async def test_a_run_takes_room_exactly_while_it_holds_a_slot(fleet: World):
    """A parent that waits leaves room for its child, frozen or not."""
    await joins(fleet, "w", cpu=64, memory_gb=0.5)
    (parent,) = await line_up(fleet, "small-1x")
    assert await given(fleet, "w") == [parent]
    lease = Lease(parent, 1)
    await fleet.start(lease)
    (child,) = await line_up(fleet, "small-1x")
    assert await given(fleet, "w") == []
    await fleet.block(lease, time_wait("wait_1", 3600))
    assert await given(fleet, "w") == [child]


async def test_a_reply_that_was_lost_counts_once(fleet: World):
    """Its runs are queued again before anything is handed out; they don't hold the room of both."""
    await joins(fleet, "w", cpu=64, memory_gb=1)
    runs = await line_up(fleet, *["small-1x"] * 3)
    asked: dict[str, Any] = {"free": 10, "versions": ["v1"], "can_restore": True, "lease_s": 30.0}
    lost = await fleet.do(engine.dequeue, "w", "of w", number=1, **asked)
    assert [each.run_id for each in lost] == runs[:2]
    await fleet.do(engine.take_back_lost, "w", "of w", 2, [], max_rescues=5)
    again = await fleet.do(engine.dequeue, "w", "of w", number=2, **asked)
    assert len(again) == 2


async def test_two_requests_of_a_worker_do_not_get_the_same_room(fleet: World):
    import asyncio

    await joins(fleet, "w", cpu=64, memory_gb=1)
    await line_up(fleet, *["small-1x"] * 4)
    both = await asyncio.gather(given(fleet, "w", 2), given(fleet, "w", 2))
    assert sorted(len(each) for each in both) == [0, 2]


async def test_a_worker_that_was_too_full_is_told_when_it_has_room(fleet: World):
    heard: list[str] = []
    await fleet.db.listen(lambda kind, data: heard.append(kind))
    await joins(fleet, "w", cpu=64, memory_gb=0.5)
    runs = await line_up(fleet, *["small-1x"] * 2)
    assert await given(fleet, "w") == runs[:1]
    assert (await turn(fleet))["short_of_room"] == ["w"]
    await until(lambda: heard.count("run") > 0)
    heard.clear()
    await end(fleet, runs[0])
    await until(lambda: "work" in heard)
    assert await given(fleet, "w") == runs[1:]


async def until(is_so: Any) -> None:
    import asyncio

    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)


# -- saving up ----------------------------------------------------------------------------------------------------------


async def crowded(world: World) -> tuple[str, list[str]]:
    """A worker of two gigabytes that is full of small runs, and a run that needs all of it."""
    await joins(world, "w", cpu=64, memory_gb=2)
    small = await line_up(world, *["small-1x"] * 4, key="crowd")
    assert await given(world, "w") == small
    (large,) = await line_up(world, "medium-1x", key="large")
    return large, small


async def test_small_runs_go_past_a_large_one_that_has_not_waited_for_long(fleet: World):
    _large, small = await crowded(fleet)
    (more,) = await line_up(fleet, "small-1x", key="crowd")
    await end(fleet, small[0])
    assert await given(fleet, "w") == [more]


async def test_a_worker_saves_up_for_a_large_run_that_has_waited_for_long(fleet: World):
    large, small = await crowded(fleet)
    await line_up(fleet, *["small-1x"] * 9, key="crowd")
    for _ in range(4):
        await alive(fleet, PATIENCE_S / 3, "w")
    for run_id in small:
        assert await given(fleet, "w") == []
        await end(fleet, run_id)
    assert await given(fleet, "w") == [large]
    assert (await turn(fleet))["saving_run_id"] is None
    await end(fleet, large)
    assert len(await given(fleet, "w")) == 4


async def test_one_worker_saves_up_and_the_others_go_on(fleet: World):
    large, _small = await crowded(fleet)
    await joins(fleet, "other", cpu=64, memory_gb=2)
    for _ in range(4):
        await alive(fleet, PATIENCE_S / 3, "w", "other")
    assert await given(fleet, "w") == []
    assert (await turn(fleet))["saving_worker_id"] == "w"
    more = await line_up(fleet, *["small-1x"] * 2, key="crowd")
    # The other one has room for the large run now, and so takes it.
    assert large in await given(fleet, "other")
    await alive(fleet, 1, "w")
    await end(fleet, _small[0])
    assert await given(fleet, "w") == more[:1]
    assert (await turn(fleet))["saving_run_id"] is None


async def test_another_worker_saves_up_when_the_first_is_gone(fleet: World):
    _large, _small = await crowded(fleet)
    await joins(fleet, "other", cpu=64, memory_gb=2)
    (held,) = await line_up(fleet, "small-1x", key="held")
    assert await given(fleet, "other") == [held]
    for _ in range(4):
        await alive(fleet, PATIENCE_S / 3, "w", "other")
    assert await given(fleet, "w") == []
    for _ in range(2):
        await alive(fleet, 20, "other")
    assert await given(fleet, "other") == []
    assert (await turn(fleet))["saving_worker_id"] == "other"


@pytest.mark.parametrize("how", ["canceled", "paused"])
async def test_saving_up_ends_when_the_run_can_not_be_had_any_more(fleet: World, how: str):
    large, small = await crowded(fleet)
    for _ in range(4):
        await alive(fleet, PATIENCE_S / 3, "w")
    assert await given(fleet, "w") == []
    assert (await turn(fleet))["saving_run_id"] == large
    if how == "canceled":
        await fleet.do(engine.cancel, fleet.environment_id, large)
        (more,) = await line_up(fleet, "small-1x", key="crowd")
        await end(fleet, small[0])
        assert await given(fleet, "w") == [more]
    else:
        async with fleet.db.transaction() as tx:
            await tx.execute("update queues set is_paused = true where name = 'task/hello'")
        assert await given(fleet, "w") == []
    assert (await turn(fleet))["saving_run_id"] is None


async def test_who_was_saved_up_for_has_had_its_lines_turn(fleet: World):
    """A full worker saves up for whoever is next: the lines behind have their turns all the same."""
    await joins(fleet, "w", cpu=64, memory_gb=0.5)
    (works,) = await line_up(fleet, "small-1x", key="z")
    await given(fleet, "w")
    first = {key: await line_up(fleet, "small-1x", "small-1x", key=key) for key in "abc"}
    served: list[str] = []
    for _ in range(5):
        for _ in range(4):
            await alive(fleet, PATIENCE_S / 3, "w")
        assert await given(fleet, "w") == []
        await end(fleet, works)
        (works,) = await given(fleet, "w")
        served.append(next(key for key, runs in first.items() if works in runs))
    assert served == ["a", "b", "c", "a", "b"]


async def test_a_worker_that_is_too_small_never_saves_up(fleet: World):
    await joins(fleet, "w", cpu=64, memory_gb=1)
    await line_up(fleet, "medium-1x", key="large")
    (first,) = await line_up(fleet, "small-2x", key="crowd")
    assert await given(fleet, "w") == [first]
    for _ in range(4):
        await alive(fleet, PATIENCE_S / 3, "w")
    assert await given(fleet, "w") == []
    assert (await turn(fleet))["saving_run_id"] is None


# -- a run that fits nowhere --------------------------------------------------------------------------------------------


async def stranded(world: World, run_id: str) -> list[str]:
    return [event.data["reason"] for event in await world.story(run_id) if event.kind == "run.stranded"]


async def alone(world: World) -> None:
    """Without the worker of the fixture, which doesn't say what it has."""
    async with world.db.transaction() as tx:
        await tx.execute("delete from workers where id = 'w1'")


async def test_a_run_that_fits_no_worker_says_so_once_and_goes_when_one_comes(fleet: World):
    await alone(fleet)
    await joins(fleet, "w", cpu=16, memory_gb=1.5)
    (run_id,) = await line_up(fleet, "medium-1x")
    for _ in range(3):
        await alive(fleet, 20, "w")
        await fleet.do(engine.tell_stranded)
    assert await stranded(fleet, run_id) == [
        "no connected worker that has imported the current version v1 is large enough for its machine medium-1x"
        " (1 CPU, 2 GB): the largest has 16 CPUs, 1.5 GB to give"
    ]
    await joins(fleet, "larger", cpu=16, memory_gb=2)
    assert await given(fleet, "larger") == [run_id]


async def test_a_run_whose_labels_no_worker_has_names_them(fleet: World):
    await fleet.do(engine.ensure_environment, "dev", key_hash=b"k", presets=[*BUILT_IN.values(), GPU])
    await alone(fleet)
    await joins(fleet, "w", cpu=16, memory_gb=64, gpu="")
    (run_id,) = await line_up(fleet, "gpu-1x")
    await alive(fleet, 31, "w")
    await fleet.do(engine.tell_stranded)
    (reason,) = await stranded(fleet, run_id)
    assert reason.endswith("has the labels of its machine gpu-1x (1 CPU, 1 GB): gpu,zone=eu")


async def test_a_frozen_run_that_fits_no_worker_says_so(fleet: World):
    lease = await fleet.begin(preset="medium-1x")
    await fleet.block(lease, time_wait("wait_1", 10))
    await fleet.suspend(lease)
    await alone(fleet)
    await joins(fleet, "w", cpu=16, memory_gb=1)
    fleet.later(11)
    await fleet.do(engine.fire_due)
    await alive(fleet, 31, "w")
    await fleet.do(engine.tell_stranded)
    (reason,) = await stranded(fleet, lease.run_id)
    assert reason.startswith("no connected worker that can restore it is large enough for its machine medium-1x")


async def test_a_run_that_only_waits_for_room_is_not_stranded(fleet: World):
    await alone(fleet)
    _large, _small = await crowded(fleet)
    for _ in range(4):
        await alive(fleet, 20, "w")
    assert await fleet.do(engine.tell_stranded) == []


def test_the_record_has_what_the_table_has() -> None:
    assert {"preset", "cpu_ms", "frozen_ms"} <= set(Run.__dataclass_fields__)

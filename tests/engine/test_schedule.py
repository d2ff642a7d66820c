"""Schedules in the engine: which ticks become runs, once each, and what changes when a schedule does."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from torpor import engine
from torpor.cron import Pattern
from torpor.engine.ticks import MOST_CAUGHT_UP, STEP, plan_ticks, run_of_tick
from torpor.store.records import Run, Schedule
from torpor.wire.http import VersionReport
from torpor.wire.runner import ScheduleManifest, TaskManifest

from .conftest import NOW, World, manifest

pytestmark = pytest.mark.anyio

TICK_SCHEMA = {
    "type": "object",
    "properties": {"timestamp": {"type": "string", "format": "date-time"}},
    "required": ["timestamp"],
}


async def create(world: World, cron: str = "0 * * * *", *, key: str = "k", task: str = "hello", **more: Any) -> Any:
    request = engine.ScheduleRequest(task, cron, deduplication_key=key, **more)
    return await world.do(engine.create_schedule, world.environment_id, request)


async def made(world: World, *args: Any, **more: Any) -> Schedule:
    done = await create(world, *args, **more)
    assert isinstance(done, engine.Scheduled), done
    return done.schedule


async def now_is(world: World, schedule_id: str) -> Schedule:
    async with world.db.transaction() as tx:
        found = await engine.read.schedule(tx, world.environment_id, schedule_id)
    assert found is not None
    return found


async def fire(world: World) -> int:
    """All that is due, as the server's loop does it; how many times a schedule was fired."""
    count = 0
    while (fired := await world.do(engine.fire_schedules)).count:
        count += fired.count
    return count


async def runs_of(world: World, schedule_id: str) -> list[Run]:
    """Oldest tick first."""
    async with world.db.transaction() as tx:
        where = engine.RunFilter(schedule_ids=[schedule_id])
        found = (await engine.read.runs(tx, world.environment_id, where, engine.Page(2000))).items
    return sorted(found, key=lambda run: json.loads(run.payload or "{}").get("timestamp", ""))


def ticks_of(runs: list[Run]) -> list[str]:
    return [json.loads(run.payload or "")["timestamp"] for run in runs]


async def declare(world: World, *tasks: TaskManifest, version: str = "v1") -> list[Schedule]:
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", version, list(tasks)))
    async with world.db.transaction() as tx:
        found = (await engine.read.schedules(tx, world.environment_id)).items
    return sorted(found, key=lambda schedule: schedule.task_id)


def scheduled(task_id: str, cron: str, **more: Any) -> TaskManifest:
    return manifest(task_id, schedule=ScheduleManifest(cron, **more))


# -- one tick ---------------------------------------------------------------------------------------------------------


async def test_a_tick_makes_a_run_that_knows_its_time(world: World) -> None:
    """C4: timestamp, lastTimestamp, timezone, scheduleId, externalId and the next five."""
    schedule = await made(world, "30 13 * * *", timezone="Europe/Berlin", external_id="user_1")
    assert schedule.next_tick_at == NOW.replace(hour=12, minute=30)
    world.later(1799)
    assert await fire(world) == 0
    world.later(1)
    assert await fire(world) == 1
    [run] = await runs_of(world, schedule.id)
    assert (run.task_id, run.state, run.id) == ("hello", "queued", run_of_tick(schedule.id, world.now))
    assert json.loads(run.payload or "") == {
        "type": "IMPERATIVE",
        "timestamp": "2026-01-01T12:30:00Z",
        "timezone": "Europe/Berlin",
        "scheduleId": schedule.id,
        "externalId": "user_1",
        "upcoming": [f"2026-01-0{day}T12:30:00Z" for day in (2, 3, 4, 5, 6)],
    }
    world.later(86_400)
    assert await fire(world) == 1
    assert json.loads((await runs_of(world, schedule.id))[1].payload or "")["lastTimestamp"] == "2026-01-01T12:30:00Z"
    after = await now_is(world, schedule.id)
    assert after.last_tick_at == world.now
    assert after.next_tick_at == world.now + timedelta(days=1)


async def test_the_timers_know_when_the_next_schedule_is_due(world: World) -> None:
    await made(world, "0 * * * *", key="hourly")
    await made(world, "*/10 * * * *", key="ten")
    resting = await made(world, "* * * * *", key="resting")
    await world.do(engine.deactivate_schedule, world.environment_id, resting.id)
    assert (await world.do(engine.fire_schedules)).next_due == NOW + timedelta(minutes=10)


async def test_a_pattern_with_seconds(world: World) -> None:
    """BB20: six fields begin with seconds."""
    schedule = await made(world, "*/20 * * * * *")
    for _ in range(3):
        world.later(20)
        await fire(world)
    assert ticks_of(await runs_of(world, schedule.id)) == [
        "2026-01-01T12:00:20Z",
        "2026-01-01T12:00:40Z",
        "2026-01-01T12:01:00Z",
    ]


async def test_two_servers_at_once_fire_a_tick_once(world: World) -> None:
    """C6: one fire per tick with any number of servers. The second finds the row locked, and passes it by."""
    schedule = await made(world, "0 * * * *")
    world.later(3600)
    async with world.db.transaction() as first, world.db.transaction() as second:
        assert (await engine.fire_schedules(first, now=world.now)).count == 1
        fired = await asyncio.wait_for(engine.fire_schedules(second, now=world.now), 5)
        assert (fired.count, fired.next_due) == (0, world.now), "it is to look again"
    assert await fire(world) == 0
    assert len(await runs_of(world, schedule.id)) == 1


async def test_many_servers_many_ticks(world: World) -> None:
    """C6: with servers that all fire as fast as they can, each tick of each schedule is one run."""
    schedules = [await made(world, "* * * * *", key=f"k{number}") for number in range(10)]

    async def server(offset_s: float) -> None:
        for step in range(12):
            async with world.db.transaction() as tx:
                await engine.fire_schedules(tx, limit=3, now=NOW + timedelta(seconds=20 * step + offset_s))

    await asyncio.gather(*(server(offset) for offset in (0.0, 1.0, 2.5)))
    world.later(240)
    await fire(world)
    for schedule in schedules:
        ticks = ticks_of(await runs_of(world, schedule.id))
        assert len(ticks) == len(set(ticks))
        assert ticks[-1] == "2026-01-01T12:04:00Z"


async def test_a_tick_that_has_its_run_makes_no_second_one(world: World) -> None:
    """C6: whatever happens to the schedule's row, the run's id comes from the tick."""
    schedule = await made(world, "0 * * * *")
    world.later(3600)
    await fire(world)
    async with world.db.transaction() as tx:  # as if a backup of yesterday were restored
        await tx.execute("update schedules set next_tick_at = $1, next_fire_at = $1", world.now)
    assert await fire(world) == 1
    assert len(await runs_of(world, schedule.id)) == 1


# -- ticks that nobody was there for ----------------------------------------------------------------------------------


async def catch_up(world: World, policy: str, hours: float) -> tuple[list[str], Schedule]:
    schedule = await made(world, "0 * * * *", catch_up=policy)
    world.later(hours * 3600)
    await fire(world)
    return [tick[11:16] for tick in ticks_of(await runs_of(world, schedule.id))], await now_is(world, schedule.id)


async def test_after_a_stop_the_newest_tick_is_made_up_for(world: World) -> None:
    """C6: at most one late tick, by default."""
    ticks, schedule = await catch_up(world, "last", 5.5)
    assert ticks == ["17:00"]
    assert schedule.next_tick_at == NOW.replace(hour=18)
    assert "came while no server was there" in (schedule.problem or "")


async def test_after_a_stop_all_ticks_are_made_up_for(world: World) -> None:
    """BB20: catch-up "all" makes one run per missed tick, in order."""
    ticks, schedule = await catch_up(world, "all", 5.5)
    assert ticks == ["13:00", "14:00", "15:00", "16:00", "17:00"]
    assert schedule.next_tick_at == NOW.replace(hour=18)
    assert schedule.problem is None
    runs = await runs_of(world, schedule.id)
    assert json.loads(runs[-1].payload or "")["lastTimestamp"] == "2026-01-01T16:00:00Z"
    assert [run.id for run in sorted(runs, key=lambda run: (run.available_at, run.id))] == [run.id for run in runs]


async def test_after_a_stop_no_tick_is_made_up_for(world: World) -> None:
    """BB20: catch-up "none" goes on with the next tick."""
    ticks, schedule = await catch_up(world, "none", 5.5)
    assert ticks == []
    assert schedule.next_tick_at == NOW.replace(hour=18)
    assert "catch-up: none" in (schedule.problem or "")


async def test_a_tick_that_is_a_few_seconds_late_is_on_time(world: World) -> None:
    """BB20: a server that starts anew loses no tick, whatever the policy."""
    ticks, schedule = await catch_up(world, "none", 1 + 8 / 3600)
    assert ticks == ["13:00"]
    assert schedule.problem is None
    every_second = await made(world, "* * * * * *", key="s", catch_up="none")
    world.later(4)
    await fire(world)
    assert len(await runs_of(world, every_second.id)) == 4


async def test_many_ticks_are_made_up_for_in_steps_and_not_without_end(world: World) -> None:
    """BB20: a week of seconds is 604,800 ticks: the newest thousand are made, some per transaction."""
    schedule = await made(world, "* * * * * *", catch_up="all")
    world.later(7 * 86_400)
    assert (await world.do(engine.fire_schedules)).count == 1
    assert len(await runs_of(world, schedule.id)) == STEP
    await fire(world)
    runs = await runs_of(world, schedule.id)
    assert len(runs) == MOST_CAUGHT_UP
    assert ticks_of(runs)[-1] == "2026-01-08T12:00:00Z"
    assert "catch-up: all" in ((await now_is(world, schedule.id)).problem or "")


async def test_a_clock_that_jumps_ahead_and_back(world: World) -> None:
    """C6: what was fired ahead is not fired again, and the schedule doesn't rest until the clock gets there once more."""
    schedule = await made(world, "0 * * * *")
    world.later(30 * 86_400)
    await fire(world)
    [ahead] = await runs_of(world, schedule.id)
    world.now = NOW + timedelta(minutes=59)
    await fire(world)
    assert (await now_is(world, schedule.id)).next_tick_at == NOW + timedelta(hours=1)
    world.later(61)
    await fire(world)
    assert len(await runs_of(world, schedule.id)) == 2
    async with world.db.transaction() as tx:
        at = datetime(2026, 1, 31, 12, tzinfo=UTC)
        await tx.execute("update schedules set next_tick_at = $1, next_fire_at = $1, last_tick_at = null", at)
    world.now = at
    await fire(world)
    assert len(await runs_of(world, schedule.id)) == 2
    assert (await now_is(world, schedule.id)).last_run_id == ahead.id


async def test_a_clock_that_jumps_back_a_little_fires_nothing_twice(world: World) -> None:
    schedule = await made(world, "* * * * *")
    world.later(60)
    await fire(world)
    world.later(-5)
    await fire(world)
    world.later(5)
    await fire(world)
    assert len(await runs_of(world, schedule.id)) == 1


# -- windows ----------------------------------------------------------------------------------------------------------


async def test_a_window_moves_each_schedule_to_its_own_place(world: World) -> None:
    """C5: ticks are spread over the window; a schedule keeps its place, and tells the time that the pattern names."""
    schedules = [await made(world, "0 * * * *", key=f"k{number}", window="10m") for number in range(20)]
    shifts = {schedule.id: (schedule.next_fire_at or NOW) - (schedule.next_tick_at or NOW) for schedule in schedules}
    assert len(set(shifts.values())) > 15
    assert all(timedelta(0) <= shift < timedelta(minutes=10) for shift in shifts.values())
    chosen = max(schedules, key=lambda schedule: shifts[schedule.id])
    world.now = (chosen.next_tick_at or NOW) + shifts[chosen.id] - timedelta(milliseconds=1)
    await fire(world)
    assert await runs_of(world, chosen.id) == []
    world.later(0.001)
    await fire(world)
    assert ticks_of(await runs_of(world, chosen.id)) == ["2026-01-01T13:00:00Z"]
    after = await now_is(world, chosen.id)
    assert (after.next_fire_at or NOW) - (after.next_tick_at or NOW) == shifts[chosen.id]


async def test_a_window_in_percent_and_none(world: World) -> None:
    """C5: a part of the time until the next tick; "0" is exact."""
    moved = await made(world, "0 * * * *", window="50%")
    shift = (moved.next_fire_at or NOW) - (moved.next_tick_at or NOW)
    assert timedelta(0) < shift < timedelta(minutes=30)
    exact = await made(world, "0 * * * *", key="exact", window="0m")
    assert exact.next_fire_at == exact.next_tick_at


@pytest.mark.parametrize("window", ["10m", "90%", "3h", None])
@pytest.mark.parametrize("policy", ["none", "last", "all"])
def test_no_plan_loses_or_doubles_a_tick(policy: str, window: str | None) -> None:
    """C5: whenever servers look, a schedule's ticks are fired in order, none before its time, none twice."""
    pattern = Pattern.read("*/15 * * * *", "UTC")
    schedule = Schedule(
        *("s", "e", "t", "imperative", "k", None, pattern.cron, "UTC", window, policy, True),
        *(pattern.next(NOW), NOW, None, None, None, None, NOW, NOW),
    )
    fired: list[datetime] = []
    now = NOW
    for step in range(3000):
        now += timedelta(seconds=(7, 9.5, 3)[step % 3])
        while True:
            plan = plan_ticks(schedule, pattern, now)
            if plan.next_tick == schedule.next_tick_at:
                break
            assert not [tick for tick in plan.ticks if tick > now]
            fired += plan.ticks
            schedule = replace(schedule, next_tick_at=plan.next_tick)
    assert fired == pattern.upcoming(NOW, len(fired))
    assert len(fired) > 18


# -- making and changing ----------------------------------------------------------------------------------------------


async def test_the_same_key_is_the_same_schedule(world: World) -> None:
    """C2: the deduplication key; what is left out is reset."""
    first = await create(world, "0 7 * * *", timezone="Europe/Berlin", external_id="user_1", window="5m")
    assert first.is_new
    again = await create(world, "0 8 * * *")
    assert not again.is_new
    assert again.schedule.id == first.schedule.id
    assert (again.schedule.timezone, again.schedule.external_id, again.schedule.window_text) == ("UTC", None, None)
    assert again.schedule.next_tick_at == datetime(2026, 1, 2, 8, tzinfo=UTC)


async def test_the_same_key_in_another_environment_is_another_schedule(world: World) -> None:
    """BB20: the deduplication key is unique per environment."""
    first = await made(world)
    other = await world.do(engine.ensure_environment, "prod", key_hash=b"p")
    world.environment_id = other.id
    await world.do(engine.register_version, other.id, VersionReport("w1", "v1", [manifest("hello")]))
    assert (await made(world)).id != first.id


async def test_the_same_key_at_once_is_one_schedule(world: World) -> None:
    """C2: two calls with the same key at the same time."""
    done = await asyncio.gather(*(create(world) for _ in range(4)))
    assert len({each.schedule.id for each in done}) == 1


async def test_an_unchanged_schedule_keeps_its_next_tick(world: World) -> None:
    """C2: making it again just after a tick, before a server has fired it, does not lose that tick."""
    schedule = await made(world, "0 13 * * *")
    world.later(3602)
    assert (await made(world, "0 13 * * *", external_id="u")).next_tick_at == schedule.next_tick_at
    assert (await made(world, "0 14 * * *")).next_tick_at == NOW.replace(hour=14)


@pytest.mark.parametrize(
    ("more", "field", "told"),
    [
        ({"cron": "61 * * * *"}, "cron", "field minute: 61 is more than 59"),
        ({"cron": "0 0 */15 * MON#4"}, "cron", "it never comes true"),
        ({"timezone": "Europe/Berln"}, "timezone", "Invalid IANA timezone: 'Europe/Berln' did you mean Europe/Berlin?"),
        ({"window": "2 days"}, "window", "'2 days'"),
        ({"window": "25h"}, "window", "longer than 24h"),
        ({"window": "101%"}, "window", "more than 100%"),
        ({"catch_up": "some"}, "catchUp", "not one of none, last, all"),
        ({"task": "greedy"}, "task", "should take a ScheduleTick"),
    ],
)
async def test_what_cannot_be_scheduled_is_refused_with_the_reason(
    world: World, more: dict[str, Any], field: str, told: str
) -> None:
    """C2: the field, what is wrong with it, and what would be right."""
    await declare(world, manifest("hello"), manifest("greedy", payload_schema={"type": "integer"}))
    refused = await create(world, **more)
    assert isinstance(refused, engine.ScheduleMisfit)
    assert (refused.field, told in refused.message) == (field, True), refused.message


async def test_an_unknown_task_is_refused(world: World) -> None:
    """C2: with the names of those that are like it."""
    assert await create(world, task="helo") == engine.UnknownTask(["hello"])


async def test_a_schedule_rests_and_goes_on(world: World) -> None:
    """C2: activate, deactivate: what would have been meanwhile is not made up for."""
    schedule = await made(world, "0 * * * *", catch_up="all")
    await world.do(engine.deactivate_schedule, world.environment_id, schedule.id)
    assert (await made(world, "0 * * * *", catch_up="all")).next_tick_at is None, "making it again doesn't wake it"
    world.later(5 * 3600)
    assert await fire(world) == 0
    woken = await world.do(engine.activate_schedule, world.environment_id, schedule.id)
    assert woken.schedule.next_tick_at == NOW.replace(hour=18)
    assert await fire(world) == 0


async def test_a_schedule_is_changed_and_removed(world: World) -> None:
    """C2: update and del; its runs stay."""
    schedule = await made(world, "0 * * * *")
    world.later(3600)
    await fire(world)
    request = engine.ScheduleRequest("hello", "30 * * * *", "Asia/Kolkata")
    changed = await world.do(engine.update_schedule, world.environment_id, schedule.id, request)
    assert changed.schedule.next_tick_at == world.now + timedelta(hours=1)
    assert changed.schedule.deduplication_key == "k"
    assert isinstance(await world.do(engine.delete_schedule, world.environment_id, schedule.id), engine.Scheduled)
    assert await world.do(engine.delete_schedule, world.environment_id, schedule.id) == engine.Unknown()
    assert await world.do(engine.update_schedule, world.environment_id, schedule.id, request) == engine.Unknown()
    world.later(7200)
    assert await fire(world) == 0
    assert len(await runs_of(world, schedule.id)) == 1


async def test_another_environment_does_not_see_it(world: World) -> None:
    schedule = await made(world)
    other = await world.do(engine.ensure_environment, "prod", key_hash=b"p")
    assert await world.do(engine.activate_schedule, other.id, schedule.id) == engine.Unknown()
    assert await world.do(engine.deactivate_schedule, other.id, schedule.id) == engine.Unknown()
    assert await world.do(engine.delete_schedule, other.id, schedule.id) == engine.Unknown()


# -- ticks without a run ----------------------------------------------------------------------------------------------


async def test_a_task_that_has_vanished_is_told(world: World) -> None:
    """C6: only tasks of the current version are triggered; the schedule says what became of its tick, and goes on."""
    schedule = await made(world, "0 * * * *")
    await declare(world, manifest("other"), version="v2")
    world.later(3600)
    assert await fire(world) == 1
    assert await runs_of(world, schedule.id) == []
    after = await now_is(world, schedule.id)
    assert after.problem == "the tick of 2026-01-01T13:00:00Z made no run: the current version has no task 'hello'"
    assert (after.problem_at, after.last_tick_at, after.next_tick_at) == (world.now, None, NOW + timedelta(hours=2))
    await declare(world, manifest("hello"), version="v3")
    world.later(3600)
    await fire(world)
    assert len(await runs_of(world, schedule.id)) == 1


async def test_a_task_that_takes_no_tick_any_more_is_told(world: World) -> None:
    schedule = await made(world, "0 * * * *")
    await declare(world, manifest("hello", payload_schema={"type": "integer"}), version="v2")
    world.later(3600)
    await fire(world)
    assert "takes neither a ScheduleTick nor nothing" in ((await now_is(world, schedule.id)).problem or "")


@pytest.mark.parametrize(
    ("changes", "payload"),
    [
        ({"parameters": "none"}, None),
        ({"parameters": "named", "payload_schema": {"type": "object", "properties": {"days": {}}}}, "{}"),
        ({"payload_schema": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}, None),
    ],
)
async def test_a_task_that_can_do_without_gets_nothing(
    world: World, changes: dict[str, Any], payload: str | None
) -> None:
    """C1: a task without a parameter, or whose parameters all have defaults, may be scheduled too."""
    await declare(world, manifest("hello", **changes))
    schedule = await made(world, "0 * * * *")
    world.later(3600)
    await fire(world)
    assert [run.payload for run in await runs_of(world, schedule.id)] == [payload]


async def test_a_pattern_that_never_comes_true_again_ends_and_says_so(world: World) -> None:
    schedule = await made(world, "0 * * * *")
    async with world.db.transaction() as tx:  # `create` refuses it, so it comes from elsewhere
        await tx.execute("update schedules set cron = '0 0 */15 * MON#4'")
    world.later(3600)
    await fire(world)
    after = await now_is(world, schedule.id)
    assert (after.next_tick_at, after.problem) == (None, "this pattern never comes true again")
    assert (await world.do(engine.fire_schedules)).next_due is None


async def test_a_zone_that_is_gone_stops_its_schedule_only(world: World) -> None:
    lost = await made(world, "0 * * * *")
    fine = await made(world, "0 * * * *", key="fine")
    async with world.db.transaction() as tx:
        await tx.execute("update schedules set timezone = 'Europe/Atlantis' where id = $1", lost.id)
    world.later(3600)
    await fire(world)
    assert "can't be read any more" in ((await now_is(world, lost.id)).problem or "")
    assert len(await runs_of(world, fine.id)) == 1


async def test_one_is_fired_by_itself_or_left_out(world: World) -> None:
    """As the server's loop does with one that fails."""
    one, two = await made(world, key="one"), await made(world, key="two")
    world.later(3600)
    assert sorted(await world.do(engine.due_schedules)) == sorted([one.id, two.id])
    assert await world.do(engine.due_schedules, skip=[one.id]) == [two.id]
    fired = await world.do(engine.fire_schedules, skip=[one.id])
    assert (fired.count, fired.next_due) == (1, world.now + timedelta(hours=1))
    assert (await world.do(engine.fire_schedules, only=[one.id])).count == 1


# -- declared in code -------------------------------------------------------------------------------------------------


async def test_a_version_brings_its_schedules(world: World) -> None:
    """C1: declared above a task, made with the version."""
    [schedule] = await declare(world, scheduled("digest", "0 7 * * MON-FRI", timezone="Europe/Berlin", window="5m"))
    assert (schedule.kind, schedule.task_id, schedule.cron) == ("declared", "digest", "0 7 * * MON-FRI")
    assert (schedule.timezone, schedule.window_text, schedule.catch_up) == ("Europe/Berlin", "5m", "last")
    assert schedule.next_tick_at == datetime(2026, 1, 2, 6, tzinfo=UTC)
    world.now = datetime(2026, 1, 2, 6, 5, tzinfo=UTC)
    await fire(world)
    [run] = await runs_of(world, schedule.id)
    assert json.loads(run.payload or "")["type"] == "DECLARATIVE"


async def test_a_new_version_changes_and_removes_its_schedules(world: World) -> None:
    """C1: a changed pattern takes effect at once; an unchanged one keeps its next tick; one that is gone is gone."""
    same, changed, gone = await declare(
        world,
        scheduled("a_same", "0 13 * * *"),
        scheduled("b_changed", "0 13 * * *"),
        scheduled("c_gone", "0 13 * * *"),
    )
    imperative = await made(world, "0 13 * * *", task="a_same")
    world.later(3601)  # due, and not fired yet
    tasks = [
        scheduled("a_same", "0 13 * * *", catch_up="all"),
        scheduled("b_changed", "0 14 * * *"),
        manifest("c_gone"),
    ]
    after = {schedule.id: schedule for schedule in await declare(world, *tasks, version="v2")}
    assert after[same.id].next_tick_at == same.next_tick_at
    assert after[same.id].catch_up == "all"
    assert after[changed.id].next_tick_at == NOW.replace(hour=14)
    assert gone.id not in after
    assert after[imperative.id].next_tick_at == imperative.next_tick_at


async def test_the_same_version_again_changes_nothing(world: World) -> None:
    [before] = await declare(world, scheduled("digest", "0 13 * * *"))
    world.later(60)
    assert await declare(world, scheduled("digest", "0 13 * * *")) == [before]


async def test_a_declared_schedule_is_changed_in_code_only(world: World) -> None:
    """C1: but it may be put to rest, and rests until it is activated."""
    [schedule] = await declare(world, scheduled("digest", "0 * * * *"))
    request = engine.ScheduleRequest("digest", "1 * * * *")
    refused = engine.DeclaredInCode("digest")
    assert await world.do(engine.update_schedule, world.environment_id, schedule.id, request) == refused
    assert await world.do(engine.delete_schedule, world.environment_id, schedule.id) == refused
    await world.do(engine.deactivate_schedule, world.environment_id, schedule.id)
    [resting] = await declare(world, scheduled("digest", "5 * * * *"), version="v2")
    assert (resting.is_active, resting.next_tick_at, resting.cron) == (False, None, "5 * * * *")


async def test_a_pattern_that_this_server_cannot_read_does_not_stop_a_version(world: World) -> None:
    wrong, right = await declare(world, scheduled("a_wrong", "0 0 32 * *"), scheduled("b_right", "0 * * * *"))
    assert wrong.next_tick_at is None
    assert "32 is more than 31" in (wrong.problem or "")
    assert right.next_tick_at is not None


async def test_two_workers_bring_the_same_version_at_once(world: World) -> None:
    """C1: one declared schedule per task."""
    await world.do(engine.register_worker, world.environment_id, world.introduction("i2", "w2"), lease_s=30)

    async def register(worker_id: str) -> None:
        report = VersionReport(worker_id, "v2", [scheduled("digest", "0 * * * *"), scheduled("report", "0 * * * *")])
        await world.do(engine.register_version, world.environment_id, report)

    await asyncio.gather(register("w1"), register("w2"))
    async with world.db.transaction() as tx:
        assert (await engine.read.schedules(tx, world.environment_id)).count == 2

"""Lists and pages, stories, logs, tokens, and that records are their tables."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from torpor import engine
from torpor.engine import Ok, Page, RunFilter, RunState, Stale, TokenFilter
from torpor.store import records
from torpor.wire.http import EventReport, LogLine, LogReport, StoryEvent

from .conftest import World, time_wait, token_wait

pytestmark = pytest.mark.anyio

TABLES = {
    "environments": records.Environment,
    "api_keys": records.ApiKey,
    "workers": records.Worker,
    "tasks": records.Task,
    "runs": records.Run,
    "attempts": records.Attempt,
    "waitpoints": records.Waitpoint,
    "waits": records.Wait,
    "checkpoints": records.Checkpoint,
    "events": records.Event,
    "logs": records.LogLine,
    "bulk_actions": records.BulkAction,
}


@pytest.mark.parametrize("table", TABLES)
async def test_a_record_has_its_tables_columns(world: World, table: str):
    async with world.db.transaction() as tx:
        rows = await tx.fetch("select column_name from information_schema.columns where table_name = $1", table)
    assert {row["column_name"] for row in rows} == {field.name for field in dataclasses.fields(TABLES[table])}


async def runs(world: World, where: RunFilter | None = None, **page: Any) -> Any:
    async with world.db.transaction() as tx:
        return await engine.read.runs(tx, world.environment_id, where or RunFilter(), Page(**page))


async def test_pages_go_forth_and_back(world: World):
    ids: list[str] = []
    for _ in range(5):
        ids.insert(0, await world.trigger())
        world.later(1)
    first = await runs(world, size=2)
    assert ([run.id for run in first.items], first.previous) == (ids[:2], None)
    second = await runs(world, size=2, after=first.next)
    assert [run.id for run in second.items] == ids[2:4]
    last = await runs(world, size=2, after=second.next)
    assert ([run.id for run in last.items], last.next) == (ids[4:], None)
    back = await runs(world, size=2, before=last.previous)
    assert [run.id for run in back.items] == ids[2:4]
    front = await runs(world, size=2, before=back.previous)
    assert ([run.id for run in front.items], front.previous) == (ids[:2], None)


async def test_runs_are_filtered_by_public_status_and_tag(world: World):
    suspended = await world.run_in(RunState.SUSPENDED)
    waiting = await world.run_in(RunState.WAITING)
    tagged = await world.trigger(tags=["a", "b"], is_test=True)
    found = await runs(world, RunFilter(status=["WAITING"]))
    assert {run.id for run in found.items} == {suspended.run_id, waiting.run_id}
    for where in (RunFilter(tags=["b", "z"]), RunFilter(is_test=True), RunFilter(status=["QUEUED"])):
        assert [run.id for run in (await runs(world, where)).items] == [tagged]
    for where in (RunFilter(tags=["z"]), RunFilter(task_ids=["no"]), RunFilter(created_to=world.now - timedelta(1))):
        assert (await runs(world, where)).items == []


async def test_another_environment_sees_nothing(world: World):
    run_id = await world.trigger()
    other = await world.do(engine.ensure_environment, "prod", key_hash=b"p")
    async with world.db.transaction() as tx:
        assert await engine.read.run(tx, other.id, run_id) is None
        assert (await engine.read.runs(tx, other.id)).items == []
        assert (await engine.key_by_hash(tx, b"p") or ())[1:] == (other,)
        assert await engine.key_by_hash(tx, b"x") is None


async def test_an_environment_is_made_once(world: World):
    again = await world.do(engine.ensure_environment, "dev", key_hash=b"k")
    assert again.id == world.environment_id


async def test_the_story_goes_on_from_a_known_event(world: World):
    lease = await world.run_in(RunState.WAITING)
    story = await world.story(lease.run_id)
    async with world.db.transaction() as tx:
        rest = await engine.read.story(tx, lease.run_id, after=story[1].id)
    assert rest == story[2:]
    assert story[-1].data == {"kinds": ["time"], "count": 1, "due_at": "2026-01-01T13:00:00Z"}


async def test_a_workers_line_is_told_once(world: World):
    lease = await world.begin()
    event = StoryEvent("run.freeze_failed", "2026-01-01T12:00:01Z", {"reason": "a connected unix socket\0"})
    for _ in range(2):
        assert await world.do(engine.tell, lease, EventReport(lease.number, [event])) == Ok()
    assert (await world.kinds(lease.run_id)).count("run.freeze_failed") == 1


async def test_a_repeated_log_report_adds_nothing_and_last_words_are_heard(world: World):
    lease = await world.begin()
    lines = [LogLine("2026-01-01T12:00:01Z", "info", f"line {n}\0", {"n": n}) for n in range(3)]
    for count in (2, 2, 3):
        report = LogReport(lease.number, first=0, lines=lines[:count])
        assert await world.do(engine.append, lease.run_id, report) == Ok()
    await world.finish(lease)
    assert await world.do(engine.append, lease.run_id, LogReport(lease.number, 99, lines[:1])) == Ok()
    assert await world.do(engine.append, lease.run_id, LogReport(lease.number + 9, 0, lines)) == Stale(lease.number + 1)
    async with world.db.transaction() as tx:
        said = await engine.read.logs(tx, lease.run_id)
        assert await engine.read.logs(tx, lease.run_id, after=said[-2].id) == said[-1:]
    assert [line.attributes["n"] for line in said] == [0, 1, 2, 0]


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_the_same_token_request_twice_is_one_token(world: World):
    request = engine.TokenRequest(waitpoint_id="waitpoint_1", timeout_s=60)
    create = (engine.create_token, world.environment_id, request)
    assert await world.do(*create) == engine.TokenCreated("waitpoint_1", is_cached=False)
    assert await world.do(*create) == engine.TokenCreated("waitpoint_1", is_cached=True)


async def test_a_tokens_idempotency_key_expires(world: World):
    request = engine.TokenRequest(idempotency_key="k", idempotency_key_ttl_s=60)
    create = (engine.create_token, world.environment_id, request)
    first = await world.do(*create)
    assert await world.do(*create) == engine.TokenCreated(first.waitpoint_id, is_cached=True)
    world.later(60)
    assert not (await world.do(*create)).is_cached


async def test_a_stale_process_makes_no_token(world: World):
    lease = await world.begin()
    request = engine.TokenRequest(lease=lease, title="May I?")
    made = await world.do(engine.create_token, world.environment_id, request)
    assert "token.created" in await world.kinds(lease.run_id)
    await world.finish(lease)
    assert await world.do(engine.create_token, world.environment_id, request) == Stale(lease.number + 1)
    async with world.db.transaction() as tx:
        assert not await engine.holds(tx, lease)
        view = await engine.read.token(tx, world.environment_id, made.waitpoint_id)
    assert view is not None
    assert view.token.created_by_run_id == lease.run_id


async def test_tokens_show_who_is_blocked_on_them(world: World):
    open_one, done, approval = await world.token(tags=["x"]), await world.token(), await world.token(title="Pay?")
    lease = await world.begin()
    await world.block(lease, token_wait("a", open_one), time_wait("b", 60))
    await world.complete(done)

    async def listed(**where: Any) -> list[str]:
        async with world.db.transaction() as tx:
            found = await engine.read.tokens(tx, world.environment_id, TokenFilter(**where))
        return [view.token.id for view in found.items]

    assert set(await listed()) == {open_one, done, approval}, "times and runs are no tokens"
    assert await listed(status=["COMPLETED"]) == [done]
    assert await listed(tags=["x"]) == [open_one]
    assert await listed(is_approval=True) == [approval]
    async with world.db.transaction() as tx:
        view = await engine.read.token(tx, world.environment_id, open_one)
    assert view is not None
    assert view.run_ids == [lease.run_id]

"""What is accepted, what is refused and how, what a repeat means."""

from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, Field

from torpor import engine
from torpor.engine import PayloadMisfit, RunState, Stale, Triggered, TriggerRequest, UnknownTask
from torpor.engine.payload import fit
from torpor.store.records import Task
from torpor.wire.http import VersionReport

from .conftest import NOW, World, manifest

pytestmark = pytest.mark.anyio


async def trigger(world: World, task_id: str = "hello", **options: Any) -> Any:
    return await world.do(engine.trigger, world.environment_id, TriggerRequest(task_id, **options))


async def count(world: World) -> int:
    async with world.db.transaction() as tx:
        return len((await engine.read.runs(tx, world.environment_id)).items)


async def test_an_unknown_task_is_refused_with_near_names_of_the_current_version(world: World):
    old = VersionReport("w1", "v1", [manifest("send-mail-old")])
    new = VersionReport("w1", "v2", [manifest("send-mail"), manifest("reports/daily"), manifest("x")])
    for report in (old, new):
        await world.do(engine.register_version, world.environment_id, report)
    assert await trigger(world, "send_mial") == UnknownTask(["send-mail"])
    assert await trigger(world, "SEND-MAIL") == UnknownTask(["send-mail"])
    assert await trigger(world, "zzzzzz") == UnknownTask([])
    assert await count(world) == 0


async def test_the_same_run_id_twice_is_one_run(world: World):
    assert await trigger(world, run_id="run_1") == Triggered("run_1", is_cached=False)
    assert await trigger(world, run_id="run_1") == Triggered("run_1", is_cached=True)
    assert await world.kinds("run_1") == ["run.triggered"]


async def test_an_idempotency_key_makes_one_run_until_it_expires_or_the_run_fails(world: World):
    first = await trigger(world, idempotency_key="k", idempotency_key_ttl_s=60)
    assert await trigger(world, idempotency_key="k") == Triggered(first.run_id, is_cached=True)
    world.later(61)
    second = await trigger(world, idempotency_key="k")
    assert not second.is_cached
    await world.do(engine.cancel, world.environment_id, first.run_id)
    await world.fail(await world.begin(second.run_id), retryable=False)
    third = await trigger(world, idempotency_key="k")
    assert not third.is_cached
    await world.finish(await world.begin(third.run_id))
    assert await trigger(world, idempotency_key="k") == Triggered(third.run_id, is_cached=True)


async def test_a_delayed_run_is_released_when_due(world: World):
    due_at = world.now + timedelta(hours=1)
    run_id = await world.trigger(delay_until=due_at)
    assert (await world.run(run_id)).state == RunState.DELAYED
    assert await world.dequeue() == []
    assert await world.do(engine.fire_due) == engine.FiredTimers(0, due_at)
    world.later(3600)
    assert await world.do(engine.fire_due) == engine.FiredTimers(1, None)
    assert [run.run_id for run in await world.dequeue()] == [run_id]


async def test_a_delay_in_the_past_is_ignored(world: World):
    run_id = await world.trigger(delay_until=world.now - timedelta(hours=1))
    assert (await world.run(run_id)).state == RunState.QUEUED


async def test_runs_line_up_in_the_order_of_their_triggers(world: World):
    ids: list[str] = []
    for _ in range(4):
        ids.append(await world.trigger())
        world.later(1)
    assert [run.run_id for run in await world.dequeue(free=3)] == ids[:3]
    assert [run.run_id for run in await world.dequeue(free=0)] == []


async def test_a_fresh_attempt_starts_with_the_current_version_only(world: World):
    run_id = await world.trigger()
    await world.do(engine.register_version, world.environment_id, VersionReport("w2", "v2", world.tasks))
    assert await world.dequeue(versions=["v1"]) == []
    (assignment,) = await world.dequeue(versions=["v1", "v2"])
    assert (assignment.run_id, assignment.version) == (run_id, "v2")


async def test_a_request_made_before_its_worker_imported_a_version_gets_runs_of_it(world: World):
    """A worker's request for work is held open while it imports the changed project."""
    run_id = await world.trigger()
    await world.do(engine.register_version, world.environment_id, VersionReport("w1", "v2", world.tasks))
    (assignment,) = await world.dequeue(versions=["v1"])
    assert (assignment.run_id, assignment.version) == (run_id, "v2")


async def test_a_stale_parent_triggers_nothing(world: World):
    lease = await world.begin()
    await world.finish(lease)
    assert await trigger(world, parent_lease=lease) == Stale(lease.number + 1)
    assert await count(world) == 1


async def test_a_misfit_makes_no_run(world: World):
    report = VersionReport("w1", "v1", [manifest("hello", payload_schema={"type": "integer"})])
    await world.do(engine.register_version, world.environment_id, report)
    problems = [{"path": "", "message": 'should be a whole number, not "x"'}]
    assert await trigger(world, payload='"x"') == PayloadMisfit(problems)
    assert await count(world) == 0


# -- payloads ----------------------------------------------------------------------------------------------------------


class Item(BaseModel):
    price: int = Field(ge=0)
    color: str | None = None


class Order(BaseModel):
    model_config = {"extra": "forbid"}

    items: list[Item]
    note: str = ""


class Body(BaseModel):
    order: Order


def the_task(schema: dict[str, Any], parameters: str = "one") -> Task:
    told = msgspec.to_builtins(manifest("t", payload_schema=schema, parameters=parameters))
    del told["schedule"], told["network"]  # kept apart from the task, and known to workers only
    told["preset"] = told.pop("machine")
    return Task.of({"environment_id": "e", "version": "v", "reported_at": NOW, **told})


@pytest.mark.parametrize(
    ("payload", "path", "message"),
    [
        ('{"order": {"items": [{"price": "12"}]}}', "order.items[0].price", 'should be a whole number, not "12"'),
        ('{"order": {"items": [{"price": 1}, {"price": -1}]}}', "order.items[1].price", "should be at least 0, not -1"),
        ('{"order": {"items": [{}]}}', "order.items[0].price", "is missing"),
        ("{}", "order", "is missing"),
        ('{"order": {"items": {}}}', "order.items", "should be a list, not {}"),
        ('{"order": {"items": [], "nte": 1}}', "order.nte", "is not a field of this task's payload"),
        ('{"order": {"items": [{"price": 1, "color": 3}]}}', "order.items[0].color", "should be text or null, not 3"),
        ("[1]", "", "should be an object, not [1]"),
    ],
)
def test_a_misfit_names_the_field_in_plain_words(payload: str, path: str, message: str):
    assert fit(the_task(Body.model_json_schema()), payload) == PayloadMisfit([{"path": path, "message": message}])


class Times(BaseModel):
    at: datetime
    day: date | None = None
    hour: time = time(7)
    pause: timedelta = timedelta(hours=1)
    key: UUID | int = 0
    mail: str = Field("", json_schema_extra={"format": "email"})


@pytest.mark.parametrize(
    ("more", "path", "message"),
    [
        ({"at": "yesterday"}, "at", 'should be a date and time such as 2026-03-01T07:00:00Z, not "yesterday"'),
        ({"at": ""}, "at", 'should be a date and time such as 2026-03-01T07:00:00Z, not ""'),
        ({"at": True}, "at", "should be text, not true"),
        ({"day": "2026-02-30"}, "day", 'should be a date such as 2026-03-01, not "2026-02-30"'),
        ({"hour": "25:00"}, "hour", 'should be a time of day such as 07:30:00, not "25:00"'),
        ({"pause": "a while"}, "pause", 'should be a length of time such as PT1H30M, not "a while"'),
        ({"key": "x"}, "key", 'should be a UUID such as 123e4567-e89b-42d3-a456-426614174000, not "x"'),
    ],
)
def test_a_text_that_is_not_of_its_format_is_refused_at_the_door(more: dict[str, Any], path: str, message: str):
    text = msgspec.json.encode({"at": "2026-01-01T10:00:00Z"} | more).decode()
    assert fit(the_task(Times.model_json_schema()), text) == PayloadMisfit([{"path": path, "message": message}])


@pytest.mark.parametrize(
    "more",
    [
        {"at": "2026-01-01 10:00"},
        {"at": "2026-01-01T10:00:00.123456789Z"},
        {"at": "2026-01-01T10:00:00+02:00"},
        {"at": "2026-01-01"},
        {"at": "1767261600"},
        {"day": None},
        {"day": "2026-01-01T00:00:00"},
        {"hour": "07:30"},
        {"hour": "07:30:00+01:00"},
        {"pause": "PT1H"},
        {"pause": "P3DT4H"},
        {"pause": "1 day, 01:00:00"},
        {"pause": "-00:15"},
        {"key": "{123e4567-e89b-42d3-a456-426614174000}"},
        {"key": "123e4567e89b42d3a456426614174000"},
        {"key": 7},
        {"mail": "the text of a format that nobody reads"},
    ],
)
def test_what_the_annotation_reads_is_not_refused(more: dict[str, Any]):
    """Compared with the worker's own reader."""
    text = msgspec.json.encode({"at": "2026-01-01T10:00:00Z"} | more).decode()
    assert Times.model_validate_json(text)
    assert fit(the_task(Times.model_json_schema()), text) == text


def test_every_misfit_is_told():
    told = fit(the_task(Body.model_json_schema()), '{"order": {"items": [{"price": "a"}, {"color": 1}], "x": 1}}')
    assert isinstance(told, PayloadMisfit)
    assert {problem["path"] for problem in told.problems} == {
        "order.items[0].price",
        "order.items[1].price",
        "order.items[1].color",
        "order.x",
    }


def test_a_fitting_payload_is_passed_on_byte_for_byte():
    text = '{"order":  {"items": [ {"price":1e0} ]}}'
    assert fit(the_task(Body.model_json_schema()), text) == text


def test_what_is_no_json_is_told_so():
    told = fit(the_task({}), "{nope")
    assert isinstance(told, PayloadMisfit)
    assert told.problems[0]["message"].startswith("is not JSON")


@pytest.mark.parametrize("nothing", [None, "null", "{}"])
def test_a_task_without_parameters_takes_nothing(nothing: str | None):
    assert fit(the_task({}, "none"), nothing) is None
    assert isinstance(fit(the_task({}, "none"), "1"), PayloadMisfit)


def test_a_missing_payload_is_no_named_arguments():
    assert fit(the_task({"type": "object"}, "named"), None) == "{}"
    misfit = fit(the_task({"type": "object", "required": ["a"]}, "named"), None)
    assert misfit == PayloadMisfit([{"path": "a", "message": "is missing"}])


def test_a_huge_value_is_cut_short_in_the_message():
    told = fit(the_task({"type": "integer"}), msgspec.json.encode("x" * 10_000).decode())
    assert isinstance(told, PayloadMisfit)
    assert len(told.problems[0]["message"]) < 120

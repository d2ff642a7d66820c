"""Schedules over HTTP, and that a server fires them when their time has come."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx2
import msgspec
import pytest
from facts import PATIENCE_S
from fake_worker import KEY, FakeWorker, manifest

from torpor.errors import ApiError, NotFound, Unprocessable
from torpor.sdk.async_client import AsyncClient
from torpor.sdk.client import Client
from torpor.wire.runner import ScheduleManifest

pytestmark = pytest.mark.anyio


async def test_a_schedule_is_made_looked_at_and_listed(client: AsyncClient, worker: FakeWorker) -> None:
    """C2: create, retrieve, list."""
    made = await client.create_schedule(
        "echo", "0 7 * * MON-FRI", deduplication_key="k1", tz="Europe/Berlin", external_id="user_1", window="10m"
    )
    assert made["id"].startswith("sched_")
    assert (made["type"], made["task"], made["active"]) == ("IMPERATIVE", "echo", True)
    assert (made["deduplicationKey"], made["externalId"], made["timezone"]) == ("k1", "user_1", "Europe/Berlin")
    assert made["generator"] == {
        "type": "CRON",
        "expression": "0 7 * * MON-FRI",
        "description": "At 07:00 on Monday through Friday",
    }
    assert (made["window"], made["catchUp"], len(made["upcoming"])) == ("10m", "last", 5)
    assert made["upcoming"][0] == made["nextRun"] <= made["nextRunEffectiveAt"]
    assert made["environments"][0]["type"] == "DEVELOPMENT"
    assert None not in made.values()
    assert await client.schedule(made["id"]) == made
    second = await client.create_schedule("echo", "@hourly", deduplication_key="k2")
    assert [one["id"] async for one in client.schedules()] == [second["id"], made["id"]]


async def test_pages_have_numbers(url: str, client: AsyncClient, worker: FakeWorker) -> None:
    """C2: the list as the management API pages it."""
    for number in range(3):
        await client.create_schedule("echo", "@hourly", deduplication_key=f"k{number}")
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers) as http:
        page = (await http.get("/api/v1/schedules", params={"page": 2, "perPage": 2})).json()
        assert len(page["data"]) == 1
        assert page["pagination"] == {"currentPage": 2, "totalPages": 2, "count": 3}
        for wrong in ({"page": "0"}, {"perPage": "101"}, {"page": "x"}):
            assert (await http.get("/api/v1/schedules", params=wrong)).status_code == 400


async def test_a_schedule_is_changed_put_to_rest_and_removed(client: AsyncClient, worker: FakeWorker) -> None:
    """C2: the same key, update, deactivate, activate, del."""
    made = await client.create_schedule("echo", "0 3 * * 1", deduplication_key="k", tz="America/New_York")
    again = await client.create_schedule("echo", "0 4 * * 1", deduplication_key="k")
    assert (again["id"], again["timezone"]) == (made["id"], "UTC")
    changed = await client.update_schedule(made["id"], "echo", "30 12 * * *", tz="Europe/Warsaw", catch_up="all")
    assert (changed["timezone"], changed["catchUp"], changed["deduplicationKey"]) == ("Europe/Warsaw", "all", "k")
    resting = await client.deactivate_schedule(made["id"])
    assert (resting["active"], resting["upcoming"], "nextRun" in resting) == (False, [], False)
    assert (await client.activate_schedule(made["id"]))["nextRun"] == changed["nextRun"]
    assert await client.delete_schedule(made["id"]) == {"id": made["id"]}
    for call in (
        client.schedule(made["id"]),
        client.delete_schedule(made["id"]),
        client.activate_schedule(made["id"]),
        client.deactivate_schedule(made["id"]),
        client.update_schedule(made["id"], "echo", "@daily"),
    ):
        with pytest.raises(NotFound):
            await call


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"cron": "61 * * * *"}, "Invalid cron expression: '61 * * * *' (field minute: 61 is more than 59)"),
    ({"timezone": "Europe/Berln"}, "Invalid IANA timezone: 'Europe/Berln' did you mean Europe/Berlin?"),
    ({"task": "ecco"}, 'Task not found: "ecco"; did you mean echo?'),
    ({"task": "mail/send"}, 'task "mail/send" can\'t be scheduled'),
    ({"window": "soon"}, "window: 'soon' is not a duration"),
    ({"catchUp": "some"}, "catchUp: 'some' is not one of none, last, all"),
    ({"deduplicationKey": None}, "deduplicationKey is missing"),
]


async def test_what_cannot_be_scheduled_is_422(url: str, worker: FakeWorker) -> None:
    """C2: in words that say what to change."""
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        for fields, told in MISFITS:
            body = {"task": "echo", "cron": "@daily", "deduplicationKey": "k", **fields}
            refused = await http.post("/api/v1/schedules", content=msgspec.json.encode(body))
            assert (refused.status_code, told in refused.json()["error"]) == (422, True), refused.text
        assert (await http.post("/api/v1/schedules", content=b'{"task": "echo"}')).status_code == 400


async def test_a_schedule_keeps_its_key(url: str, client: AsyncClient, worker: FakeWorker) -> None:
    made = await client.create_schedule("echo", "@daily", deduplication_key="k")
    body = {"task": "echo", "cron": "@daily", "deduplicationKey": "other"}
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        path = f"/api/v1/schedules/{made['id']}"
        assert (await http.put(path, content=msgspec.json.encode(body))).status_code == 422
        same = {**body, "deduplicationKey": "k"}
        assert (await http.put(path, content=msgspec.json.encode(same))).status_code == 200


async def test_timezones_need_no_key(url: str, client: AsyncClient) -> None:
    """C2: the list of zones."""
    zones = await client.timezones()
    assert zones[0] == "UTC"
    assert {"Europe/Berlin", "Australia/Lord_Howe"} < set(zones)
    async with httpx2.AsyncClient(base_url=url) as http:
        without = (await http.get("/api/v1/timezones", params={"excludeUtc": "true"})).json()["timezones"]
    assert set(zones) - set(without) == {"UTC"}


async def test_a_tick_is_fired_at_its_time_and_not_at_a_look_now_and_then(
    by_word_alone: None, client: AsyncClient, worker: FakeWorker
) -> None:
    """C6: the server sleeps until the tick, and a schedule that is made meanwhile wakes it. How late is the machine's matter."""
    made = await client.create_schedule(
        "echo", "* * * * * *", deduplication_key="k", external_id="user_1", catch_up="all"
    )
    ticks: list[datetime] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(ticks) < 2:
            for assignment in await worker.dequeue(wait_s=20):
                tick = msgspec.json.decode(assignment.payload)
                assert (tick["scheduleId"], tick["externalId"], tick["type"]) == (made["id"], "user_1", "IMPERATIVE")
                ticks.append(datetime.fromisoformat(tick["timestamp"]))
                assert ticks[-1] <= datetime.now(UTC)
    first, second, *_ = sorted(ticks)
    assert (second - first).total_seconds() == 1
    await client.deactivate_schedule(made["id"])


async def test_a_run_names_its_schedule(client: AsyncClient, worker: FakeWorker) -> None:
    """C4: in the run's JSON, and as a filter."""
    made = await client.create_schedule("echo", "* * * * * *", deduplication_key="k", external_id="user_1")
    await client.trigger("echo", 1)
    async with asyncio.timeout(PATIENCE_S):
        while not (found := [run async for run in client.runs(schedule=made["id"])]):
            await asyncio.sleep(0.05)
    run = await client.run(found[0]["id"])
    assert run["schedule"] == {
        "id": made["id"],
        "externalId": "user_1",
        "deduplicationKey": "k",
        "generator": {"type": "CRON", "expression": "* * * * * *", "description": "Every second"},
    }
    await client.delete_schedule(made["id"])
    assert "schedule" not in await client.run(run["id"])
    assert [run async for run in client.runs(schedule="sched_other")] == []


async def test_two_servers_fire_each_tick_once(start: Any, database_url: str) -> None:
    """C6: however many servers look after one database."""
    url, _ = await start(database_url), await start(database_url)
    worker = FakeWorker(url)
    await worker.come_up()
    async with AsyncClient(url, KEY) as client:
        made = await client.create_schedule("echo", "* * * * * *", deduplication_key="k", catch_up="all")
        ticks: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(ticks) < 4:
                ticks += [msgspec.json.decode(each.payload)["timestamp"] for each in await worker.dequeue(wait_s=5)]
        await client.deactivate_schedule(made["id"])
        ticks += [msgspec.json.decode(each.payload)["timestamp"] for each in await worker.dequeue(wait_s=0.5)]
    await worker.close()
    assert len(ticks) == len(set(ticks))
    seconds = [datetime.fromisoformat(tick).timestamp() for tick in sorted(ticks)]
    assert seconds == [seconds[0] + index for index in range(len(seconds))]


async def test_a_declared_schedule_is_changed_in_code_only(url: str, client: AsyncClient) -> None:
    """C1: it comes with the version; over HTTP it can rest."""
    worker = FakeWorker(url)
    declared = msgspec.structs.replace(manifest("digest"), schedule=ScheduleManifest("0 7 * * *", "Asia/Tokyo"))
    await worker.come_up([declared])
    [schedule] = [one async for one in client.schedules()]
    assert (schedule["type"], schedule["task"], schedule["timezone"]) == ("DECLARATIVE", "digest", "Asia/Tokyo")
    for call in (
        client.update_schedule(schedule["id"], "digest", "@daily"),
        client.delete_schedule(schedule["id"]),
    ):
        with pytest.raises(Unprocessable, match="declared in code"):
            await call
    assert not (await client.deactivate_schedule(schedule["id"]))["active"]
    await worker.close()


async def test_a_blocking_client_schedules_too(url: str, worker: FakeWorker) -> None:
    def schedule() -> list[Any]:
        with Client(url, KEY) as client:
            made = client.create_schedule("echo", "@daily", deduplication_key="k", window=90)
            assert made["window"] == "90s"
            client.update_schedule(made["id"], "echo", "@hourly")
            client.deactivate_schedule(made["id"])
            client.activate_schedule(made["id"])
            assert client.schedule(made["id"])["generator"]["expression"] == "0 * * * *"
            assert client.timezones()[0] == "UTC"
            client.delete_schedule(made["id"])
            return list(client.schedules())

    assert await asyncio.to_thread(schedule) == []


async def test_a_schedule_needs_the_key(url: str) -> None:
    async with AsyncClient(url, "tr_dev_wrong") as client:
        with pytest.raises(ApiError):
            await client.create_schedule("echo", "@daily", deduplication_key="k")

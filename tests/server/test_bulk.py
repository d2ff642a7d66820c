"""Bulk actions over HTTP, worked off by the server's duty."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx2
import pytest
from facts import PATIENCE_S
from fake_worker import KEY, TOKEN, FakeWorker, Start

from torpor import engine
from torpor.clock import SystemClock
from torpor.config import Settings
from torpor.errors import ApiError, NotFound
from torpor.sdk.async_client import AsyncClient
from torpor.server import bulk_work
from torpor.server.hub import Hub
from torpor.store.database import Database
from torpor.store.records import BulkAction

pytestmark = pytest.mark.anyio


async def over(client: AsyncClient, bulk_id: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while (found := await client.bulk_action(bulk_id))["status"] == "PENDING":
            await asyncio.sleep(0.01)
    return found


async def triggered(client: AsyncClient, count: int, **options: Any) -> list[str]:
    return [(await client.trigger("echo", n, **options))["id"] for n in range(count)]


async def test_many_runs_are_canceled_by_a_filter(client: AsyncClient, worker: FakeWorker) -> None:
    """A13: a count to confirm, the action, its counts, and the list of what it has canceled."""
    run_ids = await triggered(client, 3, tags=["old"])
    others = await triggered(client, 1, tags=["new"])
    assert await client.bulk_count(tag=["old", "none"], status="QUEUED") == 3
    made = await client.bulk_cancel(tag=["old", "none"], status="QUEUED", name="clear the old ones")
    done = await over(client, made["id"])
    assert done.pop("createdAt") <= done.pop("completedAt")
    counts = {"total": 3, "success": 3, "failure": 0}
    assert done == {
        "id": made["id"],
        "name": "clear the old ones",
        "type": "CANCEL",
        "status": "COMPLETED",
        "counts": counts,
    }
    assert [run["id"] async for run in client.runs(bulk_action=made["id"])] == run_ids[::-1]
    assert [run["id"] async for run in client.runs(status="QUEUED")] == others
    again = await over(client, (await client.bulk_cancel(run_ids))["id"])
    assert again["counts"] == {"total": 3, "success": 0, "failure": 3}
    assert again["failures"][0] == {"runId": run_ids[0], "error": "it had ended: canceled"}
    assert [one["id"] async for one in client.bulk_actions(page_size=1)] == [again["id"], made["id"]]
    assert await client.abort_bulk_action(made["id"]) == {"id": made["id"]}


async def test_many_runs_are_replayed_by_their_ids(client: AsyncClient, worker: FakeWorker) -> None:
    run_ids = await triggered(client, 2)
    made = await client.bulk_replay(run_ids)
    assert (await over(client, made["id"]))["counts"] == {"total": 2, "success": 2, "failure": 0}
    news = [run["id"] async for run in client.runs(bulk_action=made["id"])]
    assert [(await client.run(run_id))["replayedFrom"] for run_id in news] == run_ids[::-1]
    assert [(await client.run(run_id))["payload"] for run_id in news] == [1, 0]


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"action": "cancel"}, 400, "exactly one of filter and runIds"),
    ({"action": "cancel", "filter": {"tag": "a"}, "runIds": ["run_1"]}, 400, "exactly one of filter and runIds"),
    ({"action": "cancel", "filter": {}}, 400, "at least one is needed"),
    ({"action": "cancel", "filter": {"tag": ""}}, 400, "filter.tag names nothing"),
    ({"action": "cancel", "filter": {"taskIdentifier": "echo", "tag": []}}, 400, "filter.tag names nothing"),
    ({"action": "cancel", "filter": {"tags": "a"}}, 400, "there is no 'tags'"),
    ({"action": "cancel", "filter": {"status": "DONE"}}, 400, "'DONE' is not a status"),
    ({"action": "cancel", "filter": {"isTest": "yes"}}, 400, "filter.isTest"),
    ({"action": "cancel", "filter": {"from": "soon"}}, 400, "filter.from: 'soon' is not a date"),
    ({"action": "cancel", "filter": {"period": -1}}, 400, "negative"),
    ({"action": "cancel", "filter": {"batch": 7}}, 400, "filter.batch"),
    ({"action": "cancel", "filter": {"tag": [7]}}, 400, "filter.tag"),
    ({"action": "cancel", "filter": {"queue": {"type": "task"}}}, 400, "filter.queue"),
    ({"action": "delete", "runIds": ["run_1"]}, 400, 'action: "cancel" or "replay"'),
    ({"action": "cancel", "runIds": []}, 400, "runIds: from 1"),
    ({"action": "cancel", "runIds": ["run_1"] * 10_001}, 400, "from 1 to 10000"),
    ({"action": "cancel", "runIds": ["run_1"], "name": "x" * 256}, 400, "name: at most 255"),
    ({"action": "cancel", "runIds": ["run_1"], "why": "x"}, 400, "unknown field"),
    ({"action": "replay", "runIds": ["run_1"], "targetRegion": "eu"}, 422, "targetRegion is not supported"),
]


async def test_what_is_no_bulk_action_is_refused(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        for body, status, told in REFUSED:
            response = await http.post("/api/v1/bulk-actions", json=body)
            assert (response.status_code, told in response.json()["error"]) == (status, True), response.text
        assert (await http.get("/api/v1/bulk-actions")).json() == {"data": [], "pagination": {}}


async def test_a_filter_is_understood_in_all_the_client_s_spellings(
    url: str, client: AsyncClient, worker: FakeWorker
) -> None:
    await triggered(client, 1, tags=["a"])
    now = datetime.now(UTC)
    filters: list[dict[str, Any]] = [
        {"queue": {"type": "task", "name": "echo"}},
        {"queue": [{"type": "custom", "name": "none"}, "task/echo"]},
        {"taskIdentifier": "echo", "isTest": False, "machine": ["small-1x", "micro"]},
        {"tag": "a", "period": "1h", "from": 0},
        {"from": (now.timestamp() - 60) * 1000, "to": "2100-01-01T00:00:00.000Z"},
        {"search": "ech", "version": None},
    ]
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        for given in filters:
            asked = {"action": "cancel", "filter": given, "preview": True}
            assert (await http.post("/api/v1/bulk-actions", json=asked)).json() == {"count": 1}, given


async def test_with_a_personal_token_it_is_said_to_be_by_its_person(
    client: AsyncClient, worker: FakeWorker, url: str
) -> None:
    """U5: the action, and each run that it cancels."""
    (run_id,) = await triggered(client, 1)
    token = (await client.create_key("Grace", personal=True))["key"]
    async with AsyncClient(url, token) as grace:
        made = await grace.bulk_cancel([run_id], name="spring cleaning")
        assert (await over(grace, made["id"]))["by"] == "Grace"
    (*_, end) = [event async for event in client.story(run_id)]
    assert end["data"]["reason"] == "canceled by Grace with the bulk action spring cleaning"


async def test_unknown_actions_are_404(client: AsyncClient) -> None:
    for call in (client.bulk_action("bulk_x"), client.abort_bulk_action("bulk_x")):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(TypeError, match="unknown filter 'tags'"):
        await client.bulk_cancel(tags="a")
    with pytest.raises(ApiError, match="exactly one"):
        await client.bulk_cancel()


async def test_what_a_dead_server_left_is_done_by_the_next(start: Start, database_url: str) -> None:
    """The action was made, nobody was there to hear of it."""
    database = await Database.connect(database_url)
    async with database.transaction() as tx:
        environment = await engine.ensure_environment(tx, "dev", key_hash=b"k", now=datetime.now(UTC))
        asked = engine.BulkRequest("cancel", run_ids=["run_1"])
        made = await engine.create_bulk(tx, environment.id, asked, now=datetime.now(UTC))
    await database.close()
    async with AsyncClient(await start(database_url), KEY) as client:
        assert (await over(client, made.bulk_id))["counts"]["failure"] == 1


@asynccontextmanager
async def server(database_url: str) -> AsyncIterator[Hub]:
    """What the duty acts on, with connections of its own."""
    database = await Database.connect(database_url)
    yield Hub(Settings(secret_key=KEY, worker_token=TOKEN), database, SystemClock())
    await database.close()


async def do(here: Hub, verb: Any, *args: Any, **options: Any) -> Any:
    """One verb in one transaction."""
    async with here.database.transaction() as tx:
        return await verb(tx, *args, now=here.clock.now(), **options)


async def founded(here: Hub, count: int) -> tuple[str, list[str]]:
    """An environment with so many runs, of a task that nobody knows yet."""
    environment = await do(here, engine.ensure_environment, "dev", key_hash=b"k")
    async with here.database.transaction() as tx:
        await tx.execute("update environments set accepts_unknown_tasks = true")
    requests = [engine.TriggerRequest("echo", run_id=f"run_{n}") for n in range(count)]
    await do(here, engine.trigger_all, environment.id, requests)
    return environment.id, [f"run_{n}" for n in range(count)]


async def action(here: Hub, environment_id: str, bulk_id: str) -> BulkAction:
    async with here.database.transaction() as tx:
        found = await engine.read_bulk.bulk_action(tx, environment_id, bulk_id)
    assert found
    return found


async def test_two_servers_that_are_stopped_anywhere_lose_and_double_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time a little later in their duty, until all is done."""
    monkeypatch.setattr(engine, "work_off", partial(engine.work_off, limit=3))
    async with server(database_url) as one, server(database_url) as other:
        environment_id, run_ids = await founded(one, 20)
        bulk_id = (
            await do(one, engine.create_bulk, environment_id, engine.BulkRequest("replay", run_ids=run_ids))
        ).bulk_id
        stopped = 0
        while (await action(one, environment_id, bulk_id)).completed_at is None:
            duties = [asyncio.create_task(bulk_work.work_off(here)) for here in (one, other)]
            for _ in range(3 * stopped):
                await asyncio.sleep(0)
            for duty in duties:
                duty.cancel()
            await asyncio.gather(*duties, return_exceptions=True)
            stopped += 1
        done = await action(one, environment_id, bulk_id)
        assert (done.succeeded, done.failed) == (20, 0)
        async with one.database.transaction() as tx:
            rows = await tx.fetch("select replayed_from from runs where replayed_from is not null")
        assert sorted(row["replayed_from"] for row in rows) == sorted(run_ids)
    assert stopped > 5


async def test_a_run_that_the_database_refuses_to_cancel_stops_no_other(database_url: str) -> None:
    """It fails alone, with the reason; small actions don't wait for large ones."""
    async with server(database_url) as here:
        environment_id, run_ids = await founded(here, 5)
        async with here.database.transaction() as tx:
            await tx.execute(SABOTAGE)
        ids = [
            (await do(here, engine.create_bulk, environment_id, engine.BulkRequest("cancel", run_ids=given))).bulk_id
            for given in (run_ids, ["run_x"])
        ]
        assert await bulk_work.work_off(here) == 6
        done = await action(here, environment_id, ids[0])
        assert (done.succeeded, done.failed) == (4, 1)
        async with here.database.transaction() as tx:
            told = [await engine.read_bulk.problems(tx, bulk_id) for bulk_id in ids]
        assert told == [[("run_2", "the database refused it: sabotaged")], [("run_x", "there is no such run")]]


SABOTAGE = """
create function sabotage() returns trigger language plpgsql as $$ begin raise exception 'sabotaged'; end $$;
create trigger sabotage before update on runs for each row when (old.id = 'run_2') execute function sabotage()
"""

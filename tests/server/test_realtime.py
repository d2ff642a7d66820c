"""Realtime feeds, by raw HTTP: what there is, what has changed, and who may see it. test_realtime_once.py: each change once."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import asyncpg
import httpx2
import pytest
from facts import PATIENCE_S, until
from fake_worker import KEY, FakeWorker, Start
from shape_reader import Follow, Poll, ShapeReader, reading

from torpor.engine import read_feeds
from torpor.sdk.async_client import AsyncClient
from torpor.sdk.debounce import Debounce
from torpor.server.hub import Hub
from torpor.wire.runner import NewWait

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("by_word_alone")]


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with reading(url) as http:
        yield http


# -- a run ------------------------------------------------------------------------------------------------------------


async def test_a_run_is_followed_to_its_end(client: AsyncClient, worker: FakeWorker, follow: Follow) -> None:
    made = await client.trigger("echo", {"n": 1}, tags=["b", 'a "quoted" \\ tag'], metadata={"k": [1]}, ttl="10m")
    reader = follow(f"runs/{made['id']}")
    (first,) = await reader.read()
    assert first == {
        "id": made["id"],
        "friendlyId": made["id"],
        "taskIdentifier": "echo",
        "status": "PENDING",
        "createdAt": first["createdAt"],
        "updatedAt": first["createdAt"],
        "queuedAt": first["createdAt"],
        **dict.fromkeys(("startedAt", "delayUntil", "expiredAt", "completedAt", "output", "outputType", "error")),
        **dict.fromkeys(("number", "usageDurationMs", "costInCents", "baseCostInCents"), "0"),
        "isTest": "f",
        "ttl": "600s",
        "payload": '{"n":1}',
        "payloadType": "application/json",
        "metadata": '{"k":[1]}',
        "metadataType": "application/json",
        "runTags": '{"a \\"quoted\\" \\\\ tag","b"}',
        "realtimeStreams": "{}",
    }
    assert len(first["createdAt"] or "") == len("2026-01-01T00:00:00.000")
    statuses = [first["status"]]
    poll = Poll(reader)
    given = await worker.take()
    statuses += [row["status"] for row in await poll.told()]
    poll = Poll(reader)
    await worker.start(given)
    statuses += [row["status"] for row in await poll.told()]
    poll = Poll(reader)
    await worker.block(given, NewWait("wait_1", "time", duration_s=3600))
    statuses += [row["status"] for row in await poll.told()]
    poll = Poll(reader)
    await worker.finish(given, [1, None])
    (last,) = await poll.told()
    assert statuses == ["PENDING", "DEQUEUED", "EXECUTING", "WAITING_TO_RESUME"]
    assert (last["status"], last["output"], last["outputType"]) == (
        "COMPLETED_SUCCESSFULLY",
        "[1,null]",
        "application/json",
    )
    assert last["completedAt"]
    assert last["startedAt"]


async def test_whatever_changes_a_run_is_announced(
    client: AsyncClient, worker: FakeWorker, follow: Follow, http: httpx2.AsyncClient, url: str
) -> None:
    """By each verb."""
    debounce = Debounce("key", "1h")
    run_id: str = (await client.trigger("echo", debounce=debounce, max_attempts=2))["id"]
    reader = follow(f"runs/{run_id}")
    await reader.read()

    async def changes(verb: Awaitable[Any], **values: str | None) -> Any:
        """Once what is under way has been told, this alone is awaited."""
        before = reader.rows[run_id]
        told = asyncio.create_task(reader.until(run_id, **values))
        done = await verb
        async with asyncio.timeout(PATIENCE_S):
            assert await told != before
        return done

    delay = reader.rows[run_id]["delayUntil"]
    poll = Poll(reader)
    await client.trigger("echo", debounce=debounce)
    assert [row["delayUntil"] != delay for row in await poll.told()] == [True]
    await changes(client.reschedule(run_id, 0.05), status="PENDING")
    given = await changes(worker.take(), status="DEQUEUED")
    await changes(worker.start(given), status="EXECUTING")
    path = f"{url}/api/v1/runs/{run_id}"
    await changes(http.put(f"{path}/metadata", json={"metadata": {"k": 1}}), metadata='{"k":1}')
    await changes(http.post(f"{path}/tags", json={"tags": ["new"]}), runTags='{"new"}')
    await changes(
        http.post(f"{url}/realtime/v1/streams/{run_id}/self/s/append", content="part"), realtimeStreams='{"s"}'
    )
    one, other = [(await client.create_token())["id"] for _ in range(2)]
    await changes(worker.block(given, NewWait("w1", "token", waitpoint_id=one)), status="WAITING_TO_RESUME")
    await client.complete_token(one)
    await changes(worker.collect(given, "w1"), status="EXECUTING")
    await changes(worker.block(given, NewWait("w2", "token", waitpoint_id=other)), status="WAITING_TO_RESUME")
    await worker.suspend(given)
    await changes(client.complete_token(other), status="PENDING")
    given = await changes(worker.take(), status="DEQUEUED")
    await changes(worker.start(given, ["w2"]), status="EXECUTING")
    await changes(worker.fail(given, "once more"), status="PENDING")
    await changes(client.cancel(run_id), status="CANCELED")


async def test_what_has_changed_meanwhile_is_told_at_once(
    client: AsyncClient, worker: FakeWorker, follow: Follow
) -> None:
    made = await client.trigger("echo")
    live, not_live = follow(f"runs/{made['id']}"), follow(f"runs/{made['id']}")
    await live.read()
    await not_live.read()
    assert await not_live.read() == []
    await worker.take()
    assert [row["status"] for row in await live.read(live=True)] == ["DEQUEUED"]
    assert [row["status"] for row in await not_live.read()] == ["DEQUEUED"]
    assert await not_live.read() == []


async def test_what_nobody_sees_tells_nobody(client: AsyncClient, worker: FakeWorker, follow: Follow) -> None:
    """Neither a lease that is renewed nor a line of the log."""
    made = await client.trigger("echo")
    given = await worker.take_and_start()
    reader = follow(f"runs/{made['id']}")
    await reader.read()
    await worker.heartbeat(given)
    await worker.log(given, 1, "hello")
    assert await reader.read() == []


async def test_every_end_says_so_with_an_error_that_the_client_knows(
    client: AsyncClient, worker: FakeWorker, follow: Follow
) -> None:
    failed, canceled = await client.trigger("echo"), await client.trigger("echo", delay="1h")
    await worker.fail(await worker.take_and_start(), "no", retryable=False)
    await client.cancel(canceled["id"])
    (row,) = await follow(f"runs/{failed['id']}").read()
    assert (row["status"], bool(row["completedAt"])) == ("COMPLETED_WITH_ERRORS", True)
    told = {"type": "BUILT_IN_ERROR", "name": "ValueError", "message": "no", "stackTrace": "Traceback …"}
    assert json.loads(row["error"] or "") == told
    (row,) = await follow(f"runs/{canceled['id']}").read()
    assert (row["status"], bool(row["completedAt"])) == ("CANCELED", True)
    assert json.loads(row["error"] or "")["code"] == "TASK_RUN_CANCELLED"


async def test_a_large_output_is_told_by_its_path(start: Start, database_url: str) -> None:
    url = await start(database_url, offload_bytes=10)
    worker = FakeWorker(url)
    await worker.come_up()
    async with AsyncClient(url, KEY) as client, reading(url) as http:
        made = await client.trigger("echo", "a long payload")
        await worker.finish(await worker.take_and_start(), "a long output")
        (row,) = await ShapeReader(http, url, f"runs/{made['id']}").read()
        for field in ("payload", "output"):
            assert row[f"{field}Type"] == "application/store"
            answer = await http.get(f"{url}/api/v1/packets/{row[field]}")
            assert (await http.get(answer.json()["presignedUrl"])).json() == f"a long {field}"
    await worker.close()


async def test_clients_from_before_there_was_dequeued_see_it_as_executing(
    client: AsyncClient, worker: FakeWorker, url: str
) -> None:
    made = await client.trigger("echo")
    await worker.take()
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
        answer = await http.get(f"{url}/realtime/v1/runs/{made['id']}")
    assert answer.json()[0]["value"]["status"] == "EXECUTING"
    assert answer.headers["electric-shape-id"] == answer.headers["electric-handle"]
    assert answer.headers["electric-chunk-last-offset"] == answer.headers["electric-offset"]


# -- batches and tags -------------------------------------------------------------------------------------------------


async def test_a_batch_is_followed_with_the_runs_that_its_items_have_joined(
    client: AsyncClient, worker: FakeWorker, follow: Follow, http: httpx2.AsyncClient, url: str
) -> None:
    keyed = {"options": {"idempotencyKey": "k"}}
    there_before: str = (await http.post(f"{url}/api/v1/tasks/echo/trigger", json=keyed)).json()["id"]
    other: str = (await client.trigger("echo"))["id"]
    body = {"runCount": 2}
    batch_id = (await http.post(f"{url}/api/v3/batches", json=body)).json()["id"]
    reader = follow(f"batches/{batch_id}")
    assert await reader.read() == []
    poll = Poll(reader)
    items = [{"index": 0, "task": "echo"}, {"index": 1, "task": "echo", **keyed}]
    lines = "\n".join(map(json.dumps, items))
    await http.post(
        f"{url}/api/v3/batches/{batch_id}/items", content=lines, headers={"content-type": "application/x-ndjson"}
    )
    runs = {row["id"] for row in await poll.told()}
    assert len(runs) == 2
    assert there_before in runs
    given = {each.run_id: each for each in await worker.dequeue()}
    await worker.finish(given[other], 1)
    await worker.finish(given[there_before], 2)
    row = await reader.until(there_before, status="COMPLETED_SUCCESSFULLY")
    assert row["output"] == "2"
    assert reader.rows.keys() == runs


async def test_a_tag_feed_shows_runs_with_all_of_its_tags_and_those_that_come(
    client: AsyncClient, worker: FakeWorker, follow: Follow
) -> None:
    both = (await client.trigger("echo", tags=["a", "b", "c"]))["id"]
    await client.trigger("echo", tags=["a"])
    tagged, everything = follow("runs", tags="b,a"), follow("runs")
    assert [row["id"] for row in await tagged.read()] == [both]
    assert len(await everything.read()) == 2
    poll, other_poll = Poll(tagged), Poll(everything)
    new = (await client.trigger("echo", tags=["b", "a"]))["id"]
    assert [row["id"] for row in await poll.told()] == [new]
    assert [row["id"] for row in await other_poll.told()] == [new]


async def test_a_tag_feed_goes_back_as_far_as_it_was_asked_to_and_stays_there(
    client: AsyncClient, worker: FakeWorker, follow: Follow, database_url: str, http: httpx2.AsyncClient, url: str
) -> None:
    old = (await client.trigger("echo", tags=["t"]))["id"]
    new = (await client.trigger("echo", tags=["t"]))["id"]
    connection = await asyncpg.connect(database_url)
    await connection.execute("update runs set created_at = created_at - interval '2 h' where id = $1", old)
    hour, day, too_far = (follow("runs", tags="t", createdAt=length) for length in ("1h", "24h", "30d"))
    assert [row["id"] for row in await hour.read()] == [new]
    assert len(await day.read()) == 2
    # Both runs have grown old since; but what is followed is followed on.
    await connection.execute("update runs set created_at = created_at - interval '23 h', metadata = '1'")
    assert await hour.read() == []
    assert [row["id"] for row in await follow("runs", tags="t").read()] == [new]
    assert [row["id"] for row in await too_far.read()] == [new]
    await connection.close()
    refused = await http.get(f"{url}/realtime/v1/runs", params={"createdAt": "soon"})
    assert refused.status_code == 400


async def test_what_is_too_much_for_one_answer_comes_in_pages(
    client: AsyncClient, worker: FakeWorker, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_feeds, "PAGE_RUNS", 2)
    made = [(await client.trigger("echo", tags=["t"]))["id"] for _ in range(5)]
    reader = follow("runs", tags="t")
    assert sorted(row["id"] or "" for row in await reader.read()) == sorted(made)
    assert reader.pages == 3
    # So many changes that they begin anew.
    poll = Poll(reader)
    await worker.dequeue()
    await poll.told()
    assert {row["status"] for row in reader.rows.values()} == {"DEQUEUED"}


async def test_a_single_large_run_fills_a_page_by_itself(
    client: AsyncClient, worker: FakeWorker, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_feeds, "PAGE_BYTES", 100)
    for _ in range(3):
        await client.trigger("echo", "x" * 200, tags=["t"])
    reader = follow("runs", tags="t")
    assert (len(await reader.read()), reader.pages) == (3, 3)


# -- many, and those who leave ----------------------------------------------------------------------------------------


async def test_many_followers_of_a_feed_cost_one_query(
    client: AsyncClient, worker: FakeWorker, follow: Follow, hubs: list[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await client.trigger("echo", tags=["t"])
    readers = [follow("runs", tags="t") for _ in range(40)]
    for reader in readers:
        await reader.read()
    asked = 0
    look = read_feeds.runs_of

    async def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal asked
        asked += 1
        return await look(*arguments, **named)

    monkeypatch.setattr(read_feeds, "runs_of", counted)
    for verb in (worker.take, lambda: client.cancel(made["id"], at_once=True)):
        polls = [Poll(reader) for reader in readers]
        await until(lambda: hubs[0].feeds.held.total() == len(readers))
        await verb()
        for poll in polls:
            assert [row["id"] for row in await poll.told()] == [made["id"]]
    assert asked < 15


async def test_who_hangs_up_leaves_nothing_behind(
    start: Start, database_url: str, hubs: list[Hub], caplog: pytest.LogCaptureFixture
) -> None:
    """Seen by the limit: while one subscription is open there is no room for another."""
    url = await start(database_url, realtime_subscriptions=1)
    async with AsyncClient(url, KEY) as client, reading(url) as http:
        worker = FakeWorker(url)
        await worker.come_up()
        made = await client.trigger("echo", delay="1h")
        reader, other = ShapeReader(http, url, f"runs/{made['id']}"), ShapeReader(http, url, "runs")
        await reader.read()
        await other.read()
        poll = Poll(reader)
        await until(lambda: hubs[0].feeds.held.total() == 1)
        refused = await other.ask(live=True)
        assert refused.status_code == 429
        assert refused.json() == {
            "error": "this environment has 1 realtime subscriptions open, which is its limit",
            "limit": 1,
            "value": 2,
        }
        poll.task.cancel()
        await asyncio.gather(poll.task, return_exceptions=True)
        await until(lambda: not hubs[0].feeds.held)
        let_in = Poll(other)
        await until(lambda: hubs[0].feeds.held.total() == 1)
        await client.cancel(made["id"])
        assert [row["status"] for row in await let_in.told()] == ["CANCELED"]
        await worker.close()
    assert not caplog.records


# -- who may, and what ------------------------------------------------------------------------------------------------


async def test_columns_can_be_skipped_and_a_token_has_the_last_word(
    client: AsyncClient, worker: FakeWorker, follow: Follow, url: str
) -> None:
    made = await client.trigger("echo", {"secret": 1}, tags=["t"])
    reader = follow("runs", tags="t", skipColumns="payload,output,id,createdAt,updatedAt,friendlyId,status,no_column")
    (row,) = await reader.read()
    assert {"payload", "output"}.isdisjoint(row)
    assert {"id", "createdAt", "updatedAt", "friendlyId", "status", "payloadType"} <= row.keys()
    asked = {"scopes": [f"read:runs:{made['id']}"], "realtime": {"skipColumns": ["payload", "metadata"]}}
    token = (await reader.http.post(f"{url}/api/v1/auth/public-tokens", json=asked)).json()["token"]
    async with reading(url, token) as http:
        (row,) = await ShapeReader(http, url, f"runs/{made['id']}", skipColumns="output").read()
    assert {"payload", "metadata"}.isdisjoint(row)
    assert "output" in row


SCOPES = {
    "read:runs": (200, 200, 200),
    "read:runs:{run}": (200, 403, 403),
    "read:tags:t": (200, 200, 403),
    "read:tags": (200, 200, 403),
    "read:tags:u": (403, 403, 403),
    "read:batch:{batch}": (200, 403, 200),
    "read:batch:batch_other": (403, 403, 403),
    "read:tasks:echo": (200, 403, 403),
    "write:runs": (403, 403, 403),
}
"""What a token with this scope gets of a run, of its tag, and of its batch."""


async def test_a_public_token_opens_what_its_scope_says(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    made = await client.batch_trigger("echo", [1], tags=["t"])
    (run_id,) = (await client.batch(made["id"]))["runs"]
    paths = (f"runs/{run_id}", "runs?tags=t,s", f"batches/{made['id']}")
    told: dict[str, tuple[int, ...]] = {}
    for scope in SCOPES:
        token = await client.create_public_token([scope.format(run=run_id, batch=made["id"])])
        async with reading(url, token, origin="https://page.example") as http:
            answers = [await http.get(f"{url}/realtime/v1/{path}") for path in paths]
        told[scope] = tuple(answer.status_code for answer in answers)
        assert all(answer.headers["access-control-allow-origin"] == "*" for answer in answers)
        assert all("electric-offset" in answer.headers["access-control-expose-headers"] for answer in answers)
    assert told == SCOPES


async def test_what_is_not_there_is_404(follow: Follow) -> None:
    for path in ("runs/run_x", "batches/batch_x"):
        assert (await follow(path).ask()).status_code == 404


async def test_a_run_that_is_deleted_ends_its_feed(
    client: AsyncClient, worker: FakeWorker, follow: Follow, database_url: str
) -> None:
    made = await client.trigger("echo", delay="1h")
    reader = follow(f"runs/{made['id']}")
    await reader.read()
    asked = asyncio.create_task(reader.ask(live=True))
    connection = await asyncpg.connect(database_url)
    await connection.execute("delete from events")
    await connection.execute("delete from runs")
    await connection.execute("select pg_notify('torpor', $1)", json.dumps(["run", {"run_id": made["id"]}]))
    await connection.close()
    assert (await asked).status_code == 404
    assert (await reader.ask()).status_code == 404

"""Queries over runs, as they are asked and answered."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx2
import pytest
from fake_worker import KEY, FakeWorker

from torpor.engine import query
from torpor.errors import ApiError
from torpor.sdk.async_client import AsyncClient
from torpor.server import query as server_query

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        yield http


@pytest.fixture
async def some_runs(client: AsyncClient, worker: FakeWorker) -> list[str]:
    """Two that are over, and one that isn't."""
    run_ids = [(await client.trigger("echo", n, tags=["a,b", 'c"d']))["id"] for n in range(3)]
    first, second, _ = sorted(await worker.dequeue(), key=lambda given: run_ids.index(given.run_id))
    for given in (first, second):
        await worker.start(given)
    await worker.finish(first, "done")
    error = {"error": 'a "quoted", cause'}
    for _ in range(3):
        await worker.fail(second, error["error"], retryable=False)
    return run_ids


async def refusal(client: AsyncClient, text: str, **more: Any) -> str:
    with pytest.raises(ApiError) as refused:
        await client.query(text, **more)
    assert refused.value.status == 400
    return str(refused.value)


async def test_runs_are_counted_grouped_and_ordered(client: AsyncClient, some_runs: list[str]) -> None:
    assert await client.query("select status, count() as n from runs group by status order by status") == [
        {"status": "Completed", "n": 1},
        {"status": "Dequeued", "n": 1},
        {"status": "Failed", "n": 1},
    ]
    (row,) = await client.query(
        """SELECT task_identifier AS task, countIf(is_finished = 1) / count() AS whole, avg(depth) AS depth, uniq(status),
                  quantile(0.5)(total_duration) >= 0 AS took, max(error_message) AS error
           FROM runs r WHERE r.triggered_at > now() - INTERVAL 1 HOUR AND has(tags, 'a,b') GROUP BY task HAVING count() > 2"""
    )
    assert row == {"task": "echo", "whole": 0, "depth": 0.0, "uniq": 3, "took": True, "error": 'a "quoted", cause'}
    (first,) = await client.query("select * from runs order by triggered_at limit 1")
    assert first.keys() == query.RUNS.keys()
    assert (first["run_id"], first["tags"], first["environment"]) == (some_runs[0], ["a,b", 'c"d'], "dev")
    assert first["triggered_at"].endswith("Z")


async def test_they_may_be_told_as_csv(http: httpx2.AsyncClient, some_runs: list[str]) -> None:
    asked = "select status, depth, error_message, tags, is_test = 1 as t from runs order by triggered_at desc"
    body = (await http.post("/api/v1/query", json={"query": asked, "format": "csv"})).json()
    tags = '"[""a,b"",""c\\""d""]"'
    assert body == {
        "format": "csv",
        "results": "status,depth,error_message,tags,t\r\n"
        f"Dequeued,0,,{tags},false\r\n"
        f'Failed,0,"a ""quoted"", cause",{tags},false\r\n'
        f"Completed,0,,{tags},false\r\n",
    }
    body = (
        await http.post("/api/v1/query", json={"query": "select 'a\rb' as t from runs limit 1", "format": "csv"})
    ).json()
    assert body["results"] == 't\r\n"a\rb"\r\n', "what could end a line is in quotes"


async def test_results_have_a_limit_of_bytes(
    client: AsyncClient, some_runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most rows and columns of the longest texts would be gigabytes, and a server holds them all."""
    monkeypatch.setattr(query, "MAX_BYTES", 2000)
    long = f"select '{'x' * 900}' as a from runs"
    assert len(await client.query(f"{long} limit 2")) == 2
    assert "the results have more than 2000 bytes" in await refusal(client, long)
    monkeypatch.undo()
    assert len(await client.query(long)) == 3


async def test_a_span_of_time_is_asked_and_by_default_it_is_a_week(
    client: AsyncClient, some_runs: list[str], database_url: str, http: httpx2.AsyncClient
) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            "update runs set created_at = created_at - interval '8 days' where id = $1", some_runs[0]
        )
        await connection.execute(
            "update runs set created_at = created_at - interval '1 hour' where id = $1", some_runs[1]
        )
    finally:
        await connection.close()
    count = "select count() as n from runs"
    assert await client.query(count) == [{"n": 2}]
    assert await client.query(count, period="30m") == [{"n": 1}]
    assert await client.query(count, period="9d") == [{"n": 3}]
    for body, n in (
        ({"from": "2020-01-01T00:00:00Z"}, 3),
        ({"from": "2020-01-01T00:00:00Z", "to": "2020-01-02T00:00:00Z"}, 0),
        ({"period": None, "from": None, "to": None, "scope": "environment"}, 2),
    ):
        assert (await http.post("/api/v1/query", json={"query": count, **body})).json()["results"] == [{"n": n}]
    for body in ({"period": "soon"}, {"from": "soon"}, {"scope": "organization"}, {"format": "xml"}, {"query": 1}):
        assert (await http.post("/api/v1/query", json={"query": count, **body})).status_code == 400


async def test_what_it_cannot_be_asked_is_a_400_that_says_what(client: AsyncClient, some_runs: list[str]) -> None:
    assert "no table api_keys" in await refusal(client, "select 1 from api_keys")
    assert "no function pg_sleep" in await refusal(client, "select pg_sleep(1) from runs")
    for text, reason in {
        "select 1/0 from runs": "division by zero",
        "select status::bigint from runs": "invalid input syntax",
        "select status from runs group by queue": "must appear in the GROUP BY clause",
        "select 1 from runs where count() > 1": "aggregate functions are not allowed in WHERE",
        "select sum(status) from runs": "function sum(text) does not exist",
        "select 1 from runs order by 7": "position 7 is not in select list",
        "select 1 from runs where triggered_at > 'soon'": "invalid input syntax",
        "select '4713-01-01 BC'::timestamptz from runs": "a date that can't be told",
        "select '99999-01-01'::date from runs": "a date that can't be told",
        "select 1 from runs where queue like '%\\'": "LIKE pattern must not end with escape character",
        "select " + "*".join(["999999999999999"] * 200) + " from runs": "out of range",
    }.items():
        assert reason in await refusal(client, text)


async def other_environment(database_url: str) -> None:
    """With a run whose every text says so, and whose depth is 7."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            """insert into environments (id, project, slug, created_at, checkpoint_retention_s)
                   values ('env_o', 'default', 'other', now(), 0);
               insert into runs (id, environment_id, task_id, state, available_at, created_at, updated_at, queue, preset,
                                 max_attempts, depth, tags)
                   values ('run_hidden', 'env_o', 'hidden', 'queued', now(), now(), now(), 'hidden', 'hidden', 1,
                           7, '{hidden}')"""
        )
    finally:
        await connection.close()


async def test_nothing_tells_of_another_environments_runs(
    client: AsyncClient, some_runs: list[str], database_url: str
) -> None:
    await other_environment(database_url)
    for text in (
        "select count() as n from runs where true or environment = 'other'",
        "select count() as n from runs where 1 = 1 or run_id = 'run_hidden' or not (1 = 2)",
        # An error at a row that isn't ours would tell of it.
        "select count() as n from runs where 1 / (depth - 7) = 0 or true",
        "select count() as n from runs where (case when task_identifier = 'hidden' then 'x' else '1' end)::bigint = 1",
        "select count() as n from runs having count() = 3 or max(1 / (depth - 7)) = 1",
    ):
        assert await client.query(text) == [{"n": 3}], text
    for text in ("select * from runs", "select max(run_id), min(queue), max(depth) from runs"):
        assert "hidden" not in str(await client.query(text))
    assert await client.query("select max(depth) as most from runs") == [{"most": 0}]


async def test_a_query_writes_nothing_and_ends_in_time(
    client: AsyncClient, http: httpx2.AsyncClient, some_runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the database itself, should the grammar ever let something through."""
    monkeypatch.setitem(query.RUNS, "nap", query.Column("text", "pg_sleep(5)::text", ""))
    with monkeypatch.context() as brief:
        brief.setattr(query, "_SETTINGS", query._SETTINGS.replace("'10s'", "'50ms'"))
        assert "took longer than" in await refusal(client, "select nap from runs")
    monkeypatch.delitem(query.RUNS, "nap")
    monkeypatch.setitem(query.RUNS, "writes", query.Column("text", "nextval('events_id_seq')::text", ""))
    assert (await http.post("/api/v1/query", json={"query": "select writes from runs"})).status_code == 500, (
        "a bug of ours"
    )
    monkeypatch.delitem(query.RUNS, "writes")
    assert await client.query("select count() as n from runs") == [{"n": 3}], "and the connection is as it was"


async def test_three_are_carried_out_at_once(
    client: AsyncClient, http: httpx2.AsyncClient, some_runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, begun = asyncio.Event(), asyncio.Semaphore(0)
    ask = query.ask

    async def slowly(*args: Any) -> Any:
        begun.release()
        await let_go.wait()
        return await ask(*args)

    monkeypatch.setattr(query, "ask", slowly)
    body = {"query": "select count() as n from runs"}
    asked = [asyncio.create_task(http.post("/api/v1/query", json=body)) for _ in range(server_query.AT_ONCE)]
    for _ in asked:
        await begun.acquire()
    assert (await http.post("/api/v1/query", json=body)).status_code == 429
    let_go.set()
    assert [(await one).json()["results"] for one in asked] == [[{"n": 3}]] * 3
    assert (await http.post("/api/v1/query", json=body)).status_code == 200


async def test_what_there_is_to_ask_is_told(http: httpx2.AsyncClient, client: AsyncClient) -> None:
    (table,) = await client.query_tables()
    assert (table["name"], table["timeColumn"]) == ("runs", "triggered_at")
    for column in table["columns"]:
        assert await client.query(f"select {column['name']} from runs") == []
    assert (await http.get("/api/v1/query/dashboards")).json() == {"dashboards": []}

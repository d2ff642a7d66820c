"""Realtime feeds, by raw HTTP: each change once, and none missed, whatever becomes of transactions, servers and databases."""

import asyncio
import json
from collections.abc import Awaitable
from itertools import product
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from facts import until
from fake_worker import KEY, TOKEN, FakeWorker, Start
from shape_reader import Follow, Poll, ShapeReader, reading

from torpor.config import Settings
from torpor.sdk.async_client import AsyncClient
from torpor.server.hub import Hub
from torpor.server.serve import serve

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("by_word_alone")]


async def test_changes_that_commit_in_another_order_than_they_began_are_told_once_each(
    client: AsyncClient, worker: FakeWorker, follow: Follow, database_url: str
) -> None:
    """The first transaction has the lower number and commits last: whoever went by numbers would never see it."""
    batch = await client.batch_trigger("echo", [1, 2], tags=["t"])
    first_run, second_run = (await client.batch(batch["id"]))["runs"]
    tagged, batched, alone = follow("runs", tags="t"), follow(f"batches/{batch['id']}"), follow(f"runs/{first_run}")
    for reader in (tagged, batched, alone):
        await reader.read()
    change = "update runs set metadata = '{\"changed\": 1}' where id = $1"
    slow, quick = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute(change, first_run)
    await quick.execute(change, second_run)
    assert await alone.read() == []
    for reader in (tagged, batched):
        assert [row["id"] for row in await reader.read()] == [second_run]
        assert await reader.read() == []
    await transaction.commit()
    for reader in (tagged, batched, alone):
        assert [row["id"] for row in await reader.read()] == [first_run]
        assert await reader.read() == []
    await slow.close()
    await quick.close()


async def test_an_offset_stays_short_however_many_transactions_are_at_work(
    client: AsyncClient, worker: FakeWorker, follow: Follow, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then some of what was told may come again, and nothing is missed."""
    monkeypatch.setattr("torpor.server.shapes.MAX_RUNNING", 1)
    runs = [(await client.trigger("echo", tags=["t"]))["id"] for _ in range(4)]
    change = "update runs set metadata = '{\"changed\": 1}' where id = $1"
    connections = [await asyncpg.connect(database_url) for _ in runs]
    transactions = [each.transaction() for each in connections]
    for run_id, connection, transaction in zip(runs, connections, transactions, strict=True):
        await transaction.start()
        await connection.execute(change, run_id)
    reader = follow("runs", tags="t")
    await reader.read()
    await transactions.pop().commit()
    assert [row["id"] for row in await reader.read()] == [runs[3]]
    assert reader.offset.count("_") == 4
    for transaction in transactions:
        await transaction.commit()
    assert {row["id"] for row in await reader.read()} >= set(runs[:3])
    for connection in connections:
        await connection.close()


async def test_two_servers_answer_in_turn(start: Start, database_url: str) -> None:
    one, other = await start(database_url), await start(database_url)
    worker = FakeWorker(one)
    await worker.come_up()
    async with AsyncClient(one, KEY) as client, reading(one) as http:
        made = await client.trigger("echo", tags=["t"])
        readers = [ShapeReader(http, one, f"runs/{made['id']}"), ShapeReader(http, one, "runs", tags="t")]
        seen: list[list[str | None]] = [[row["status"] for row in await reader.read()] for reader in readers]

        async def told(verb: Awaitable[Any]) -> Any:
            """What happens while both are held by one server, which then leaves them to the other."""
            polls = [Poll(reader) for reader in readers]
            done = await verb
            for statuses, poll, reader in zip(seen, polls, readers, strict=True):
                statuses += [row["status"] for row in await poll.told()]
                reader.url = other if reader.url == one else one
            return done

        given = await told(worker.take())
        await told(worker.start(given))
        await told(worker.finish(given))
    assert seen == [["PENDING", "DEQUEUED", "EXECUTING", "COMPLETED_SUCCESSFULLY"]] * 2
    await worker.close()


async def test_a_server_that_stops_ends_its_polls_and_the_next_one_goes_on(
    start: Start, database_url: str, hubs: list[Hub], tmp_path: Path
) -> None:
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    settings = Settings(port=0, secret_key=KEY, worker_token=TOKEN, data_dir=tmp_path / "data")
    serving = asyncio.create_task(serve(settings, database_url, stop=stop, ready=ready.set_result))
    url = await ready
    worker = FakeWorker(url)
    await worker.come_up()
    await worker.close()
    async with AsyncClient(url, KEY) as client, reading(url) as http:
        made = await client.trigger("echo", delay="1h", tags=["t"])
        readers = [ShapeReader(http, url, f"runs/{made['id']}"), ShapeReader(http, url, "runs", tags="t")]
        for reader in readers:
            await reader.read()
        polls = [Poll(reader) for reader in readers]
        await until(lambda: hubs[0].feeds.held.total() == len(polls))
        stop.set()
        for poll in polls:
            assert await poll.told() == []
        await serving
    url = await start(database_url)
    async with AsyncClient(url, KEY) as client, reading(url) as http:
        await client.cancel(made["id"])
        for reader in readers:
            reader.http, reader.url = http, url
            assert [row["status"] for row in await reader.read(live=True)] == ["CANCELED"]


async def test_what_was_announced_while_nobody_listened_is_told(
    client: AsyncClient, worker: FakeWorker, follow: Follow, database_url: str
) -> None:
    made = await client.trigger("echo")
    readers = [follow(f"runs/{made['id']}"), follow("runs")]
    for reader in readers:
        await reader.read()
    polls = [Poll(reader) for reader in readers]
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        """select pg_terminate_backend(pid) from pg_stat_activity
           where datname = current_database() and query ilike 'listen%'"""
    )
    await connection.execute("update runs set metadata = '{\"unheard\": 1}'")  # announced to nobody, as it happens
    for poll in polls:
        assert [row["metadata"] for row in await poll.told()] == ['{"unheard":1}']
    await connection.close()


OTHERS_OFFSETS = ("790_1_790_0", "790_1_790_1700000000", "790_1_790_0.run_x", "1795356920939_921016", "now", "9" * 300)


async def test_who_has_seen_another_database_begins_anew(
    client: AsyncClient, worker: FakeWorker, follow: Follow
) -> None:
    """After a restore into another cluster, or with an offset that isn't ours at all."""
    await client.trigger("echo", tags=["t"])
    for offset, live in product(OTHERS_OFFSETS, (False, True)):
        reader = follow("runs", tags="t")
        await reader.read()
        reader.offset = offset
        assert len(await reader.read(live=live)) == 1


async def test_a_row_that_was_restored_from_another_cluster_is_no_news(
    client: AsyncClient, worker: FakeWorker, follow: Follow, database_url: str
) -> None:
    """Its transaction's number is yet to be given here."""
    made = await client.trigger("echo", tags=["t"])
    connection = await asyncpg.connect(database_url)
    await connection.execute("update runs set changed_in = '999999999'")
    for reader in (follow("runs", tags="t"), follow(f"runs/{made['id']}")):
        assert len(await reader.read()) == 1
        assert await reader.read() == []
        poll = Poll(reader)
        await connection.execute("update runs set metadata = jsonb_build_object('at', now())")
        await connection.execute("select pg_notify('torpor', $1)", json.dumps(["run", {"run_id": made["id"]}]))
        assert len(await poll.told()) == 1
        await connection.execute("update runs set changed_in = '999999999'")
    await connection.close()

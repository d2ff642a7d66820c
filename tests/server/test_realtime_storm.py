"""A storm of changes that commit in any order, and readers who go from server to server: each change once, none missed."""

import asyncio
import contextlib
import json
import random
from collections.abc import Sequence

import asyncpg
import httpx2
import pytest
from facts import PATIENCE_S
from fake_worker import KEY, FakeWorker, Start
from shape_reader import Row, ShapeReader, reading

from torpor.sdk.async_client import AsyncClient

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("by_word_alone")]

SEED = 7
COUNT_UP = """
    update runs set metadata = jsonb_build_object('n', (metadata->>'n')::int + 1)
    where id in (select id from runs where id = any($1::text[]) order by id for no key update)"""


def number(row: Row) -> int:
    return json.loads(row["metadata"] or "")["n"]


class Reader:
    """Follows a feed, and looks that the number of each run only ever goes up."""

    def __init__(self, shape: ShapeReader, urls: Sequence[str], chance: random.Random) -> None:
        self.shape, self._urls, self._chance = shape, urls, chance
        self.numbers: dict[str | None, int] = {}

    async def follow(self) -> None:
        """For ever. One poll in ten is given up in the middle, and asked again from the same place."""
        self._take(await self.shape.read())
        while True:
            self.shape.url = self._chance.choice(self._urls)
            if self._chance.random() < 0.1:
                with contextlib.suppress(TimeoutError, httpx2.ReadError):
                    async with asyncio.timeout(self._chance.uniform(0, 0.05)):
                        await self.shape.ask(live=True)
            else:
                self._take(await self.shape.read(live=self._chance.random() < 0.9))

    def _take(self, rows: list[Row]) -> None:
        for row in rows:
            known = self.numbers.get(row["id"], -1)
            assert number(row) > known, f"{self.shape.path} tells {row['id']} at {number(row)} after {known}"
            self.numbers[row["id"]] = number(row)


async def write(database_url: str, runs: list[str], chance: random.Random) -> None:
    """Transactions of one run or several, which are at work for different times; some are rolled back."""
    connection = await asyncpg.connect(database_url)
    for _ in range(50):
        chosen = chance.sample(runs, chance.choice([1, 1, 2, 5]))
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(COUNT_UP, chosen)
        for run_id in chosen:
            await connection.execute("select pg_notify('torpor', $1)", json.dumps(["run", {"run_id": run_id}]))
        await asyncio.sleep(chance.uniform(0, 0.03))
        await (transaction.rollback() if chance.random() < 0.1 else transaction.commit())
    await connection.close()


async def test_in_a_storm_of_changes_each_is_told_once_and_none_is_missed(start: Start, database_url: str) -> None:
    chance = random.Random(SEED)
    urls = [await start(database_url), await start(database_url)]
    worker = FakeWorker(urls[0])
    await worker.come_up()
    await worker.close()
    async with AsyncClient(urls[0], KEY) as client, reading(urls[0]) as http:
        batch = await client.batch_trigger("echo", [None] * 20, tags=["t"], delay="1h", metadata={"n": 0})
        runs: list[str] = (await client.batch(batch["id"]))["runs"]
        shapes = [ShapeReader(http, urls[0], "runs", tags="t") for _ in range(5)]
        shapes += [ShapeReader(http, urls[0], f"batches/{batch['id']}") for _ in range(3)]
        shapes += [ShapeReader(http, urls[0], f"runs/{run_id}") for run_id in runs[:5]]
        readers = [Reader(shape, urls, chance) for shape in shapes]
        following = [asyncio.create_task(reader.follow()) for reader in readers]
        await asyncio.gather(*(write(database_url, runs, random.Random(SEED + nth)) for nth in range(5)))
        connection = await asyncpg.connect(database_url)
        rows = await connection.fetch("select id, (metadata->>'n')::int as n from runs")
        await connection.close()
        numbers = {row["id"]: row["n"] for row in rows}
        async with asyncio.timeout(PATIENCE_S):
            while any(number != numbers[run_id] for each in readers for run_id, number in each.numbers.items()):
                assert not any(task.done() for task in following), [
                    task.exception() for task in following if task.done()
                ]
                await asyncio.sleep(0.02)
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    assert [len(each.numbers) for each in readers] == [20] * 8 + [1] * 5

"""Realtime: what an open subscription takes, and how soon a change is there, with a thousand of them on one server.

    python bench/realtime.py [--runs 900] [--tags 50] [--batches 50] [--seconds 10] [--history 300000]

The subscribers are connections of this process, which shares the machine with server and Postgres. A change is an update by
another connection: its time begins when that has heard of its commit, and ends when a subscriber has read the last byte of the
answer. What the commit itself takes, which is a flush of the disk, is shown apart. At the end there is a history: so many runs of
a month, half of them with the tag.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from measured import postgres_pids, resident_mb, row, stack
from stack import KEY

CHANGE = "update runs set metadata = jsonb_build_object('n', $2::int), updated_at = now() where id = any($1::text[])"

HISTORY = """
    insert into runs (id, environment_id, task_id, state, max_attempts, available_at, created_at, updated_at, finished_at,
                      queue, payload, tags)
    select 'run_' || md5(nth::text), id, 'first_line', 'completed', 3, now(), at, at, at, 'task/first_line',
           repeat(md5(nth::text), 8), case when nth % 2 = 0 then '{popular,other}'::text[] else '{}' end
    from environments, generate_series(1, $1) as nth, lateral (select now() - interval '30 d' * nth / $1 as at) as made"""


@dataclass
class Heard:
    """When which change has reached its subscribers."""

    at: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    opened: int = 0


@dataclass(eq=False)
class Subscriber:
    """One feed, followed over one connection, as the official client does it."""

    port: int
    path: str
    heard: Heard

    async def follow(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            offset, live = "-1", ""
            while True:
                mark = "&" if "?" in self.path else "?"
                writer.write(
                    f"GET /realtime/v1/{self.path}{mark}offset={offset}{live} HTTP/1.1\r\nhost: here\r\n"
                    f"authorization: Bearer {KEY}\r\nx-trigger-api-version: 2025-07-16\r\n"
                    "x-trigger-electric-version: 1.0.0-beta.1\r\n\r\n".encode()
                )
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                status, *lines = head.split("\r\n")
                headers = dict(line.split(": ", 1) for line in lines if line)
                body = await reader.readexactly(int(headers["content-length"]))
                at = time.perf_counter()
                assert " 200 " in status, (status, body)
                if live:
                    self._hear(json.loads(body), at)
                else:
                    self.heard.opened += 1
                offset, live = headers["electric-offset"], "&live=true"
        finally:
            writer.close()

    def _hear(self, messages: list[dict[str, Any]], at: float) -> None:
        for message in messages:
            metadata = json.loads(message.get("value", {}).get("metadata") or "{}")
            if "n" in metadata:
                self.heard.at[metadata["n"]].append(at)


class Changes:
    """Changes runs, and waits until all who follow them have heard."""

    def __init__(self, connection: asyncpg.Connection, heard: Heard) -> None:
        self._connection = connection
        self._heard = heard
        self._committed_at = [0.0]
        self.commits: list[float] = []

    async def make(self, run_ids: list[str]) -> int:
        """One transaction; its number."""
        number = len(self._committed_at)
        transaction = self._connection.transaction()
        await transaction.start()
        await self._connection.execute(CHANGE, run_ids, number)
        for run_id in run_ids:
            await self._connection.execute("select pg_notify('torpor', $1)", json.dumps(["run", {"run_id": run_id}]))
        began = time.perf_counter()
        await transaction.commit()
        self._committed_at.append(time.perf_counter())
        self.commits.append((self._committed_at[-1] - began) * 1000)
        return number

    async def told(self, number: int, count: int) -> list[float]:
        """How long it took to so many subscribers, in ms."""
        async with asyncio.timeout(30):
            while len(self._heard.at[number]) < count:
                await asyncio.sleep(0.001)
        return [max(0.0, at - self._committed_at[number]) * 1000 for at in self._heard.at[number]]


def show(what: str, delays: list[float]) -> None:
    row(what, delays)
    cuts = statistics.quantiles(delays, n=100)
    print(f"{'':<58} p90 {cuts[89]:.1f}, p99 {cuts[98]:.1f} ms")


async def measure(port: int, database_url: str, pids: list[int], database_pids: list[int], asked: Any) -> None:
    from torpor.sdk.async_client import AsyncClient

    heard = Heard()
    async with AsyncClient(f"http://127.0.0.1:{port}", KEY) as client:
        batches: list[tuple[str, str]] = []
        for _ in range(asked.batches):
            batch = await client.batch_trigger("first_line", ["/dev/null"], delay="1h")
            batches.append((batch["id"], (await client.batch(batch["id"]))["runs"][0]))
        made = await client.batch_trigger("first_line", ["/dev/null"] * asked.runs, delay="1h")
        runs: list[str] = (await client.batch(made["id"]))["runs"]
        tagged = (await client.trigger("first_line", "/dev/null", delay="1h", tags=["popular"]))["id"]
    paths = [f"runs/{run_id}" for run_id in runs]
    paths += ["runs?tags=popular"] * asked.tags + [f"batches/{batch_id}" for batch_id, _ in batches]
    before, database_before = resident_mb(pids), resident_mb(database_pids)
    following = [asyncio.create_task(Subscriber(port, path, heard).follow()) for path in paths]
    while heard.opened < len(paths):
        await asyncio.sleep(0.1)
        for task in following:
            if task.done():
                task.result()
    await asyncio.sleep(3)
    print(f"{len(paths):,} subscriptions open: {len(runs)} runs, {asked.tags} of a tag, {len(batches)} batches")
    more, database_more = resident_mb(pids) - before, resident_mb(database_pids) - database_before
    print(
        f"memory of each: {more * 1024 / len(paths):.0f} KB in the server, {database_more * 1024 / len(paths):.0f} in Postgres"
    )

    connection = await asyncpg.connect(database_url)
    changes = Changes(connection, heard)
    for number in range(20):  # the first ones fill caches
        await changes.told(await changes.make([runs[number]]), 1)
    show("a run changes -> its follower has it", [(await _once(changes, [run_id], 1))[0] for run_id in runs[:200]])
    show("a batch's run changes -> its follower has it", [(await _once(changes, [each], 1))[0] for _, each in batches])
    show(f"a tag's run changes -> each of {asked.tags} followers has it", await _of_tag(changes, tagged, asked.tags))
    many: list[float] = []
    for _ in range(10):
        many += await _once(changes, runs[:100], 100)
    show("100 runs change in one transaction -> each has it", many)

    mixed: list[float] = []
    began, made_count = time.perf_counter(), 0
    numbers: list[int] = []
    while time.perf_counter() - began < asked.seconds:
        numbers.append(await changes.make([runs[made_count % len(runs)]]))
        made_count += 1
        await asyncio.sleep(max(0.0, began + made_count / 100 - time.perf_counter()))
    for number in numbers:
        mixed += await changes.told(number, 1)
    show(f"{made_count / (time.perf_counter() - began):.0f} changes per second for {asked.seconds} s", mixed)
    await connection.execute(HISTORY, asked.history)
    await connection.execute("vacuum analyze runs")
    await changes.told(await changes.make([tagged]), asked.tags)  # a part of the history is news to them
    what = f"the same with {asked.history:,} runs of a month, half with the tag"
    show(what, await _of_tag(changes, tagged, asked.tags))
    show("the commits themselves", changes.commits)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    await connection.close()


async def _of_tag(changes: Changes, run_id: str, followers: int) -> list[float]:
    delays: list[float] = []
    for _ in range(20):
        delays += await _once(changes, [run_id], followers)
    return delays


async def _once(changes: Changes, run_ids: list[str], count: int) -> list[float]:
    await asyncio.sleep(0.03)  # all are back
    return await changes.told(await changes.make(run_ids), count)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=900)
    parser.add_argument("--tags", type=int, default=50)
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--history", type=int, default=300_000)
    asked = parser.parse_args()
    with stack() as (made, postgres):
        made.kill_worker()  # it has told the server what tasks there are
        asyncio.run(measure(made.port, made.database_url, made.server_pids(), postgres_pids(postgres), asked))


if __name__ == "__main__":
    main()

"""What a page of a list costs in a long history: runs by every filter, common and rare, new and old. And counts of all runs
over time, and the choice of all for a bulk action.

    python bench/lists.py                  1,000,000 runs
    python bench/lists.py --runs 100000    fewer

The history is skewed as real ones are: one task and one version make most of it, what failed failed in one bad week,
a tag that half of the runs have is on the older half. Each page is read as the server reads it, and each statement is
explained: one that reads the runs as a whole is told, and the exit code is 1.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from dequeue import Explaining, World
from long_history import fill
from measured import row

from torpor import engine
from torpor.engine import Listing, Page, RunFilter, read
from torpor.engine.read_counts import Bucket, run_counts
from torpor.store.database import Database
from torpor.store.embedded import EmbeddedPostgres
from torpor.store.migrate import upgrade
from torpor.store.records import Run

TIMES = 5
LISTS: list[tuple[str, dict[str, Any]]] = [
    ("no filter", {}),
    ("status, common", {"status": ["COMPLETED"]}),
    ("status, several, old ones", {"status": ["FAILED", "CRASHED"]}),
    ("status, none", {"status": ["TIMED_OUT"]}),
    ("task, common", {"task_ids": ["task-main"]}),
    ("task, ten of a million", {"task_ids": ["task-rare"]}),
    ("task and status, old ones", {"task_ids": ["task-main"], "status": ["FAILED"]}),
    ("task and status, none", {"task_ids": ["task-some"], "status": ["CRASHED"]}),
    ("version, the older quarter", {"versions": ["v-old"]}),
    ("queue", {"queues": ["task/task-some"]}),
    ("queue and status", {"queues": ["task/task-main"], "status": ["QUEUED"]}),
    ("machine, one of a thousand", {"presets": ["large-2x"]}),
    ("machine, none", {"presets": ["micro"]}),
    ("tag, one of a hundred", {"tags": ["c7"]}),
    ("tag, one run, the oldest", {"tags": ["tag-rare"]}),
    ("tag, none", {"tags": ["none"]}),
    ("tag, half of the runs, the older ones", {"tags": ["tag-old"]}),
    ("tags, two, and status", {"tags": ["c7", "c8"], "status": ["FAILED"]}),
    ("test runs", {"is_test": True}),
    ("schedule, common", {"schedule_ids": ["sched_common"]}),
    ("schedule, a hundred runs", {"schedule_ids": ["sched_rare"]}),
    ("batch of 50,000", {"batch_id": "batch_large"}),
    ("bulk action, 100,000 runs", {"bulk_id": "bulk_large"}),
    ("created within an hour, three weeks ago", {"hour": 1}),
    ("search, the beginning of an id", {"search": "run_a0"}),
    ("search, the beginning of tasks' names", {"search": "task"}),
    ("search, a tag", {"search": "tag-rare"}),
]


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torpor-bench-") as directory:
        postgres = EmbeddedPostgres(Path(directory, "postgres"))
        url = await postgres.start()
        try:
            await upgrade(url)
            database = await Database.connect(url)
            world = World(database)
            await world.set_up()
            began = time.perf_counter()
            now = await fill(world, chosen.runs)
            print(f"{chosen.runs:,} runs made in {time.perf_counter() - began:.0f} s; milliseconds for a page of 25")
            found: dict[str, set[str]] = {}
            for what, filters in LISTS:
                await measure(world, what, where(filters, now), found)
            await count(world, url, now)
            await choose(world)
            scans = sorted(found.get("scans", ()))
            print(f"{len(found['statements'])} statements explained, {len(scans)} sequential scans of runs")
            print(*scans, sep="\n")
            await database.close()
        finally:
            await postgres.destroy()
    return 1 if scans else 0


async def count(world: World, url: str, now: datetime) -> None:
    """As the chart of a dashboard does. Autovacuum has come by then."""
    connection = await asyncpg.connect(url)
    await connection.execute("vacuum runs")
    await connection.close()
    for what, period, bucket in (("a day", timedelta(days=1), 3600), ("all of it", timedelta(days=30), 86_400)):
        took: list[float] = []
        found: list[Bucket] = []
        for _ in range(TIMES):
            began = time.perf_counter()
            async with world.database.transaction() as tx:
                found = await run_counts(
                    tx, world.environment_id, since=now - period, until=now, bucket=timedelta(seconds=bucket)
                )
            took.append((time.perf_counter() - began) * 1000)
        row(f"counts of {what}: {sum(sum(one.counts.values()) for one in found):,} runs", took)


async def choose(world: World) -> None:
    began = time.perf_counter()
    made = await world.do(
        engine.create_bulk, world.environment_id, engine.BulkRequest("cancel", RunFilter(status=["COMPLETED"]))
    )
    print(f"a bulk action of {made.total:,} runs is made in {time.perf_counter() - began:.1f} s")
    took: list[float] = []
    for _ in range(20):
        began = time.perf_counter()
        await world.do(engine.work_off, made.bulk_id, why=lambda task_id, outcome: str(outcome))
        took.append((time.perf_counter() - began) * 1000)
    row("a step of 50 runs that have ended", took)


def where(filters: dict[str, Any], now: datetime) -> RunFilter:
    if "hour" in filters:
        since = now - timedelta(days=21)
        return RunFilter(created_from=since, created_to=since + timedelta(hours=1))
    return RunFilter(**filters)


async def measure(world: World, what: str, wanted: RunFilter, found: dict[str, set[str]]) -> None:
    """The first page and the one behind it, again and again."""
    first: list[float] = []
    second: list[float] = []
    page: Listing[Run] = Listing([], None, None)
    for _ in range(TIMES):
        began = time.perf_counter()
        async with world.database.transaction() as tx:
            page = await read.runs(tx, world.environment_id, wanted)
        first.append((time.perf_counter() - began) * 1000)
        if page.next:
            began = time.perf_counter()
            async with world.database.transaction() as tx:
                await read.runs(tx, world.environment_id, wanted, Page(after=page.next))
            second.append((time.perf_counter() - began) * 1000)
    row(f"{what} ({len(page.items)}{'+' if page.next else ''})", first)
    if second:
        row("  … the next page", second)
    async with world.database.transaction() as tx:
        explaining: Any = Explaining(tx, {"runs", "bulk_runs"}, found, what)
        await read.runs(explaining, world.environment_id, wanted)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

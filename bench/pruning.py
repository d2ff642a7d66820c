"""What retention costs: many ended runs are deleted while others are triggered. `pruning.py [RUNS]`, default 100,000."""

import asyncio
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from measured import row

from torpor import engine
from torpor.clock import SystemClock
from torpor.config import Settings
from torpor.server import pruning
from torpor.server.hub import Hub
from torpor.store.database import Database
from torpor.store.embedded import EmbeddedPostgres
from torpor.store.migrate import upgrade
from torpor.wire.http import VersionReport
from torpor.wire.runner import RetryPolicy, TaskManifest

FILL = """
insert into runs (id, environment_id, task_id, version, state, payload, output, attempt, max_attempts, lease, available_at,
                  queue, created_at, updated_at, started_at, finished_at)
select 'run_old' || n, $1, 'hello', 'v1', 'completed', '"a payload"', '"an output"', 1, 1, 3, at, 'task/hello', at, at, at, at
from (select n, now() - interval '90 days' + n * interval '1 second' as at from generate_series(1, $2::int) n) given;
"""
THEIRS = [
    """insert into events (run_id, at, kind, attempt, data)
       select 'run_old' || n, now(), 'run.started', 1, '{"pid": 1}' from generate_series(1, $1::int) n, generate_series(1, 6)""",
    """insert into logs (run_id, lease, first_byte, nth, at, level, message, attributes, stream)
       select 'run_old' || n, 1, 0, line, now() - interval '60 days', 'info', 'a line', '{}', 'log'
       from generate_series(1, $1::int) n, generate_series(1, 3) line""",
    """insert into attempts (run_id, number, version, worker_id, lease, dequeued_at, finished_at, outcome)
       select 'run_old' || n, 1, 'v1', 'w1', 1, now(), now(), 'completed' from generate_series(1, $1::int) n""",
    """insert into waitpoints (id, environment_id, kind, status, due_at, created_by_run_id, created_at, completed_at)
       select 'waitpoint_old' || n, (select id from environments), 'time', 'completed', now(), 'run_old' || n, now(), now()
       from generate_series(1, $1::int) n""",
    """insert into waits (run_id, wait_id, waitpoint_id, created_at, detached_at)
       select 'run_old' || n, 'wait_0', 'waitpoint_old' || n, now(), now() from generate_series(1, $1::int) n""",
]


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="torpor-bench-") as directory:
        Path(directory).chmod(0o755)
        postgres = EmbeddedPostgres(Path(directory, "postgres"))
        url = await postgres.start()
        try:
            await upgrade(url)
            database = await Database.connect(url)
            here = Hub(Settings(), database, SystemClock())
            await measure(here, count)
            await database.close()
        finally:
            await postgres.destroy()


async def measure(here: Hub, count: int) -> None:
    now = here.clock.now()
    retry = RetryPolicy(max_attempts=1)
    hello = TaskManifest(
        "hello", file="jobs.py", line=1, is_async=True, parameters="one", payload_schema={}, retry=retry
    )
    async with here.database.transaction() as tx:
        environment = await engine.ensure_environment(tx, "dev", key_hash=b"k", now=now)
        await engine.register_version(tx, environment.id, VersionReport("w1", "v1", [hello]), now=now)
        await tx.execute(FILL, environment.id, count)
        for statement in THEIRS:
            await tx.execute(statement, count)
    async with here.database.transaction() as tx:
        await tx.execute("analyze")
    print(f"{count} ended runs, each with 6 events, 3 log lines, an attempt and a wait")

    before = [await trigger_ms(here, environment.id) for _ in range(300)]
    steps: list[float] = []
    real = engine.prune_runs

    async def timed(*args: object, **options: object) -> engine.Pruned:
        began = time.perf_counter()
        done = await real(*args, **options)  # pyright: ignore[reportArgumentType]
        steps.append((time.perf_counter() - began) * 1000)
        return done

    engine.prune_runs = timed  # pyright: ignore[reportAttributeAccessIssue]
    began = time.perf_counter()
    at_work = asyncio.create_task(pruning.prune(here))
    during: list[float] = []
    while not at_work.done():
        during.append(await trigger_ms(here, environment.id))
        await asyncio.sleep(0.01)
    took_s = time.perf_counter() - began
    rows = at_work.result()
    print(f"{rows} rows deleted in {took_s:.0f} s: {rows / took_s:.0f} rows/s")
    row("a step of runs", steps)
    row("… the slowest hundredth", sorted(steps)[-max(1, len(steps) // 100) :])
    row("a trigger, before", before)
    row("a trigger, while pruning", during)
    for name, values in (("before", before), ("while pruning", during)):
        print(f"  99th percentile {name}: {sorted(values)[int(len(values) * 0.99)]:.1f} ms")


async def trigger_ms(here: Hub, environment_id: str) -> float:
    began = time.perf_counter()
    async with here.database.transaction() as tx:
        asked = engine.TriggerRequest("hello", delay_until=here.clock.now() + timedelta(days=1))
        await engine.trigger(tx, environment_id, asked, now=here.clock.now())
    return (time.perf_counter() - began) * 1000


asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))

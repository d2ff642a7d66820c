"""What a hand-out costs with a long history and a long line, against empty tables; and how every hot statement is planned.

    python bench/dequeue.py                            1,000,000 ended runs, 100,000 queued in one tenant's line
    python bench/dequeue.py --ended 0 --queued 1000    something smaller
    python bench/dequeue.py --machine large-2x         the queued ones are too large for the worker
    python bench/dequeue.py --machine large-1x         they would fit, but for a run that works all the time

The verbs are called as the server calls them, each in its transaction, on an embedded Postgres of its own with its
ordinary settings. Then each statement that they send is explained with the values it was sent with: a sequential scan of
a table that grows is told, and the exit code is 1.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from measured import row

from torpor import engine, ids
from torpor.engine import Lease
from torpor.store.database import Database, Transaction
from torpor.store.embedded import EmbeddedPostgres
from torpor.store.migrate import upgrade
from torpor.wire import http
from torpor.wire.presets import DEFAULT_PRESET, GB
from torpor.wire.runner import NewWait, RetryPolicy, TaskManifest

CYCLES = 200
SMALL = 1000
"""A table with fewer rows may be read as a whole: that is quicker."""


class World:
    """One environment, one worker, and the verbs."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.environment_id = ""
        self.transaction: Callable[[Transaction], Transaction] = lambda tx: tx

    async def do(self, verb: Any, *args: Any, **options: Any) -> Any:
        async with self.database.transaction() as tx:
            return await verb(self.transaction(tx), *args, now=datetime.now(UTC), **options)

    async def set_up(self) -> None:
        environment = await self.do(engine.ensure_environment, "bench", key_hash=b"k")
        self.environment_id = environment.id
        intro = http.Introduction("w1", "i1", "here", 10, True, {}, cpu=64, memory_bytes=8 * GB)
        await self.do(engine.register_worker, self.environment_id, intro, lease_s=30)
        tasks = [TaskManifest("hello", "jobs.py", 1, True, "one", {}, RetryPolicy())]
        await self.do(engine.register_version, self.environment_id, http.VersionReport("w1", "v1", tasks))

    async def trigger(self, key: str = "") -> str:
        request = engine.TriggerRequest("hello", payload="1", concurrency_key=key)
        done = await self.do(engine.trigger, self.environment_id, request)
        return done.run_id

    async def dequeue(self, free: int = 1) -> list[http.Assignment]:
        return await self.do(engine.dequeue, "w1", "i1", free=free, versions=["v1"], can_restore=True, lease_s=30.0)

    async def start(self, given: http.Assignment) -> Lease:
        lease = Lease(given.run_id, given.lease)
        answered = [answer.wait_id for answer in given.answers]
        await self.do(engine.start, lease, http.StartReport(given.lease, answered, pid=1))
        return lease

    async def finish(self, given: http.Assignment) -> None:
        report = http.FinishReport(given.lease, "completed")
        await self.do(engine.finish, Lease(given.run_id, given.lease), report, jitter=lambda: 0.0)


async def cycles(world: World, *, key: str) -> tuple[list[float], list[float], list[float]]:
    """Trigger, hand out and end a run, again and again: milliseconds of each."""
    triggered: list[float] = []
    handed_out: list[float] = []
    finished: list[float] = []
    for _ in range(CYCLES):
        began = time.perf_counter()
        await world.trigger(key)
        triggered.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        (given,) = await world.dequeue()
        handed_out.append((time.perf_counter() - began) * 1000)
        await world.start(given)
        began = time.perf_counter()
        await world.finish(given)
        finished.append((time.perf_counter() - began) * 1000)
    return triggered, handed_out, finished


async def fill(world: World, ended: int, queued: int, machine: str) -> None:
    """A history, with what belongs to it, and one tenant's long line."""
    now = datetime.now(UTC)
    columns = "id, environment_id, task_id, queue, concurrency_key, max_attempts, created_at, updated_at, available_at"
    values = "$2, 'hello', 'task/hello', $4, 3, $3, $3, $3"
    async with world.database.transaction() as tx:
        await tx.execute(
            f"""insert into runs ({columns}, state, attempt, version, lease, started_at, finished_at, output)
                select 'run_ended' || n, {values}, 'completed', 1, 'v1', 2, $3, $3, '1' from generate_series(1, $1) n""",
            ended,
            world.environment_id,
            now - timedelta(days=1),
            "",
        )
        await tx.execute(
            """insert into attempts (run_id, number, version, worker_id, lease, dequeued_at, finished_at, outcome)
               select 'run_ended' || n, 1, 'v1', 'w1', 1, $2, $2, 'completed' from generate_series(1, $1) n""",
            ended,
            now,
        )
        await tx.execute(
            """insert into events (run_id, at, kind, data)
               select 'run_ended' || n, $2, 'run.completed', '{}' from generate_series(1, $1) n""",
            ended,
            now,
        )
        await tx.execute(
            """insert into waitpoints (id, environment_id, kind, status, awaited_run_id, output, run_status, created_at,
                                       completed_at)
               select 'waitpoint_ended' || n, $2, 'run', 'completed', 'run_ended' || n, '1', 'COMPLETED', $3, $3
               from generate_series(1, $1) n""",
            ended // 5,
            world.environment_id,
            now,
        )
        await tx.execute(
            """insert into waits (run_id, wait_id, waitpoint_id, created_at, delivered_at, detached_at)
               select 'run_ended' || n, 'wait_ended' || n, 'waitpoint_ended' || n, $2, $2, $2
               from generate_series(1, $1) n""",
            ended // 5,
            now,
        )
        await tx.execute(
            f"""insert into runs ({columns}, state, preset) select 'run_queued' || n, {values}, 'queued', $5
                from generate_series(1, $1) n""",
            queued,
            world.environment_id,
            # Not for so long that somebody saves up for them.
            now - timedelta(hours=1) if machine == DEFAULT_PRESET else now,
            "crowd",
            machine,
        )
    async with world.database.transaction() as tx:
        await tx.execute("analyze")


# -- plans -------------------------------------------------------------------------------------------------------------


class Explaining:
    """A transaction that explains every statement before it sends it, and remembers what is read as a whole."""

    def __init__(self, tx: Transaction, large: set[str], found: dict[str, set[str]], verb: str) -> None:
        self._tx, self._large, self._found, self._verb = tx, large, found, verb

    def __getattr__(self, name: str) -> Any:
        sender = getattr(self._tx, name)
        if name not in ("fetch", "fetchrow", "fetchval", "execute"):
            return sender

        async def send(query: str, *values: Any) -> Any:
            if query.lstrip().split(None, 1)[0] in ("select", "insert", "update", "delete", "with"):
                told = await self._explained(query)
                for node in _nodes(msgspec.json.decode(told)[0]["Plan"]):
                    if node["Node Type"] == "Seq Scan" and node["Relation Name"] in self._large:
                        text = f"{self._verb}: {node['Relation Name']}: {' '.join(query.split())[:160]}"
                        self._found.setdefault("scans", set()).add(text)
                self._found.setdefault("statements", set()).add(query)
            return await sender(query, *values)

        return send

    async def _explained(self, query: str) -> str:
        """The plan that the server uses: one for all values (plan_cache_mode)."""
        connection = self._tx._connection
        types = ", ".join(each.name for each in (await connection.prepare(query)).get_parameters())
        number = len(self._found.get("statements", ()))
        await self._tx.execute(f"prepare explained{number} {f'({types})' if types else ''} as {query}")
        nothing = ", ".join("null" for _ in types.split(",")) if types else ""
        execute = f"execute explained{number} {f'({nothing})' if types else ''}"
        try:
            return str(await self._tx.fetchval(f"explain (format json) {execute}"))
        finally:
            await self._tx.execute(f"deallocate explained{number}")


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in _nodes(child))]


async def explain(world: World) -> dict[str, set[str]]:
    """A life with waits, a freeze, a child and all duties of the server, explained."""
    async with world.database.transaction() as tx:
        rows = await tx.fetch("select relname from pg_class where relkind = 'r' and reltuples > $1", SMALL)
    large = {row["relname"] for row in rows}
    found: dict[str, set[str]] = {}
    verb_now = ""
    world.transaction = lambda tx: Explaining(tx, large, found, verb_now)  # pyright: ignore[reportAttributeAccessIssue]

    original = world.do

    async def do(verb: Any, *args: Any, **options: Any) -> Any:
        nonlocal verb_now
        verb_now = verb.__name__
        return await original(verb, *args, **options)

    world.do = do  # pyright: ignore[reportAttributeAccessIssue]
    token = (await do(engine.create_token, world.environment_id, engine.TokenRequest(timeout_s=3600))).waitpoint_id
    request = engine.TriggerRequest("hello", payload="1", idempotency_key="one", tags=["a"], concurrency_key="other")
    await do(engine.trigger, world.environment_id, request)
    (given,) = await world.dequeue()
    lease = await world.start(given)
    child = engine.TriggerRequest("hello", payload="2", parent_lease=lease, concurrency_key="child")
    child_id = (await do(engine.trigger, world.environment_id, child)).run_id
    waits = [
        NewWait("wait_t", "token", waitpoint_id=token),
        NewWait("wait_s", "time", duration_s=60),
        NewWait("wait_c", "run", run_id=child_id),
    ]
    await do(engine.block, lease, http.BlockReport(lease.number, waits, idle=True))
    await do(engine.heartbeat, "w1", "i1", [http.HeldLease(lease.run_id, lease.number)], lease_s=30)
    image = http.StoredCheckpoint(ids.new("checkpoint"), 1000)
    await do(engine.suspend, lease, http.SuspendReport(lease.number, image), worker_id="w1")
    await do(engine.complete_waitpoint, token, output="1")
    (resumed,) = await world.dequeue()
    lease = await world.start(resumed)
    await do(engine.collect, lease, ["wait_s", "wait_c"])
    await do(engine.keep, "w1", [image.id])
    await do(engine.fire_due)
    await do(engine.grant, world.environment_id)
    await do(engine.rescue, max_rescues=5)
    await world.finish(resumed)
    return found


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ended", type=int, default=1_000_000)
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--machine", default=DEFAULT_PRESET)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torpor-bench-") as directory:
        postgres = EmbeddedPostgres(Path(directory, "postgres"))
        url = await postgres.start()
        try:
            await upgrade(url)
            database = await Database.connect(url)
            world = World(database)
            await world.set_up()
            await cycles(world, key="")  # warm
            empty = await cycles(world, key="")
            began = time.perf_counter()
            if chosen.machine != DEFAULT_PRESET:
                await world.trigger()
                (works,) = await world.dequeue()
                await world.start(works)
            await fill(world, chosen.ended, chosen.queued, chosen.machine)
            print(f"filled in {time.perf_counter() - began:.0f} s")
            await cycles(world, key="tenant")
            full = await cycles(world, key="tenant")
            for what, before, after in zip(("trigger", "dequeue", "finish"), empty, full, strict=True):
                row(f"{what}, empty tables", before)
                row(f"{what}, {chosen.ended:,} ended runs and {chosen.queued:,} queued", after)
                print(f"{'':<58} {statistics.median(after) / statistics.median(before):8.2f} ×")
            await turns(world)
            found = await explain(world)
            scans = sorted(found.get("scans", ()))
            print(f"{len(found['statements'])} statements explained, {len(scans)} sequential scans of large tables")
            print(*scans, sep="\n")
            await database.close()
        finally:
            await postgres.destroy()
    return 1 if scans else 0


async def turns(world: World) -> None:
    """How many hand-outs a newcomer's single run waits for behind the long line."""
    waited: list[float] = []
    for number in range(50):
        run_id = await world.trigger(f"newcomer-{number}")
        for count in range(1, 1000):
            (given,) = await world.dequeue()
            await world.start(given)
            await world.finish(given)
            if given.run_id == run_id:
                waited.append(count - 1)
                break
    row("hand-outs before a newcomer's single run", waited, "runs")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

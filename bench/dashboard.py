"""What the pages of the dashboard cost in a long history: each page and each filter, over HTTP, and what open pages cost while
much happens.

    python bench/dashboard.py                        1,000,000 runs with 3,000,000 lines
    python bench/dashboard.py --in DIR               … which stay there, to be measured again
    python bench/dashboard.py --only waiting --explain 20
    python bench/dashboard.py --browsers 20 --changes 50 --seconds 20

The server is asked for all pages right after its start, then for all again, some times: so a page finds in memory only what
it has after all others were asked for. `rows` are those that Postgres read for it, by its own account. A page that takes longer
than the goal is told, and the exit code is 1. `cpu` is what server and Postgres took of the processor for it, whatever else the
machine does. With `--explain` the plans of the statements that took so many milliseconds are
printed: rows, loops and buffers as they were.
"""

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import asyncpg
from dequeue import World
from long_history import fill, live_in
from measured import postgres_pids
from stack import KEY, Stack

from torpor.store.database import Database
from torpor.store.embedded import EmbeddedPostgres
from torpor.store.migrate import upgrade

GOAL_MS = 200
ROUNDS = 5
DAYS = timedelta(days=30)

RUNS = [
    "",
    "state=completed",
    "state=failed&state=crashed&state=timed_out&state=system_failure",
    "state=expired",
    "state=suspended&state=waiting",
    "state=queued",
    "task=task-main",
    "task=task-rare",
    "task=team-1/job-1",
    "task=none",
    "queue=task/task-main",
    "queue=task/team-1/job-1",
    "tag=c7",
    "tag=tag-rare",
    "tag=tag-old",
    "tag=none",
    "version=v-old",
    "version=v-new",
    "version=none",
    "batch=batch_large",
    "batch=batch_9",
    "schedule=sched_common",
    "schedule=sched_rare",
    "bulk=bulk_large",
    "period=1h",
    "period=24h",
    "period=7d",
    "period=30d",
    "to={old}",
    "from={old}&to={older}",
    "q=run_a0",
    "q=run_abc",
    "q=task",
    "q=team-1",
    "q=c7",
    "q=nothing",
    "task=task-main&state=failed",
    "task=task-main&state=expired",
    "task=task-main&tag=c7",
    "task=task-main&period=24h",
    "task=team-1/job-1&version=v-old",
    "task=team-1/job-1&tag=c7",
    "state=failed&period=30d",
    "state=completed&version=v-old",
    "state=failed&version=v-old&tag=tag-old",
    "state=failed&tag=c7",
    "state=completed&tag=none",
    "state=suspended&task=task-main&period=7d",
    "version=v-old&period=24h",
    "version=v-new&to={old}",
    "tag=tag-old&period=24h",
    "tag=c7&tag=c8&state=failed",
    "queue=task/task-main&version=v-old&state=completed",
    "schedule=sched_common&state=failed",
    "schedule=sched_common&version=v-old",
    "schedule=sched_common&tag=c7",
    "batch=batch_large&state=failed",
    "bulk=bulk_large&state=failed",
    "q=task&state=expired",
    "q=task&tag=tag-rare",
    "q=c7&state=failed",
    "after={last}",
    "after={middle}&task=task-main",
    "before={last}",
]
OTHERS = [
    "/tasks",
    "/tasks/task-main",
    "/test/task-main",
    "/waiting",
    "/queues",
    "/schedules",
    "/batches",
    "/batches?status=PROCESSING",
    "/batches?status=ABORTED",
    "/batches/batch_large",
    "/workers",
    "/workers?gone",
    "/checkpoints",
    "/checkpoints?sort=oldest",
    "/checkpoints?sort=size",
    "/checkpoints?sort=shared",
    "/errors?period=1h",
    "/errors",
    "/errors?period=7d",
    "/errors?period=30d",
    "/errors?q=nothing&period=30d",
    "/logs",
    "/logs?q=order",
    "/logs?q=needle",
    "/logs?level=error",
    "/logs?level=error&q=nothing",
    "/logs?task=task-rare",
    "/logs?task=team-1/job-1",
    "/logs?q=nothing&task=task-main&period=7d",
    "/logs?period=1h",
    "/logs?run={long}",
    "/logs?run={long}&q=nothing",
    "/logs?run={old_run}",
    "/logs?run=run_none",
    "/variables",
    "/limits",
    "/runs/{long}",
    "/runs/{long}/timeline",
    "/runs/{old_run}",
]
PARTS = [
    ("/", "runs"),
    ("/", "chart"),
    ("/?period=30d", "chart"),
    ("/?period=30d&task=task-main", "chart"),
    ("/tasks", "tasks"),
    ("/tasks/task-main", "doings"),
    ("/waiting", "waiting"),
    ("/queues", "queues"),
    ("/batches", "batches"),
    ("/batches/batch_large", "batch"),
    ("/workers", "workers"),
    ("/checkpoints", "checkpoints"),
    ("/errors?period=30d", "errors"),
    ("/logs", "logs"),
    ("/logs?level=error&q=nothing", "logs"),
    ("/runs/{long}", "top"),
    ("/runs/{long}", "facts"),
]
"""What open pages ask for again when something has changed."""
FOLLOWED = [
    ("/", "runs"),
    ("/tasks", "tasks"),
    ("/queues", "queues"),
    ("/waiting", "waiting"),
    ("/checkpoints", "checkpoints"),
]


class Browser:
    """One kept connection of somebody who is signed in."""

    def __init__(self, port: int, cookie: str) -> None:
        self._port, self._cookie = port, cookie
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str, part: str | None = None) -> tuple[float, str]:
        """Milliseconds until the whole answer is there, and the answer."""
        began = time.perf_counter()
        reader, writer = self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(self._request(path, part))
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 404")):
            raise RuntimeError(f"{path}: {head!r}")
        return (time.perf_counter() - began) * 1000, body.decode()

    async def changes(self) -> AsyncIterator[None]:
        """Something has changed, as an open page is told."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(self._request("/live", None))
        try:
            while line := await reader.readline():
                if line.startswith(b"event: changed"):
                    yield
        finally:
            writer.close()

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()

    def _request(self, path: str, part: str | None) -> bytes:
        told = f"hx-request: true\r\nhx-target: {part}\r\n" if part else ""
        return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\ncookie: {self._cookie}\r\n{told}\r\n".encode()


async def signed_in(port: int) -> Browser:
    """By a link, as somebody with a secret key is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"host: 127.0.0.1:{port}\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n"
    writer.write(f"POST /api/v1/sign-in-links HTTP/1.1\r\n{head}content-length: 0\r\n\r\n".encode())
    url = json.loads((await reader.read()).split(b"\r\n\r\n", 1)[1])["url"]
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST /{url.split('/', 3)[3]} HTTP/1.1\r\n{head}content-length: 0\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    found = re.search(rb"set-cookie: ([^;]+)", answer, re.IGNORECASE)
    assert found, answer
    return Browser(port, found[1].decode())


# -- the pages --------------------------------------------------------------------------------------------------------


@dataclass
class Page:
    path: str
    part: str | None = None
    first_ms: float = 0.0
    took_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    rows: int = 0

    @property
    def name(self) -> str:
        return f"{self.path[:58]}{f' ({self.part})' if self.part else ''}"

    @property
    def worst(self) -> float:
        return max([*self.took_ms, self.first_ms])


async def pages(browser: Browser, database: asyncpg.Connection, only: str) -> list[Page]:
    now = datetime.now(UTC)
    ends = "select id from runs where hook is null order by created_at {} offset {} limit 1"
    values = {
        "old": (now - DAYS * 0.9).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "older": (now - DAYS * 0.8).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "last": await database.fetchval(ends.format("", 20)),
        "middle": await database.fetchval(ends.format("desc", 500_000)),
        "old_run": await database.fetchval(ends.format("", 7)),
        "long": await database.fetchval("select run_id from events group by run_id order by count(*) desc limit 1"),
    }
    if values["middle"] is None:
        values["middle"] = values["last"]
    found = [Page("/" + f"?{query}".rstrip("?").format(**values)) for query in RUNS]
    found += [Page(path.format(**values)) for path in OTHERS]
    for path in ("/errors?period=30d", "/", "/?tag=c7", "/waiting", "/checkpoints", "/logs?level=error", "/batches"):
        _, text = await browser.get(path)
        link = (
            re.search(r'href="(/errors/[^"]+)"', text)
            if "errors" in path
            else re.search(r'href="([^"]+)" rel="next"', text)
        )
        found += [Page(unescape(link[1]))] if link else []
    found += [Page(path.format(**values), part) for path, part in PARTS]
    return [page for page in found if only in page.path]


async def measure(stack: Stack, postgres: EmbeddedPostgres, database: asyncpg.Connection, only: str) -> list[Page]:
    browser = await signed_in(stack.port)
    wanted = await pages(browser, database, only)
    browser.close()
    stack.kill_server()
    stack.start_server()
    browser = await signed_in(stack.port)
    for page in wanted:
        page.first_ms, _ = await browser.get(page.path, page.part)
    pids = stack.server_pids() + postgres_pids(postgres)
    for _ in range(ROUNDS):
        for page in wanted:
            before = cpu_s(pids)
            page.took_ms.append((await browser.get(page.path, page.part))[0])
            page.cpu_ms.append((cpu_s(pids) - before) * 1000)
    browser.close()
    return wanted


def show(wanted: list[Page]) -> None:
    print(f"\n{'milliseconds':<76} {'first':>7} {'median':>7} {'worst':>7} {'cpu':>7} {'rows':>9}")
    for page in wanted:
        mark = " !" if page.worst > GOAL_MS else ""
        middle, cpu = statistics.median(page.took_ms), statistics.median(page.cpu_ms)
        print(
            f"{page.name:<76} {page.first_ms:7.0f} {middle:7.1f} {max(page.took_ms):7.0f} {cpu:7.1f} {page.rows:9,}{mark}"
        )
    slow = [page for page in wanted if page.worst > GOAL_MS]
    print(f"{len(wanted)} pages, {len(slow)} over {GOAL_MS} ms at least once")


# -- plans ------------------------------------------------------------------------------------------------------------


async def explain(
    stack: Stack, database: asyncpg.Connection, log: Path, wanted: list[Page], least_ms: float | None
) -> None:
    """All pages once more, while Postgres writes down what each statement read."""
    for setting in (
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_timing = off",
        "auto_explain.log_buffers = on",
        "auto_explain.log_format = 'json'",
    ):
        if not setting.startswith("session"):
            await database.execute("load 'auto_explain'")
        await database.execute(f"alter system set {setting}")
    await database.execute("select pg_reload_conf()")
    stack.kill_server()
    stack.start_server()
    browser = await signed_in(stack.port)
    try:
        for page in wanted:
            begin = log.stat().st_size
            await browser.get(page.path, page.part)
            await asyncio.sleep(0.05)
            with log.open() as lines:
                lines.seek(begin)
                told = lines.read()
            for plan in _plans(told):
                nodes = list(_nodes(plan["Plan"]))
                page.rows += int(sum(_read(node) for node, _ in nodes))
                if least_ms is not None and plan["ms"] >= least_ms:
                    print(f"\n{page.name}: {plan['ms']:.0f} ms\n{' '.join(plan['Query Text'].split())}")
                    for node, depth in nodes:
                        print("  " * depth + _told(node))
    finally:
        browser.close()
        await database.execute("alter system reset all")
        await database.execute("select pg_reload_conf()")


def _plans(told: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for match in re.finditer(r"duration: ([\d.]+) ms  plan:\n", told):
        with contextlib.suppress(json.JSONDecodeError):
            plan, _ = json.JSONDecoder(strict=False).raw_decode(told[match.end() :].lstrip())
            found.append({"ms": float(match[1]), **plan})
    return found


def _nodes(plan: dict[str, Any], depth: int = 0) -> list[tuple[dict[str, Any], int]]:
    return [(plan, depth), *(node for child in plan.get("Plans", ()) for node in _nodes(child, depth + 1))]


def _read(node: dict[str, Any]) -> float:
    """Rows of a table or index that were looked at there."""
    if "Scan" not in node["Node Type"] or node["Node Type"] in ("CTE Scan", "Subquery Scan", "Function Scan"):
        return 0
    looked = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return looked * node["Actual Loops"]


def _told(node: dict[str, Any]) -> str:
    where = node.get("Index Name") or node.get("Relation Name") or node.get("CTE Name") or ""
    removed = f", {node['Rows Removed by Filter']:,} removed" if node.get("Rows Removed by Filter") else ""
    buffers = f"{node.get('Shared Hit Blocks', 0):,} hit, {node.get('Shared Read Blocks', 0):,} read"
    conditions = " ".join(str(node[key]) for key in ("Index Cond", "Filter") if key in node)
    rows = f"{node['Actual Rows']:,} rows × {node['Actual Loops']:,}{removed}"
    return f"{node['Node Type']} {where}: {rows}; {buffers}  {conditions[:200]}"


# -- open pages -------------------------------------------------------------------------------------------------------


def cpu_s(pids: list[int]) -> float:
    """What these processes have used of the processor."""
    total = 0
    for pid in pids:
        for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total += int(stat.read_text().split()[0])
    return total / 1e9


async def follow(stack: Stack, postgres: EmbeddedPostgres, database_url: str, asked: Any) -> None:
    """So many changes per second, with nobody who looks, with all on the page of runs, and with all on pages of every kind."""
    browser = await signed_in(stack.port)
    for what, parts, count in (
        ("nobody looks", FOLLOWED[:1], 0),
        (f"{asked.browsers} look at the runs", FOLLOWED[:1], asked.browsers),
        (f"{asked.browsers} look at {len(FOLLOWED)} pages", FOLLOWED, asked.browsers),
    ):
        took: list[float] = []
        looking = [asyncio.create_task(look(browser, *parts[nth % len(parts)], took)) for nth in range(count)]
        await asyncio.sleep(1)
        took.clear()
        before = [cpu_s(stack.server_pids()), cpu_s(postgres_pids(postgres)), time.perf_counter()]
        await change(database_url, asked.changes, asked.seconds)
        after = [cpu_s(stack.server_pids()), cpu_s(postgres_pids(postgres)), time.perf_counter()]
        seconds = after[2] - before[2]
        shares = [100 * (after[nth] - before[nth]) / seconds for nth in (0, 1)]
        told = f"of a processor: server {shares[0]:.0f} %, Postgres {shares[1]:.0f} %"
        if took:
            cuts = statistics.quantiles(took, n=100)
            told += f"; {len(took) / seconds:.0f} fragments/s, median {cuts[49]:.0f} ms, p99 {cuts[98]:.0f}"
        print(f"{asked.changes} changes/s, {what}: {told}")
        for task in looking:
            task.cancel()
        for done in await asyncio.gather(*looking, return_exceptions=True):
            if isinstance(done, Exception):
                raise done
    browser.close()


async def look(like: Browser, path: str, part: str, took: list[float]) -> None:
    """An open page. As static/live.js does, it spends at most a fifth of its time on being refreshed."""
    browser = Browser(like._port, like._cookie)
    chart_at = free_at = 0.0
    async for _ in browser.changes():
        await asyncio.sleep(max(0.0, free_at - time.perf_counter()))
        began = time.perf_counter()
        took.append((await browser.get(path, part))[0])
        free_at = began + 5 * took[-1] / 1000
        if part == "runs" and time.monotonic() - chart_at > 10:
            chart_at = time.monotonic()
            await browser.get(path, "chart")
    raise RuntimeError("cut off")


async def change(database_url: str, per_s: int, seconds: float) -> None:
    connection = await asyncpg.connect(database_url)
    run_ids = [row["id"] for row in await connection.fetch("select id from runs where state = 'executing' limit 100")]
    began = time.perf_counter()
    for number in range(int(per_s * seconds)):
        run_id = run_ids[number % len(run_ids)]
        async with connection.transaction():
            await connection.execute(
                "update runs set metadata = $2, updated_at = now() where id = $1", run_id, json.dumps({"n": number})
            )
            await connection.execute("select pg_notify('torpor', $1)", json.dumps(["run", {"run_id": run_id}]))
        await asyncio.sleep(max(0.0, began + number / per_s - time.perf_counter()))
    await connection.close()


# -- what it costs those who write ------------------------------------------------------------------------------------

WRITES = {
    "runs_of_batch, against one without the state": (
        "create index plain on runs (batch_id, created_at desc, id desc) where batch_id is not null",
        """insert into runs (id, environment_id, task_id, queue, state, max_attempts, available_at, created_at, updated_at,
                             batch_id, batch_index)
           select 'run_w' || n, (select id from environments), 'task-main', 'task/task-main', 'queued', 3, now(), now(), now(),
                  'batch_w', n from generate_series(1, 20000) n""",
        "update runs set state = 'completed', finished_at = now() where batch_id = 'batch_w'",
    ),
    "batch_items_joined": (
        "",
        """insert into batch_items (batch_id, index, task_id, run_id)
           select 'batch_1', 100 + n, 'task-main', 'run_w' || n from generate_series(1, 20000) n""",
        "",
    ),
    "waitpoints_open": (
        "",
        """insert into waitpoints (id, environment_id, kind, status, due_at, created_at)
           select 'waitpoint_w' || n, (select id from environments), 'token', 'pending', now(), now()
           from generate_series(1, 20000) n""",
        "update waitpoints set status = 'completed', completed_at = now() where starts_with(id, 'waitpoint_w')",
    ),
    "checkpoints_stored, against one of all by age": (
        "create index plain on checkpoints (created_at, id)",
        """insert into checkpoints select (jsonb_populate_record(one, jsonb_build_object(
               'id', 'checkpoint_w' || n, 'number', 9 + n, 'image_id', 'checkpoint_w' || n))).*
           from (select checkpoints as one from checkpoints where state = 'usable' limit 1) as like_one,
                generate_series(1, 20000) n""",
        "update checkpoints set state = 'dropped' where starts_with(id, 'checkpoint_w')",
    ),
}
"""An index of pages -> what was there instead, and 20,000 rows that are made and then change."""


async def write(database: asyncpg.Connection) -> None:
    """Each by turns with the index and without it, in transactions that are rolled back: microseconds of the processor for a
    row, the least of five."""
    pid = database.get_server_pid()
    for what, (instead, make, change) in WRITES.items():
        took: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(10):
            transaction = database.transaction()
            await transaction.start()
            if turn % 2:
                await database.execute(f"drop index {what.split(',')[0]}")
                await database.execute(instead or "select")
            before = cpu_s([pid])
            await database.execute(make)
            await database.execute(change or "select")
            took[turn % 2 == 0].append((cpu_s([pid]) - before) / 20_000 * 1e6)
            await transaction.rollback()
        print(f"{what}: {min(took[True]):.1f} µs a row, else {min(took[False]):.1f}")


# -- all of it --------------------------------------------------------------------------------------------------------


async def seed(url: str, count: int) -> None:
    database = await Database.connect(url)
    world = World(database)
    await world.set_up()
    began = time.perf_counter()
    await fill(world, count, DAYS / count)
    await live_in(world, frozen=count // 200)
    await database.close()
    connection = await asyncpg.connect(url)
    await connection.execute("vacuum analyze")
    print(f"{count:,} runs made in {time.perf_counter() - began:.0f} s")
    await connection.close()


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--in", dest="directory", help="a directory for the database, which stays")
    parser.add_argument("--only", default="", help="pages whose address has this text")
    parser.add_argument("--explain", type=float, metavar="MS", help="print plans of statements that took so long")
    parser.add_argument("--writes", action="store_true", help="only what the indexes cost those who write")
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument("--changes", type=int, default=50, help="per second, while browsers look")
    parser.add_argument("--seconds", type=float, default=20.0, help="0: no browsers")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torpor-bench-") as temporary:
        place = Path(asked.directory or temporary)
        place.mkdir(parents=True, exist_ok=True)
        postgres = EmbeddedPostgres(place / "postgres")
        url = await postgres.start()
        try:
            await upgrade(url)
            database = await asyncpg.connect(url)
            if not await database.fetchval("select exists (select from runs)"):
                await seed(url, asked.runs)
            if asked.writes:
                await write(database)
                return 0
            stack = Stack(
                Path(temporary, "stack"),
                url,
                TORPOR_DATA_DIR=str(place / "data"),
                TORPOR_RETENTION_DAYS="0",
                TORPOR_LOGS_RETENTION_DAYS="0",
            )
            stack.start_server()
            try:
                wanted = await measure(stack, postgres, database, asked.only)
                await explain(stack, database, _log(postgres), wanted, asked.explain)
                show(wanted)
                if asked.seconds:
                    stack.kill_server()
                    stack.start_server()
                    await follow(stack, postgres, url, asked)
            finally:
                stack.stop()
            await database.close()
        finally:
            await (postgres.stop() if asked.directory else postgres.destroy())
    return 1 if any(page.worst > GOAL_MS for page in wanted) else 0


def _log(postgres: EmbeddedPostgres) -> Path:
    place = postgres.directory / "place"
    return (Path(place.read_text().strip()) if place.exists() else postgres.directory) / "postgres.log"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

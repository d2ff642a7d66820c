"""Runs whose pages are worth looking at, told by a worker without processes, then moved to times of their own."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
from fake_worker import FakeWorker, manifest
from hands import append
from history import MARKUP, Site

from torpor import ids
from torpor.wire import http as wire
from torpor.wire.runner import NewWait, Op, QueueManifest, TaskError

STANDS = [
    {
        "task": "main",
        "file": "app/reports.py",
        "line": 41,
        "source": 'answer = await wait.for_approval("Send the weekly report?")',
    }
]
TRACEBACK = """Traceback (most recent call last):
  File "app/orders.py", line 22, in process
    total = price(order["lines"])
            ^^^^^^^^^^^^^^^^^^^^^
  File "app/prices.py", line 9, in price
    return sum(line["amount"] * rates[line["currency"]] for line in lines)
               ~~~~~^^^^^^^^^^^^^^^^^^
KeyError: 'CHF'
"""
QUEUES: list[QueueManifest] = []


@dataclass
class Teller:
    """Makes the runs of one site."""

    site: Site

    @property
    def worker(self) -> FakeWorker:
        return self.site.worker

    @property
    def database(self) -> asyncpg.Connection:
        return self.site.database

    async def come_up(self) -> None:
        """A worker whose images others can read, so that its runs can be forked."""
        worker = self.worker
        await worker.come_up(
            [manifest(name) for name in ("reports/weekly", "reports/chapter", "orders/process", "echo")]
        )
        intro = wire.Introduction(worker.worker_id, worker.instance_id, "host", 10, True, {}, "store_1", "fit_1")
        await worker.say("hello", intro, wire.Welcome)

    async def begin(self, task: str, payload: Any = None, **options: Any) -> wire.Assignment:
        await self.site.client.trigger(task, payload, **options)
        return await self.worker.take_and_start()

    async def freeze(self, given: wire.Assignment, wait: NewWait, size: int = 6_400_000, **usage: Any) -> None:
        await self.worker.block(given, wait)
        stored = self.stored("wait", size)
        used = wire.Usage(cpu_ms=840, peak_memory_bytes=148_000_000)
        report = wire.SuspendReport(given.lease, stored, STANDS, usage=used)
        assert (await self.worker.say(f"runs/{given.run_id}/suspend", report, wire.LeaseReply)).status == "suspended"

    def stored(self, kind: Any, size: int, name: str | None = None) -> wire.StoredCheckpoint:
        id = ids.new("checkpoint")
        return wire.StoredCheckpoint(
            id, size, kind=kind, name=name, store_id="store_1", digest=f"digest of {id}", key_id="key_1",
            packs=[wire.Pack(f"pack of {id}", 10)], new_bytes=size // 9, shared_bytes=size, dump_ms=84.0, durable_ms=310.0,
            rss_bytes=148_000_000,
        )  # fmt: skip

    async def save(self, given: wire.Assignment, name: str) -> None:
        report = wire.SaveReport(given.lease, self.stored("named", 5_100_000, name), [], STANDS)
        await self.worker.say(f"runs/{given.run_id}/save", report, wire.LeaseReply)

    async def thaw(self) -> wire.Assignment:
        given = await self.worker.take()
        report = wire.StartReport(
            given.lease,
            [answer.wait_id for answer in given.answers],
            pid=9,
            start_ms=64.0,
            restore_ms=38.0,
            since_due_ms=71.0,
        )
        await self.worker.say(f"runs/{given.run_id}/start", report, wire.LeaseReply)
        return given

    async def child(self, parent: wire.Assignment, task: str, payload: bytes = b"{}") -> str:
        run_id = ids.new("run")
        call = wire.TriggerCall(run_id, task, msgspec.Raw(payload), parent.lease)
        await self.worker.say(f"runs/{parent.run_id}/trigger", call, wire.TriggerReply)
        return run_id

    async def say(self, given: wire.Assignment, first: int, *lines: tuple[str, str], **attributes: Any) -> None:
        now = datetime.now(UTC).isoformat()
        told = [wire.LogLine(now, level, message, attributes) for level, message in lines]
        await self.worker.say(f"runs/{given.run_id}/logs", wire.LogReport(given.lease, first, told), dict)

    async def fail(self, given: wire.Assignment, *, retryable: bool = False, message: str = "'CHF'") -> None:
        error = TaskError(
            "KeyError", message, TRACEBACK, [TaskError("ConnectionError", "rates.example did not answer")]
        )
        report = wire.FinishReport(given.lease, "failed", error=error, retryable=retryable)
        await self.worker.say(f"runs/{given.run_id}/finish", report, wire.LeaseReply)

    async def place(self, run_id: str, *after_s: float, ago_s: float, lines: tuple[float, ...] = ()) -> None:
        """Put the story of a run, line by line, at these times after its beginning, which was so long ago."""
        begin = datetime.now(UTC) - timedelta(seconds=ago_s)
        rows = await self.database.fetch(
            "select id, at, kind, attempt from events where run_id = $1 order by id", run_id
        )
        assert len(rows) == len(after_s), [row["at"] for row in rows]
        instants = [begin + timedelta(seconds=each) for each in after_s]
        await self.database.executemany(
            "update events set at = $2 where id = $1", [(row["id"], at) for row, at in zip(rows, instants, strict=True)]
        )
        for table in ("waits", "checkpoints"):
            for row in await self.database.fetch(f"select ctid, created_at from {table} where run_id = $1", run_id):
                nearest = max(
                    (at for old, at in zip(rows, instants, strict=True) if old["at"] <= row["created_at"]),
                    default=begin,
                )
                await self.database.execute(f"update {table} set created_at = $2 where ctid = $1", row["ctid"], nearest)
        await self.database.execute(
            """update runs set created_at = $2::timestamptz,
                   frozen_since = case when frozen_since is null then null else $3::timestamptz end,
                   started_at = case when started_at is null then null else $2::timestamptz end,
                   finished_at = case when finished_at is null then null else $3::timestamptz end where id = $1""",
            run_id, begin, instants[-1],
        )  # fmt: skip
        for row in await self.database.fetch(
            "select number, dequeued_at, finished_at from attempts where run_id = $1", run_id
        ):
            moved = [
                None
                if old is None
                else max((at for each, at in zip(rows, instants, strict=True) if each["at"] <= old), default=begin)
                for old in (row["dequeued_at"], row["finished_at"])
            ]
            if row["number"] > 1 or len(rows) < 3:
                moved[0] = next(
                    at
                    for each, at in zip(rows, instants, strict=True)
                    if each["kind"] == "run.dequeued" and each["attempt"] == row["number"]
                )
            await self.database.execute(
                "update attempts set dequeued_at = $3, finished_at = $4 where run_id = $1 and number = $2",
                run_id,
                row["number"],
                *moved,
            )
        logs = await self.database.fetch("select id from logs where run_id = $1 order by id", run_id)
        await self.database.executemany(
            "update logs set at = $2 where id = $1",
            [(row["id"], begin + timedelta(seconds=each)) for row, each in zip(logs, lines, strict=False)],
        )

    # -- whole stories ------------------------------------------------------------------------------------------------

    async def asks(self, title: str = "Send the weekly report to 1,204 readers?") -> str:
        """A report of two days: with children, a retry, a save point, three freezes, and a person who is asked at the end."""
        client, worker = self.site.client, self.worker
        given = await self.begin(
            "reports/weekly", {"week": 48, "regions": ["eu", "us"], "send": True}, tags=["eu", "weekly"]
        )
        run_id = given.run_id
        await self.say(
            given,
            0,
            ("info", "reading 48,210 orders"),
            ("debug", "cache is cold"),
            ("warning", "3 orders lack a region"),
        )
        await self.fail(given, retryable=True, message="'CHF'")
        given = await worker.take_and_start()
        await self.say(given, 300, ("info", "reading 48,210 orders"), ("info", "read in 2.1 s"))
        await self.save(given, "orders read")
        ops = [Op("set", "progress", 0.6), Op("set", "stage", "chapters")]
        await worker.say(f"runs/{run_id}/metadata", wire.MetadataReport(given.lease, 1, ops), wire.MetadataReply)
        words = [msgspec.Raw(f'"{word}"'.encode()) for word in ("Orders", "rose", "by", "12", "%", "in", "week", "48")]
        await append(worker, given, "words", *words)
        children = [await self.child(given, "reports/chapter", b'{"region":"eu"}') for _ in range(2)]
        await self.freeze(given, NewWait("w_child", "run", run_id=children[0]))
        taken = {child.run_id: child for child in await worker.dequeue(5.0)}
        for nth, child_id in enumerate(children):
            child = taken[child_id]
            await worker.start(child)
            await worker.block(child, NewWait(f"w_c{nth}", "time", duration_s=3600))
            await worker.suspend(child) if nth else await worker.finish(child, {"pages": 12})
        given = await self.thaw()
        assert given.run_id == run_id
        await self.say(given, 900, ("info", "chapters are here"), ("error", "no picture for page 7, left out"))
        token = (await client.create_token(timeout="30d", title=title, context={"readers": 1204}))["id"]
        await self.freeze(given, NewWait("w_ask", "token", waitpoint_id=token), 7_900_000)
        hour = 3600.0
        await self.place(
            run_id,
            0, 0.8, 1.2, 4.1, 5.2, 5.4, 9.5, 10.2, 10.6, 7.2 * hour, 7.2 * hour + 0.9, 7.2 * hour + 1.2,
            7.2 * hour + 6.4, 7.2 * hour + 6.9,
            ago_s=51 * hour, lines=(1.5, 1.9, 3.2, 5.6, 7.7, 7.2 * hour + 1.4, 7.2 * hour + 4.2),
        )  # fmt: skip
        await self.place(children[0], 0, 0.6, 0.9, 2.0, 7.2 * hour, ago_s=51 * hour - 10)
        await self.place(children[1], 0, 0.9, 1.3, 8.0, 8.6, ago_s=51 * hour - 10)
        return run_id

    async def broken(self) -> str:
        """One that failed twice."""
        given = await self.begin(
            "orders/process", {"order": 4711, "lines": [{"amount": 2, "currency": "CHF"}]}, max_attempts=2
        )
        await self.say(given, 0, ("info", "pricing order 4711"), ("error", "no rate for CHF"))
        await self.fail(given, retryable=True)
        given = await self.worker.take_and_start()
        await self.say(given, 200, ("info", "pricing order 4711"), ("error", "no rate for CHF"))
        await self.fail(given, retryable=True)
        return given.run_id

    async def hostile(self) -> str:
        """Markup wherever a user can write something."""
        given = await self.begin("echo", {"x": MARKUP}, tags=[MARKUP[:60]], metadata={"m": MARKUP})
        await self.say(given, 0, ("error", MARKUP), a=MARKUP)
        await self.save(given, MARKUP)
        await append(self.worker, given, MARKUP, msgspec.Raw(msgspec.json.encode(MARKUP)))
        token = (await self.site.client.create_token(title=MARKUP))["id"]
        await self.worker.block(given, NewWait("w_x", "token", waitpoint_id=token))
        place = {"task": MARKUP, "file": MARKUP, "line": 1, "source": MARKUP}
        report = wire.SuspendReport(given.lease, self.stored("wait", 100), [place])
        await self.worker.say(f"runs/{given.run_id}/suspend", report, wire.LeaseReply)
        return given.run_id

    async def endless(self, events: int, lines: int) -> tuple[str, wire.Assignment]:
        """One that goes on, after so many waits in memory and lines of output."""
        given = await self.begin("echo")
        await self.database.execute(
            """insert into events (run_id, at, kind, attempt, data)
               select $1, now() + nth * interval '10 us', 'run.waiting', 1, '{"kinds": ["time"]}'
               from generate_series(1, $2::int) as nth""",
            given.run_id,
            events,
        )
        await self.database.execute(
            """insert into logs (run_id, lease, first_byte, nth, at, level, message, attributes, stream)
               select $1, 1, nth * 40, 0, now() + nth * interval '2.85 us', 'info', 'line ' || nth || ' of the work', '{}', 'log'
               from generate_series(1, $2::int) as nth""",
            given.run_id,
            lines,
        )
        return given.run_id, given

    async def long(self, lines: int) -> str:
        """One with so many log lines."""
        given = await self.begin("echo", {"lines": lines})
        await self.worker.finish(given, "done")
        await self.database.execute(
            """insert into logs (run_id, lease, first_byte, nth, at, level, message, attributes, stream)
               select $1, 1, nth * 40, 0, now() - interval '2 hours' + nth * interval '0.31 second',
                      case when nth % 97 = 0 then 'error' when nth % 13 = 0 then 'warning' else 'info' end,
                      'line ' || nth || ' of the work', '{}', 'log' from generate_series(1, $2::int) as nth""",
            given.run_id,
            lines,
        )
        await self.database.execute(
            "update runs set created_at = now() - interval '2 hours' where id = $1", given.run_id
        )
        await self.database.execute(
            """update events set at = now() - interval '2 hours' where run_id = $1 and kind <> 'run.completed'""",
            given.run_id,
        )
        return given.run_id

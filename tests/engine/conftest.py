"""One Postgres per test session, one emptied database per test, and a `World` that puts runs into any state."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from scratch_postgres import ScratchPostgres
from torpor import engine, ids
from torpor.engine import Lease, RunState
from torpor.store.database import Database, Transaction
from torpor.store.migrate import upgrade
from torpor.store.records import Checkpoint, Event, Run
from torpor.wire.http import (
    Assignment,
    BlockReport,
    FinishReport,
    Introduction,
    MoveReport,
    Pack,
    SaveReport,
    StartReport,
    StoredCheckpoint,
    SuspendReport,
    VersionReport,
)
from torpor.wire.runner import NewWait, RetryPolicy, TaskError, TaskManifest

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """A migrated database that only this session uses: our own server, or a database on TORPOR_TEST_DATABASE_URL's."""
    if given := os.environ.get("TORPOR_TEST_DATABASE_URL"):
        anyio.run(upgrade, given)
        yield given
        return
    # Not pytest's tmp_path: it is private to root, and the server's user must get there.
    directory = Path(tempfile.mkdtemp(prefix="torpor-test-"))
    directory.chmod(0o755)
    postgres = ScratchPostgres(directory / "postgres")
    url = anyio.run(postgres.start)
    anyio.run(upgrade, url)
    anyio.run(_hurry, url)
    yield url
    anyio.run(postgres.destroy)
    shutil.rmtree(directory)


async def _hurry(url: str) -> None:
    """These rows need not outlive a power cut. (tests/store has those that must.)"""
    database = await Database.connect(url, pool_size=1)
    async with database.transaction() as tx:
        await tx.execute("alter database torpor set synchronous_commit = off")
    await database.close()


@pytest.fixture(scope="session")
async def shared_db(database_url: str) -> AsyncIterator[Database]:
    database = await Database.connect(database_url, pool_size=4)
    yield database
    await database.close()


@pytest.fixture
async def db(shared_db: Database) -> Database:
    """The database, emptied."""
    await empty(shared_db)
    return shared_db


async def empty(database: Database) -> None:
    """Forget everything."""
    async with database.transaction() as tx:
        # Quicker than truncate for a handful of rows; without foreign keys the order doesn't matter.
        await tx.execute("set local session_replication_role = replica")
        await tx.execute(
            """delete from environments; delete from api_keys; delete from used_tokens;
               delete from workers; delete from tasks; delete from runs; delete from run_tags;
               delete from idempotency_keys; delete from attempts; delete from waitpoints; delete from waits;
               delete from checkpoints; delete from images; delete from packs; delete from image_packs;
               delete from let_go; delete from refusals; delete from warm_images; delete from data_keys;
               delete from events; delete from logs; delete from turns; delete from queues; delete from presets;
               delete from cascades; delete from batches; delete from batch_items; delete from schedules;
               delete from stream_chunks; delete from streams; delete from bulk_actions; delete from bulk_runs"""
        )


@pytest.fixture
async def world(db: Database) -> "World":
    """An environment with one worker and one version, and a clock that only the test moves."""
    return await founded(db)


@pytest.fixture
async def fleet(db: Database) -> "World":
    """The same, and its worker shares an object store."""
    return await founded(db, store_id="store_1", fitness="fit_1")


async def founded(db: Database, **more: Any) -> "World":
    """The same, for who has no fixtures."""
    world = World(db, **more)
    async with db.transaction() as tx:
        environment = await engine.ensure_environment(tx, "dev", key_hash=b"k", now=world.now)
        world.environment_id = environment.id
        await engine.register_worker(tx, environment.id, world.introduction(), lease_s=30, now=world.now)
        await engine.register_version(tx, environment.id, VersionReport("w1", "v1", world.tasks), now=world.now)
    return world


def manifest(task_id: str, **changes: Any) -> TaskManifest:
    retry = RetryPolicy(max_attempts=3, min_delay_s=1, factor=2, max_delay_s=60, jitter=False)
    plain = TaskManifest(
        id=task_id, file="jobs.py", line=1, is_async=True, parameters="one", payload_schema={}, retry=retry
    )
    return msgspec.structs.replace(plain, **changes)


@dataclass
class World:
    """Verbs, called as server and worker would, each in its own transaction at `now`."""

    db: Database
    now: datetime = NOW
    environment_id: str = ""
    worker_id: str = "w1"
    instance_id: str = "i1"
    store_id: str = ""  # of the workers that say hello from now on, and of what they store
    fitness: str = ""
    tasks: list[TaskManifest] = field(default_factory=lambda: [manifest("hello")])

    def introduction(self, instance_id: str = "i1", worker_id: str = "w1") -> Introduction:
        return Introduction(
            worker_id,
            instance_id,
            host="here",
            slots=10,
            can_freeze=True,
            facts={},
            store_id=self.store_id,
            fitness=self.fitness,
        )

    def later(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    async def do(self, verb: Any, *args: Any, **options: Any) -> Any:
        """One verb in one transaction."""
        async with self.db.transaction() as tx:
            return await verb(tx, *args, now=self.now, **options)

    # -- steps of a life -----------------------------------------------------------------------------------------------

    async def trigger(self, task_id: str = "hello", **options: Any) -> str:
        done = await self.do(engine.trigger, self.environment_id, engine.TriggerRequest(task_id, **options))
        assert isinstance(done, engine.Triggered), done
        return done.run_id

    async def dequeue(self, free: int = 10, **options: Any) -> list[Assignment]:
        given = {"free": free, "versions": ["v1"], "can_restore": True, "lease_s": 30.0} | options
        return await self.do(engine.dequeue, self.worker_id, self.instance_id, **given)

    async def take(self, run_id: str) -> Lease:
        """Dequeue this run; it must be the next one."""
        (assignment,) = await self.dequeue(free=1)
        assert assignment.run_id == run_id
        return Lease(run_id, assignment.lease)

    async def begin(self, run_id: str | None = None, **options: Any) -> Lease:
        """A run that executes, with whatever answers its assignment held."""
        run_id = run_id or await self.trigger(**options)
        (assignment,) = await self.dequeue(free=1)
        assert assignment.run_id == run_id
        lease = Lease(run_id, assignment.lease)
        assert await self.start(lease, [answer.wait_id for answer in assignment.answers]) == engine.Ok()
        return lease

    async def make_batch(self, batch_id: str, *run_ids: str) -> str:
        """A batch of these runs, without the verb that makes batches; its waitpoint."""
        async with self.db.transaction() as tx:
            waitpoint_id = ids.new("waitpoint")
            await tx.execute(
                """with batch as (select $1::text as id, $2::text as waitpoint_id)
                   insert into waitpoints (id, environment_id, kind, batch_id, created_at)
                   select waitpoint_id, $3, 'batch', id, $4 from batch""",
                batch_id,
                waitpoint_id,
                self.environment_id,
                self.now,
            )
            count = max(len(run_ids), 1)
            await tx.execute(
                """insert into batches (id, environment_id, waitpoint_id, run_count, item_count, pending, is_sealed,
                       created_at, updated_at)
                   values ($1, $2, $3, $4, $4, $4, true, $5, $5)""",
                batch_id,
                self.environment_id,
                waitpoint_id,
                count,
                self.now,
            )
            for index, run_id in enumerate(run_ids):
                await tx.execute(
                    "insert into batch_items (batch_id, index, task_id, run_id) values ($1, $2, 'hello', $3)",
                    batch_id,
                    index,
                    run_id,
                )
        return waitpoint_id

    async def start(self, lease: Lease, answered: list[str] | None = None) -> Any:
        return await self.do(engine.start, lease, StartReport(lease.number, answered or [], pid=1))

    async def block(
        self, lease: Lease, *waits: NewWait, idle: bool = True, dropped: list[str] | None = None, **more: Any
    ) -> Any:
        return await self.do(engine.block, lease, BlockReport(lease.number, list(waits), dropped or [], idle, **more))

    async def suspend(self, lease: Lease, checkpoint_id: str | None = None) -> Any:
        report = SuspendReport(lease.number, self.stored(checkpoint_id))
        return await self.do(engine.suspend, lease, report, worker_id=self.worker_id)

    def stored(self, checkpoint_id: str | None = None, *packs: str, **more: Any) -> StoredCheckpoint:
        """A published image of these packs, or of one of its own; in the worker's own store, if it has none to share."""
        id = checkpoint_id or ids.new("checkpoint")
        if not self.store_id:
            return StoredCheckpoint(id, 1000, **more)
        given: dict[str, Any] = {"store_id": self.store_id, "digest": f"digest of {id}", "key_id": "key_1"} | more
        return StoredCheckpoint(id, 1000, packs=[Pack(pack, 10) for pack in packs or (f"pack_of_{id}",)], **given)

    async def save(
        self, lease: Lease, *, name: str | None = None, stored: StoredCheckpoint | None = None, **more: Any
    ) -> Any:
        """A save point, with this name or made by itself."""
        image = stored or self.stored(kind="named" if name else "auto", name=name)
        given: dict[str, Any] = {"open_waits": []} | more
        report = SaveReport(lease.number, image, **given)
        return await self.do(engine.save, lease, report, worker_id=self.worker_id)

    async def move(self, lease: Lease, *, stored: StoredCheckpoint | None = None, **more: Any) -> Any:
        given: dict[str, Any] = {"open_waits": [], "reason": "draining"} | more
        report = MoveReport(lease.number, stored or self.stored(kind="move"), **given)
        return await self.do(engine.move, lease, report, worker_id=self.worker_id)

    async def hello(self, worker_id: str, store_id: str, fitness: str = "", **more: Any) -> None:
        """Another worker, with this object store."""
        intro = Introduction(worker_id, f"of {worker_id}", "here", 10, True, {}, store_id, fitness)
        intro = msgspec.structs.replace(intro, **more)
        await self.do(engine.register_worker, self.environment_id, intro, lease_s=30)

    async def dequeue_as(self, worker_id: str, free: int = 10) -> list[Assignment]:
        given = {"free": free, "versions": ["v1"], "can_restore": True, "lease_s": 30.0}
        return await self.do(engine.dequeue, worker_id, f"of {worker_id}", **given)

    async def checkpoints(self, run_id: str) -> list[Checkpoint]:
        async with self.db.transaction() as tx:
            return await engine.read.checkpoints(tx, run_id)

    async def finish(self, lease: Lease, outcome: Any = "completed", *, jitter: float = 0.0, **more: Any) -> Any:
        report = FinishReport(lease.number, outcome, **more)
        return await self.do(engine.finish, lease, report, jitter=lambda: jitter)

    async def fail(self, lease: Lease, **more: Any) -> Any:
        return await self.finish(lease, "failed", error=TaskError("ValueError", "no"), **more)

    async def token(self, **options: Any) -> str:
        done = await self.do(engine.create_token, self.environment_id, engine.TokenRequest(**options))
        return done.waitpoint_id

    async def complete(self, waitpoint_id: str, output: str = '"yes"', **options: Any) -> Any:
        return await self.do(engine.complete_waitpoint, waitpoint_id, output=output, **options)

    # -- what came of it -----------------------------------------------------------------------------------------------

    async def run(self, run_id: str) -> Run:
        async with self.db.transaction() as tx:
            run = await engine.read.run(tx, self.environment_id, run_id)
        assert run is not None
        return run

    async def story(self, run_id: str) -> list[Event]:
        async with self.db.transaction() as tx:
            return await engine.read.story(tx, run_id)

    async def kinds(self, run_id: str) -> list[str]:
        return [event.kind for event in await self.story(run_id)]

    # -- any state -----------------------------------------------------------------------------------------------------

    async def run_in(self, state: RunState) -> Lease:
        """A run in this state, with its latest lease; by verbs wherever a verb leads there."""
        match state:
            case RunState.QUEUED:
                return Lease(await self.trigger(), 0)
            case RunState.DELAYED:
                return Lease(await self.trigger(delay_until=self.now + timedelta(hours=1)), 0)
            case RunState.DEQUEUED:
                return await self.take(await self.trigger())
            case RunState.EXECUTING:
                return await self.begin()
            case RunState.WAITING:
                lease = await self.begin()
                await self.block(lease, time_wait("wait_0", 3600))
                return lease
            case RunState.SUSPENDED:
                lease = await self.run_in(RunState.WAITING)
                await self.suspend(lease)
                return replace(lease, number=lease.number + 1)
            case RunState.COMPLETED:
                lease = await self.begin()
                await self.finish(lease)
            case RunState.FAILED:
                lease = await self.begin()
                await self.fail(lease, retryable=False)
            case RunState.CRASHED:
                lease = await self.begin()
                await self.finish(lease, "crashed", retryable=False)
            case RunState.CANCELED:
                lease = await self.begin()
                await self.do(engine.cancel, self.environment_id, lease.run_id, at_once=True)
            case RunState.SYSTEM_FAILURE:
                lease = await self.begin()
                self.later(31)
                await self.do(engine.rescue, max_rescues=0)
            case RunState.TIMED_OUT:
                lease = await self.begin()
                await self.finish(lease, "timed_out")
            case RunState.EXPIRED:
                lease = Lease(await self.trigger(ttl_s=1), 0)
                self.later(1)
                await self.do(engine.expire)
            case RunState.PENDING_VERSION:
                lease = Lease(await self.trigger(), -1)
                await self._set_state(lease, state, "version = null")
        return Lease(lease.run_id, lease.number + 1)

    async def _set_state(self, lease: Lease, state: RunState, more: str) -> None:
        async with self.db.transaction() as tx:
            await tx.execute(f"update runs set state = $2, {more} where id = $1", lease.run_id, state)


def time_wait(wait_id: str, seconds: float) -> NewWait:
    return NewWait(wait_id, "time", duration_s=seconds)


def token_wait(wait_id: str, waitpoint_id: str) -> NewWait:
    return NewWait(wait_id, "token", waitpoint_id=waitpoint_id)


def run_wait(wait_id: str, run_id: str) -> NewWait:
    return NewWait(wait_id, "run", run_id=run_id)


async def blocked_backends(tx: Transaction) -> Any:
    """How many connections of this database wait for a lock now."""
    return await tx.fetchval(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    )


async def until_blocked(database: Database) -> None:
    """Returns when some connection waits for a lock."""
    while True:
        async with database.transaction() as tx:  # a new one each time: a transaction sees one state of the statistics
            if await blocked_backends(tx):
                return
        await anyio.sleep(0.01)

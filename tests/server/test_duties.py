"""What the server does unasked: rescue only whom it could have heard, and fire whatever can be fired."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from facts import PATIENCE_S
from fake_worker import KEY, TASKS, TOKEN, FakeWorker, Start

from torpor import engine
from torpor.config import Settings
from torpor.engine import complete
from torpor.sdk.async_client import AsyncClient
from torpor.server import loops
from torpor.server.hub import Hub
from torpor.server.timers import LONGEST_PAUSE_S, Timers
from torpor.store.database import Database, DatabaseDown, Transaction
from torpor.wire import http as wire

pytestmark = pytest.mark.anyio

LEASE_S = 30.0


class Hands:
    """Both clocks, moved by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reading = 1000.0
        self.at = datetime(2026, 1, 1, tzinfo=UTC)
        monkeypatch.setattr("torpor.server.reach.monotonic", lambda: self.reading)
        monkeypatch.setattr("torpor.store.database.monotonic", lambda: self.reading)

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        """The machine sleeps: only the wall clock goes on."""
        self.at += timedelta(seconds=seconds)

    def move(self, seconds: float) -> None:
        self.sleep(seconds)
        self.reading += seconds


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    return Hands(monkeypatch)


@pytest.fixture
async def here(database_url: str, hands: Hands) -> AsyncIterator[Hub]:
    """What duties act on, without a server; with one worker, which has `echo`."""
    database = await Database.connect(database_url)
    here = Hub(Settings(secret_key=KEY, worker_token=TOKEN, lease_s=LEASE_S), database, hands)
    await do(here, engine.ensure_environment, "dev", key_hash=b"k")
    await hello(here, "i1")
    await do(here, engine.register_version, await environment_id(here), wire.VersionReport("w1", "v1", TASKS))
    yield here
    await database.close()


async def do(here: Hub, verb: Any, *args: Any, **options: Any) -> Any:
    """One verb in one transaction."""
    async with here.database.transaction() as tx:
        return await verb(tx, *args, now=here.clock.now(), **options)


async def environment_id(here: Hub) -> str:
    async with here.database.transaction() as tx:
        [environment] = await engine.read.environments(tx)
    return environment.id


async def hello(here: Hub, instance_id: str) -> int:
    intro = wire.Introduction("w1", instance_id, "host", 10, True, {})
    return await do(here, engine.register_worker, await environment_id(here), intro, lease_s=LEASE_S)


async def trigger(here: Hub, **options: Any) -> str:
    asked = engine.TriggerRequest("echo", **options)
    return (await do(here, engine.trigger, await environment_id(here), asked)).run_id


async def begin(here: Hub) -> str:
    """A run that the worker has."""
    await trigger(here)
    options = {"free": 1, "versions": ["v1"], "can_restore": True, "lease_s": LEASE_S}
    (given,) = await do(here, engine.dequeue, "w1", "i1", **options)
    return given.run_id


async def look(here: Hub, hands: Hands, reach: Any, seconds: float) -> list[str]:
    """The rescue duty, every two seconds for so long."""
    for _ in range(int(seconds / loops.RESCUE_INTERVAL_S)):
        hands.move(loops.RESCUE_INTERVAL_S)
        if taken := await loops.rescue(here, reach):
            return taken
    return []


# -- rescue -----------------------------------------------------------------------------------------------------------


async def test_after_a_server_was_away_for_long_nothing_is_rescued_for_a_lease(here: Hub, hands: Hands) -> None:
    run_id = await begin(here)
    hands.move(3600)
    reach = loops.watch(here)
    assert await loops.rescue(here, reach) == []
    assert await look(here, hands, reach, LEASE_S - 2) == []
    assert await look(here, hands, reach, 2) == [run_id]


async def test_a_database_that_was_away_starts_every_lease_anew(here: Hub, hands: Hands) -> None:
    """By whichever request heard of it."""
    run_id = await begin(here)
    reach = loops.watch(here)
    assert await look(here, hands, reach, LEASE_S - 2) == []
    with pytest.raises(DatabaseDown):
        async with here.database.transaction():
            raise asyncpg.ConnectionDoesNotExistError("gone")
    assert await look(here, hands, reach, LEASE_S - 2) == []
    assert await look(here, hands, reach, 2) == [run_id]


async def test_a_machine_that_slept_has_heard_nobody(here: Hub, hands: Hands) -> None:
    run_id = await begin(here)
    reach = loops.watch(here)
    assert await look(here, hands, reach, 10) == []
    hands.sleep(8 * 3600)
    assert await look(here, hands, reach, LEASE_S) == []
    assert await look(here, hands, reach, 2) == [run_id]


async def test_a_worker_that_starts_anew_waits_for_no_lease(here: Hub, hands: Hands) -> None:
    await begin(here)
    hands.move(3600)
    loops.watch(here)
    assert await hello(here, "i2") == 1


async def test_a_run_goes_on_through_a_new_server_that_finds_its_lease_run_out(
    start: Start, database_url: str, hubs: list[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    rescue, has_looked = loops.rescue, asyncio.Event()

    async def noted(here: Hub, *given: Any) -> list[str]:
        taken = await rescue(here, *given)
        if here is not hubs[0]:
            has_looked.set()
        return taken

    monkeypatch.setattr(loops, "rescue", noted)
    url = await start(database_url)
    worker = FakeWorker(url)
    await worker.come_up()
    async with AsyncClient(url, KEY) as client:
        await client.trigger("echo")
    given = await worker.take_and_start()
    connection = await asyncpg.connect(database_url)
    await connection.execute("update runs set lease_expires_at = now() - interval '1 hour'")
    second = FakeWorker(await start(database_url))
    second.worker_id, second.instance_id = worker.worker_id, worker.instance_id
    await asyncio.wait_for(has_looked.wait(), PATIENCE_S)
    assert (await second.heartbeat(given)).news == []
    assert await second.finish(given, "kept") == "ok"
    await connection.close()
    await worker.close()
    await second.close()


# -- timers -----------------------------------------------------------------------------------------------------------

SABOTAGE = """
create function sabotage() returns trigger language plpgsql as $$ begin raise exception 'sabotaged'; end $$;
create trigger sabotage before update on {table} for each row when (old.id = '{id}') execute function sabotage();
"""


async def sabotage(here: Hub, table: str, id: str) -> None:
    """Every change of this row fails."""
    async with here.database.transaction() as tx:
        await tx.execute(SABOTAGE.format(table=table, id=id))


async def token(here: Hub, timeout_s: float) -> str:
    asked = engine.TokenRequest(timeout_s=timeout_s)
    return (await do(here, engine.create_token, await environment_id(here), asked)).waitpoint_id


async def left(here: Hub) -> set[str]:
    """The timers that have not been fired."""
    async with here.database.transaction() as tx:
        rows = await tx.fetch(
            "select id from waitpoints where status = 'pending' union all select id from runs where state = 'delayed'"
        )
    return {row["id"] for row in rows}


@pytest.mark.parametrize("table", ["waitpoints", "runs"])
async def test_a_timer_that_always_fails_holds_up_no_other(
    here: Hub, hands: Hands, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = [await token(here, seconds) for seconds in (1, 2, 3)]
    delayed = [await trigger(here, delay_until=hands.at + timedelta(seconds=n)) for n in (1, 2)]
    bad = tokens[0] if table == "waitpoints" else delayed[0]
    await sabotage(here, table, bad)
    far = await token(here, 10_000)
    timers = Timers(here)
    hands.move(5)
    again_at = await timers.fire()
    assert await left(here) == {bad, far}
    assert again_at == hands.at + timedelta(seconds=1)
    assert [f"{bad} is due but can't be fired" in record.message for record in caplog.records] == [True]
    assert "sabotaged" in caplog.text
    # What comes due later is fired without it, and it is tried again, later each time.
    late = await token(here, 0.5)
    hands.move(0.5)
    assert await timers.fire() == again_at
    assert late not in await left(here)
    pauses_s: list[float] = []
    for _ in range(8):
        assert again_at
        hands.at = again_at
        again_at = await timers.fire()
        assert again_at
        pauses_s.append((again_at - hands.at).total_seconds())
    assert pauses_s == [2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    async with here.database.transaction() as tx:
        await tx.execute(f"drop trigger sabotage on {table}")
    assert again_at
    hands.at = again_at
    assert await timers.fire()
    assert await left(here) == {far}


async def test_a_timer_that_fails_by_a_bug_of_ours_holds_up_no_other(
    here: Hub, hands: Hands, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad = await token(here, 1)
    await token(here, 2)
    settle = complete.settle

    async def buggy(tx: Transaction, waitpoint: Any, *args: Any, **options: Any) -> Any:
        assert waitpoint.id != bad, "a bug"
        return await settle(tx, waitpoint, *args, **options)

    monkeypatch.setattr(complete, "settle", buggy)
    hands.move(5)
    await Timers(here).fire()
    assert await left(here) == {bad}
    assert "AssertionError: a bug" in caplog.text


async def test_what_fails_with_nothing_due_is_the_callers(
    here: Hub, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(engine, "fire_due", broken)
    with pytest.raises(ZeroDivisionError):
        await Timers(here).fire()


async def test_a_schedule_that_always_fails_holds_up_no_other(here: Hub, hands: Hands) -> None:
    """C6: it is set aside and tried again; the others tick."""
    environment = await environment_id(here)
    made: list[str] = []
    for key in ("bad", "good"):
        asked = engine.ScheduleRequest("echo", "* * * * *", deduplication_key=key)
        done = await do(here, engine.create_schedule, environment, asked)
        made.append(done.schedule.id)
    await sabotage(here, "schedules", made[0])
    hands.move(60)
    again_at = await Timers(here, engine.fire_schedules, engine.due_schedules).fire()
    assert again_at == hands.at + timedelta(seconds=1)
    async with here.database.transaction() as tx:
        runs = await engine.read.runs(tx, environment)
    assert [run.schedule_id for run in runs.items] == [made[1]]


# -- stranded runs ----------------------------------------------------------------------------------------------------


async def test_a_run_that_nobody_takes_says_why_when_workers_had_time_to_be_heard(here: Hub, hands: Hands) -> None:
    run_id = await trigger(here)
    hands.move(3600)
    reach = loops.watch(here)
    assert await loops.tell_stranded(here, reach) == []
    await look(here, hands, reach, LEASE_S)
    assert await loops.tell_stranded(here, reach) == [run_id]
    assert await loops.tell_stranded(here, reach) == []


# -- repair and retention ---------------------------------------------------------------------------------------------


async def test_what_must_not_be_is_put_right_and_told(here: Hub, caplog: pytest.LogCaptureFixture) -> None:
    run_ids = [await trigger(here) for _ in range(3)]
    async with here.database.transaction() as tx:
        await tx.execute("update runs set state = 'pending_version' where id = any($1::text[])", run_ids[:2])
    assert {fault.id for fault in await loops.repair(here)} == set(run_ids[:2])
    for run_id in run_ids[:2]:
        assert f"repaired {run_id}: a run waits for a version that is there" in caplog.text
    assert await loops.repair(here) == []


async def rows(here: Hub, table: str) -> int:
    async with here.database.transaction() as tx:
        return int(await tx.fetchval(f"select count(*) from {table}") or 0)


async def end_many(here: Hub, count: int) -> None:
    """So many runs that were canceled, and a log line of each."""
    for _ in range(count):
        run_id = await begin(here)
        line = wire.LogLine(here.clock.now().isoformat(), "info", "hello")
        await do(here, engine.append, run_id, wire.LogReport(1, 0, [line]))
        await do(here, engine.cancel, await environment_id(here), run_id)
        async with here.database.transaction() as tx:
            await tx.execute(
                """update runs set state = 'canceled', finished_at = $1, lease_expires_at = null, worker_id = null,
                       instance_id = null where finished_at is null""",
                here.clock.now(),
            )


async def test_what_is_over_for_long_is_deleted_in_steps(here: Hub, hands: Hands) -> None:
    """Logs first, the rest after thirty days; a second pass finds nothing."""
    await end_many(here, 5)
    hands.move(15 * 24 * 3600)
    assert await loops.prune(here, pause_s=0) == 5
    assert (await rows(here, "runs"), await rows(here, "logs")) == (5, 0)
    hands.move(16 * 24 * 3600)
    await loops.prune(here, pause_s=0)
    assert (await rows(here, "runs"), await rows(here, "events")) == (0, 0)
    assert await loops.prune(here, pause_s=0) == 0


async def test_nothing_is_deleted_when_everything_is_to_be_kept(here: Hub, hands: Hands) -> None:
    await end_many(here, 1)
    keeping = Hub(replace(here.settings, retention_days=0, logs_retention_days=0), here.database, hands)
    hands.move(1000 * 24 * 3600)
    await loops.prune(keeping, pause_s=0)
    assert (await rows(here, "runs"), await rows(here, "logs")) == (1, 1)

"""The pool, the announcements, and what happens to both when the server dies. And migrations."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from torpor.errors import ConfigError
from torpor.store.database import Database, DatabaseDown, told_as_down
from torpor.store.embedded import EmbeddedPostgres
from torpor.store.migrate import Migration, migrations, upgrade

pytestmark = pytest.mark.anyio


async def eventually(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not fact():
            await asyncio.sleep(0.01)


async def test_notes_come_with_the_commit_and_only_then(fresh_url: str):
    database = await Database.connect(fresh_url)
    heard: list[tuple[str, dict[str, object]]] = []
    await database.listen(lambda kind, data: heard.append((kind, data)))
    with contextlib.suppress(ZeroDivisionError):
        async with database.transaction() as tx:
            await tx.notify("work", environment_id="rolled back")
            raise ZeroDivisionError
    async with database.transaction() as tx:
        await tx.notify("news", kind="stale", run_id="run_1")
    await eventually(lambda: bool(heard))
    assert heard == [("news", {"kind": "stale", "run_id": "run_1"})]
    await database.close()


async def test_a_listener_that_fails_does_not_deafen_the_others(fresh_url: str, caplog: pytest.LogCaptureFixture):
    database = await Database.connect(fresh_url)
    heard: list[str] = []

    def fails(_kind: str, _data: object) -> None:
        raise ValueError("a bug")

    await database.listen(fails)
    await database.listen(lambda kind, _: heard.append(kind))
    async with database.transaction() as tx:
        await tx.notify("work")
    await eventually(lambda: heard == ["work"])
    assert "a bug" in caplog.text
    await database.close()


async def test_a_dead_server_is_told_as_down_and_a_new_one_is_used_at_once(cluster: EmbeddedPostgres):
    database = await Database.connect(await cluster.start(), pool_size=3)
    heard: list[str] = []
    await database.listen(lambda kind, _: heard.append(kind))
    pid = int((cluster.directory / "data" / "postmaster.pid").read_text().split("\n")[0])

    async def ask_for_ever() -> None:
        async with database.transaction() as tx:
            os.kill(pid, signal.SIGKILL)
            while True:
                await tx.fetchval("select 1")

    with pytest.raises(DatabaseDown):
        await ask_for_ever()
    await eventually(lambda: not cluster.is_running())
    with pytest.raises(DatabaseDown):
        async with database.transaction():
            pass
    await cluster.ensure()
    async with database.transaction() as tx:
        assert await tx.fetchval("select 1") == 1
        await tx.notify("work")
    await eventually(lambda: "reconnected" in heard)
    async with database.transaction() as tx:
        await tx.notify("work")
    await eventually(lambda: heard[-1] == "work")
    await database.close()


async def test_a_url_where_nobody_answers_is_told_as_down(reachable: Path):
    with pytest.raises(DatabaseDown):
        await Database.connect(f"postgresql://torpor@/torpor?host={reachable}")


async def test_an_error_in_a_statement_is_not_told_as_down(fresh_url: str):
    database = await Database.connect(fresh_url)
    with pytest.raises(asyncpg.UndefinedTableError):
        async with database.transaction() as tx:
            await tx.fetch("select * from nowhere")
    with pytest.raises(asyncpg.InterfaceError):
        async with database.transaction() as tx:
            await tx.fetch("select $1::int")
    with pytest.raises(asyncpg.DataError, match="'closed'"):
        async with database.transaction() as tx:
            await tx.fetch("select $1::int", "closed")
    await database.close()


@pytest.mark.parametrize(
    "wrong", [asyncpg.ClientConfigurationError("got 'closed'"), asyncpg.exceptions._base.DataError("got 'closed'")]
)
def test_what_the_driver_says_of_a_value_is_not_told_as_down_whatever_the_value(wrong: Exception):
    """It has two of the name `DataError`; the one that is no answer of the database is an InterfaceError."""
    with pytest.raises(type(wrong)), told_as_down():
        raise wrong


async def test_a_connection_that_was_lost_in_the_middle_of_a_statement_is_told_as_down(fresh_url: str):
    database = await Database.connect(fresh_url)
    with pytest.raises(DatabaseDown, match="got result for unknown protocol state"):
        async with database.transaction():
            raise asyncpg.InternalClientError("got result for unknown protocol state 3")
    await database.close()


async def test_it_is_known_since_when_the_database_was_within_reach(cluster: EmbeddedPostgres):
    """By transactions that fail, and by the listener where nobody asks for anything."""
    database = await Database.connect(await cluster.start())
    connected = database.reached_since
    async with database.transaction() as tx:
        await tx.fetchval("select 1")
    assert database.reached_since == connected
    await database.listen(lambda _kind, _: None)
    await cluster.stop()
    await eventually(lambda: database.reached_since > connected)
    cut_off = database.reached_since
    with pytest.raises(DatabaseDown):
        async with database.transaction():
            pass
    assert database.reached_since > cut_off
    await database.close()


async def test_an_exhausted_pool_is_told_as_down(fresh_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torpor.store.database.ACQUIRE_TIMEOUT_S", 0.2)
    database = await Database.connect(fresh_url, pool_size=1)
    async with database.transaction():
        with pytest.raises(DatabaseDown):
            async with database.transaction():
                pass
    await database.close()


# -- migrations --------------------------------------------------------------------------------------------------------


async def test_an_upgrade_applies_each_file_once_also_by_two_at_once(fresh_url: str):
    first, second = await asyncio.gather(upgrade(fresh_url), upgrade(fresh_url))
    assert sorted([first, second]) == [[], [f"{one.number:04}_{one.name}" for one in migrations()]]
    assert await upgrade(fresh_url) == []


async def test_a_changed_file_and_a_newer_database_are_refused(fresh_url: str):
    one = Migration(1, "start", "create table a (n int)")
    two = Migration(2, "more", "create table b (n int)")
    assert await upgrade(fresh_url, [one, two]) == ["0001_start", "0002_more"]
    with pytest.raises(ConfigError, match="0001_start has changed"):
        await upgrade(fresh_url, [Migration(1, "start", "create table c (n int)"), two])
    with pytest.raises(ConfigError, match="newer than this Torpor: it has migration 0002_more"):
        await upgrade(fresh_url, [one])


async def test_a_file_that_fails_leaves_nothing_of_itself(fresh_url: str):
    bad = Migration(1, "start", "create table a (n int); select nonsense")
    with pytest.raises(asyncpg.UndefinedColumnError):
        await upgrade(fresh_url, [bad])
    good = Migration(1, "start", "create table a (n int)")
    assert await upgrade(fresh_url, [good]) == ["0001_start"]


def test_numbers_of_migrations_are_unique_and_without_gaps():
    assert [one.number for one in migrations()] == list(range(1, len(migrations()) + 1))

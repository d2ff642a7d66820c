"""The simulation's database: one connection, every verb in a transaction of its own.

Nothing of the engine is replaced. What a verb announces is kept until its transaction has committed and then told to
whoever plays the listeners, instead of going through LISTEN and NOTIFY. New ids come from the seed.
"""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec

from torpor import ids
from torpor.store import database
from torpor.store.database import Transaction
from torpor.store.embedded import EmbeddedPostgres
from torpor.store.migrate import upgrade

from .checks import install

Note = tuple[str, dict[str, Any]]


class PlayedTransaction(Transaction):
    """As verbs know it; notes are caught, which spares a round trip for each."""

    __slots__ = ("notes",)

    def __init__(self, connection: asyncpg.Connection) -> None:
        super().__init__(connection)
        self.notes: list[Note] = []

    async def notify(self, kind: str, /, **data: Any) -> None:
        self.notes.append((kind, data))


class Store:
    """One connection to an emptied database with the checks' triggers in it."""

    def __init__(self, connection: asyncpg.Connection, empty: str) -> None:
        self.connection = connection
        self._empty = empty
        self._seeds = 0
        self._heard: list[Note] = []

    @classmethod
    async def connect(cls, url: str) -> "Store":
        # Room for all statements of the engine: the driver's own 100 would be parsed again and again.
        connection = await asyncpg.connect(url, statement_cache_size=5000, max_cached_statement_lifetime=0)
        await database._prepare(connection)
        # The tables are tiny: planning anew would cost more than any plan saves.
        await connection.execute("set plan_cache_mode = force_generic_plan")
        await connection.execute("set synchronous_commit = off")
        await install(connection)
        tables = await connection.fetch(
            "select tablename from pg_tables where schemaname = 'public' and tablename not like '%migration%'"
        )
        empty = ";".join(["set local session_replication_role = replica", *(f"delete from {t[0]}" for t in tables)])
        store = cls(connection, empty)
        await connection.add_listener(database.CHANNEL, store._hear)
        return store

    def _hear(self, _connection: object, _pid: int, _channel: str, text: object) -> None:
        """What statements announce by themselves: our own session hears it before it hears that the commit is done."""
        kind, data = msgspec.json.decode(str(text))
        self._heard.append((kind, data))

    async def close(self) -> None:
        await self.connection.close()

    async def empty(self) -> None:
        """Forget everything."""
        self._seeds += 1
        async with self.connection.transaction():
            await self.connection.execute(self._empty)
        if self._seeds % 50 == 0:
            await self.connection.execute("vacuum")

    async def do(self, act: Callable[[Transaction], Any]) -> tuple[Any, list[Note]]:
        """One verb, committed; and what it announced."""
        transaction = self.connection.transaction()
        await transaction.start()
        tx = PlayedTransaction(self.connection)
        try:
            outcome = await act(tx)
        except BaseException:
            await transaction.rollback()
            raise
        await transaction.commit()
        notes, self._heard = tx.notes + self._heard, []
        return outcome, [note for note in notes if note[0] != "run"]  # those are for who watches a run


@contextmanager
def ids_from(draw: Callable[[], int]) -> Iterator[None]:
    """Until the end of the block, every new id is drawn from the seed."""
    real = ids.new
    ids.new = lambda kind: f"{kind}_{draw():08x}"
    try:
        yield
    finally:
        ids.new = real


@asynccontextmanager
async def served(databases: int = 1) -> AsyncIterator[list[str]]:
    """A Postgres of our own with so many migrated databases, or those of the server in TORPOR_TEST_DATABASE_URL."""
    given = os.environ.get("TORPOR_TEST_DATABASE_URL")
    directory = Path(tempfile.mkdtemp(prefix="torpor-simulation-"))
    directory.chmod(0o755)  # the server's user must get there
    postgres = EmbeddedPostgres(directory / "postgres")
    try:
        url = given or await postgres.start()
        made = await make_databases(url, databases, is_ours=given is None)
        yield made
        if given:
            await drop_databases(url, made)
    finally:
        if not given:
            await postgres.destroy()
        shutil.rmtree(directory, ignore_errors=True)


async def make_databases(url: str, count: int, *, is_ours: bool) -> list[str]:
    """Fresh databases on that server."""
    connection = await asyncpg.connect(url)
    made: list[str] = []
    try:
        if is_ours:  # nobody will miss these rows after a power cut
            await connection.execute("alter system set fsync = off")
            await connection.execute("alter system set full_page_writes = off")
            await connection.execute("alter system set autovacuum = off")
            await connection.execute("select pg_reload_conf()")
        for nth in range(count):
            name = f"simulation_{os.getpid()}_{nth}"
            await connection.execute(f"create database {name}")
            made.append(urlunsplit(urlsplit(url)._replace(path=f"/{name}")))
    finally:
        await connection.close()
    for each in made:
        await upgrade(each)
    return made


async def drop_databases(url: str, made: list[str]) -> None:
    connection = await asyncpg.connect(url)
    for each in made:
        await connection.execute(f"drop database if exists {urlsplit(each).path[1:]} with (force)")
    await connection.close()

"""Bring a database up to this version's schema: numbered SQL files, applied in order, each once.

    migrations/0001_start.sql, 0002_….sql    a file that has been released is never edited: the next one changes it

One advisory lock covers the whole upgrade, so any number of processes may start at once; each file and its row in
`schema_migrations` are one transaction.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

import asyncpg

from torpor.errors import ConfigError
from torpor.store.database import told_as_down

LOCK = 0x70_72_6F_70_6F_72  # any number, as long as it is always this one
FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True)
class Migration:
    """One file."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Those that come with this version, in order."""
    found: list[Migration] = []
    for file in resources.files("torpor.store").joinpath("migrations").iterdir():
        if match := FILE_NAME.fullmatch(file.name):
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.number)


async def upgrade(url: str, known: list[Migration] | None = None) -> list[str]:
    """Apply what is missing; returns the names applied, such as `0001_start`.

    Raises:
        ConfigError: the database is newer than this version, or an applied file is not what it was.
        DatabaseDown: nobody answers at that URL.
    """
    known = migrations() if known is None else known
    with told_as_down():
        connection = await asyncpg.connect(url, timeout=10)
        try:
            await connection.execute("select pg_advisory_lock($1)", LOCK)
            return await _apply(connection, known)
        finally:
            await connection.close()  # which also gives the lock back


async def _apply(connection: asyncpg.Connection, known: list[Migration]) -> list[str]:
    await connection.execute(
        """create table if not exists schema_migrations (
               number int primary key, name text not null, sha256 text not null,
               applied_at timestamptz not null default now())"""
    )
    rows = await connection.fetch("select number, name, sha256 from schema_migrations order by number")
    by_number = {migration.number: migration for migration in known}
    for row in rows:
        migration = by_number.get(row["number"])
        label = f"{row['number']:04}_{row['name']}"
        if migration is None:
            raise ConfigError(
                f"the database is newer than this Torpor: it has migration {label}, which this version doesn't know. "
                "Install the version that made it, or a newer one."
            )
        if migration.sha256 != row["sha256"]:
            raise ConfigError(
                f"migration {label} has changed since it was applied to this database. "
                "Restore the file as it was released; a change to the schema goes into a new file."
            )
    applied: list[str] = []
    for migration in known:
        if any(row["number"] == migration.number for row in rows):
            continue
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "insert into schema_migrations (number, name, sha256) values ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.sha256,
            )
        applied.append(f"{migration.number:04}_{migration.name}")
    return applied

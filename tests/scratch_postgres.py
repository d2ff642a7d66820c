"""The Postgres of tests that are not about Postgres: it syncs nothing, and a new database in it is migrated already."""

import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from torpor.store.embedded import EmbeddedPostgres
from torpor.store.migrate import upgrade

SETTINGS = {
    "fsync": "off",  # nobody will miss these rows after a power cut; killing it loses none
    "full_page_writes": "off",
    "autovacuum": "off",  # it visits each of some hundred databases once a minute, and they are gone before it could help
}
MEMORY = Path("/dev/shm")
ROOM_BYTES = 6 << 30
"""So much must be free in there: the databases of one part of the tests, 10 MB each, and those of the parts beside it."""


class ScratchPostgres(EmbeddedPostgres):
    """It is in memory where there is enough: a database is made there within 10 ms, on a disk that others write to in 200.

    `create database` copies template1: migrated once, it spares each test the migrations. An empty one has `template0`.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES:
            root = Path(tempfile.mkdtemp(prefix="torpor-test-", dir=MEMORY))
            root.chmod(0o755)  # the server's user must get there
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "place").write_text(f"{root}\n")

    async def start(self) -> str:
        url = await super().start()
        connection = await asyncpg.connect(url)
        try:
            for name, value in SETTINGS.items():
                await connection.execute(f"alter system set {name} = {value}")
            await connection.execute("select pg_reload_conf()")
        finally:
            await connection.close()
        await upgrade(urlsplit(url)._replace(path="/template1").geturl())
        return url


async def create_database(url: str, name: str, like: str = "template1") -> str:
    """The URL of one more database on that server; nobody may be connected to the one that it is a copy of."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f'create database "{name}" template "{like}" strategy file_copy')
    finally:
        await connection.close()
    return urlsplit(url)._replace(path=f"/{name}").geturl()


async def drop_database(url: str) -> None:
    """Whoever is still connected to it is cut off."""
    name = urlsplit(url).path[1:]
    connection = await asyncpg.connect(urlsplit(url)._replace(path="/torpor").geturl())
    try:
        await connection.execute(f'drop database "{name}" with (force)')
    finally:
        await connection.close()

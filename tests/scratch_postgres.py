"""The Postgres of tests that are not about Postgres: it syncs nothing, and a new database in it is migrated already."""

from urllib.parse import urlsplit

import asyncpg

from torpor.store.embedded import EmbeddedPostgres
from torpor.store.migrate import upgrade

SETTINGS = {
    "fsync": "off",  # nobody will miss these rows after a power cut; killing it loses none
    "full_page_writes": "off",
    "autovacuum": "off",  # it visits each of some hundred databases once a minute, and they are gone before it could help
}


class ScratchPostgres(EmbeddedPostgres):
    """`create database` copies template1: migrated once, it spares each test the migrations. An empty one has `template0`."""

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

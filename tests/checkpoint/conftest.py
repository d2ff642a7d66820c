"""One stack for all programs: they don't disturb each other."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import Stack, fresh_database

from torpor.store.embedded import EmbeddedPostgres


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    asyncio.run(postgres.start())
    directory = tmp_path_factory.mktemp("programs")
    made = Stack(directory / "stack", fresh_database(postgres, "programs"), Path(__file__).parent / "programs")
    made.start()
    yield made
    made.assert_nothing_left()
    made.stop()
    asyncio.run(postgres.destroy())

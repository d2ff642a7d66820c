"""Embedded servers for tests of their lives and deaths: each in a directory that its user can reach."""

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from torpor.store.embedded import EmbeddedPostgres


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def reachable() -> Iterator[Path]:
    """An empty directory; pytest's own tmp_path is private to root, and the server may run as somebody else."""
    directory = Path(tempfile.mkdtemp(prefix="torpor-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
async def shared_server() -> AsyncIterator[str]:
    """One server for the tests that do it no harm."""
    directory = Path(tempfile.mkdtemp(prefix="torpor-test-"))
    directory.chmod(0o755)
    embedded = EmbeddedPostgres(directory / "postgres")
    yield await embedded.start()
    await embedded.destroy()
    directory.rmdir()


@pytest.fixture
async def fresh_url(shared_server: str) -> str:
    """An empty database."""
    name = f"test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(shared_server)
    await connection.execute(f"create database {name}")
    await connection.close()
    return shared_server.replace("/torpor?", f"/{name}?")


@pytest.fixture(scope="session")
async def made_before() -> AsyncIterator[Path]:
    """A directory with a cluster that nobody serves, for copies: to make one takes a second of a processor."""
    directory = Path(tempfile.mkdtemp(prefix="torpor-test-"))
    directory.chmod(0o755)
    embedded = EmbeddedPostgres(directory / "postgres")
    await embedded.start()
    await embedded.stop()
    yield embedded.directory
    await embedded.destroy()
    directory.rmdir()


@pytest.fixture
async def cluster(reachable: Path, made_before: Path) -> AsyncIterator[EmbeddedPostgres]:
    """An embedded Postgres whose cluster is made, and which has not been started."""
    subprocess.run(["cp", "--archive", made_before, reachable / "postgres"], check=True)
    embedded = EmbeddedPostgres(reachable / "postgres")
    yield embedded
    await embedded.destroy()


@pytest.fixture
async def postgres(reachable: Path) -> AsyncIterator[EmbeddedPostgres]:
    """An embedded Postgres that has not been started, and has no cluster."""
    embedded = EmbeddedPostgres(reachable / "postgres")
    yield embedded
    await embedded.destroy()

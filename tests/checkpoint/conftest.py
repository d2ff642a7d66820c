"""The programs, on one stack: they don't disturb each other. And the servers that some of them are clients of."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from elsewhere import Elsewhere
from elsewhere import make as make_elsewhere
from journey import PROGRAMS, Journey, addresses, limits, stayers, travellers, two_lives
from stack import Stack, fresh_database

from scratch_postgres import ScratchPostgres
from torpor.store.embedded import EmbeddedPostgres

SETTINGS = {
    "TORPOR_LEASE_S": "30",  # this is not about workers that fall silent, and they are all busy
    "TORPOR_START_PATIENCE_S": "5",
    "TORPOR_UNFIT_PATIENCE_S": "5",
}
HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = ScratchPostgres(tmp_path_factory.mktemp("postgres"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.destroy())


@pytest.fixture(scope="session")
def redis_server() -> str:
    """The program. Without one the clients of it can't be tried, so that is a failure."""
    found = subprocess.run([ROOT / "bin" / "redis"], stdout=subprocess.PIPE, text=True, check=True)
    return found.stdout.strip()


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Elsewhere]:
    made = make_elsewhere()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def servers(
    tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres, redis_server: str, elsewhere: Elsewhere
) -> Iterator[dict[str, str]]:
    """Where the servers are that programs call: at addresses that hold for all workers."""
    directory = tmp_path_factory.mktemp("servers")
    directory.chmod(0o755)
    url = urlsplit(asyncio.run(postgres.ensure()))
    socket = f"{parse_qs(url.query)['host'][0]}/.s.PGSQL.5432"
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, HERE / "servers.py", elsewhere.our_address, directory, redis_server, socket],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    yield addresses(directory)
    process.communicate(timeout=60)


def meanwhile(name: str, directory: Path) -> None:
    """What somebody else does with files of a run that is frozen."""
    match name:
        case "open_file_grown" | "open_file_appended_to":
            with open(directory / ("grown" if name == "open_file_grown" else "log"), "a") as file:
                file.write("meanwhile\n")
        case "a_file_elsewhere_that_is_deleted":
            (directory / "deleted").unlink()
        case "a_file_elsewhere_that_is_replaced":
            (directory / "new").write_text("in its place!\n")
            (directory / "new").rename(directory / "replaced")
        case "a_file_elsewhere_that_is_cut_short":
            os.truncate(directory / "short", 3)
        case "a_mapped_file_elsewhere_that_grows":
            os.truncate(directory / "weights", 4097)
        case _:
            pass


def reachable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs and servers have directories, for runs that are not root."""
    directory = tmp_path_factory.getbasetemp()
    directory.chmod(0o755)
    return directory


@pytest.fixture(scope="session")
def journey(
    tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres, servers: dict[str, str]
) -> Iterator[Journey]:
    """Programs on one worker, on their way at once."""
    stack = Stack(
        tmp_path_factory.mktemp("programs") / "stack",
        fresh_database(postgres, "programs"),
        PROGRAMS,
        **SETTINGS,
        TORPOR_WRITABLE=str(reachable(tmp_path_factory)),
    )
    stack.start()
    made = Journey(stack, servers, meanwhile)
    made.begin(stayers() | limits() | two_lives())
    answering = made.in_background()
    yield made
    made.end()
    answering.join()
    stack.assert_nothing_left()
    stack.stop()


@pytest.fixture(scope="session")
def moved(
    tmp_path_factory: pytest.TempPathFactory, postgres: EmbeddedPostgres, servers: dict[str, str], elsewhere: Elsewhere
) -> Iterator[Journey]:
    """Programs on two workers: frozen by the first, thawed and frozen by the second, thawed by the first again.

    The second has a data directory, a network and so ports and addresses of its own. What they share is the object store.
    """
    directory = tmp_path_factory.mktemp("moved")
    stack = Stack(
        directory / "stack",
        fresh_database(postgres, "moved"),
        PROGRAMS,
        **SETTINGS,
        TORPOR_WRITABLE=str(reachable(tmp_path_factory)),
        TORPOR_HOST="0.0.0.0",
        TORPOR_OBJECT_STORE=f"file://{directory}/objects",
    )
    stack.start()
    made = Journey(stack, servers, meanwhile)
    made.begin(travellers())
    made.advance(rounds=0)
    stack.stop_worker()
    stack.within = elsewhere.enter
    stack.start_worker(
        TORPOR_DATA_DIR=str(directory / "another"),
        TORPOR_API_URL=f"http://{elsewhere.our_address}:{stack.port}",
    )
    made.advance(rounds=1)
    stack.stop_worker()
    stack.within = ()
    stack.start_worker()
    answering = made.in_background()
    yield made
    made.end()
    answering.join()
    stack.assert_nothing_left()
    stack.stop()

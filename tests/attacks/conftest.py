"""A worker for each kind of isolation, under attack by everything at once, when the first test asks for it."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from outcomes import EVERYWHERE, LOUD, QUIET
from siege import TOKEN, Host, Siege
from stack import Stack, fresh_database

from scratch_postgres import ScratchPostgres
from torpor.config import Settings
from torpor.store.embedded import EmbeddedPostgres
from torpor.worker import isolation

KINDS = {
    "own": {"TORPOR_TRUST": "own", "TORPOR_NETWORK": "host"},
    "foreign": {"TORPOR_TRUST": "foreign", "TORPOR_NETWORK": "private"},
}
SETTINGS = {
    "TORPOR_ISOLATION": "auto",
    "TORPOR_WORKER_TOKEN": TOKEN,
    "TORPOR_WORKER_SLOTS": "24",
    "TORPOR_LEASE_S": "60",  # this is not about workers that fall silent
    "TORPOR_OUTPUT_BYTES": "2000000",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Most loud attacks are made on the weakest kind alone."""
    others = [each for each in items if _is_of_another_kind(each)]
    items[:] = [each for each in items if each not in others]
    config.hook.pytest_deselected(items=others)


def _is_of_another_kind(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or item.originalname != "test_loud_attack":
        return False
    given = item.callspec.params
    return given["kind"] != "own" and given["name"] not in EVERYWHERE


@pytest.fixture(scope="session")
def missing() -> set[str]:
    """What can't be had on this machine, as `torpor doctor` calls it."""
    found = isolation.possible(Settings.from_environment())
    if found.level == "off":
        assert not os.environ.get("CI"), f"in CI rooms are required: {found.told()}"
        pytest.skip(f"there are no rooms here: {found.told()}")
    return {each.what for each in found.missing}


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = ScratchPostgres(tmp_path_factory.mktemp("postgres"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.destroy())


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")  # what it holds open here would be in the way of other tests
def siege(
    kind: str, missing: set[str], postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Siege]:
    """A worker of this kind that everything was tried on. When all has been looked at, it still works, and nothing is left."""
    host = Host()
    directory: Path = tmp_path_factory.mktemp(kind)
    stack = Stack(directory / "stack", fresh_database(postgres, kind), host.project, **SETTINGS, **KINDS[kind])
    try:
        stack.start()
        made = Siege(stack, host)
        loud = {name: loud.is_canceled for name, loud in LOUD.items() if loud.unless not in missing}
        made.attack(list(QUIET), {name: end for name, end in loud.items() if kind == "own" or name in EVERYWHERE})
        yield made
    finally:
        stack.stop()
        host.remove()

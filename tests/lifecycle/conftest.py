"""One Postgres for all, a database and a pair of services for each test."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import PROJECT, Stack, StackMaker, fresh_database

from scratch_postgres import ScratchPostgres
from torpor.store.embedded import EmbeddedPostgres

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = ScratchPostgres(tmp_path_factory.mktemp("postgres"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.destroy())


@pytest.fixture
def make_stack(postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[StackMaker]:
    """Makes stacks that are not started yet; stops them all in the end."""
    made: list[Stack] = []

    def make(project: Path = PROJECT, **settings: str) -> Stack:
        number = next(_numbers)
        stack = Stack(tmp_path / f"stack{number}", fresh_database(postgres, f"lifecycle{number}"), project, **settings)
        made.append(stack)
        return stack

    yield make
    for stack in made:
        stack.stop()


@pytest.fixture(scope="session")
def shared_stack(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    scenes = tmp_path_factory.getbasetemp()
    scenes.chmod(0o777)  # runs write journals to a directory of each test in there
    directory = tmp_path_factory.mktemp("shared") / "stack"
    made = Stack(directory, fresh_database(postgres, "shared"), TORPOR_WRITABLE=str(scenes))
    yield made
    made.stop()


@pytest.fixture
def stack(shared_stack: Stack, tmp_path: Path) -> Stack:
    """Server and worker, up; shared by all tests, because bringing them up takes longer than most tests."""
    shared_stack.begin_scene(tmp_path)
    return shared_stack

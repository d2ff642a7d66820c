"""What every test may ask for. Tests of one part keep their own fixtures in a conftest.py beside them."""

import asyncio
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from httpx2._config import create_ssl_context

from torpor.config import Settings
from torpor.worker import criu_setup
from torpor.worker.criu import Criu

# What tests start reads what is compiled, and compiles nothing for good: of a project that changes twice within a second,
# Python would take the second text for the first one if both have the same length.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Torpor speaks asyncio only, so anyio's plugin runs each async test once."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """For all HTTP clients: each would read the machine's certificates anew, which takes 20 ms, and none here needs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx2._transports.default.create_ssl_context", cache(create_ssl_context))
        yield


@pytest.fixture(scope="session")
def criu(tmp_path_factory: pytest.TempPathFactory) -> Criu:
    """A CRIU that works here. Without one a test is skipped and says why, or fails where CI has promised one."""
    chosen = Settings.from_environment()
    settings = Settings(data_dir=tmp_path_factory.mktemp("criu"), criu=chosen.criu)
    found = asyncio.run(criu_setup.find(settings))
    if isinstance(found, Criu):
        return found
    if os.environ.get("CI"):
        pytest.fail(f"in CI a CRIU that works is required: {found.reason}; {found.fix}")
    pytest.skip(f"{found.reason}; {found.fix}")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory."""
    return tmp_path / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that is marked `criu` is skipped without one, even when it doesn't take the fixture."""
    for item in items:
        if item.get_closest_marker("criu"):
            item.add_marker(pytest.mark.usefixtures("criu"))

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from torpor.sdk import task as task_module

sys.path.insert(0, str(Path(__file__).parent))  # for fake_supervisor: pytest's importlib mode adds no folders

from fake_supervisor import Supervisor, supervising


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with supervising(tmp_path) as one:
        yield one


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests define tasks with the same names."""
    monkeypatch.setattr(task_module, "_REGISTRY", {})

"""Which modules hold tasks, and when a project counts as changed."""

from pathlib import Path

import pytest

from torpor.errors import ConfigError
from torpor.worker import discovery


def project(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_files_that_mention_torpor_are_taken_and_others_left(tmp_path: Path) -> None:
    root = project(
        tmp_path,
        tasks="from torpor import task\n",
        shop__orders="import torpor\n",
        plain="print('torpor')\n",
        tests__test_tasks="from torpor import task\n",
    )
    assert discovery.find(root).modules == ["shop.orders", "tasks"]


def test_a_single_file_is_a_project(tmp_path: Path) -> None:
    root = project(tmp_path, hello="from torpor import task\n")
    found = discovery.find(root / "hello.py")
    assert (found.root, found.modules) == (tmp_path, ["hello"])


def test_pyproject_names_the_modules(tmp_path: Path) -> None:
    root = project(tmp_path, a="from torpor import task\n", b="from torpor import task\n")
    (root / "pyproject.toml").write_text('[tool.torpor]\ntasks = ["b"]\n')
    assert discovery.find(root).modules == ["b"]


@pytest.mark.parametrize("text", ["tasks = ", '[tool.torpor]\ntasks = "b"\n'])
def test_a_pyproject_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"pyproject\.toml"):
        discovery.find(tmp_path)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        discovery.find(tmp_path / "nowhere")


def test_the_version_changes_with_any_source_and_only_then(tmp_path: Path) -> None:
    root = project(tmp_path, tasks="from torpor import task\n", rules="LIMIT = 1\n")
    before = discovery.find(root).version
    assert discovery.find(root).version == before
    (root / "notes.txt").write_text("changed")
    assert discovery.find(root).version == before
    (root / "rules.py").write_text("LIMIT = 2\n")
    assert discovery.find(root).version != before

"""`torpor init` writes a first task and overwrites nothing."""

import ast
import tomllib
from pathlib import Path

from torpor.cli.init import write_project


def test_a_new_project_gets_a_task_settings_and_an_ignored_data_directory(tmp_path: Path) -> None:
    write_project(tmp_path / "new")
    ast.parse((tmp_path / "new" / "tasks.py").read_text())
    assert tomllib.loads((tmp_path / "new" / "pyproject.toml").read_text())["tool"]["torpor"]["tasks"] == ["tasks"]
    assert ".torpor/" in (tmp_path / "new" / ".gitignore").read_text().splitlines()


def test_what_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("mine = 1\n")
    (tmp_path / ".gitignore").write_text("dist")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    write_project(tmp_path)
    assert (tmp_path / "tasks.py").read_text() == "mine = 1\n"
    assert (tmp_path / ".gitignore").read_text() == "dist\n.torpor/\n"
    assert "torpor" not in (tmp_path / "pyproject.toml").read_text(), "its own tasks: we can't know their modules"


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    write_project(tmp_path)
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert all(line.startswith("kept") for line in write_project(tmp_path))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before

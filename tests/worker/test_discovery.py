"""Which modules hold tasks, and when a project counts as changed."""

import os
from pathlib import Path

import pytest

from torpor.errors import ConfigError
from torpor.worker import discovery
from torpor.worker.trust import Trust


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


def test_a_project_may_ask_for_less_trust_and_a_file_in_it_has_no_more(tmp_path: Path) -> None:
    root = project(tmp_path, tasks="from torpor import task\n")
    assert discovery.find(root).trust is Trust.OWN
    (root / "pyproject.toml").write_text('[tool.torpor]\ntrust = "foreign"\n')
    assert discovery.find(root).trust is Trust.FOREIGN
    assert discovery.find(root / "tasks.py").trust is Trust.FOREIGN
    assert discovery.asked_of(root).trust is Trust.FOREIGN


@pytest.mark.parametrize("written", ['"strange"', "true", '["foreign"]'])
def test_a_level_of_trust_that_is_none_is_named_with_those_there_are(tmp_path: Path, written: str) -> None:
    root = project(tmp_path, tasks="from torpor import task\n")
    (root / "pyproject.toml").write_text(f"[tool.torpor]\ntrust = {written}\n")
    with pytest.raises(ConfigError, match=r'pyproject\.toml.*trust.*"own".*"foreign"'):
        discovery.find(root)


def test_a_project_may_say_what_its_runs_reach(tmp_path: Path) -> None:
    root = project(tmp_path, tasks="from torpor import task\n")
    assert discovery.find(root).network is None
    (root / "pyproject.toml").write_text('[tool.torpor]\nnetwork = "private"\n')
    assert discovery.find(root).network == discovery.find(root / "tasks.py").network == "private"
    (root / "pyproject.toml").write_text('[tool.torpor]\nnetwork = "internet"\n')
    with pytest.raises(ConfigError, match=r"pyproject\.toml.*network is 'internet'.*host or private or none"):
        discovery.find(root)


def test_a_pipe_that_is_called_like_a_module_does_not_stop_the_worker(tmp_path: Path) -> None:
    root = project(tmp_path, tasks="from torpor import task\n")
    os.mkfifo(root / "endless.py")
    assert discovery.find(root).modules == ["tasks"]


def test_a_project_may_name_the_machine_of_its_tasks(tmp_path: Path) -> None:
    root = project(tmp_path, tasks="from torpor import task\n")
    assert discovery.find(root).machine is None
    (root / "pyproject.toml").write_text('[tool.torpor]\nmachine = "medium-1x"\n')
    assert discovery.find(root).machine == discovery.find(root / "tasks.py").machine == "medium-1x"
    (root / "pyproject.toml").write_text("[tool.torpor]\nmachine = 1\n")
    with pytest.raises(ConfigError, match=r"\[tool.torpor\] machine should be the name of a preset"):
        discovery.find(root)

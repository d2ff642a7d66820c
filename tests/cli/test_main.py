"""The command itself: quick help, exit codes, and errors that people can read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from torpor.cli.main import app

HEAVY = ["httpx2", "asyncpg", "fastapi", "uvicorn", "pydantic", "watchfiles", "jsonschema", "rich.console"]


def torpor(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TORPOR_", "TRIGGER_"))}
    return subprocess.run(
        [sys.executable, "-m", "torpor", *arguments],
        cwd=cwd,
        env=kept | {"XDG_STATE_HOME": str(cwd / "state"), "NO_COLOR": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_loads_nothing_that_only_some_commands_need(tmp_path: Path) -> None:
    code = f"import sys, torpor.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_shows_every_command(tmp_path: Path) -> None:
    shown = torpor("--help", cwd=tmp_path).stdout
    for command in [
        "init",
        "dev",
        "server",
        "worker",
        "trigger",
        "runs",
        "approve",
        "tokens",
        "schedules",
        "doctor",
        "db",
    ]:
        assert command in shown


@pytest.mark.parametrize("command", ["runs", "tokens", "schedules", "db"])
def test_a_group_without_a_command_shows_its_commands(command: str) -> None:
    assert "Commands" in CliRunner().invoke(app, [command]).output


def test_without_a_key_it_says_where_one_comes_from(tmp_path: Path) -> None:
    done = torpor("runs", "list", cwd=tmp_path)
    assert done.returncode == 2
    assert "TORPOR_SECRET_KEY" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_server_is_told_at_once_with_its_url(tmp_path: Path) -> None:
    done = torpor("trigger", "hello", cwd=tmp_path, TORPOR_API_URL="http://127.0.0.1:1", TORPOR_SECRET_KEY="tr_dev_x")
    assert done.returncode == 3
    assert "http://127.0.0.1:1" in done.stderr
    assert "torpor dev" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    done = torpor("dev", ".", cwd=tmp_path, TORPOR_PORT="many")
    assert done.returncode == 2
    assert "TORPOR_PORT='many'" in done.stderr


def test_dev_on_a_path_that_is_not_there(tmp_path: Path) -> None:
    done = torpor("dev", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no nowhere" in done.stderr
    assert not (tmp_path / "nowhere").exists()

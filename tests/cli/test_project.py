"""What `torpor dev` keeps, and how later commands find it."""

import json
import os
import re
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from torpor.cli.connection import Target, find_target, told, wrong_key
from torpor.cli.dev import is_source, kept_port
from torpor.cli.project import DevState, find_state, is_running, make_key, only_one, read_state, write_state
from torpor.errors import ConfigError, NotFound, Unprocessable

STATE = DevState("http://127.0.0.1:9999", "tr_dev_kept", "tw_x", "/somewhere", {"dev": 1})


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in list(os.environ):
        if name.startswith(("TORPOR_", "TRIGGER_")):
            monkeypatch.delenv(name)


def test_a_made_key_looks_like_one() -> None:
    assert re.fullmatch(r"tr_dev_[0-9A-Za-z]{24}", make_key())


def test_the_state_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    write_state(tmp_path, STATE)
    assert (tmp_path / "dev.json").stat().st_mode & 0o777 == 0o600
    assert read_state(tmp_path) == STATE
    (tmp_path / "dev.json").write_text(json.dumps({"url": "x"}))
    assert read_state(tmp_path) is None


def test_a_second_dev_on_the_same_data_is_refused(tmp_path: Path) -> None:
    write_state(tmp_path, STATE)
    with only_one(tmp_path):
        assert is_running(tmp_path)
        with pytest.raises(ConfigError, match=r"another `torpor dev` already runs .* http://127.0.0.1:9999"):
            with only_one(tmp_path):
                pass
    assert not is_running(tmp_path)


def test_the_state_is_found_from_below_the_project(tmp_path: Path) -> None:
    write_state(tmp_path / ".torpor", STATE)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert find_state({}, inner) == (STATE, tmp_path / ".torpor")


def test_the_only_running_dev_is_found_from_anywhere(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_state(one, STATE)
    write_state(two, replace(STATE, url="http://127.0.0.1:8888"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert find_state({}, elsewhere) is None
    with only_one(one):
        assert find_state({}, elsewhere) == (STATE, one.resolve())
        with only_one(two):
            assert find_state({}, elsewhere) is None, "with two of them nobody can say which is meant"


def test_the_environment_comes_before_what_dev_left(tmp_path: Path) -> None:
    write_state(tmp_path / ".torpor", STATE)
    assert find_target({}, tmp_path).secret_key == "tr_dev_kept"
    named = find_target({"TORPOR_API_URL": "http://x:1/", "TORPOR_SECRET_KEY": "tr_dev_named"}, tmp_path)
    assert (named.url, named.secret_key) == ("http://x:1", "tr_dev_named")


def test_a_kept_key_is_never_sent_to_another_server(tmp_path: Path) -> None:
    write_state(tmp_path / ".torpor", STATE)
    with pytest.raises(ConfigError, match="no secret key"):
        find_target({"TORPOR_API_URL": "http://elsewhere:1"}, tmp_path)


def test_refusals_are_told_with_what_to_do() -> None:
    missing = NotFound(404, 'Task not found: "helo" (did you mean hello?)', {"error": "…", "near": ["hello"]})
    assert told(missing) == 'Task not found: "helo"\nDid you mean hello?'
    problems = [{"path": "seconds", "message": "'x' is not of type 'number'"}]
    misfit = Unprocessable(422, "the payload doesn't fit", {"problems": problems})
    assert told(misfit).splitlines()[1] == "  seconds: 'x' is not of type 'number'"
    assert "TORPOR_SECRET_KEY" in told(wrong_key(Target("http://x", "k", "the default", "TORPOR_SECRET_KEY")))


def test_a_taken_port_is_told_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigError, match="choose another with --port"):
            with kept_port("127.0.0.1", taken.getsockname()[1]):
                pass


@pytest.mark.skipif(sys.platform != "linux", reason="only there a port can be kept")
def test_a_port_is_kept_for_the_server_that_is_not_up_yet_or_died() -> None:
    with kept_port("127.0.0.1", 0) as port:
        for _ in range(2):
            with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
                stranger.bind(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
                pass


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("tasks.py", True),
        ("shop/tasks.py", True),
        ("pyproject.toml", True),
        ("notes.txt", False),
        (".torpor/x.py", False),
        (".venv/lib/y.py", False),
        ("shop/__pycache__/z.py", False),
    ],
)
def test_only_changes_of_the_projects_own_code_count(file: str, counts: bool) -> None:
    # The project may itself lie below a hidden directory; only what is inside of it is judged.
    root = Path("/home/ada/.work/shop")
    assert is_source(root / file, root) is counts

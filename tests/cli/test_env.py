"""`torpor env` and `torpor login`, against a real server; and what a .env file is."""

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from torpor.cli.main import app
from torpor.dotenv import parse_dotenv
from torpor.errors import ApiError, ConfigError
from torpor.sdk.client import Client

SECRET = "sk-live-0123456789"


def torpor(*arguments: str, said: str = "") -> str:
    """What a command prints; `said` is its stdin."""
    done = CliRunner().invoke(app, arguments, input=said, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_variables_are_set_from_stdin_and_files_and_secrets_are_not_shown(url: str, tmp_path: Path) -> None:
    assert SECRET not in torpor("env", "set", "API_KEY", "--secret", said=SECRET + "\n")
    (tmp_path / ".env").write_text("ZONE=eu # where\nexport GREETING='hello\nworld'\n")
    assert "2 are set" in torpor("env", "import", str(tmp_path / ".env"))
    listed = torpor("env", "list")
    assert "eu" in listed
    assert "secret" in listed
    assert SECRET not in listed + torpor("env", "list", "--json")
    with pytest.raises(ApiError, match="already set"):
        torpor("env", "import", "-", said="ZONE=us")
    torpor("env", "import", "-", "--override", said="ZONE=us")
    torpor("env", "unset", "GREETING")
    with Client(url) as client:
        told = {each["name"]: each["value"] for each in client.variables()}
    assert told == {"API_KEY": "<redacted>", "ZONE": "us"}


def test_a_person_logs_in_and_out(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = torpor("keys", "create", "Ada", "--personal").split()[0]
    assert "everything but keys" in torpor("keys", "list")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("TORPOR_SECRET_KEY")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="torpor login"):
        torpor("whoami")
    with pytest.raises(ConfigError, match="that is no personal token"):
        torpor("login", said="tr_dev_something")
    assert f"Ada at {url} (dev)" in torpor("login", said=token)
    kept = tmp_path / "config" / "torpor" / "login.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "Ada: a personal token for dev" in torpor("whoami")
    monkeypatch.delenv("TORPOR_API_URL")
    assert url in torpor("whoami"), "the server where somebody logged in last"
    assert f"forgotten: {url}" in torpor("logout")
    assert not kept.exists()
    monkeypatch.setenv("TORPOR_API_URL", url)
    monkeypatch.setenv("TRIGGER_ACCESS_TOKEN", token)
    assert "from TORPOR_ACCESS_TOKEN" in torpor("whoami")
    with Client() as client:
        assert client.whoami()["person"] == "Ada"


def test_a_dotenv_file_is_read_as_others_write_it() -> None:
    text = """# a comment
A=1
 B = two words   # not of it
C='as it $stands \\n'
D="a\\nb \\"quoted\\" \\\\ \\$x"
E=
F=a#b=c
export G="over
lines" # more

A=last
"""
    assert parse_dotenv(text, ".env") == {
        "A": "last",
        "B": "two words",
        "C": "as it $stands \\n",
        "D": 'a\nb "quoted" \\ $x',
        "E": "",
        "F": "a#b=c",
        "G": "over\nlines",
    }


@pytest.mark.parametrize("line", ["no variable " + SECRET, "=" + SECRET, f'A="{SECRET}', f"A='{SECRET}' more"])
def test_a_line_that_is_none_is_named_by_its_number_and_not_shown(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_dotenv(f"A=1\nB=2\n{line}\n", "my.env")
    assert str(caught.value).startswith("my.env, line 3:")
    assert SECRET not in str(caught.value)

"""`torpor keys`, against a real server: what it prints where, and that it can be used."""

import pytest
from typer.testing import CliRunner

from torpor.cli.main import app
from torpor.errors import Forbidden, Unauthorized
from torpor.sdk.client import Client


def torpor(*arguments: str) -> tuple[str, str]:
    """What a command prints, and what it says beside."""
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_a_key_is_made_listed_rotated_and_revoked(url: str) -> None:
    printed, told = torpor("keys", "create", "the web shop")
    made = printed.strip()
    assert made.startswith("tr_dev_"), "the key alone, so that it can be taken from there"
    assert "not shown again" in told
    key_id = told.split()[0]
    listed, _ = torpor("keys", "list")
    assert "TORPOR_SECRET_KEY (yours)" in listed
    assert key_id in listed
    assert made not in listed
    rotated, told = torpor("keys", "rotate", key_id, "--overlap", "1h")
    assert "the web shop holds until" in told
    with Client(url, rotated.strip()) as client:
        assert client.tasks() == []
    torpor("keys", "revoke", key_id)
    assert key_id not in torpor("keys", "list")[0]
    assert "revoked" in torpor("keys", "list", "--all")[0]


def test_a_command_rotates_its_own_key_and_says_what_to_do_with_the_new_one(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, told = torpor("keys", "rotate", "--overlap", "0s")
    assert "start the server with the new one as TORPOR_SECRET_KEY" in told
    monkeypatch.setenv("TORPOR_SECRET_KEY", printed.strip())
    scoped = torpor("keys", "create", "ci", "--scope", "read:runs", "--scope", "read:tasks", "--expires", "1h")[
        0
    ].strip()
    token = torpor("keys", "token", "--scope", "read:tasks", "--expires", "1h")[0].strip()
    with Client(url, scoped) as client:
        assert client.tasks() == []
    assert token.count(".") == 2
    monkeypatch.setenv("TORPOR_SECRET_KEY", scoped)
    with pytest.raises(Unauthorized, match="takes a secret key, not a scoped key"):
        torpor("keys", "list")
    with pytest.raises(Forbidden, match="lacks the scope read:queues"):
        torpor("queues", "list")
    monkeypatch.setenv("TORPOR_SECRET_KEY", printed.strip())
    assert "read:runs" in torpor("keys", "list")[0]
    assert "in use" in torpor("data-keys", "list")[0]

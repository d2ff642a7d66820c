"""`torpor accounts`, against a real server."""

import httpx2
import pytest
from typer.testing import CliRunner

from torpor.cli.main import app
from torpor.errors import ConfigError


def torpor(*arguments: str, stdin: str | None = None) -> str:
    """What a command prints."""
    done = CliRunner().invoke(app, arguments, input=stdin, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_an_account_is_made_listed_and_removed(url: str) -> None:
    assert (
        torpor("accounts", "create", "ada@example.com", stdin="correct horse battery\n")
        == "ada@example.com may sign in\n"
    )
    assert "ada@example.com" in torpor("accounts", "list")
    assert torpor("accounts", "remove", "Ada@Example.com") == "ada@example.com is gone\n"
    assert torpor("accounts", "list") == ""
    with pytest.raises(ConfigError, match="there is no account ada"):
        torpor("accounts", "remove", "ada")


def test_a_link_signs_in(url: str) -> None:
    link = torpor("accounts", "link").strip()
    assert link.startswith(f"{url}/sign-in/")
    with httpx2.Client() as browser:
        assert browser.post(link).status_code == 303
        assert "No run yet" in browser.get(url).text

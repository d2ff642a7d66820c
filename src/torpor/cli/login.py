"""`torpor login`, `logout`, `whoami`: a person's token, kept for the commands of this user on this machine.

    <config home>/torpor/login.json     {"servers": {URL: token}, "last": URL}, for its owner only

Variables come first, and so does what `torpor dev` left for its own server (connection.py).
"""

import contextlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from torpor.errors import ConfigError, Unauthorized

PERSONAL = "tr_pat_"


@dataclass
class Logins:
    """The tokens that are kept: of which server which, and where the last one was."""

    servers: dict[str, str] = field(default_factory=dict, repr=False)
    last: str | None = None


def read_logins() -> Logins:
    """What is kept; nothing, if the file isn't there or is not ours."""
    try:
        told: Any = json.loads(_file().read_text(encoding="utf-8"))
        return Logins({str(url): str(token) for url, token in told["servers"].items()}, told.get("last"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Logins()


def _write(logins: Logins) -> None:
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as out:
        json.dump({"servers": logins.servers, "last": logins.last}, out)
    draft.replace(file)


def _file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "torpor" / "login.json"


def login(
    url: Annotated[
        str | None, typer.Argument(help="The server. Default: TORPOR_API_URL, else this machine's.", metavar="[URL]")
    ] = None,
) -> None:
    """Keep your personal token, which is read from stdin or asked for, for later commands."""
    from torpor.cli.connection import Target, check_reachable, default_url
    from torpor.sdk.client import Client

    url, told_by = (url, "this command") if url else default_url(os.environ)
    url = url.rstrip("/")
    asked = "personal token (tr_pat_…)"
    token = (typer.prompt(asked, hide_input=True) if sys.stdin.isatty() else sys.stdin.read()).strip()
    if not token.startswith(PERSONAL):
        raise ConfigError(
            "that is no personal token (tr_pat_…): whoever has the secret key makes one by "
            "`torpor keys create YOUR-NAME --personal`"
        )
    check_reachable(Target(url, token, told_by, "stdin"))
    try:
        with Client(url, token) as api:
            found = api.whoami()
    except Unauthorized as error:
        raise Unauthorized(401, f"{url} does not accept this token", error.body) from None
    logins = read_logins()
    logins.servers[url] = token
    logins.last = url
    _write(logins)
    typer.echo(f"{found['person']} at {url} ({found['environment']})")


def logout(
    url: Annotated[str | None, typer.Argument(help="The server. Default: all.", metavar="[URL]")] = None,
) -> None:
    """Forget the tokens that are kept here. They stay good: `torpor keys revoke` ends one."""
    logins = read_logins()
    gone = [each for each in logins.servers if url is None or each == url.rstrip("/")]
    for each in gone:
        del logins.servers[each]
    if logins.last in gone:
        logins.last = next(iter(logins.servers), None)
    if logins.servers:
        _write(logins)
    else:
        with contextlib.suppress(FileNotFoundError):
            _file().unlink()
    typer.echo(f"forgotten: {', '.join(gone)}" if gone else "nothing was kept")


def whoami(as_json: Annotated[bool, typer.Option("--json", help="As the API has it.")] = False) -> None:
    """Say which server commands talk to, with what, and whose it is."""
    from torpor.cli.connection import client, find_target

    target = find_target()
    with client() as api:
        found = api.whoami()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    who = found.get("person") or found["key"]["name"] or found["key"]["id"]
    typer.echo(f"{who}: a {found['kind']} for {found['environment']} at {target.url}, from {target.key_from}")

"""`torpor keys`: what the API is asked with, and public tokens."""

import json
from typing import Annotated, Any

import typer

from torpor.errors import ConfigError

app = typer.Typer(help="Keys of the API: list, create, rotate, revoke; public tokens.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="As the API has it.")]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", help="What it may do, such as read:runs; may be repeated.", metavar="SCOPE"),
]


@app.command("list")
def list_keys(
    gone: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False, as_json: AsJson = False
) -> None:
    """List the environment's keys: what each may do, when it was used last, and until when it holds."""
    from rich.table import Table
    from rich.text import Text

    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console
    from torpor.figures import ago, instant

    with client() as api:
        found = [key for key in api.api_keys() if gone or key["isValid"]]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("id", "name", "key", "may", "used", "ends"):
        table.add_column(heading, no_wrap=heading in ("id", "key"), overflow="fold")
    for key in found:
        table.add_row(
            key["id"],
            Text(key["name"] + (" (yours)" if key["isYours"] else "")),
            Text(key["hint"]),
            Text(_may(key)),
            ago(instant(key["lastUsedAt"])) if "lastUsedAt" in key else "never",
            _end(key),
        )
    make_console().print(table)


def _may(key: dict[str, Any]) -> str:
    if key.get("isPersonal"):
        return "everything but keys"
    if key.get("isWorker"):
        return "let workers in"
    return "\n".join(key["scopes"]) if "scopes" in key else "everything"


def _end(key: dict[str, Any]) -> str:
    from torpor.figures import ago, instant

    if "revokedAt" in key:
        return f"revoked {ago(instant(key['revokedAt']))}"
    if "expiresAt" not in key:
        return "never"
    return str(key["expiresAt"]) if key["isValid"] else f"over {ago(instant(key['expiresAt']))}"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What, or whom, it is for.", metavar="NAME", show_default=False)],
    scope: Scopes = None,
    personal: Annotated[bool, typer.Option("--personal", help="The token of a person, for `torpor login`.")] = False,
    worker: Annotated[bool, typer.Option("--worker", help="A token for workers of the environment.")] = False,
    expires: Annotated[str | None, typer.Option(help="After how long, such as 30d, or when. Default: never.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make another key and print it, this once. With scopes it may do no more than they say; --personal makes the token of the
    person whom it is named for, who may do everything but look after keys; --worker one that only workers come with."""
    from torpor.cli.connection import client

    with client() as api:
        made = api.create_key(name, scopes=scope or None, expires=expires, personal=personal, worker=worker)
    _tell(made, as_json)


@app.command()
def rotate(
    key: Annotated[
        str | None, typer.Argument(help="The key's id. Default: the one that this command uses.", metavar="KEY")
    ] = None,
    overlap: Annotated[str, typer.Option(help="How long the old one holds beside it; 0s: not at all.")] = "24h",
    as_json: AsJson = False,
) -> None:
    """Make a key like this one and print it, this once. The old one holds beside it for a day, so that nobody is shut out."""
    from torpor.cli.connection import client

    with client(f"key {key}") as api:
        if key is None:
            key = next((each["id"] for each in api.api_keys() if each["isYours"]), None)
            if key is None:
                raise ConfigError("which key? `torpor keys list` has their ids")
        made = api.rotate_key(key, overlap)
    _tell(made, as_json)
    old = made["replaces"]
    if not as_json:
        typer.echo(f"{old['name'] or old['id']} holds until {old['expiresAt']}", err=True)
        if old["isConfigured"]:
            typer.echo(
                "start the server with the new one as TORPOR_SECRET_KEY before then, and give it to clients", err=True
            )


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id.", metavar="KEY", show_default=False)],
) -> None:
    """End a key at once, and with it every public token that was made with it."""
    from torpor.cli.connection import client

    with client(f"key {key}") as api:
        gone = api.revoke_key(key)
    typer.echo(f"{gone['name'] or gone['id']} is worth nothing any more")


@app.command()
def token(
    scope: Scopes = None,
    expires: Annotated[str, typer.Option(help="After how long; at most 30d.")] = "15m",
    one_time: Annotated[bool, typer.Option("--one-time", help="Good for one trigger, or one batch.")] = False,
) -> None:
    """Make a public token, which may leave the back end, and print it."""
    from torpor.cli.connection import client

    if not scope:
        raise ConfigError("a public token may do what its scopes say: name one or more with --scope, such as read:runs")
    with client() as api:
        typer.echo(api.create_public_token(scope, expires=expires, one_time=one_time))


def _tell(made: dict[str, Any], as_json: bool) -> None:
    """The key alone on stdout, so that it can be taken from there."""
    if as_json:
        typer.echo(json.dumps(made, indent=2))
        return
    typer.echo(made["key"])
    typer.echo(f"{made['id']} ({made['name']}): it is not shown again", err=True)

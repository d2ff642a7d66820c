"""`torpor tokens`: waitpoints that someone outside completes."""

import json
from typing import Annotated

import typer

from torpor.cli.payload import parse_payload

app = typer.Typer(help="Wait tokens: list, create, complete.", no_args_is_help=True)


@app.command("list")
def list_tokens(
    status: Annotated[str | None, typer.Option(help="WAITING, COMPLETED or TIMED_OUT.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 25,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """List tokens, newest first."""
    from itertools import islice

    from rich.table import Table

    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console
    from torpor.figures import ago, instant

    with client() as api:
        found = list(islice(api.tokens(status=status.upper() if status else None, page_size=min(limit, 100)), limit))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo("No tokens.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("token", "status", "asks", "run", "made"):
        table.add_column(heading, no_wrap=heading != "asks", overflow="fold")
    for token in found:
        runs = ", ".join(token.get("runIds") or [])
        table.add_row(token["id"], token["status"], token.get("title") or "", runs, ago(instant(token["createdAt"])))
    make_console().print(table)


@app.command()
def create(
    timeout: Annotated[str | None, typer.Option(help="10m, 2d or a date; default: none.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key means the same token.")] = None,
) -> None:
    """Make a token; prints its id and the URL that completes it."""
    from torpor.cli.connection import client

    with client() as api:
        token = api.create_token(timeout, tags=tag or None, idempotency_key=idempotency_key)
    typer.echo(token["id"])
    typer.echo(token["url"])


@app.command()
def complete(
    token: Annotated[str, typer.Argument(help="The token's id.", show_default=False)],
    data: Annotated[
        list[str] | None, typer.Argument(help="JSON, or key=value words; default: null.", show_default=False)
    ] = None,
) -> None:
    """Give a token its value. The first one wins."""
    from torpor.cli.connection import client

    with client(f"token {token}") as api:
        api.complete_token(token, parse_payload(data or []))
        typer.echo(f"{token} is {api.token(token)['status'].lower()}")

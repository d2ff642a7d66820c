"""`torpor env`: the variables that all runs of the environment have.

Values come from stdin or from a file, never from the command line, where the machine's other users and the shell's history
would have them, too.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from torpor.errors import ConfigError

app = typer.Typer(help="Environment variables of all runs: list, set, unset, import.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The variable.", metavar="NAME", show_default=False)]
Secret = Annotated[bool, typer.Option("--secret", help="Nobody but runs ever sees its value again.")]


@app.command("list")
def list_variables(as_json: Annotated[bool, typer.Option("--json", help="As the API has it.")] = False) -> None:
    """List the variables. Of secret ones the value isn't known here."""
    from rich.table import Table
    from rich.text import Text

    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console

    with client() as api:
        found = api.variables()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo("No variables. `torpor env set NAME` reads the value of one from stdin.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("name", no_wrap=True)
    table.add_column("value", overflow="fold")
    for each in found:
        table.add_row(each["name"], Text("secret", style="dim") if each["isSecret"] else Text(each["value"]))
    make_console().print(table)


@app.command("set")
def set_variable(name: Name, secret: Secret = False) -> None:
    """Set one, to what is read from stdin; at a terminal it is asked for, and not shown."""
    from torpor.cli.connection import client

    if sys.stdin.isatty():
        value = typer.prompt(name, hide_input=True, default="", show_default=False)
    else:
        value = sys.stdin.read().removesuffix("\n")
    with client() as api:
        api.set_variable(name, value, secret=True if secret else None)
    typer.echo(f"{name} is set: runs that start or come back from now on have it", err=True)


@app.command()
def unset(name: Name) -> None:
    """Have it no more."""
    from torpor.cli.connection import client

    with client(f"variable {name}") as api:
        api.unset_variable(name)
    typer.echo(f"{name} is gone", err=True)


@app.command("import")
def import_file(
    file: Annotated[str, typer.Argument(help="A .env file; - is stdin.", metavar="FILE", show_default=False)],
    override: Annotated[bool, typer.Option("--override", help="Also those that are set already.")] = False,
    secret: Secret = False,
) -> None:
    """Set all variables of a .env file, or none: without --override, if one of them is set already."""
    from torpor.cli.connection import client
    from torpor.dotenv import parse_dotenv

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} can't be read: {error}") from None
    found = parse_dotenv(text, file)
    if not found:
        raise ConfigError(f"{file} has no variable")
    with client() as api:
        api.import_variables(found, override=override, secret=True if secret else None)
    typer.echo(f"{len(found)} are set", err=True)

"""`torpor accounts`: who may sign in to the dashboard, and links that sign a browser in, once."""

import sys
from typing import Annotated

import typer

from torpor.errors import ConfigError

app = typer.Typer(help="Accounts of the dashboard: list, create, remove; sign-in links.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="An e-mail address, or any other name.", metavar="NAME", show_default=False)]


@app.command("list")
def list_accounts() -> None:
    """List who may sign in, and since when."""
    from torpor.cli.connection import client
    from torpor.figures import ago, instant

    with client() as api:
        for account in api.accounts():
            typer.echo(f"{account['name']}  since {ago(instant(account['createdAt']))}")


@app.command()
def create(name: Name) -> None:
    """Make an account. Its password is asked for, or read from stdin."""
    from torpor.cli.connection import client

    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    with client() as api:
        typer.echo(f"{api.create_account(name, password)['name']} may sign in")


@app.command()
def remove(name: Name) -> None:
    """Remove an account; whoever is signed in to it is signed out."""
    from torpor.cli.connection import client

    with client() as api:
        found = next((each for each in api.accounts() if each["name"].lower() == name.lower()), None)
        if found is None:
            raise ConfigError(f"there is no account {name}: `torpor accounts list` has their names")
        api.remove_account(found["id"])
    typer.echo(f"{found['name']} is gone")


@app.command()
def link() -> None:
    """Print a link that signs one browser in, once, within an hour. Whoever opens it may do everything."""
    from torpor.cli.connection import client

    with client() as api:
        typer.echo(api.create_sign_in_link()["url"])

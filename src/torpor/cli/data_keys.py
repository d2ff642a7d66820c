"""`torpor data-keys`: what checkpoints are sealed with."""

import json
from typing import Annotated

import typer

app = typer.Typer(help="Keys that checkpoints are sealed with: list, rotate.", no_args_is_help=True)


@app.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="As the API has it.")] = False) -> None:
    """List data keys: the one in use, and older ones that something is still sealed with."""
    from torpor.cli.connection import client
    from torpor.figures import ago, instant

    with client() as api:
        found = api.data_keys()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for key in found:
        use = f"for reading since {ago(instant(key['retiredAt']))}" if key.get("retiredAt") else "in use"
        typer.echo(f"{key['id']}  {use}")


@app.command()
def rotate() -> None:
    """Seal with a new data key from now on. What is sealed already stays readable; an old key goes with the last of it."""
    from torpor.cli.connection import client

    with client() as api:
        typer.echo(f"{api.rotate_data_key()['id']} is in use from the workers' next heartbeats on")

"""`torpor db`: the database's schema."""

import asyncio

import typer

app = typer.Typer(help="The database.", no_args_is_help=True)


@app.callback()
def database() -> None:
    """The database."""


@app.command()
def upgrade() -> None:
    """Bring the schema of TORPOR_DATABASE_URL up to date. `torpor dev` and `torpor server` do it by themselves."""
    from torpor.config import Settings
    from torpor.errors import ConfigError
    from torpor.store.migrate import upgrade as apply

    url = Settings.from_environment().database_url
    if not url:
        raise ConfigError("TORPOR_DATABASE_URL is not set (the database of `torpor dev` is upgraded when it starts)")
    applied = asyncio.run(apply(url))
    for name in applied:
        typer.echo(f"applied {name}")
    if not applied:
        typer.echo("up to date")

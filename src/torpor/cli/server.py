"""`torpor server`: the API alone, for whoever runs the database and the workers elsewhere."""

from typing import Annotated

import typer


def server(
    no_link: Annotated[
        bool, typer.Option("--no-link", help="Print no sign-in link while the dashboard has no account.")
    ] = False,
) -> None:
    """Run the server, API and dashboard (settings: TORPOR_SECRET_KEY, TORPOR_WORKER_TOKEN, TORPOR_DATABASE_URL …)."""
    import logging

    from torpor.cli.lifeline import die_with_parent
    from torpor.config import Settings
    from torpor.errors import ConfigError
    from torpor.server.serve import run_server

    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    settings = Settings.from_environment()
    if not settings.database_url:
        raise ConfigError("TORPOR_DATABASE_URL is not set: the server needs a Postgres (`torpor dev` brings its own)")
    run_server(
        settings,
        settings.database_url,
        ready=lambda url: typer.echo(f"listening on {url}"),
        newcomer=None
        if no_link
        else lambda link: typer.echo(f"nobody has an account yet; the first is made at {link}"),
    )

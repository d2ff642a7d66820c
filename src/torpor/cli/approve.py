"""`torpor approve`: a person's answer to `wait.for_approval`."""

import getpass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torpor.sdk.client import Client

Token = dict[str, Any]


def approve(
    which: Annotated[
        str | None, typer.Argument(metavar="[TOKEN|RUN]", help="Default: the only open approval.", show_default=False)
    ] = None,
    reject: Annotated[bool, typer.Option("--reject", help="Say no instead.")] = False,
    comment: Annotated[str | None, typer.Option(help="Why; the run sees it.")] = None,
    by: Annotated[
        str | None, typer.Option(help="Who answers. Default: whose the personal token is, else your user name.")
    ] = None,
) -> None:
    """Approve (or reject) what a run asks for."""
    from torpor.cli.connection import client, find_target

    with client(which or "approval") as api:
        token = find_approval(api, which)
        if by is None and not find_target().is_personal:  # else the server knows
            by = _user()
        api.approve(token["id"], not reject, by=by, comment=comment)
        # The first answer wins, and a later one is not an error; say which it was.
        said = api.token(token["id"])
    title = token.get("title") or token["id"]
    wanted = "false" if reject else "true"
    output = str(said.get("output", "")).replace(" ", "")
    if f'"approved":{wanted}' not in output:
        typer.echo(f"{title}: it had been answered before, and that answer stays: {said.get('output')}")
        raise typer.Exit(3)
    typer.echo(f"{'rejected' if reject else 'approved'}: {title}")


def find_approval(api: "Client", which: str | None) -> Token:
    """The token that `which` means: itself, the open one of that run, or the only open approval there is.

    Raises:
        typer.Exit: there is none, or the choice isn't clear; it has been said.
    """
    if which and not which.startswith("run_"):
        return api.token(which)
    waiting = list(api.tokens(status="WAITING"))
    if which:
        api.run(which)  # an unknown run is said to be unknown
        open_ones = [token for token in waiting if which in (token.get("runIds") or [])]
    else:
        open_ones = [token for token in waiting if token.get("title")]
    if len(open_ones) == 1:
        return open_ones[0]
    if not open_ones:
        typer.echo(f"{which} waits for no approval." if which else "No run waits for an approval.", err=True)
    else:
        typer.echo("Several approvals are open; say which:", err=True)
        for token in open_ones:
            runs = ", ".join(token.get("runIds") or [])
            typer.echo(f"  {token['id']}  {token.get('title') or ''}  {runs}", err=True)
    raise typer.Exit(2)


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None

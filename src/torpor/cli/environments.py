"""`torpor environments` and `torpor projects`: which there are on the server, made, renamed and deleted."""

import json
from typing import Annotated, Any

import typer

from torpor.errors import ConfigError

app = typer.Typer(help="Environments of the server: list, create, rename, delete.", no_args_is_help=True)
projects = typer.Typer(help="Projects, with all their environments: rename, delete.", no_args_is_help=True)

PROJECT = "default"

Environment = Annotated[
    str,
    typer.Argument(help="Its name, such as prod; or shop/prod, in a project.", metavar="NAME", show_default=False),
]
Project = Annotated[str, typer.Argument(help="The project's name.", metavar="PROJECT", show_default=False)]
NewName = Annotated[str, typer.Argument(help="What it is to be called.", metavar="NEW", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="As the API has it.")]
Yes = Annotated[bool, typer.Option("--yes", help="Don't ask.")]


@app.command("list")
def list_environments(as_json: AsJson = False) -> None:
    """List all environments: their workers, their runs that work or are in line, and their version."""
    from rich.table import Table
    from rich.text import Text

    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console
    from torpor.figures import ago, instant

    with client() as api:
        found = api.environments()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("project", "name", "workers", "runs", "version", "made"):
        table.add_column(heading, justify="right" if heading in ("workers", "runs") else "left", overflow="fold")
    for each in found:
        table.add_row(
            Text(each["project"]),
            Text(each["name"] + (" (the server's own)" if each["isOwn"] else "")),
            str(each["workers"]),
            str(each["runs"]),
            Text(each["currentVersion"] or "none yet"),
            ago(instant(each["createdAt"])),
        )
    make_console().print(table)


@app.command()
def create(
    name: Environment,
    new_project: Annotated[bool, typer.Option("--new-project", help="Its project begins with it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an environment and print its first secret key, this once."""
    from torpor.cli.connection import client

    project, slug = _parts(name)
    with client() as api:
        made = api.create_environment(slug, project=project, new_project=new_project)
    if as_json:
        typer.echo(json.dumps(made, indent=2))
        return
    typer.echo(made["key"])
    typer.echo(f"{name} is there, and this is its first secret key: it is not shown again", err=True)


@app.command()
def rename(name: Environment, new: NewName) -> None:
    """Give an environment another name, in its project. Keys go on; a worker that starts has to say the new one."""
    from torpor.cli.connection import client

    with client() as api:
        now = api.rename_environment(_named(api, name)["id"], new)
    typer.echo(f"{name} is {_address(now)} from now on")


@app.command()
def delete(name: Environment, yes: Yes = False) -> None:
    """Delete an environment, with its history, keys, variables and checkpoints. Nothing in it may be at work."""
    from torpor.cli.connection import client

    with client() as api:
        found = _named(api, name)
        if not yes:
            typer.confirm(f"Delete {name}, with all its runs, keys, variables and checkpoints?", abort=True)
        api.delete_environment(found["id"])
    typer.echo(f"{name} is gone; what was in it is being removed")


@projects.command("rename")
def rename_project(project: Project, new: NewName) -> None:
    """Give a project another name. A worker that starts has to say the new one."""
    from torpor.cli.connection import client

    with client(f"project {project}") as api:
        found = api.rename_project(project, new)
    typer.echo(f"{project} is {new} from now on: {', '.join(_address(each) for each in found)}")


@projects.command("delete")
def delete_project(project: Project, yes: Yes = False) -> None:
    """Delete a project with all its environments. Nothing in them may be at work."""
    from torpor.cli.connection import client

    with client(f"project {project}") as api:
        if not yes:
            typer.confirm(f"Delete {project}, with all its environments and what is in them?", abort=True)
        found = api.delete_project(project)
    typer.echo(f"{project} is gone; what was in its environments ({len(found)}) is being removed")


def _parts(name: str) -> tuple[str, str]:
    project, slash, slug = name.rpartition("/")
    return (project, slug) if slash else (PROJECT, name)


def _address(environment: dict[str, Any]) -> str:
    project, slug = environment["project"], environment["name"]
    return slug if project == PROJECT else f"{project}/{slug}"


def _named(api: Any, name: str) -> dict[str, Any]:
    project, slug = _parts(name)
    for each in api.environments():
        if (each["project"], each["name"]) == (project, slug):
            return each
    raise ConfigError(f"there is no environment {name}: `torpor environments list` has their names")

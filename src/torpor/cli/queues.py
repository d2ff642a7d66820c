"""`torpor queues` and `torpor environment`: where runs line up, and the limits."""

import json
from typing import Annotated, Any

import typer

app = typer.Typer(help="Queues: list, pause, resume, and limits while running.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(help="The queue's name or id; of a task's own queue the task.", show_default=False)
]


@app.command("list")
def list_queues(as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False) -> None:
    """List queues, with how many runs stand in them and work."""
    from rich.table import Table

    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console

    with client() as api:
        found = list(api.queues())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo("No queues: they come with the tasks of the first worker.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("queue", "of", "queued", "running", "limit", ""):
        table.add_column(heading, justify="right" if heading in ("queued", "running", "limit") else "left")
    for queue in found:
        kind = "a task" if queue["type"] == "task" else "several"
        table.add_row(
            queue["name"], kind, str(queue["queued"]), str(queue["running"]), _limit(queue), _paused(queue["paused"])
        )
    make_console().print(table)


@app.command()
def pause(queue: Name) -> None:
    """Hand out no more of its runs. Those that work go on."""
    from torpor.cli.connection import client

    with client(f"queue {queue}") as api:
        _say(api.pause_queue(queue))


@app.command()
def resume(queue: Name) -> None:
    """Hand out its runs again."""
    from torpor.cli.connection import client

    with client(f"queue {queue}") as api:
        _say(api.resume_queue(queue))


@app.command()
def limit(queue: Name, most: Annotated[int, typer.Argument(help="How many of its runs may work at once.")]) -> None:
    """Set another limit than the declared one. A lower one stops nobody who works."""
    from torpor.cli.connection import client

    with client(f"queue {queue}") as api:
        _say(api.limit_queue(queue, most))


@app.command()
def reset(queue: Name) -> None:
    """Go back to the declared limit."""
    from torpor.cli.connection import client

    with client(f"queue {queue}") as api:
        _say(api.reset_queue(queue))


def environment(
    limit: Annotated[
        str | None, typer.Option(help="How many runs may work at once; `none`: as many as workers take.")
    ] = None,
    burst: Annotated[float | None, typer.Option(help="All queues together may have the limit times this.")] = None,
    max_queued: Annotated[str | None, typer.Option(help="The most runs that one queue holds; `none`: any.")] = None,
    accept_unknown: Annotated[
        bool | None,
        typer.Option("--accept-unknown/--refuse-unknown", help="Whether runs of tasks that no version has may wait."),
    ] = None,
    pause: Annotated[
        bool | None, typer.Option("--pause/--resume", help="Hand out nothing at all; those that work go on.")
    ] = None,
) -> None:
    """Show what the environment allows, or change it."""
    from torpor.cli.connection import client

    changes: dict[str, Any] = {"burst_factor": burst, "accepts_unknown_tasks": accept_unknown, "paused": pause}
    changes = {name: value for name, value in changes.items() if value is not None}
    for name, text in (("concurrency_limit", limit), ("max_queued", max_queued)):
        if text is not None:
            changes[name] = _number(name, text)
    with client() as api:
        now = api.environment(**changes)
    for name, value in now.items():
        typer.echo(f"{name:20} {json.dumps(value)}")


def _number(name: str, text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal():
        raise typer.BadParameter(f"{name.replace('_', ' ')}: a whole number or `none`, not {text!r}")
    return int(text)


def _limit(queue: dict[str, Any]) -> str:
    told = queue["concurrency"]
    shown = "none" if told["current"] is None else str(told["current"])
    return shown if told["override"] is None else f"{shown} (declared: {told['base'] or 'none'})"


def _paused(is_paused: bool) -> str:
    return "paused" if is_paused else ""


def _say(queue: dict[str, Any]) -> None:
    state = _paused(queue["paused"]) or "open"
    typer.echo(f"{queue['name']}: {state}, limit {_limit(queue)}, {queue['queued']} queued, {queue['running']} running")

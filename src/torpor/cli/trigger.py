"""`torpor trigger`: ask for a run, and tell its story if wanted."""

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from torpor.cli.payload import parse_payload
from torpor.errors import ConfigError, Unprocessable


def trigger(
    task: Annotated[str, typer.Argument(help="The task's id.", show_default=False)],
    payload: Annotated[
        list[str] | None, typer.Argument(help="JSON, or key=value words (n=3 is a number).", show_default=False)
    ] = None,
    payload_file: Annotated[Path | None, typer.Option(help="Read the JSON payload from this file; - is stdin.")] = None,
    batch: Annotated[
        Path | None, typer.Option(help="A run for each line of this file: a JSON payload; - is stdin.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Tell the run as it happens, until it ends.")] = False,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given several times.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key means the same run.")] = None,
    delay: Annotated[str | None, typer.Option(help="Start later: 30s, 2h30m, 1w, or a date.")] = None,
    machine: Annotated[str | None, typer.Option(help="The size of machine, such as medium-1x.")] = None,
) -> None:
    """Trigger a task. With --follow the exit code is 0 when the run completed, 1 when it did not."""
    from torpor.cli.connection import client

    options: dict[str, Any] = {
        "tags": tag or None,
        "idempotency_key": idempotency_key,
        "delay": delay,
        "machine": machine,
    }
    if batch is not None:
        if payload or payload_file or follow:
            raise typer.BadParameter("with --batch there is neither another payload nor --follow")
        _trigger_batch(task, batch, options)
        return
    value = parse_payload(payload or [], payload_file)
    with client() as api:
        try:
            run = api.trigger(task, value, **options)
        except Unprocessable as error:
            tasks = api.tasks()
            if value is not None or not _takes_a_tick(tasks, task):
                raise _explained(error, tasks, task, value) from error
            run = api.trigger(task, _made_up_tick(api.schedules(), task), **options)
    if not follow:
        typer.echo(run["id"])
        if run.get("isCached"):
            typer.echo("this idempotency key had its run already", err=True)
        return
    completed = asyncio.run(follow_to_its_end(run["id"]))
    raise typer.Exit(0 if completed else 1)


def _trigger_batch(task: str, file: Path, options: dict[str, Any]) -> None:
    """The id of the batch; items that failed on stderr, with their lines."""
    from torpor.cli.connection import client

    line_of: list[int] = []

    def payloads() -> Iterator[Any]:
        with sys.stdin if str(file) == "-" else file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        payload = json.loads(line)
                    except ValueError as error:
                        raise ConfigError(f"{file}, line {number} is not JSON: {error}") from None
                    line_of.append(number)
                    yield payload

    with client() as api:
        made = api.batch_trigger(task, payloads(), **options)
    typer.echo(made["id"])
    for error in made["errors"]:
        place = f"line {line_of[error['index']]}: " if error["index"] < len(line_of) else ""
        typer.echo(f"{place}{error['error']}", err=True)
    typer.echo(f"{len(made['runs'])} runs: torpor runs list --batch {made['id']}", err=True)
    if made["errors"]:
        raise typer.Exit(1)


def _explained(error: Unprocessable, tasks: list[dict[str, Any]], task: str, value: Any) -> Unprocessable:
    """The payload of a task with one parameter is that value itself, which key=value words can't say."""
    parameters = [one["parameters"] for one in tasks if one["id"] == task]
    if parameters != ["one"] or not isinstance(value, dict):
        return error
    hint = f"{task} has one parameter, so its payload is that value itself: torpor trigger {task} '\"text\"'"
    return Unprocessable(error.status, f"{error.message}\n{hint}", error.body)


def _takes_a_tick(tasks: list[dict[str, Any]], task: str) -> bool:
    schemas = [one["payloadSchema"] for one in tasks if one["id"] == task]
    return bool(schemas) and schemas[0].get("$ref") == "#/$defs/ScheduleTick"


def _made_up_tick(schedules: Iterable[dict[str, Any]], task: str) -> dict[str, Any]:
    """A tick of now, for a scheduled task that is triggered by hand; in its schedule's zone, if it has one."""
    found = next((schedule for schedule in schedules if schedule["task"] == task), {})
    return {
        "type": found.get("type", "IMPERATIVE"),
        "timestamp": datetime.now(UTC).isoformat(),
        "timezone": found.get("timezone", "UTC"),
        "scheduleId": found.get("id", "sched_1234"),
        "upcoming": found.get("upcoming", []),
    }


async def follow_to_its_end(run_id: str) -> bool:
    """Tell a run as it happens; whether it completed."""
    from torpor.cli.connection import find_target
    from torpor.cli.follow import follow, print_outcome
    from torpor.cli.terminal import make_console
    from torpor.sdk.async_client import AsyncClient

    console = make_console()
    console.print(f"[bold]{run_id}[/]  [dim](torpor runs show {run_id})[/]")
    target = find_target()
    async with AsyncClient(target.url, target.secret_key) as api:
        run = await follow(api, run_id, console)
    print_outcome(run, console)
    return run["status"] == "COMPLETED"

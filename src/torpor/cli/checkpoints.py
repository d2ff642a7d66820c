"""`torpor checkpoints`: which there are, and where the process of each stands."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.text import Text

app = typer.Typer(help="Checkpoints: list, show.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The checkpoint's id.", metavar="CHECKPOINT", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="As the API has it.")]

STATE_STYLES = {"usable": "green", "kept": "cyan", "dropped": "dim", "unusable": "red"}
KINDS = {"wait": "a wait", "auto": "by itself", "move": "a move"}


@app.command("list")
def list_checkpoints(
    run: Annotated[
        str | None, typer.Argument(help="Of this run, also those that are gone.", metavar="RUN", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 25,
    as_json: AsJson = False,
) -> None:
    """List a run's checkpoints, or all that can be used, newest first."""
    from itertools import islice

    from rich.table import Table
    from rich.text import Text

    from torpor.cli.connection import client
    from torpor.cli.figures import ago, instant, size
    from torpor.cli.terminal import make_console

    with client(f"run {run}" if run else "such thing") as api:
        if run:
            found = list(reversed(api.checkpoints(run)))[:limit]
        else:
            found = list(islice(api.all_checkpoints(page_size=min(limit, 100)), limit))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo("No checkpoints.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("checkpoint", "of" if run is None else "nr", "made at", "state", "new", "in all", "made"):
        table.add_column(heading, no_wrap=True, justify="right" if heading in ("new", "in all", "nr") else "left")
    for one in found:
        table.add_row(
            one["id"],
            one["runId"] if run is None else str(one["number"]),
            _kind(one),
            Text(one["state"], style=STATE_STYLES.get(one["state"], "")),
            size(one["newBytes"]),
            size(one["sizeBytes"]),
            ago(instant(one["createdAt"])),
        )
    make_console().print(table)


@app.command()
def show(checkpoint: Id, as_json: AsJson = False) -> None:
    """Tell where its tasks and threads stand, what they wait for, and what it costs."""
    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console

    with client(f"checkpoint {checkpoint}") as api:
        found = api.checkpoint(checkpoint)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = make_console()
    for line in lines(found):
        console.print(line)


def lines(found: dict[str, Any]) -> "list[Text]":
    """A checkpoint, as `show` prints it."""
    from rich.text import Text

    from torpor.cli.figures import clock, instant, milliseconds, size

    head = Text().append(found["id"], style="bold").append("  " + _kind(found))
    head.append("  " + found["state"], style=STATE_STYLES.get(found["state"], ""))
    told = [head]
    facts = [
        f"run {found['runId']}",
        f"number {found['number']}, attempt {found['attempt']}",
        f"made {clock(instant(found['createdAt']))} by {found['workerId']}",
        f"kept until {clock(instant(found['keptUntil']))}" if found.get("keptUntil") else "",
        f"can't be restored: {found['reason']}" if found.get("reason") else "",
    ]
    told += [Text(fact, style="dim") for fact in facts if fact]
    told.append(Text())
    for place in found.get("waitingAt") or []:
        who = f"task {place['task']}" if place.get("task") else f"thread {place.get('thread', '?')}"
        line = Text(f"{who}  ", style="cyan")
        line.append(f"{place.get('file', '?')}:{place.get('line', '?')}")
        told.append(line)
        if place.get("source"):
            told.append(Text("    " + str(place["source"]).strip(), style="dim"))
    for wait in found.get("waits") or []:
        line = Text("waits for ", style="blue").append(f"a {wait['kind']}").append(f"  {wait['id']}", style="dim")
        line.append(f"  {wait['status'].lower()}", style="green" if wait["status"] == "COMPLETED" else "yellow")
        told.append(line)
    told.append(Text())
    dump = f"dumped in {milliseconds(found['dumpMs'])}, durable after {milliseconds(found['durableMs'])}"
    told += [
        Text(f"memory   {size(found['rssBytes'])}"),
        Text(f"stored   {size(found['newBytes'])} new, {size(found['sharedBytes'])} shared with others; {dump}"),
        Text(f"files    {size(found['filesBytes'])} of the run's own"),
    ]
    if found.get("facts"):
        words = ", ".join(f"{name} {value}" for name, value in found["facts"].items() if isinstance(value, str | int))
        told.append(Text(f"needs    {words}", style="dim"))
    return told


def _kind(found: dict[str, Any]) -> str:
    return f'"{found["name"]}"' if found.get("name") else KINDS.get(found["kind"], str(found["kind"]))

"""`torpor workers`: which there are, what each can do, and how far it keeps its runs apart."""

import json
from typing import Annotated, Any

import typer

app = typer.Typer(help="Workers: list, show, drain.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="As the API has it.")]

LEVEL_STYLES = {"full": "green", "partial": "yellow", "off": "dim"}


@app.command("list")
def list_workers(
    gone: Annotated[bool, typer.Option("--all", help="Also those that are gone.")] = False,
    as_json: AsJson = False,
) -> None:
    """List workers, with how much they do and how far they keep their runs apart."""
    from rich.table import Table
    from rich.text import Text

    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console
    from torpor.figures import ago, instant

    with client() as api:
        found = [worker for worker in api.workers() if gone or worker["isAlive"]]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo("No workers: start one with `torpor worker`." if gone else "No workers are connected.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("worker", "host", "running", "held", "isolation", "freezes", "seen"):
        table.add_column(heading, no_wrap=heading != "host", overflow="fold")
    for worker in found:
        level = (worker.get("isolation") or {}).get("level", "")
        table.add_row(
            worker["id"],
            worker["host"],
            f"{worker['running']} of {worker['slots']}",
            str(worker["held"]),
            Text(level, style=LEVEL_STYLES.get(level, "")),
            "yes" if worker["canFreeze"] else "no",
            ago(instant(worker["seenAt"])) if worker["isAlive"] else Text("gone", style="red"),
        )
    make_console().print(table)


@app.command()
def show(
    worker: Annotated[str, typer.Argument(help="The worker's id.", metavar="WORKER", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Tell what a worker can do and what it lacks, with what to do about it."""
    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console

    with client(f"worker {worker}") as api:
        found = api.worker(worker)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = make_console()
    for name, told in lines(found):
        console.print(f"[dim]{name:<10}[/] ", told, sep="", markup=True, highlight=False)


@app.command()
def drain(
    worker: Annotated[str, typer.Argument(help="The worker's id.", metavar="WORKER", show_default=False)],
) -> None:
    """Have a worker leave, from anywhere: it gets no more runs, moves or freezes those that it has, and ends."""
    from torpor.cli.connection import client

    with client(f"worker {worker}") as api:
        found = api.drain_worker(worker)
    typer.echo(f"{found['id']} on {found['host']} is asked to leave; it hears of it within some seconds.")


def lines(worker: dict[str, Any]) -> list[tuple[str, Any]]:
    """What `show` prints: a name and what is told under it, in reading order."""
    from rich.markup import escape

    from torpor.figures import ago, instant, size

    seen = ago(instant(worker["seenAt"]))
    told = [
        (
            "worker",
            f"{worker['id']} on {worker['host']}, " + (f"seen {seen}" if worker["isAlive"] else f"gone since {seen}"),
        ),
        ("up since", ago(instant(worker["startedAt"]))),
        ("version", worker.get("version") or "none: it has not imported its project yet"),
        ("runs", f"{worker['running']} of {worker['slots']} slots in use, {worker['held']} held in memory"),
    ]
    if capacity := worker.get("capacity"):
        parts = [f"{capacity['cpu']:g} CPUs" if "cpu" in capacity else ""]
        parts += [f"{size(capacity['memoryBytes'])} of memory" if "memoryBytes" in capacity else ""]
        told.append(("capacity", " and ".join(part for part in parts if part) + " to hand out"))
    if disk := worker.get("disk"):
        told.append(("disk", f"{size(disk['freeBytes'])} free of {size(disk['sizeBytes'])}"))
    if worker.get("drainAskedAt"):
        told.append(("leaves", f"asked {ago(instant(worker['drainAskedAt']))}: it gets no more runs"))
    if worker.get("labels"):
        told.append(("labels", ", ".join(f"{name} {value}" for name, value in worker["labels"].items())))
    if worker["canFreeze"]:
        told.append(("freezes", f"with CRIU {worker.get('criu', '')}".rstrip()))
    else:
        told.append(("freezes", f"no: {worker.get('noFreezeReason') or 'it does not say why'}"))
    isolation = worker.get("isolation") or {}
    told.append(("isolation", isolation.get("level", "it does not say")))
    for each in isolation.get("missing") or []:
        told.append(("", f"no {each['what']}: {each['why']}\n{'':11}→ {each['fix']}"))
    if worker.get("networks"):
        told.append(("networks", ", ".join(worker["networks"])))
    if worker.get("trust"):
        told.append(("trust", worker["trust"]))
    return [(name, escape(text)) for name, text in told]

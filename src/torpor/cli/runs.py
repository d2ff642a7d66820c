"""`torpor runs`: look at runs, end them, perform them again, or go on from one of their checkpoints."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Runs: list, show, logs, cancel, replay, fork.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(help="The run's id.", metavar="RUN", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="As the API has it.")]


@app.command("list")
def list_runs(
    status: Annotated[list[str] | None, typer.Option(help="WAITING, COMPLETED, …; may be given several times.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Of this task; may be given several times.")] = None,
    batch: Annotated[str | None, typer.Option(help="Of this batch, by its id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 25,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    from itertools import islice

    from rich.table import Table
    from rich.text import Text

    from torpor.cli.connection import client
    from torpor.cli.story import STATUS_STYLES
    from torpor.cli.terminal import make_console
    from torpor.figures import ago, instant

    wanted = [name.upper() for name in status or []]
    with client() as api:
        filters = {"status": wanted or None, "task": task or None, "batch": batch, "page_size": min(limit, 100)}
        found = list(islice(api.runs(**filters), limit))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo("No runs.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("run", "task", "status", "triggered", "tags"):
        table.add_column(heading, no_wrap=heading != "tags", overflow="fold")
    for run in found:
        shown = Text(run["status"], style=STATUS_STYLES.get(run["status"], ""))
        tags = ", ".join(run.get("tags") or [])
        table.add_row(run["id"], run["taskIdentifier"], shown, ago(instant(run["createdAt"])), tags)
    make_console().print(table)


@app.command()
def show(run: RunId, as_json: AsJson = False) -> None:
    """Tell a run's story: what happened when, where its time went, its output or error."""

    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console

    with client(f"run {run}") as api:
        found = api.run(run)
        events = list(api.story(run))
        checkpoints = api.checkpoints(run)
    if as_json:
        typer.echo(json.dumps({**found, "story": events, "checkpoints": checkpoints}, indent=2))
        return
    print_run(found, events, make_console())


def print_run(run: dict[str, Any], events: list[dict[str, Any]], console: "Console") -> None:
    """A run with its story, as `runs show` prints it."""
    from datetime import UTC, datetime

    from rich.text import Text

    from torpor.cli.follow import print_outcome
    from torpor.cli.story import ENDINGS, STATUS_STYLES, event_line, next_answer, times, times_line, usage_line
    from torpor.figures import clock, instant

    head = Text().append(run["taskIdentifier"], style="bold").append("  " + run["id"], style="dim")
    head.append("  " + run["status"], style=STATUS_STYLES.get(run["status"], ""))
    console.print(head)
    attempts = run.get("attemptCount") or 0
    facts = [f"triggered {clock(instant(run['createdAt']))}", f"attempt {attempts}" if attempts > 1 else ""]
    facts += [
        f"version {run['version']}" if run.get("version") else "",
        f"machine {run['machine']}" if run.get("machine") else "",
        f"tags {', '.join(run['tags'])}" if run.get("tags") else "",
    ]
    console.print(Text("  ".join(fact for fact in facts if fact), style="dim"))
    if run.get("payload") is not None:
        console.print(Text().append("payload ", style="dim").append(json.dumps(run["payload"], ensure_ascii=False)))
    console.print()
    for event in events:
        # The error of the end is told below, whole; here its traceback would stand twice.
        console.print(event_line(event, brief=event["kind"] in ENDINGS))
    console.print()
    console.print(times_line(times(events, datetime.now(UTC))))
    if (used := usage_line(run)) is not None:
        console.print(used)
    answer = next_answer(events, run["id"]) if run["status"] == "WAITING" else None
    if answer:
        console.print(Text().append("answer it with  ", style="dim").append(answer, style="bold"))
    print_outcome(run, console)


@app.command()
def logs(
    run: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
) -> None:
    """What a run logged and printed."""

    from torpor.cli.connection import client
    from torpor.cli.story import log_line
    from torpor.cli.terminal import make_console

    console = make_console()
    with client(f"run {run}") as api:
        for line in api.logs(run, follow=follow):
            console.print(log_line(line))


Some = Annotated[
    str | None, typer.Argument(help="The run's id; or say which with filters.", metavar="[RUN]", show_default=False)
]
Status = Annotated[list[str] | None, typer.Option(help="All with this status; may be given several times.")]
TaskName = Annotated[list[str] | None, typer.Option(help="All of this task; may be given several times.")]
Tag = Annotated[list[str] | None, typer.Option(help="All with this tag; may be given several times.")]
QueueName = Annotated[list[str] | None, typer.Option(help="All in this queue; a task's own is task/NAME.")]
Version = Annotated[list[str] | None, typer.Option(help="All that this version has performed.")]
Batch = Annotated[str | None, typer.Option(help="All of this batch, by its id.")]
Since = Annotated[str | None, typer.Option(help="All that were triggered since then: 1h, 7d, or a date.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask whether so many are meant.")]


@app.command()
def cancel(
    run: Some = None,
    now: Annotated[bool, typer.Option("--now", help="Don't ask its process to end by itself: kill it.")] = False,
    status: Status = None,
    task: TaskName = None,
    tag: Tag = None,
    queue: QueueName = None,
    version: Version = None,
    batch: Batch = None,
    since: Since = None,
    yes: Yes = False,
) -> None:
    """End a run and its children, or many. One that executes is asked to end, and killed after 30 seconds."""
    from torpor.cli.bulk import filters_of, work_off
    from torpor.cli.connection import client

    filters = filters_of(run, status, task, tag, queue, version, batch, since)
    if run is None:
        if now:
            raise typer.BadParameter("--now kills one process: name its run")
        work_off("cancel", filters, is_meant=yes)
        return
    with client(f"run {run}") as api:
        before = api.run(run)
        api.cancel(run, at_once=now)
        after = api.run(run)
    if before["isCompleted"]:
        typer.echo(f"{run} had ended already: {before['status']}")
    elif after["isCompleted"]:
        typer.echo(f"{run} is {after['status'].lower()}")
    else:
        typer.echo(f"{run} was asked to end; --now doesn't wait for that")


@app.command()
def replay(
    run: Some = None,
    payload: Annotated[
        str | None, typer.Option(help="JSON to perform it with instead of its own payload.", show_default=False)
    ] = None,
    machine: Annotated[str | None, typer.Option(help="With this size of machine.", show_default=False)] = None,
    status: Status = None,
    task: TaskName = None,
    tag: Tag = None,
    queue: QueueName = None,
    version: Version = None,
    batch: Batch = None,
    since: Since = None,
    yes: Yes = False,
) -> None:
    """Perform a run again, or many, as new runs with the current version. Prints the new run's id."""
    from torpor.cli.bulk import filters_of, work_off
    from torpor.cli.connection import client
    from torpor.cli.payload import parse_payload

    filters = filters_of(run, status, task, tag, queue, version, batch, since)
    if run is None:
        if payload is not None or machine is not None:
            raise typer.BadParameter("--payload and --machine change one replay: name its run")
        work_off("replay", filters, is_meant=yes)
        return
    changes = {} if payload is None else {"payload": parse_payload([payload])}
    if machine is not None:
        changes["machine"] = machine
    with client(f"run {run}") as api:
        typer.echo(api.replay(run, **changes)["id"])


@app.command()
def fork(
    run: RunId,
    at: Annotated[str, typer.Option(help="The checkpoint's id, or latest.", metavar="CHECKPOINT")] = "latest",
    answer: Annotated[
        str | None, typer.Option(help="JSON: what its wait gets instead of its own answer.", show_default=False)
    ] = None,
    wait: Annotated[
        str | None, typer.Option(help="Which wait is answered, where there are several.", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Tell it as it happens, until it ends.")] = False,
) -> None:
    """Go on from one of its checkpoints, as a new run. Prints the new run's id. Works for runs that are over."""
    import asyncio

    from torpor.cli.connection import client
    from torpor.cli.payload import parse_payload

    if wait is not None and answer is None:
        raise typer.BadParameter("--wait says which wait is answered: --answer is missing")
    given = {} if answer is None else {"answer": parse_payload([answer])}
    with client(f"run {run}") as api:
        made = api.fork(run, at, wait_id=wait, **given)
    if not follow:
        typer.echo(made["id"])
        return
    from torpor.cli.trigger import follow_to_its_end

    raise typer.Exit(0 if asyncio.run(follow_to_its_end(made["id"])) else 1)

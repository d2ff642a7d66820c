"""`torpor schedules`: what the clock triggers."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Schedules: list, show, create, update, delete, activate, deactivate.", no_args_is_help=True)

ScheduleId = Annotated[str, typer.Argument(help="The schedule's id.", metavar="SCHEDULE", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="As the API has it.")]
Zone = Annotated[str | None, typer.Option("--tz", help="An IANA zone; default: UTC.")]
ExternalId = Annotated[str | None, typer.Option(help="Given to the task with each tick.")]
WindowOf = Annotated[str | None, typer.Option(help="Spread ticks over this much time: 30m or 10%; default: exact.")]
CatchUp = Annotated[str | None, typer.Option(help="Of ticks that nobody was there for: none, last (default) or all.")]


@app.command("list")
def list_schedules(as_json: AsJson = False) -> None:
    """List schedules, with their next five ticks in their own zones."""
    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console

    with client() as api:
        found = list(api.schedules())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo('No schedules. Put @schedule("0 7 * * *") above a @task, or: torpor schedules create')
        return
    console = make_console()
    for schedule in found:
        print_schedule(schedule, console)


@app.command()
def show(schedule: ScheduleId, as_json: AsJson = False) -> None:
    """Show a schedule, and the runs that it has made lately."""
    from itertools import islice

    from rich.text import Text

    from torpor.cli.connection import client
    from torpor.cli.story import STATUS_STYLES
    from torpor.cli.terminal import make_console
    from torpor.figures import clock, instant

    with client(f"schedule {schedule}") as api:
        found = api.schedule(schedule)
        runs = list(islice(api.runs(schedule=schedule, page_size=5), 5))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = make_console()
    print_schedule(found, console)
    for run in runs:
        line = Text().append(f"  {clock(instant(run['createdAt']))}  {run['id']}  ")
        console.print(line.append(run["status"], style=STATUS_STYLES.get(run["status"], "")))


def print_schedule(schedule: dict[str, Any], console: "Console") -> None:
    """What it does when, and what has become of it."""
    from zoneinfo import ZoneInfo

    from rich.text import Text

    from torpor.figures import clock, instant

    head = Text().append(schedule["task"], style="bold").append("  " + schedule["id"], style="dim")
    if not schedule["active"]:
        head.append("  resting", style="yellow")
    console.print(head)
    facts = [
        "declared in code" if schedule["type"] == "DECLARATIVE" else f"key {schedule.get('deduplicationKey')}",
        f"for {schedule['externalId']}" if schedule.get("externalId") else "",
        f"within {schedule['window']}" if schedule.get("window") else "",
        f"catch-up {schedule['catchUp']}" if schedule["catchUp"] != "last" else "",
    ]
    pattern = Text().append("  " + schedule["generator"]["expression"], style="cyan")
    pattern.append(f"  {schedule['generator']['description']}, {schedule['timezone']}")
    console.print(pattern)
    console.print(Text("  " + ", ".join(fact for fact in facts if fact), style="dim"))
    zone = ZoneInfo(schedule["timezone"]) if schedule["upcoming"] else None
    upcoming = [instant(tick).astimezone(zone).strftime("%a %d %b %H:%M:%S") for tick in schedule["upcoming"]]
    if upcoming:
        console.print("  next  " + " · ".join(tick.removesuffix(":00") for tick in upcoming))
    if schedule.get("lastRunId"):
        console.print(
            Text(f"  last  {clock(instant(schedule['lastTimestamp']))}  {schedule['lastRunId']}", style="dim")
        )
    if schedule.get("problem"):
        console.print(Text(f"  {clock(instant(schedule['problemAt']))}  {schedule['problem']}", style="red"))


@app.command()
def create(
    task: Annotated[str, typer.Argument(help="A task that takes a ScheduleTick, or nothing.", show_default=False)],
    cron: Annotated[str, typer.Argument(help="'0 7 * * MON-FRI', in quotes.", show_default=False)],
    key: Annotated[str, typer.Option(help="Its name: the same key changes the schedule that has it.")],
    tz: Zone = None,
    external_id: ExternalId = None,
    window: WindowOf = None,
    catch_up: CatchUp = None,
) -> None:
    """Make a schedule, or change the one that has this key."""
    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console

    options: dict[str, Any] = {"tz": tz, "external_id": external_id, "window": window, "catch_up": catch_up}
    with client() as api:
        made = api.create_schedule(task, cron, deduplication_key=key, **options)
    print_schedule(made, make_console())


@app.command()
def update(
    schedule: ScheduleId,
    task: Annotated[str | None, typer.Option(help="Another task.")] = None,
    cron: Annotated[str | None, typer.Option(help="Another pattern, in quotes.")] = None,
    tz: Zone = None,
    external_id: ExternalId = None,
    window: WindowOf = None,
    catch_up: CatchUp = None,
) -> None:
    """Change a schedule. What isn't given stays as it is."""
    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console

    with client(f"schedule {schedule}") as api:
        before = api.schedule(schedule)
        options: dict[str, Any] = {
            "tz": tz or before["timezone"],
            "external_id": external_id or before.get("externalId"),
            "window": window or before.get("window"),
            "catch_up": catch_up or before["catchUp"],
        }
        pattern = cron or before["generator"]["expression"]
        changed = api.update_schedule(schedule, task or before["task"], pattern, **options)
    print_schedule(changed, make_console())


@app.command()
def delete(schedule: ScheduleId) -> None:
    """Remove a schedule; its runs stay."""
    from torpor.cli.connection import client

    with client(f"schedule {schedule}") as api:
        api.delete_schedule(schedule)
    typer.echo(f"{schedule} is gone")


@app.command()
def activate(schedule: ScheduleId) -> None:
    """Let a schedule tick again, from now on."""
    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console

    with client(f"schedule {schedule}") as api:
        print_schedule(api.activate_schedule(schedule), make_console())


@app.command()
def deactivate(schedule: ScheduleId) -> None:
    """Put a schedule to rest until it is activated."""
    from torpor.cli.connection import client
    from torpor.cli.terminal import make_console

    with client(f"schedule {schedule}") as api:
        print_schedule(api.deactivate_schedule(schedule), make_console())

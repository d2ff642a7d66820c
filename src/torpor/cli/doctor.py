"""`torpor doctor`: can this machine freeze runs, and if not, what is to be done about it?"""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torpor.cli.machine import Fact

_MARKS = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "missing": "[red]✗[/]"}


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Install what may be installed: a CRIU of Torpor's own.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Tell it to a program.")] = False,
) -> None:
    """Say whether this machine can freeze waiting runs, and what to do if it can't.

    Exits with 0 when it can and with 1 when it can't; everything else works in either case.
    """
    from torpor.cli import machine
    from torpor.config import Settings
    from torpor.worker.criu_setup import obstacle

    settings = Settings.from_environment()
    facts = machine.examine(settings)
    # Where no CRIU could work, or the user insists on one, installing another would not help.
    is_fixable = obstacle() is None and not settings.criu
    if fix and is_fixable and not machine.can_freeze(facts):
        trouble = _install_criu(quiet=as_json)
        facts = machine.examine(settings)
        if trouble:
            facts.append(trouble)
    able = machine.can_freeze(facts)
    if as_json:
        told = {
            "can_freeze": able,
            "isolation": machine.isolation(settings).facts(),
            "facts": [asdict(fact) for fact in facts],
        }
        typer.echo(json.dumps(told, indent=2))
    else:
        _tell(facts, able)
    raise typer.Exit(0 if able else 1)


def _install_criu(*, quiet: bool) -> "Fact | None":
    """Try it; the examination that follows tells whether it helped, so only a failure is returned."""
    import asyncio

    from torpor.cli.machine import Fact
    from torpor.errors import CriuError
    from torpor.worker import criu_setup

    try:
        asyncio.run(criu_setup.install(None, lambda line: None if quiet else typer.echo(line)))
    except CriuError as error:
        return Fact("Installation", "missing", error.reason, "install CRIU 4.2 or newer and name it in TORPOR_CRIU")
    return None


def _tell(facts: "list[Fact]", able: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for fact in facts:
        told = escape(fact.told)
        if fact.fix and fact.state != "ok":
            told += f"\n[dim]→ {escape(fact.fix)}[/]"
        table.add_row(_MARKS[fact.state], escape(fact.name), told)
    console = Console(highlight=False)
    console.print(table)
    console.print()
    if able:
        console.print("[green]This machine can freeze runs[/]: while they wait they use no memory and no process.")
    else:
        console.print(
            "[yellow]This machine can't freeze runs.[/] Everything else works; a run that waits is held in memory."
        )

"""Many runs at once for `torpor runs cancel` and `replay`: chosen by filters, counted, confirmed, and watched to the end."""

import re
import time
from typing import Any, Literal

import typer

from torpor.cli.connection import client

LOOK_EVERY_S = 0.2
SHOWN_FAILURES = 5


def filters_of(
    run: str | None,
    status: list[str] | None,
    task: list[str] | None,
    tag: list[str] | None,
    queue: list[str] | None,
    version: list[str] | None,
    batch: str | None,
    since: str | None,
) -> dict[str, Any]:
    """What was given of them, for the client.

    Raises:
        typer.BadParameter: there are filters beside a run, or neither.
    """
    given: dict[str, Any] = {
        "status": [name.upper() for name in status or ()],
        "task": task,
        "tag": tag,
        "queue": queue,
        "version": version,
        "batch": batch,
        ("since" if since and re.match(r"\d{4}-", since) else "period"): since,
    }
    filters = {name: value for name, value in given.items() if value}
    if (run is None) != bool(filters):
        raise typer.BadParameter("name one run, or say which with filters such as --status")
    return filters


def work_off(action: Literal["cancel", "replay"], filters: dict[str, Any], *, is_meant: bool) -> None:
    """Say how many there are, ask, and do it; exits with 1 when some could not be done."""
    with client() as api:
        count = api.bulk_count(**filters)
        if not count:
            typer.echo("No run fits.")
            return
        if not is_meant:
            typer.confirm(f"{action.capitalize()} {count} run{'s' * (count != 1)}?", abort=True)
        made = (api.bulk_cancel if action == "cancel" else api.bulk_replay)(**filters)
        while (found := api.bulk_action(made["id"]))["status"] == "PENDING":
            time.sleep(LOOK_EVERY_S)
    counts = found["counts"]
    done = "canceled, or asked to end" if action == "cancel" else "replayed"
    typer.echo(f"{counts['success']} of {counts['total']} {done}  ({found['id']})")
    failures = found.get("failures", [])
    for failure in failures[:SHOWN_FAILURES]:
        typer.echo(f"  {failure['runId']}: {failure['error']}", err=True)
    if counts["failure"] > SHOWN_FAILURES:
        typer.echo(f"  … and {counts['failure'] - SHOWN_FAILURES} more", err=True)
    if counts["failure"] or found["status"] == "ABORTED":
        raise typer.Exit(1)

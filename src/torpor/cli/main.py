"""The `torpor` command: the table of its commands, and how an expected error is told.

Exit codes: 0 done; 1 the run that was followed did not complete; 2 wrong usage or settings; 3 the server can't be reached
or refused. Commands import what they need when they are called, so `torpor --help` is quick.
"""

import os
import sys

import typer

from torpor.cli import (
    accounts,
    approve,
    checkpoints,
    data_keys,
    db,
    dev,
    doctor,
    env,
    environments,
    init,
    keys,
    login,
    queues,
    runs,
    schedules,
    server,
    tokens,
    trigger,
    worker,
    workers,
)
from torpor.errors import ConfigError, TorporError

app = typer.Typer(
    name="torpor",
    help="Background jobs in Python whose waits cost nothing: the process is frozen and comes back on the next line.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

START, USE, KEEP = "Start", "Work with runs", "Look after"

app.command(rich_help_panel=START)(init.init)
app.command(rich_help_panel=START)(dev.dev)
app.command(rich_help_panel=START)(server.server)
app.command(rich_help_panel=START)(worker.worker)
app.command(rich_help_panel=START)(login.login)
app.command(rich_help_panel=START)(login.logout)
app.command(rich_help_panel=START)(login.whoami)
app.command(rich_help_panel=USE)(trigger.trigger)
app.add_typer(runs.app, name="runs", rich_help_panel=USE)
app.add_typer(checkpoints.app, name="checkpoints", rich_help_panel=USE)
app.command(rich_help_panel=USE)(approve.approve)
app.add_typer(tokens.app, name="tokens", rich_help_panel=USE)
app.add_typer(schedules.app, name="schedules", rich_help_panel=USE)
app.add_typer(queues.app, name="queues", rich_help_panel=USE)
app.command(rich_help_panel=KEEP)(queues.environment)
app.add_typer(environments.app, name="environments", rich_help_panel=KEEP)
app.add_typer(environments.projects, name="projects", rich_help_panel=KEEP)
app.add_typer(env.app, name="env", rich_help_panel=KEEP)
app.add_typer(workers.app, name="workers", rich_help_panel=KEEP)
app.command(rich_help_panel=KEEP)(doctor.doctor)
app.add_typer(keys.app, name="keys", rich_help_panel=KEEP)
app.add_typer(accounts.app, name="accounts", rich_help_panel=KEEP)
app.add_typer(data_keys.app, name="data-keys", rich_help_panel=KEEP)
app.add_typer(db.app, name="db", rich_help_panel=KEEP)


def main() -> None:
    """Run the command line. Errors of ours are told in a sentence; anything else is a bug and keeps its traceback."""
    try:
        app(prog_name="torpor")
    except ConfigError as error:
        _fail(str(error), 2)
    except TorporError as error:
        from torpor.cli.connection import told

        _fail(told(error), 3)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # `torpor runs list | head`: the reader has left. Nothing is to be said, also not by the interpreter's last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)


def _fail(text: str, code: int) -> None:
    """Say what went wrong, on stderr, and exit."""
    head, *rest = text.splitlines() or ["it failed"]
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(f"\x1b[1;31merror\x1b[0m {head}" if coloured else f"error: {head}", *rest, sep="\n", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()

"""`torpor worker`: runs of one project, on this machine, for the server that TORPOR_API_URL names; or the end of that."""

import os
from pathlib import Path
from typing import Annotated

import typer


def worker(
    path: Annotated[
        str,
        typer.Argument(
            help="The project: a directory with tasks, or one .py file. Or `drain`: have the worker that runs on this "
            "TORPOR_DATA_DIR move its runs to others, and stop."
        ),
    ] = ".",
) -> None:
    """Run a worker (settings: TORPOR_API_URL, TORPOR_WORKER_TOKEN, TORPOR_DATA_DIR, TORPOR_WORKER_SLOTS …), or drain one."""
    if path == "drain":  # a project of this name is ./drain
        return _drain()
    import logging

    from torpor.cli.lifeline import die_with_parent
    from torpor.config import Settings
    from torpor.worker.serve import run_worker

    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    # OpenBLAS, and so numpy, starts its threads at import, and a process with threads can't be forked for each run.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    raise typer.Exit(run_worker(Settings.from_environment(), Path(path)))


def _drain() -> None:
    from torpor.config import Settings
    from torpor.worker.serve import drain_worker

    words = {
        "moved": "moved, in the middle of its work",
        "frozen": "frozen, as it waits",
        "ended": "ended by itself",
        "left": "could not be moved: the worker goes on until it ends",
    }
    for told in drain_worker(Settings.from_environment()):
        typer.echo(f"{told['run_id']}  {words[told['what']]}" + (f" ({told['reason']})" if told["reason"] else ""))
    typer.echo("the worker has stopped")

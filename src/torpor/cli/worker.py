"""`torpor worker`: runs of one project, on this machine, for the server that TORPOR_API_URL names."""

import os
from pathlib import Path
from typing import Annotated

import typer


def worker(
    path: Annotated[Path, typer.Argument(help="The project: a directory with tasks, or one .py file.")] = Path("."),
) -> None:
    """Run a worker (settings: TORPOR_API_URL, TORPOR_WORKER_TOKEN, TORPOR_DATA_DIR, TORPOR_WORKER_SLOTS …)."""
    import logging

    from torpor.cli.lifeline import die_with_parent
    from torpor.config import Settings
    from torpor.worker.serve import run_worker

    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    # OpenBLAS, and so numpy, starts its threads at import, and a process with threads can't be forked for each run.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    raise typer.Exit(run_worker(Settings.from_environment(), path))

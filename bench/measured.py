"""The stack that the benchmarks measure, and how their figures are shown.

It is the one of the lifecycle tests: a real Postgres, server and worker, each in a process of its own.
"""

import asyncio
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "lifecycle")]

from stack import Stack, fresh_database  # noqa: E402

from torpor.store.embedded import EmbeddedPostgres  # noqa: E402

PROJECT = Path(__file__).parent / "project"


@contextlib.contextmanager
def stack(**settings: str) -> Iterator[tuple[Stack, EmbeddedPostgres]]:
    """A stack that freezes at every wait, with production's lease times."""
    with tempfile.TemporaryDirectory(prefix="torpor-bench-") as directory:
        postgres = EmbeddedPostgres(Path(directory, "postgres"))
        asyncio.run(postgres.start())
        defaults = {"TORPOR_LEASE_S": "30", "TORPOR_HEARTBEAT_INTERVAL_S": "10", "TORPOR_HOLD_S": "0"}
        made = Stack(Path(directory, "stack"), fresh_database(postgres, "bench"), PROJECT, **{**defaults, **settings})
        try:
            made.start()
            yield made, postgres
        finally:
            made.stop()
            asyncio.run(postgres.destroy())


def row(what: str, values: list[float], unit: str = "ms") -> None:
    """One line of figures: median, fastest, slowest."""
    middle = statistics.median(values)
    print(f"{what:<58} {middle:8.1f} {unit}   ({min(values):.1f} to {max(values):.1f}, n={len(values)})")


def stamps(path: Path) -> dict[str, float]:
    """The instants that a task of the project wrote down."""
    return {what: float(at) for what, at in (line.split() for line in path.read_text().splitlines())}


def resident_mb(pids: list[int]) -> float:
    """Proportional memory of these processes: what is shared counts once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has just ended
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def postgres_pids(postgres: EmbeddedPostgres) -> list[int]:
    """The postmaster and its children."""
    place = postgres.directory / "place"
    root = Path(place.read_text().strip()) if place.exists() else postgres.directory
    postmaster = int((root / "data" / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    return [postmaster, *(int(child) for child in children)]

"""`python -m tests.simulation.planted`: does the simulation find a bug when one is planted?

Each fault is one small change to a copy of the engine, such as somebody might make; the simulation plays seeds on that copy
until one fails. With names as arguments only those.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .postgres import served

ROOT = Path(__file__).resolve().parents[2]
ENGINE = Path("src/torpor/engine")
SEEDS = 150


@dataclass(frozen=True)
class Fault:
    """In that file of the engine, this text becomes that."""

    name: str
    file: str
    text: str
    becomes: str


FAULTS = [
    Fault(
        "the fence doesn't compare lease numbers",
        "locks.py",
        "run.lease == lease.number and run.worker_id is not None",
        "run.worker_id is not None",
    ),
    Fault("suspend doesn't move the lease on", "suspend.py", "lease = lease + 1, ", ""),
    Fault("an end doesn't move the lease on", "end.py", "updated_at = $5, lease = lease + 1,", "updated_at = $5,"),
    Fault("suspend doesn't look for answers", "suspend.py", "(is_answered and not is_in_line)", "False"),
    Fault("a late report about waits counts", "locks.py", "if nth < run.heard:", "if nth < 0:"),
    Fault(
        "a token is completed twice",
        "complete.py",
        'if waitpoint.status != "pending":\n        return AlreadyCompleted',
        'if waitpoint.status == "never":\n        return AlreadyCompleted',
    ),
    Fault(
        "an answer wakes the first run only",
        "complete.py",
        "    for row in rows:\n        # Wake",
        "    for row in rows[:1]:\n        # Wake",
    ),
    Fault(
        "a wait's deadline wakes nobody", "complete.py", "    for row in timed_out:", "    for row in timed_out[:0]:"
    ),
    Fault(
        "an end doesn't answer who waits for it", "end.py", "if waitpoint.awaited_run_id == run.id and", "if False and"
    ),
    Fault(
        "a resumed run is not announced",
        "resume.py",
        '    await tx.notify("work", environment_id=run.environment_id)\n',
        "",
    ),
    Fault("a freed slot is not announced", "slots.py", "if run.state not in HOLDING:\n        return", "return"),
    Fault(
        "an answer in line is not announced",
        "resume.py",
        '    await tx.notify("grant", environment_id=run.environment_id)\n',
        "",
    ),
    Fault("an environment has a slot too many", "slots.py", "select $2 - count(*)", "select $2 + 1 - count(*)"),
    Fault("a line has a slot too many", "lines.py", "line.slots - (\n", "line.slots + 1 - (\n"),
    Fault("grant doesn't look at limits", "grant.py", "where ready.place <= free.slots and", "where"),
    Fault(
        "collect gives answers without a slot",
        "wait.py",
        "if run.state != RunState.WAITING or not await slots.is_limited(tx, run):",
        "if True:",
    ),
    Fault(
        "rescue takes living leases",
        "rescue.py",
        "seconds=boot_timeout_s)\n",
        "seconds=boot_timeout_s)\n    now += timedelta(seconds=25)\n",
    ),
    Fault("a retry keeps its checkpoint", "finish.py", "state = 'delayed', checkpoint_id = $4,", "state = 'delayed',"),
    Fault(
        "a crash forgets the checkpoint",
        "finish.py",
        "await requeue(tx, run, checkpoint_id=run.checkpoint_id,",
        "await requeue(tx, run, checkpoint_id=None,",
    ),
    Fault(
        "every hand-out is a new attempt",
        "dequeue.py",
        "attempt = run.attempt if run.id in goes_on else run.attempt + 1",
        "attempt = run.attempt + 1",
    ),
    Fault(
        "the newest of a line goes first",
        "lines.py",
        "order by standing.available_at, standing.id",
        "order by standing.available_at desc, standing.id",
    ),
    Fault(
        "an idempotency key goes to whoever asks",
        "idempotency.py",
        "idempotency_keys.expires_at <= ",
        "true or idempotency_keys.expires_at <= ",
    ),
    Fault("a batch counts a shared run once", "batch_end.py", "pending = pending - $2", "pending = pending - 1"),
    Fault(
        "an image is condemned that somebody refers to",
        "garbage.py",
        "and checkpoints.state in ('usable', 'kept'))",
        "and checkpoints.state = 'never')",
    ),
    Fault(
        "a pack goes with the first of its images",
        "garbage.py",
        "where image_packs.pack_id = packs.id and images.condemned_at is null",
        "where image_packs.pack_id = packs.id and false",
    ),
    Fault(
        "who refers to a pack doesn't look whether it is condemned",
        "images.py",
        'if row["condemned_at"] is None and (',
        "if (",
    ),
    Fault(
        "a fork doesn't look whether its image is condemned",
        "images.py",
        'return row is not None and row["condemned_at"] is None',
        "return row is not None",
    ),
    Fault(
        "a save point is not what a run comes back from",
        "save.py",
        "set checkpoint_id = $2,",
        "set checkpoint_id = coalesce(checkpoint_id, $2),",
    ),
    Fault("a moved run keeps its lease number", "move.py", "lease = lease + 1,", "lease = lease,"),
    Fault("a fork is not announced", "fork.py", "    if not is_suspended:\n", "    if False:\n"),
    Fault(
        "a refusal is forgotten",
        "lines.py",
        "where checkpoints.id = runs.checkpoint_id and refusals.fitness = $8",
        "where checkpoints.id = runs.checkpoint_id and refusals.fitness = $8 and false",
    ),
    Fault(
        "room that runs at work have is given away",
        "placement.py",
        "and runs.state in ('dequeued', 'executing')",
        "and runs.state = 'dequeued'",
    ),
    Fault(
        "a worker that has room again is not told",
        "slots.py",
        "$4 = any(turns.short_of_room)",
        "$4 = 'nobody'",
    ),
    Fault("a run that fits later closes no line", "lines.py", "now | (self._presets & room.later)", "now"),
    Fault(
        "a larger machine is taken again and again",
        "finish.py",
        "larger.memory_bytes > own",
        "larger.memory_bytes >= own",
    ),
    Fault("heartbeats don't repeat answers", "attempt.py", "and waits.delivered_at is null", "and false"),
    Fault(
        "a restore ties what a later process had dropped",
        "dequeue.py",
        "    await set_open_waits(tx, run.id, checkpoint.open_waits, now=now)\n",
        "",
    ),
]


def plant(fault: Fault, place: Path) -> None:
    """A copy of the package with that fault in it."""
    shutil.copytree(ROOT / "src", place / "src", ignore=shutil.ignore_patterns("__pycache__"))
    file = place / ENGINE / fault.file
    text = file.read_text(encoding="utf-8")
    if fault.text not in text:
        raise SystemExit(f"{fault.name}: {fault.file} has changed; it doesn't hold {fault.text!r} any more")
    file.write_text(text.replace(fault.text, fault.becomes), encoding="utf-8")


def look(fault: Fault, url: str, seeds: int = SEEDS) -> str | None:
    """The first seed that finds it, and what it says; None if none does."""
    with tempfile.TemporaryDirectory(prefix="torpor-planted-") as directory:
        plant(fault, Path(directory))
        told = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seeds", f"0:{seeds}", "--most", "1"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(Path(directory) / "src"), "TORPOR_TEST_DATABASE_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
    found = re.search(r"^seed (\d+): (.*)$", told.stderr, re.MULTILINE)
    if found is None and told.returncode:
        raise SystemExit(f"{fault.name}: the simulation itself failed\n{told.stderr[-2000:]}")
    return f"{found[1]} | {found[2]}" if found else None


async def main() -> int:
    wanted = sys.argv[1:]
    missed = 0
    async with served() as (url,):
        print("| planted | first seed | what it says |\n|---|---|---|")
        for fault in FAULTS:
            if not wanted or any(name in fault.name for name in wanted):
                found = await asyncio.to_thread(look, fault, url)
                missed += found is None
                print(f"| {fault.name} | {found or f'none of {SEEDS} | NOT FOUND'} |", flush=True)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

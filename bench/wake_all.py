"""Many runs suspended on one machine, and all of them woken at the same instant.

`python bench/wake_all.py [RUNS] [BARE]`: RUNS runs (1,000) wait for one token and are frozen; what they take of disk and memory
is told; then the token is completed. Before, BARE equal processes (60) are dumped by bare CRIU and restored as many at a time as
there are cores, and as the worker may restore at once: the better of the two is what we are compared with.
"""

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from measured import postgres_pids, resident_mb, stack
from stack import Stack, eventually

from torpor.store.embedded import EmbeddedPostgres

PATIENCE_S = 1800.0
SLOTS = 20


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    bare_count = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    cores = os.cpu_count() or 1
    bare = max(bare_restores_per_s(bare_count, at_once) for at_once in (cores, 2 * cores))
    print(f"bare criu restore: {bare:.1f} per second (n={bare_count}, {cores} cores)")
    with stack(TORPOR_WORKER_SLOTS=str(SLOTS)) as (made, postgres):
        suspend(made, 40, "warm")  # so that caches are full
        token = made.client.create_token()["id"]
        before, disk_before = everything(made, postgres), disk_mb(made)
        began = time.monotonic()
        runs = suspend(made, count, token)
        took = time.monotonic() - began
        print(f"triggered, started and suspended: {count / took:.1f} runs per second ({took:.0f} s)")
        after, disk_after = everything(made, postgres), disk_mb(made)
        processes = len(made.processes(naming="torpor run"))
        print(f"processes of runs: {processes} (goal 0)")
        print(
            f"memory: {after - before:.1f} MB more in server, worker and Postgres, {(after - before) / count * 1024:.0f} KB each"
        )
        print(f"disk: {disk_after - disk_before:.1f} MB more, {(disk_after - disk_before) / count * 1024:.0f} KB each")
        wake(made, runs, token, bare)


def wake(made: Stack, runs: list[str], token: str, bare: float) -> None:
    began = time.time()
    made.client.complete_token(token)
    for run_id in runs:
        eventually(
            lambda run_id=run_id: made.status(run_id) == "COMPLETED", what="all have ended", patience_s=PATIENCE_S
        )
    all_over = time.time() - began
    at = sorted(resumed_at(made, run_id) for run_id in runs)
    span = at[-1] - began
    rate = len(runs) / span
    first_ms = (at[0] - began) * 1000
    print(
        f"woken at once: first resumed after {first_ms:.0f} ms, last after {span:.1f} s, all over after {all_over:.1f} s"
    )
    print(f"restored per second: {rate:.1f}, {rate / bare * 100:.0f} % of bare CRIU (goal >= 80 %)")


def resumed_at(made: Stack, run_id: str) -> float:
    return next(
        datetime.fromisoformat(event["at"]).timestamp()
        for event in made.client.story(run_id)
        if event["kind"] == "run.resumed"
    )


def suspend(made: Stack, count: int, token: str) -> list[str]:
    if token == "warm":
        token = made.client.create_token()["id"]
    runs = [made.trigger("waits_for_token", token) for _ in range(count)]
    for run_id in runs:
        eventually(
            lambda run_id=run_id: "run.suspended" in made.kinds(run_id), what="all are suspended", patience_s=PATIENCE_S
        )
    eventually(lambda: not made.processes(naming="torpor run"), what="all are out of memory")
    return runs


def bare_restores_per_s(count: int, at_once: int) -> float:
    """On a stack of its own, whose runs are lost by it."""
    with stack(TORPOR_WORKER_SLOTS=str(count)) as (made, _):
        token = made.client.create_token()["id"]
        made.pause_at("before_dump")
        runs = [made.trigger("waits_for_token", token) for _ in range(count)]
        for run_id in runs:
            eventually(
                lambda run_id=run_id: "run.waiting" in made.kinds(run_id), what="all wait", patience_s=PATIENCE_S
            )
        eventually(lambda: all(parked(made, run_id) for run_id in runs), what="all are parked")
        program = [sys.executable, str(Path(__file__).with_name("bare_restores.py"))]
        command = ["nsenter", "--target", str(made.worker_pids()[1]), "--mount", "--pid", "--", *program]
        done = subprocess.run([*command, str(made.directory), str(at_once), *runs], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made.kill_worker()
        return float(done.stdout)


def parked(made: Stack, run_id: str) -> bool:
    """It has let go of its control socket, and is about to sleep: what is left are the two ends of the event loop's own."""
    pid = made.process_of(run_id)
    if pid is None:
        return False
    return sum(os.readlink(entry).startswith("socket:") for entry in Path(f"/proc/{pid}/fd").iterdir()) == 2


def everything(made: Stack, postgres: EmbeddedPostgres) -> float:
    return resident_mb(made.server_pids() + made.worker_pids() + postgres_pids(postgres))


def disk_mb(made: Stack) -> float:
    """What the worker keeps on disk. Blocks, not lengths."""
    blocks = 0
    for folder, _, names in os.walk(made.directory / "data" / "worker"):
        for name in names:
            try:
                blocks += os.lstat(Path(folder, name)).st_blocks
            except FileNotFoundError:
                continue
    return blocks * 512 / 1e6


if __name__ == "__main__":
    main()

"""What a freeze and a thaw cost beside CRIU alone.

`python bench/freeze_and_thaw.py [N] [MEGABYTES]`: N runs frozen and thawed, each holding MEGABYTES of random bytes beside the
interpreter, so that nothing can be saved on them by compressing or sharing.
In between, as many equal runs are stopped just before their dump, dumped and restored by bare CRIU, in the same namespaces and on
the same disk. (CRIU's own share of what we do would flatter us: others are at work beside it, and large memory comes later.)
"""

import subprocess
import sys
import time

from measured import row, stack, stamps
from stack import Stack


def frozen_and_thawed(made: Stack, number: int, megabytes: int) -> dict[str, float]:
    journal = made.journal(f"j{number}")
    seconds = 1.0 + megabytes / 40
    payload = {"journal": str(journal), "seconds": seconds, "megabytes": megabytes}
    run_id = made.trigger("one_wait", payload)
    while not journal.exists():
        time.sleep(0.005)
    pid = made.process_of(run_id)
    assert pid is not None
    while made.alive(pid):
        time.sleep(0.001)
    gone = time.time()
    made.output(run_id)
    at = stamps(journal)
    [suspended] = made.events(run_id, "run.suspended")
    [resumed] = made.events(run_id, "run.resumed")
    return {
        "gone": (gone - at["entered"]) * 1000,
        "durable": suspended["durable_ms"],
        "continued": (at["continued"] - at["entered"] - seconds) * 1000,
        "restore": resumed["restore_ms"],
        "size": suspended["size_bytes"] / 1e6,
        "new": suspended["new_bytes"] / 1e3,
    }


def bare(made: Stack, number: int, megabytes: int) -> tuple[float, ...]:
    made.pause_at("before_dump")
    payload = {"journal": str(made.journal(f"bare{number}")), "seconds": 2.0, "megabytes": megabytes}
    run_id = made.trigger("one_wait", payload)
    made.await_reached("before_dump")
    supervisor = made.worker_pids()[1]
    program = [sys.executable, __file__.replace("freeze_and_thaw", "bare_criu"), run_id, str(made.directory / "data")]
    command = ["nsenter", "--target", str(supervisor), "--mount", "--pid", "--", *program]
    took = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    made.go_on("before_dump")
    made.output(run_id)
    return tuple(map(float, took.split()))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    figures: list[dict[str, float]] = []
    bares: list[tuple[float, ...]] = []
    with stack(TORPOR_ISOLATION="off") as (made, _):  # as bare CRIU; what rooms cost is told by isolation.py
        for number in range(count + 2):
            figures.append(frozen_and_thawed(made, number, megabytes))
            bares.append(bare(made, number, megabytes))
    del figures[:2], bares[:2]  # the first ones fill caches
    dumps, durable, restores = map(list, zip(*bares, strict=True))

    def column(name: str) -> list[float]:
        return [each[name] for each in figures]

    def times(ours: str, alone: list[float]) -> list[float]:
        return [ours / one for ours, one in zip(column(ours), alone, strict=True)]

    row("bare criu dump", dumps)
    row("bare criu dump, and fsync", durable)
    row("wait entered -> image durable", column("durable"))
    row("  as a multiple of criu dump (goal <= 1.3)", times("durable", dumps), "x ")
    row("  as a multiple of criu dump and fsync", times("durable", durable), "x ")
    row("wait entered -> durable and process gone", column("gone"))
    row("bare criu restore", restores)
    row("wait due -> next line of user code", column("continued"))
    row("  as a multiple of criu restore (goal <= 1.3)", times("continued", restores), "x ")
    row("image, with what it shares", column("size"), "MB")
    row("stored for it alone", column("new"), "KB")


if __name__ == "__main__":
    main()

"""What a freeze and a thaw cost beside CRIU alone.

`python bench/freeze_and_thaw.py [N] [MEGABYTES]`: N runs frozen and thawed, each holding MEGABYTES beside the interpreter.
In between, as many equal runs are stopped just before their dump and dumped by bare CRIU, in the same namespaces and on the
same disk. (CRIU's own share of a freeze of ours would flatter us: the disk is at work beside it.) A restore has nothing at
work beside it, so there CRIU's share is taken as it is.
"""

import subprocess
import sys
import time

from measured import row, stack, stamps
from stack import Stack


def frozen_and_thawed(made: Stack, number: int, megabytes: int) -> dict[str, float]:
    journal = made.journal(f"j{number}")
    payload = {"journal": str(journal), "seconds": 1.0, "megabytes": megabytes}
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
        "continued": (at["continued"] - at["entered"]) * 1000 - 1000,
        "restore": resumed["restore_ms"],
        "size": suspended["size_bytes"] / 1e6,
    }


def bare_dump_ms(made: Stack, number: int, megabytes: int) -> float:
    made.pause_at("before_dump")
    payload = {"journal": str(made.journal(f"bare{number}")), "seconds": 1.0, "megabytes": megabytes}
    run_id = made.trigger("one_wait", payload)
    made.await_reached("before_dump")
    supervisor = made.worker_pids()[1]
    program = [sys.executable, __file__.replace("freeze_and_thaw", "bare_dump"), run_id, str(made.directory / "data")]
    command = ["nsenter", "--target", str(supervisor), "--mount", "--pid", "--", *program]
    took = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    made.go_on("before_dump")
    made.output(run_id)
    return float(took)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    figures: list[dict[str, float]] = []
    bare: list[float] = []
    with stack() as (made, _):
        for number in range(count + 2):
            figures.append(frozen_and_thawed(made, number, megabytes))
            bare.append(bare_dump_ms(made, number, megabytes))
    del figures[:2], bare[:2]  # the first ones fill caches

    def column(name: str) -> list[float]:
        return [each[name] for each in figures]

    row("bare criu dump", bare)
    row("wait entered -> image durable", column("durable"))
    row("wait entered -> durable and process gone", column("gone"))
    row(
        "  as a multiple of criu dump (goal <= 2)",
        [ours / one for ours, one in zip(column("gone"), bare, strict=True)],
        "x ",
    )
    row("criu restore alone", column("restore"))
    row("wait due -> next line of user code", column("continued"))
    row("  as a multiple of criu restore (goal <= 2)", [each["continued"] / each["restore"] for each in figures], "x ")
    row("image on disk", column("size"), "MB")


if __name__ == "__main__":
    main()

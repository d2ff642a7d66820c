"""What a freeze and a thaw cost beside CRIU alone, on the same process in the same run.

`python bench/freeze_and_thaw.py [N] [MEGABYTES]`: N runs one after the other, each holding MEGABYTES beside the interpreter.
"""

import sys
import time

from measured import row, stack, stamps
from stack import Stack


def one(made: Stack, number: int, megabytes: int) -> dict[str, float]:
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
        "dump": suspended["dump_ms"],
        "durable": suspended["durable_ms"],
        "continued": (at["continued"] - at["entered"]) * 1000 - 1000,
        "restore": resumed["restore_ms"],
        "size": suspended["size_bytes"] / 1e6,
    }


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with stack() as (made, _):
        figures = [one(made, number, megabytes) for number in range(count + 2)][2:]

    def column(name: str) -> list[float]:
        return [each[name] for each in figures]

    row("criu dump alone", column("dump"))
    row("wait entered -> image durable", column("durable"))
    row("wait entered -> durable and process gone", column("gone"))
    row("  as a multiple of criu dump (goal <= 2)", [each["gone"] / each["dump"] for each in figures], "x ")
    row("criu restore alone", column("restore"))
    row("wait due -> next line of user code", column("continued"))
    row("  as a multiple of criu restore (goal <= 2)", [each["continued"] / each["restore"] for each in figures], "x ")
    row("image on disk", column("size"), "MB")


if __name__ == "__main__":
    main()

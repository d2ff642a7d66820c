"""From a trigger to the first line of user code, on an idle system with a warm version.

    python bench/start_latency.py [N] [--trust foreign] [--isolation auto] [--pause SECONDS]

One runner is always made ahead. With a pause it is ready when the next trigger comes; without, the trigger waits for it, and what
it costs to make one is seen.
"""

import argparse
import time

from measured import row, stack, stamps
from stack import eventually


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int, nargs="?", default=30)
    parser.add_argument("--trust", default="own")
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("--pause", type=float, default=0.0)
    asked = parser.parse_args()
    with stack(TORPOR_TRUST=asked.trust, TORPOR_ISOLATION=asked.isolation) as (made, _):
        eventually(lambda: "warm image of" in made.worker_log(), what="the version is warm")
        first_line, answered, made_ready = [], [], []
        for number in range(asked.count + 3):
            time.sleep(asked.pause)
            journal = made.journal(f"j{number}")
            began = time.time()
            run_id = made.trigger("first_line", str(journal))
            returned = time.time()
            made.output(run_id)
            if number >= 3:  # the first ones fill caches
                first_line.append((stamps(journal)["first"] - began) * 1000)
                answered.append((returned - began) * 1000)
                made_ready += [each["start_ms"] for each in made.events(run_id, "run.started")]
        row("trigger -> the client has its answer", answered)
        row("assignment -> a runner is at hand", made_ready)
        row("trigger -> first line of user code (goal < 20)", first_line)


if __name__ == "__main__":
    main()

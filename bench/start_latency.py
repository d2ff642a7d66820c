"""From a trigger to the first line of user code, on an idle system with a warm zygote. `python bench/start_latency.py [N]`."""

import sys
import time

from measured import row, stack, stamps


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    with stack() as (made, _):
        first_line, answered = [], []
        for number in range(count + 3):
            journal = made.journal(f"j{number}")
            began = time.time()
            run_id = made.trigger("first_line", str(journal))
            returned = time.time()
            made.output(run_id)
            if number >= 3:  # the first ones fill caches
                first_line.append((stamps(journal)["first"] - began) * 1000)
                answered.append((returned - began) * 1000)
        row("trigger -> the client has its answer", answered)
        row("trigger -> first line of user code (goal < 20)", first_line)


if __name__ == "__main__":
    main()

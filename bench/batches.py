"""Runs triggered per second, in batches of 1,000: server and Postgres at work, no worker. `python bench/batches.py [BATCHES]`."""

import sys
import time

from measured import row, stack

ITEMS = 1000


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with stack() as (made, _):
        made.kill_worker()  # it has told the server what tasks there are
        rates, opened = [], []
        for number in range(count + 1):
            began = time.perf_counter()
            batch = made.client.batch_trigger("first_line", (f"/dev/null/{each}" for each in range(ITEMS)))
            took_s = time.perf_counter() - began
            assert len(batch["runs"]) == ITEMS, batch["errors"][:3]
            if number >= 1:  # the first one fills caches
                rates.append(ITEMS / took_s)
                opened.append(took_s * 1000)
        row(f"a batch of {ITEMS} items, from the call to its ids", opened)
        row("runs triggered in batches", rates, "runs/s")


if __name__ == "__main__":
    main()

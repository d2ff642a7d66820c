"""Runs triggered per second, one by one and in batches of 1,000: server and Postgres at work, no worker.

    python bench/triggers.py [BATCHES]

The client shares the machine with the server: on few cores it takes its share of them.
"""

import asyncio
import sys
import time

from measured import row, stack
from stack import KEY

from torpor.sdk.async_client import AsyncClient

ITEMS = 1000
CLIENTS = (1, 16, 64)


async def one_by_one(url: str, key: str, clients: int, count: int) -> float:
    """So many callers, each with its next trigger as soon as the last is answered: triggers per second."""
    async with AsyncClient(url, key) as client:
        left = iter(range(count))

        async def call() -> None:
            for _ in left:
                await client.trigger("first_line", "/dev/null")

        await client.trigger("first_line", "/dev/null")  # the first one connects
        began = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(clients)))
        return count / (time.perf_counter() - began)


def main() -> None:
    batches = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with stack() as (made, _):
        made.kill_worker()  # it has told the server what tasks there are
        for clients in CLIENTS:
            rates = [asyncio.run(one_by_one(f"http://127.0.0.1:{made.port}", KEY, clients, 1000)) for _ in range(3)]
            row(f"triggers one by one, {clients} at a time", rates, "runs/s")
        rates, took = [], []
        for number in range(batches + 1):
            began = time.perf_counter()
            batch = made.client.batch_trigger("first_line", (f"/dev/null/{each}" for each in range(ITEMS)))
            took_s = time.perf_counter() - began
            assert len(batch["runs"]) == ITEMS, batch["errors"][:3]
            if number:  # the first one fills caches
                rates.append(ITEMS / took_s)
                took.append(took_s * 1000)
        row(f"a batch of {ITEMS:,} items, from the call to its ids", took)
        row("runs triggered in batches", rates, "runs/s")


if __name__ == "__main__":
    main()

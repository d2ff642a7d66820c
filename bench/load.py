"""What one server takes of triggers, how long each waits, and whether the server's memory stays flat.

    python bench/load.py [SECONDS] [MINUTES]

SECONDS (default 10) for each number of callers; MINUTES (default 0: left out) for the look at memory, with 16 callers, half of
whose requests read runs. Server and Postgres are at work, no worker. The callers speak HTTP by hand over kept connections, so
that little of the shared processor goes to them.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import count

from measured import resident_mb, stack
from stack import KEY, Stack

CALLERS = (1, 16, 64)
SAMPLE_S = 10.0

_HEADERS = f"host: torpor\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"


def trigger(number: int) -> bytes:
    body = json.dumps({"payload": "/dev/null", "options": {"tags": [f"load-{number % 100}"]}}).encode()
    head = f"POST /api/v1/tasks/first_line/trigger HTTP/1.1\r\n{_HEADERS}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def look(run_id: str) -> bytes:
    return f"GET /api/v3/runs/{run_id} HTTP/1.1\r\n{_HEADERS}\r\n".encode()


class Caller:
    """One kept connection. `took_ms` holds how long each of its requests waited for its whole answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.took_ms: list[float] = []

    async def call_until(self, end: float, ask: Callable[[str | None], bytes]) -> None:
        """One request after the other; `ask` makes each from the id of the run that was named last."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        run_id = None
        while time.perf_counter() < end:
            began = time.perf_counter()
            writer.write(ask(run_id))
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = await reader.readexactly(length)
            self.took_ms.append((time.perf_counter() - began) * 1000)
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{head.split(maxsplit=3)[:3]}: {body[:200]}")
            run_id = json.loads(body)["id"]
        writer.close()


async def all_call(made: Stack, callers: int, seconds: float, ask: Callable[[str | None], bytes]) -> list[float]:
    end = time.perf_counter() + seconds
    every = [Caller(made.port) for _ in range(callers)]
    await asyncio.gather(*(each.call_until(end, ask) for each in every))
    return sorted(took for each in every for took in each.took_ms)


def at(share: float, ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def watch_memory(made: Stack, minutes: float) -> None:
    numbers = count()
    shown: list[float] = []

    async def sample() -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            shown.append(resident_mb(made.server_pids()))

    def ask(run_id: str | None) -> bytes:
        return trigger(next(numbers)) if run_id is None or next(numbers) % 2 else look(run_id)

    sampling = asyncio.create_task(sample())
    took = await all_call(made, 16, minutes * 60, ask)
    sampling.cancel()
    # The first fifth fills caches. A third of what is left at the beginning, against a third at the end.
    settled = shown[len(shown) // 5 :]
    third = max(1, len(settled) // 3)
    print(
        f"{minutes:g} minutes, {len(took):,} requests (p99 {at(0.99, took):.1f} ms): server {shown[0]:.1f} MB at first, then"
        f" {statistics.median(settled[:third]):.1f} and in the end {statistics.median(settled[-third:]):.1f} MB"
        f" (most: {max(shown):.1f})"
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    with stack() as (made, _):
        made.kill_worker()  # it has told the server what tasks there are
        numbers = count()
        asyncio.run(all_call(made, 1, 1.0, lambda _: trigger(next(numbers))))  # fills caches
        for callers in CALLERS:
            took = asyncio.run(all_call(made, callers, seconds, lambda _: trigger(next(numbers))))
            print(
                f"triggers, {callers:2} callers: {len(took) / seconds:6.0f}/s, each waits {statistics.median(took):.1f} ms"
                f" (p90 {at(0.9, took):.1f}, p99 {at(0.99, took):.1f}, longest {took[-1]:.1f})"
            )
        if minutes:
            asyncio.run(watch_memory(made, minutes))


if __name__ == "__main__":
    main()

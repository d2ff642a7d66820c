"""From an append to the reader who has it: one reader, many of one stream, and many that don't read.

    python bench/readers.py [READERS]

Server and Postgres at work, no worker: parts are appended through the API. Writer and readers share the machine with the server,
and one process, so that one clock times both ends.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import msgspec
from measured import resident_mb, row, stack
from stack import KEY, Stack

APPENDS = 150
EVERY_S = 0.02
LONG = "x" * 60_000
LONG_PARTS = 500


class Reader:
    """As little as it takes: of many readers in one process the work is the server's."""

    def __init__(self, stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._stream = stream
        self._writer = writer
        self.delays_ms: list[float] = []

    @classmethod
    async def of(cls, port: int, run_id: str, limit: int = 1 << 20) -> "Reader":
        stream, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
        path = f"/realtime/v1/streams/{run_id}/log"
        writer.write(f"GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {KEY}\r\n\r\n".encode())
        await stream.readuntil(b"\r\n\r\n")
        return cls(stream, writer)

    async def read(self, parts: int) -> None:
        """So many, each of them the instant at which it was sent."""
        while len(self.delays_ms) < parts:
            line = await self._stream.readline()
            now = time.perf_counter()
            if line.startswith(b"data: "):
                for record in msgspec.json.decode(line[6:])["records"]:
                    sent = float(msgspec.json.decode(record["body"])["data"])
                    self.delays_ms.append((now - sent) * 1000)

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def appending(made: Stack, run_id: str) -> AsyncIterator["httpx2.AsyncClient"]:
    headers = {"authorization": f"Bearer {KEY}"}
    base = f"http://127.0.0.1:{made.port}/realtime/v1/streams/{run_id}/self/"
    async with httpx2.AsyncClient(base_url=base, headers=headers) as http:
        yield http


async def delays(made: Stack, readers: int) -> list[float]:
    run_id = made.trigger("first_line", "/dev/null")
    made_readers = [await Reader.of(made.port, run_id) for _ in range(readers)]
    reading = [asyncio.create_task(one.read(APPENDS)) for one in made_readers]
    async with appending(made, run_id) as http:
        for _ in range(APPENDS):
            (await http.post("log/append", content=str(time.perf_counter()))).raise_for_status()
            await asyncio.sleep(EVERY_S)
    await asyncio.gather(*reading)
    for one in made_readers:
        one.close()
    return [delay for one in made_readers for delay in one.delays_ms]


async def throughput(made: Stack, writers: int, count: int) -> tuple[float, float]:
    """Parts per second appended one by one by so many at once, and by one in one request; a reader has them all."""
    run_id = made.trigger("first_line", "/dev/null")
    reader = await Reader.of(made.port, run_id)
    async with appending(made, run_id) as http:
        left = iter(range(count))

        async def write() -> None:
            for _ in left:
                (await http.post("log/append", content=str(time.perf_counter()))).raise_for_status()

        began = time.perf_counter()
        reading = asyncio.create_task(reader.read(count))
        await asyncio.gather(*(write() for _ in range(writers)))
        await reading
        one_by_one = count / (time.perf_counter() - began)
        lines = b"".join(f'"{time.perf_counter()}"\n'.encode() for _ in range(10 * count))
        began = time.perf_counter()
        reading = asyncio.create_task(reader.read(11 * count))
        (await http.post("log", content=lines)).raise_for_status()
        await reading
        reader.close()
        return one_by_one, 10 * count / (time.perf_counter() - began)


async def slow(made: Stack, readers: int) -> float:
    """Megabytes that the server grows by for readers that begin at the beginning of a long stream and don't read it."""
    run_id = made.trigger("first_line", "/dev/null")
    async with appending(made, run_id) as http:
        lines = b"".join(msgspec.json.encode(LONG) + b"\n" for _ in range(LONG_PARTS))
        (await http.post("log", content=lines, timeout=60)).raise_for_status()
        pids = made.server_pids()
        await asyncio.sleep(2)
        before = resident_mb(pids)
        made_readers = [await Reader.of(made.port, run_id, limit=1024) for _ in range(readers)]
        await asyncio.sleep(5)
        grown = resident_mb(pids) - before
        for one in made_readers:
            one.close()
        return grown


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)]


def main() -> None:
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with stack(TORPOR_TOKEN_REQUESTS_PER_S="0") as (made, _):
        made.kill_worker()  # it has told the server what tasks there are
        for readers in (1, many):
            found = asyncio.run(delays(made, readers))
            row(f"append → reader, {readers} of one stream, {1 / EVERY_S:.0f} appends/s", found)
            print(f"{'':<58} {quantile(found, 0.99):8.1f} ms at the 99th percentile")
        rates = [asyncio.run(throughput(made, 4, 500)) for _ in range(3)]
        row("parts appended one by one, 4 writers, until a reader has all", [one for one, _ in rates], "parts/s")
        row("parts appended as lines of one request, the same", [many_ for _, many_ in rates], "parts/s")
        grown = asyncio.run(slow(made, many))
        print(
            f"{many} readers that don't read {LONG_PARTS * len(LONG) / 1e6:.0f} MB: {grown:.0f} MB more in the server"
        )


if __name__ == "__main__":
    main()

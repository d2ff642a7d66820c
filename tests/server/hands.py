"""A fake worker that works by itself: it performs a few tasks of its own as soon as they are triggered.

echo, mail    return their payload
stream        appends each element of its payload to the stream "tokens", and returns how many they were
stay          is at work until it is canceled
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from fake_worker import FakeWorker, awake, manifest

from torpor import ids
from torpor.wire import http as wire
from torpor.wire.runner import Part

TASKS = [manifest(name) for name in ("echo", "mail", "stream", "stay")]


@asynccontextmanager
async def at_work(url: str) -> AsyncIterator[FakeWorker]:
    """Such a worker, until the end of the block."""
    async with awake(url, TASKS) as worker, asyncio.TaskGroup() as group:  # whoever waits for one that broke is told
        working = group.create_task(_work(worker))
        yield worker
        working.cancel()


async def _work(worker: FakeWorker) -> None:
    """The number and the holding make a repeated request safe, and tell the server of runs that are over."""
    while True:
        for given in await worker.dequeue(wait_s=5.0, free=50):
            await worker.start(given)
            match given.task_id:
                case "stay":
                    pass
                case "stream":
                    parts = msgspec.json.decode(given.payload, type=list[msgspec.Raw])
                    await append(worker, given, "tokens", *parts)
                    await worker.finish(given, len(parts))
                case _:
                    await worker.finish(given, await _payload(worker, given))


async def _payload(worker: FakeWorker, given: wire.Assignment) -> msgspec.Raw:
    if not given.payload_is_large:
        return given.payload
    return await worker.say(f"runs/{given.run_id}/payload", wire.PayloadCall(given.lease), msgspec.Raw)


async def append(worker: FakeWorker, given: wire.Assignment, key: str, *parts: msgspec.Raw) -> None:
    """Append to a stream of this run."""
    report = wire.StreamReport(given.lease, key, [Part(ids.new("part"), part) for part in parts])
    await worker.say(f"runs/{given.run_id}/streams", report, wire.StreamReply)

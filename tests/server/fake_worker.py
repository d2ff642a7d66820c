"""A worker without processes: it says what a real one would say, when the test wants it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx2
import msgspec
from facts import PROGRAM_S

from torpor import ids
from torpor.wire import http as wire
from torpor.wire.runner import NewWait, QueueManifest, RetryPolicy, TaskError, TaskManifest

ReplyT = TypeVar("ReplyT")

Start = Callable[..., Awaitable[str]]
"""The type of the fixture `start`."""

KEY = "tr_dev_key0000000000000000000000"
TOKEN = "the-worker-token"
VERSION = "v1"


def manifest(task_id: str, schema: dict[str, Any] | None = None, max_attempts: int = 3) -> TaskManifest:
    return TaskManifest(
        id=task_id,
        file="tasks.py",
        line=1,
        is_async=True,
        parameters="one",
        payload_schema={} if schema is None else schema,
        retry=RetryPolicy(max_attempts=max_attempts, min_delay_s=0.0, jitter=False),
    )


USER = {"type": "object", "properties": {"email": {"type": "string"}}, "required": ["email"]}
TASKS = [
    manifest("echo"),
    manifest("mail/send", {"type": "object", "properties": {"user": USER}, "required": ["user"]}),
]


class FakeWorker:
    """Its verbs are those of the worker protocol."""

    def __init__(self, url: str, token: str = TOKEN, environment: str = "dev", project: str = "default") -> None:
        self.worker_id = ids.new("worker")
        self.instance_id = ids.new("instance")
        self._reading: asyncio.Task[None] | None = None
        self._http = httpx2.AsyncClient(
            base_url=url + "/worker/v1/",
            headers={"authorization": f"Bearer {token}", wire.OF_PROJECT: project, wire.OF_ENVIRONMENT: environment},
            timeout=90,
        )

    async def close(self) -> None:
        if self._reading:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        await self._http.aclose()

    async def post(self, path: str, message: Any) -> httpx2.Response:
        return await self._http.post(path, content=msgspec.json.encode(message))

    async def say(self, path: str, message: Any, reply: type[ReplyT]) -> ReplyT:
        response = await self.post(path, message)
        assert response.status_code == 200, f"{path}: {response.status_code} {response.text}"
        return msgspec.json.decode(response.content, type=reply)

    async def come_up(self, tasks: list[TaskManifest] = TASKS, queues: Sequence[QueueManifest] = ()) -> wire.Welcome:
        intro = wire.Introduction(
            self.worker_id, self.instance_id, "host", 10, True, {"criu": "4.2", "python": "CPython 3.12.1"}
        )
        welcome = await self.say("hello", intro, wire.Welcome)
        await self.say("versions", wire.VersionReport(self.worker_id, VERSION, tasks, [*queues]), wire.VersionAccepted)
        return welcome

    async def dequeue(
        self, wait_s: float = 0.0, free: int = 10, *, number: int = 0, holding: list[wire.Assignment] | None = None
    ) -> list[wire.Assignment]:
        asked = wire.DequeueRequest(self.worker_id, self.instance_id, free, [VERSION], True, wait_s, number)
        if holding is not None:
            asked.holding = [wire.HeldLease(given.run_id, given.lease) for given in holding]
        return (await self.say("dequeue", asked, wire.DequeueReply)).assignments

    async def take(self) -> wire.Assignment:
        """The one run that there is to take, when it comes: a program that triggers it may have to start first."""
        async with asyncio.timeout(PROGRAM_S):
            while not (assignments := await self.dequeue(wait_s=20)):
                pass
        (assignment,) = assignments
        return assignment

    async def take_and_start(self) -> wire.Assignment:
        assignment = await self.take()
        await self.start(assignment)
        return assignment

    async def start(self, given: wire.Assignment, answered: list[str] | None = None) -> str:
        report = wire.StartReport(given.lease, answered or [], pid=7, start_ms=1.0)
        return (await self.say(f"runs/{given.run_id}/start", report, wire.LeaseReply)).status

    async def block(self, given: wire.Assignment, *waits: NewWait, idle: bool = True) -> wire.BlockReply:
        report = wire.BlockReport(given.lease, list(waits), idle=idle)
        return await self.say(f"runs/{given.run_id}/block", report, wire.BlockReply)

    async def collect(self, given: wire.Assignment, *wait_ids: str) -> wire.BlockReply:
        asked = wire.CollectRequest(given.lease, list(wait_ids))
        return await self.say(f"runs/{given.run_id}/collect", asked, wire.BlockReply)

    async def suspend(self, given: wire.Assignment) -> str:
        stored = wire.StoredCheckpoint(ids.new("checkpoint"), 1000, dump_ms=5.0)
        report = wire.SuspendReport(given.lease, stored)
        return (await self.say(f"runs/{given.run_id}/suspend", report, wire.LeaseReply)).status

    async def hear(self, given: wire.Assignment, key: str, after: int = -1) -> wire.InputPart:
        """The one part of its input that was sent to it since, when it comes."""
        asked = wire.InputRead(given.lease, key, after, wait_s=20)
        async with asyncio.timeout(PROGRAM_S):
            while not (parts := (await self.say(f"runs/{given.run_id}/inputs", asked, wire.InputReply)).parts):
                pass
        (part,) = parts
        return part

    async def finish(self, given: wire.Assignment, output: Any = None) -> str:
        report = wire.FinishReport(given.lease, "completed", msgspec.Raw(msgspec.json.encode(output)))
        return (await self.say(f"runs/{given.run_id}/finish", report, wire.LeaseReply)).status

    async def fail(self, given: wire.Assignment, message: str, *, retryable: bool = True) -> str:
        error = TaskError("ValueError", message, "Traceback …", [TaskError("KeyError", "'a'")])
        report = wire.FinishReport(given.lease, "failed", error=error, retryable=retryable)
        return (await self.say(f"runs/{given.run_id}/finish", report, wire.LeaseReply)).status

    async def heartbeat(self, *held: wire.Assignment) -> wire.HeartbeatReply:
        leases = [wire.HeldLease(given.run_id, given.lease) for given in held]
        beat = wire.HeartbeatRequest(self.worker_id, self.instance_id, leases)
        return await self.say("heartbeat", beat, wire.HeartbeatReply)

    async def log(self, given: wire.Assignment, first: int, *messages: str) -> None:
        lines = [wire.LogLine("2026-03-01T07:00:00Z", "info", message) for message in messages]
        await self.say(f"runs/{given.run_id}/logs", wire.LogReport(given.lease, first, lines), dict)

    async def listen(self) -> "asyncio.Queue[wire.News]":
        """News from now on."""
        heard: asyncio.Queue[wire.News] = asyncio.Queue()
        connected = asyncio.Event()

        async def read() -> None:
            query = {"worker_id": self.worker_id, "instance_id": self.instance_id}
            async with self._http.stream("GET", "news", params=query) as response:
                connected.set()
                async for line in response.aiter_lines():
                    if line:
                        heard.put_nowait(msgspec.json.decode(line, type=wire.News))

        self._reading = asyncio.create_task(read())
        await connected.wait()
        return heard


@asynccontextmanager
async def awake(url: str, tasks: list[TaskManifest] = TASKS) -> AsyncIterator[FakeWorker]:
    """A worker that is up, with the tasks `echo` and `mail/send`."""
    worker = FakeWorker(url)
    try:
        await worker.come_up(tasks)
        yield worker
    finally:
        await worker.close()

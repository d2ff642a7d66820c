"""What a reader of server-sent events sees."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import msgspec


class Events:
    """The events of one answer, one by one."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.status = response.status_code
        self.last = -1  # the number of the last part that was read
        self._lines = response.aiter_lines()
        self._waiting: list[tuple[int, Any]] = []

    async def event(self) -> tuple[str, Any] | None:
        """Name and data of the next one; None at a clean end."""
        name, data = "", ""
        async for line in self._lines:
            if line.startswith(":"):
                return ("comment", line[1:].strip())
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data = value
            elif not line and name:
                return name, msgspec.json.decode(data) if name == "batch" else data
        return None

    async def part(self) -> Any:
        """The next one, as it was appended; what else comes is passed over."""
        while not self._waiting:
            event = await self.event()
            assert event is not None, "the stream has ended"
            if event[0] == "batch":
                self._waiting += [
                    (record["seq_num"], msgspec.json.decode(record["body"])["data"]) for record in event[1]["records"]
                ]
        self.last, data = self._waiting.pop(0)
        return data

    async def rest(self) -> list[Any]:
        """All parts up to the clean end."""
        parts = [data for _, data in self._waiting]
        self._waiting = []
        while event := await self.event():
            if event[0] == "batch":
                for record in event[1]["records"]:
                    self.last = record["seq_num"]
                    parts.append(msgspec.json.decode(record["body"])["data"])
        return parts


@asynccontextmanager
async def reading(http: httpx2.AsyncClient, path: str, **headers: str) -> AsyncIterator[Events]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.stream("GET", path, headers=sent, timeout=90) as response:
        yield Events(response)

"""A client of realtime feeds that speaks the protocol by raw HTTP, and insists on what the official one insists on."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from facts import PATIENCE_S
from fake_worker import KEY

Row = dict[str, str | None]


class ShapeReader:
    """Follows one feed. `offset` and `rows` are what it has by now."""

    def __init__(self, http: httpx2.AsyncClient, url: str, path: str, **query: str) -> None:
        self.http, self.url, self.path, self.query = http, url, path, query
        self.offset, self.cursor, self.handle = "-1", "", ""
        self.schema: dict[str, Any] = {}
        self.rows: dict[str, Row] = {}
        self.pages = 0

    async def ask(self, *, live: bool = False) -> httpx2.Response:
        query = {**self.query, "offset": self.offset, "log": "full"}
        if self.handle:
            query["handle"] = self.handle
        if live:
            query |= {"live": "true", "cursor": self.cursor}
        return await self.http.get(f"{self.url}/realtime/v1/{self.path}", params=query)

    async def read(self, *, live: bool = False) -> list[Row]:
        """The rows of one answer, and those of the pages that follow it."""
        told: list[Row] = []
        while True:
            answer = await self.ask(live=live)
            assert answer.status_code == 200, answer.text
            headers = answer.headers
            assert headers["cache-control"] == "no-store"
            assert headers["content-type"] == "application/json"
            assert headers["electric-handle"] == (self.handle or headers["electric-handle"])
            assert ("electric-cursor" in headers) == live
            assert ("electric-schema" in headers) == (not live)
            self.offset, self.handle = headers["electric-offset"], headers["electric-handle"]
            self.cursor = headers.get("electric-cursor", self.cursor)
            self.schema = self.schema or json.loads(headers["electric-schema"])
            *messages, last = answer.json() or [{}]
            self.pages += 1
            is_all = last == {"headers": {"control": "up-to-date"}}
            assert is_all == ("electric-up-to-date" in headers)
            for message in messages if is_all else [*messages, last]:
                row = message["value"]
                assert message["key"] == f'"public"."TaskRun"/"{row["id"]}"'
                assert message["headers"] == {"operation": "insert"}
                assert row.keys() == self.schema.keys()
                self.rows[row["id"]] = row
                told.append(row)
            if is_all:
                return told

    async def poll(self) -> list[Row]:
        """Held until there is something: an answer without rows is asked again."""
        while not (told := await self.read(live=True)):
            pass
        return told

    async def until(self, run_id: str, **values: str | None) -> Row:
        """The run's row once it has these values."""
        while not (row := self.rows.get(run_id)) or any(row[name] != value for name, value in values.items()):
            await self.poll()
        return row


class Poll:
    """A held request that was sent, but not answered yet."""

    def __init__(self, reader: ShapeReader) -> None:
        self.task = asyncio.create_task(reader.read(live=True))

    async def told(self) -> list[Row]:
        return await asyncio.wait_for(self.task, PATIENCE_S)


@asynccontextmanager
async def reading(url: str, bearer: str = KEY, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
    """As the official client asks."""
    told = {"x-trigger-api-version": "2025-07-16", "x-trigger-electric-version": "1.0.0-beta.1"} | headers
    async with httpx2.AsyncClient(headers={**told, "authorization": f"Bearer {bearer}"}, timeout=90) as http:
        yield http


Follow = Callable[..., ShapeReader]
"""`follow("runs", tags="a")`: a reader that has asked nothing yet."""

"""Streams that are read here now. All readers of one stream share one look into the database for each wake-up.

    append in any server --> note "stream" --> Tail of that stream: one look --> the latest parts, encoded once --> readers

A reader that keeps up is given what the tail has just found: the same bytes for all. One that is behind, since it began at
the beginning or is slow, looks by itself, page by page, and has one page in memory. So a reader never holds up another.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from torpor.engine import read_streams
from torpor.engine.read_streams import Page, StoredPart
from torpor.engine.streams import Direction
from torpor.store.database import DatabaseDown

if TYPE_CHECKING:
    from torpor.server.hub import Hub

SWEEP_S = 2.0
"""It looks this often even when nothing was announced: announcements can be lost."""
RECENT_BYTES = 1 << 20
"""How much of its latest parts a tail keeps for readers that are a little behind."""
RECENT_LOTS = 256

_BEGIN = b'event: batch\ndata: {"records":['
_END = b"]}\n\n"


class Lot:
    """Parts in a row as one event, ready to be sent."""

    def __init__(self, parts: list[StoredPart]) -> None:
        self.first = parts[0].seq
        self.last = parts[-1].seq
        self._begins: list[int] = []
        event = bytearray(_BEGIN)
        for part in parts:
            if self._begins:
                event += b","
            self._begins.append(len(event))
            event += _record(part)
        self.event = bytes(event + _END)

    def after(self, seq: int) -> bytes:
        """Without the parts up to that one."""
        if seq < self.first:
            return self.event
        return _BEGIN + self.event[self._begins[seq + 1 - self.first] :]


def _record(part: StoredPart) -> bytes:
    return msgspec.json.encode(
        {
            "seq_num": part.seq,
            "timestamp": round(part.at.timestamp() * 1000),
            "body": f'{{"data":{part.body},"id":{msgspec.json.encode(part.part_id).decode()}}}',
            "headers": [],
        }
    )


class Tail:
    """The end of one stream, as long as somebody reads it here."""

    def __init__(self, here: "Hub", run_id: str, direction: Direction, key: str) -> None:
        self._here = here
        self._name = (run_id, direction, key)
        self._recent: deque[Lot] = deque()
        self._recent_bytes = 0
        self.readers = 0
        self.position = -1  # the last part that it knows of
        self.is_over = False  # the run is, and nothing comes behind that part
        self.moved = asyncio.Event()  # set at the next news, and then another one stands here
        self._task = asyncio.create_task(self._follow(), name=f"tail of {run_id}")
        self._found = asyncio.Event()

    async def found(self) -> None:
        """Until it knows where the stream ends.

        Raises:
            Exception: what ended it.
        """
        waiting = asyncio.ensure_future(self._found.wait())
        try:
            await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._task.done():
            self._task.result()

    async def after(self, seq: int) -> Lot | None:
        """What comes behind that part; None: nothing yet, or nothing any more.

        Raises:
            DatabaseDown: it does not answer, and the server stops.
            Exception: what ended the tail.
        """
        if self._task.done():
            self._task.result()
        if self._recent and self._recent[0].first <= seq + 1:
            for lot in reversed(self._recent):
                if lot.first <= seq + 1:
                    return lot if seq < lot.last else None
        if seq >= self.position:
            return None
        page = await self._page(seq)
        return Lot(page.parts) if page and page.parts else None

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._task

    async def _follow(self) -> None:
        wakeups, (run_id, direction, key) = self._here.wakeups, self._name
        with wakeups.listen("stream", run_id, direction, key).and_to("run", run_id) as ear:
            self.position = await self._end()
            while not self.is_over:
                page = await self._page(self.position)
                if page is None:
                    self.is_over = True
                else:
                    if page.parts:
                        self._keep(Lot(page.parts))
                    self.is_over = page.is_last
                if self.is_over or page is None or page.parts:
                    self._tell()
                self._found.set()
                if not (page and page.is_full):
                    await ear.wait(SWEEP_S)
                if wakeups.is_closed:
                    break
            self._tell()

    def _keep(self, lot: Lot) -> None:
        self.position = lot.last
        self._recent.append(lot)
        self._recent_bytes += len(lot.event)
        while len(self._recent) > 1 and (self._recent_bytes > RECENT_BYTES or len(self._recent) > RECENT_LOTS):
            self._recent_bytes -= len(self._recent.popleft().event)

    def _tell(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()

    async def _page(self, after: int) -> Page | None:
        while True:
            try:
                async with self._here.database.transaction() as tx:
                    return await read_streams.page(tx, *self._name, after=after)
            except DatabaseDown:
                await self._patience()

    async def _end(self) -> int:
        while True:
            try:
                async with self._here.database.transaction() as tx:
                    return await read_streams.last_seq(tx, *self._name)
            except DatabaseDown:
                await self._patience()

    async def _patience(self) -> None:
        """While the database is away readers are held: they would only knock again."""
        if self._here.wakeups.is_closed:
            raise DatabaseDown("the server stops, and the database does not answer")
        await asyncio.sleep(SWEEP_S)


class Tails:
    """Those of one server."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str, str], Tail] = {}

    @asynccontextmanager
    async def reading(self, here: "Hub", run_id: str, direction: Direction, key: str) -> AsyncIterator[Tail]:
        """The tail of this stream, for one more reader."""
        name = (run_id, direction, key)
        tail = self._open.get(name)
        if tail is None:
            tail = self._open[name] = Tail(here, run_id, direction, key)
        tail.readers += 1
        try:
            await tail.found()
            yield tail
        finally:
            tail.readers -= 1
            if not tail.readers:
                del self._open[name]
                await tail.close()

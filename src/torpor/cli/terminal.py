"""What all commands share of the terminal: one kind of console, indented blocks, and lines told in the order of events."""

import asyncio
import heapq
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import count

from rich.console import Console, RenderableType
from rich.text import Text

HOLD_S = 0.35
"""Output comes in batches, a moment after the events around it: a line waits this long for earlier ones."""
LOG_BIAS = timedelta(milliseconds=10)
"""User code is a step ahead of the report that it runs: without this its first line would stand before its start."""


def make_console() -> Console:
    """A console that leaves text as it is: no guessed colours, no line breaks of its own, room for tables in a pipe."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=160)


def indented(block: Text, columns: int) -> Text:
    """A block of text set back line by line."""
    return Text("\n").join(Text(" " * columns).append_text(line) for line in block.split("\n"))


class InOrder:
    """Prints lines in the order of their instants, though they come from several streams."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._held: list[tuple[datetime, int, float, RenderableType]] = []
        self._count = count()

    def tell(self, at: datetime, line: RenderableType) -> None:
        """Print this soon, after what happened before it."""
        heapq.heappush(self._held, (at, next(self._count), time.monotonic() + HOLD_S, line))

    def flush(self) -> None:
        """Print everything now."""
        while self._held:
            self._console.print(heapq.heappop(self._held)[3])

    def _print_due(self) -> None:
        """The oldest one waits until it is due; what is younger waits behind it."""
        now = time.monotonic()
        while self._held and self._held[0][2] <= now:
            self._console.print(heapq.heappop(self._held)[3])

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Print what is due, again and again, and the rest at the end."""

        async def forever() -> None:
            while True:
                await asyncio.sleep(0.05)
                self._print_due()

        printing = asyncio.create_task(forever())
        try:
            yield
        finally:
            printing.cancel()
            self.flush()

"""Tells every run's story in the terminal of `torpor dev`, as it happens.

It reads the public API like anyone else: a listing for new runs, and for each run two streams that the server holds open
until something happens. A sleeping run costs one held request, no polling.
"""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from torpor.cli.follow import with_answer
from torpor.cli.story import ENDINGS, QUIET, error_lines, event_line, log_line
from torpor.cli.terminal import LOG_BIAS, InOrder, indented
from torpor.errors import ApiError, ConnectionFailed, TorporError
from torpor.figures import clock, instant
from torpor.sdk.async_client import AsyncClient

Json = dict[str, Any]

LOOK_EVERY_S = 0.4
LIVE = ["DELAYED", "QUEUED", "DEQUEUED", "EXECUTING", "WAITING"]
AT_ONCE = 40
"""Runs followed at the same time; each takes two connections. Others are told when one of these has ended."""
COLOURS = ["cyan", "magenta", "green", "yellow", "blue", "bright_red"]


class Narrator:
    """Follows all runs and tells what happens to them from `since` on."""

    def __init__(self, client: AsyncClient, console: Console, since: datetime) -> None:
        self._client = client
        self._lines = InOrder(console)
        self._since = since
        self._known: set[str] = set()
        self._room = asyncio.Semaphore(AT_ONCE)

    async def tell(self) -> None:
        """Go on until cancelled."""
        async with self._lines.going_on(), asyncio.TaskGroup() as following:
            first = True
            while True:
                try:
                    runs = [run async for run in _first(100, self._client.runs(since=self._since, page_size=100))]
                    if first:
                        runs += [run async for run in _first(200, self._client.runs(status=LIVE, page_size=100))]
                        first = False
                except TorporError:
                    runs = []  # the server is being started again, which has been said
                for run in reversed(runs):
                    if run["id"] not in self._known:
                        self._known.add(run["id"])
                        following.create_task(self._follow(run))
                await asyncio.sleep(LOOK_EVERY_S)

    async def _follow(self, run: Json) -> None:
        label = _label(run)
        ending: list[Json] = []

        def event(event: Json) -> None:
            if event["kind"] in ENDINGS:
                ending.append(event)
            elif event["kind"] not in QUIET:
                told = with_answer(event_line(event, label), event, run["id"])
                self._lines.tell(instant(event["at"]), told)

        def output(line: Json) -> None:
            self._lines.tell(instant(line["at"]) + LOG_BIAS, log_line(line, label))

        async with self._room:
            await asyncio.gather(
                self._each(lambda: self._client.story(run["id"], follow=True), event),
                self._each(lambda: self._client.logs(run["id"], follow=True), output),
            )
            if not ending:
                return
            told = event_line(ending[0], label, brief=True)
            with contextlib.suppress(TorporError):  # the server may be away just now; the line itself is known
                ended = await self._client.run(run["id"])
                if ended.get("error"):
                    told.append("\n").append_text(indented(error_lines(ended["error"]), 14))
            self._lines.tell(instant(ending[0]["at"]) + LOG_BIAS, told)

    async def _each(self, stream: Callable[[], AsyncIterator[Json]], tell: Callable[[Json], None]) -> None:
        """Tell each item of a stream once, also when the server goes away in the middle and the stream starts over."""
        last = 0
        while True:
            try:
                async for item in stream():
                    if item["id"] > last:
                        last = item["id"]
                        if instant(item["at"]) >= self._since:
                            tell(item)
                return
            except (ApiError, ConnectionFailed):
                await asyncio.sleep(LOOK_EVERY_S)


def service_line(name: str, line: str) -> Text:
    """What a service prints, set back from the runs' stories."""
    return Text.from_ansi(f"{name:>8} │ {line}", style="dim")


def notice(text: str, at: datetime) -> Text:
    """Something that `torpor dev` itself has to say."""
    return Text().append(clock(at, precise=True) + "  ", style="dim").append(text, style="yellow")


def _label(run: Json) -> Text:
    """The task's name and the end of the run's id, in a colour of its own."""
    colour = COLOURS[zlib.crc32(run["id"].encode()) % len(COLOURS)]
    return Text().append(str(run["taskIdentifier"]), style=colour).append(f" {run['id'][-4:]}", style="dim")


async def _first(count: int, items: AsyncIterator[Json]) -> AsyncIterator[Json]:
    """At most this many of a listing."""
    async for item in items:
        yield item
        count -= 1
        if count == 0:
            return

"""One run told live: its story and its output, as they come, until it ends."""

import asyncio
from typing import Any

from rich.console import Console
from rich.text import Text

from torpor.cli.story import ENDINGS, QUIET, error_lines, event_line, how_to_answer, log_line, usage_line
from torpor.cli.terminal import LOG_BIAS, InOrder
from torpor.figures import instant
from torpor.sdk.async_client import AsyncClient

Line = dict[str, Any]


async def follow(client: AsyncClient, run_id: str, console: Console) -> Line:
    """Tell the run until it ends, with how to answer what it waits for; returns the run as it ended.

    Story and output come from two streams. The run's end is told last: the output that came before it is waited for.
    """
    lines = InOrder(console)
    ending: list[Line] = []

    async def events() -> None:
        async for event in client.story(run_id, follow=True):
            if event["kind"] in ENDINGS:
                ending.append(event)
            elif event["kind"] not in QUIET:
                lines.tell(instant(event["at"]), with_answer(event_line(event), event, run_id))

    async def output() -> None:
        async for line in client.logs(run_id, follow=True):
            lines.tell(instant(line["at"]) + LOG_BIAS, log_line(line))

    async with lines.going_on():
        await asyncio.gather(events(), output())
    for event in ending:
        console.print(event_line(event, brief=True))
    run = await client.run(run_id)
    if (used := usage_line(run)) is not None:
        console.print(Text(" " * 14).append_text(used))
    return run


def with_answer(told: Text, event: Line, run_id: str) -> Text:
    """The line, and below it how to answer what the run now waits for."""
    answer = how_to_answer(event, run_id)
    if answer is None:
        return told
    return told.append("\n              answer it with  ", style="dim").append(answer, style="bold")


def print_outcome(run: Line, console: Console) -> None:
    """What the run returned, or its error with the user's own traceback."""
    if run["status"] == "COMPLETED":
        console.print(Text("output  ", style="dim"), end="")
        console.print_json(data=run.get("output"))
    elif run.get("error"):
        console.print(error_lines(run["error"]))

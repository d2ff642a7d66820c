"""Lines from several streams stand in the order of what happened."""

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console
from rich.text import Text

from torpor.cli.terminal import InOrder, indented

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.anyio
async def test_a_line_that_comes_late_is_still_told_in_its_place() -> None:
    out = StringIO()
    lines = InOrder(Console(file=out))
    async with lines.going_on():
        lines.tell(NOON + timedelta(seconds=2), "waiting")
        lines.tell(NOON, "started")
        lines.tell(NOON + timedelta(seconds=1), "its output")
    assert out.getvalue().splitlines() == ["started", "its output", "waiting"]


def test_a_traceback_is_set_back_as_a_whole_and_never_cut() -> None:
    out = StringIO()
    long = "x" * 300
    Console(file=out, width=40, soft_wrap=True).print(indented(Text(f"one\n  {long}"), 4))
    assert out.getvalue().splitlines() == ["    one", f"      {long}"]

"""A run's output is told line by line, whatever bytes it is made of, each once."""

import asyncio
import json
from pathlib import Path

import pytest

from torpor.wire.http import LogLine
from torpor.worker.output import MAX_LINE_BYTES, Follower, Output


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "output.log"


def write(file: Path, data: bytes) -> None:
    with open(file, "ab") as out:
        out.write(data)


def messages(output: Output, *, last: bool = False) -> list[str]:
    return [line.message for line in output.lines(last=last)[1]]


def test_lines_are_told_once_and_an_unfinished_one_when_it_is_finished(file: Path) -> None:
    output = Output(file)
    assert messages(output) == []
    write(file, b"one\ntw")
    assert messages(output) == ["one"]
    write(file, b"o\n")
    assert messages(output) == ["two"]
    assert messages(output) == []


def test_the_last_line_needs_no_newline(file: Path) -> None:
    output = Output(file)
    write(file, b"no newline")
    assert messages(output) == []
    assert messages(output, last=True) == ["no newline"]


def test_positions_go_on_where_a_former_life_ended(file: Path) -> None:
    output = Output(file, base=100)
    write(file, b"12345\n789")
    first, _ = output.lines()
    assert (first, output.position) == (100, 106)
    assert output.lines(last=True)[0] == 106


def test_structured_lines_keep_their_level_and_fields(file: Path) -> None:
    told = {"at": "2026-01-01T00:00:00+00:00", "level": "warning", "message": "low", "attributes": {"disk": 3}}
    write(file, b"\x1e" + json.dumps(told).encode() + b"\n\x1enot json\n")
    logged, odd = Output(file).lines()[1]
    assert (logged.level, logged.message, logged.attributes, logged.stream) == ("warning", "low", {"disk": 3}, "log")
    assert odd.message == "\x1enot json"


def test_bad_encoding_and_nul_bytes_are_told_as_far_as_text_can(file: Path) -> None:
    write(file, b"caf\xe9 \x00\n")
    assert messages(Output(file)) == ["caf\ufffd \ufffd"]


def test_endless_output_without_newline_is_told_in_pieces(file: Path) -> None:
    output = Output(file)
    write(file, b"x" * (MAX_LINE_BYTES * 2 + 5))
    pieces = messages(output)
    assert [len(piece) for piece in pieces] == [MAX_LINE_BYTES, MAX_LINE_BYTES, 5]


@pytest.mark.anyio
async def test_what_is_being_told_is_told_though_nobody_follows_any_more(tmp_path: Path) -> None:
    """A run that ends stops its follower, which may be in the middle of a report that takes its time."""
    file, slow = tmp_path / "output.log", asyncio.Event()
    told: list[str] = []

    async def tell(_first: int, lines: list[LogLine]) -> None:
        began.set()
        await slow.wait()
        told.extend(line.message for line in lines)

    began = asyncio.Event()
    file.write_text("one\n")
    follower = Follower(Output(file), tell)
    follower.start()
    await began.wait()
    await follower.stop()
    with file.open("a") as more:
        more.write("two")
    asyncio.get_running_loop().call_soon(slow.set)
    await follower.catch_up(last=True)
    assert told == ["one", "two"]

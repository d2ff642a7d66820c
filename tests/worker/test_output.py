"""A run's output is told line by line, whatever bytes it is made of, each once."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from torpor.wire.http import LogLine
from torpor.worker.output import LINE_BYTES, MAX_LINE_BYTES, MAX_LINES, Follower, Output


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


# -- floods -----------------------------------------------------------------------------------------------------------


def used(file: Path) -> int:
    """What it takes of the disk."""
    return file.stat().st_blocks * 512


def all_messages(output: Output) -> list[str]:
    return [line.message for _, lines in output.pieces(last=True) for line in lines]


def test_many_short_lines_are_told_in_small_reports(file: Path) -> None:
    output = Output(file)
    write(file, b"\n" * 10_000 + b"end")
    reports = [lines for _, lines in output.pieces(last=True)]
    assert max(len(lines) for lines in reports) <= MAX_LINES
    assert sum(len(lines) for lines in reports) == 10_001
    assert reports[-1][-1].message == "end"


def test_no_more_is_told_than_the_limit_and_the_last_line_says_so(file: Path) -> None:
    output = Output(file, limit_bytes=3000)
    write(file, b"0123456789\n" * 1000)
    *told, last = all_messages(output)
    assert 3000 // (10 + LINE_BYTES) <= len(told) <= MAX_LINES
    assert last == "Torpor keeps 0.003 MB of a run's output (TORPOR_OUTPUT_BYTES): what comes next is left out"
    write(file, b"more\n" * 1000)
    assert all_messages(output) == []
    assert output.position == output.end()


def test_the_limit_holds_over_all_lives_of_a_run(file: Path) -> None:
    before = Output(file, limit_bytes=3000)
    write(file, b"x\n" * 40)
    assert len(all_messages(before)) == 40
    after = Output(file, before.position, told_bytes=before.told_bytes, limit_bytes=3000)
    assert len(all_messages(after)) == 41, "the line about the limit is among them"
    last = Output(file, after.position, told_bytes=after.told_bytes, limit_bytes=3000)
    assert all_messages(last) == [], "and is told once"


def test_what_was_told_is_no_longer_on_the_disk(file: Path) -> None:
    output = Output(file)
    line = b"x" * 999 + b"\n"
    for _ in range(5):
        write(file, line * 2000)
        assert all_messages(output) == [line[:-1].decode()] * 2000
        output.spare_the_disk()
        assert used(file) < 3 << 20
    assert file.stat().st_size == 10_000_000


def test_what_will_not_be_told_is_not_kept_on_the_disk_though_nobody_listens(file: Path) -> None:
    """As when the server is away: nothing is read, and the run writes on."""
    output = Output(file, limit_bytes=2 << 20)
    for _ in range(10):
        write(file, b"x" * (4 << 20))
        output.spare_the_disk()
        assert used(file) < 4 << 20


def test_holes_are_not_told(file: Path) -> None:
    output = Output(file)
    write(file, b"before")
    with file.open("r+b") as far:
        far.seek(1 << 40)
        far.write(b"after\n")
    told = all_messages(output)
    assert told[0].rstrip("\ufffd") == "before"
    assert told[-1].lstrip("\ufffd") == "after"
    assert sum(map(len, told)) < 3 * 65536
    assert output.position == (1 << 40) + 6


def test_a_file_that_was_cut_short_is_read_on_and_positions_go_on(file: Path) -> None:
    output = Output(file)
    write(file, b"one\ntwo\n")
    assert all_messages(output) == ["one", "two"]
    os.truncate(file, 2)
    write(file, b"three\n")
    assert all_messages(output) == []  # what was written into the part that was read already
    write(file, b"four\n")
    first, lines = output.lines()
    assert [line.message for line in lines] == ["four"]
    assert first >= 8


def test_a_run_that_never_stops_writing_does_not_keep_its_reader(file: Path) -> None:
    output = Output(file)
    write(file, b"x\n" * 3000)
    reports = 0
    for _ in output.pieces():
        reports += 1
        write(file, b"x\n" * 3000)
    assert reports == 2


@pytest.mark.anyio
async def test_the_disk_is_spared_though_the_server_does_not_answer(file: Path) -> None:
    async def tell(_first: int, _lines: list[LogLine]) -> None:
        began.set()
        await asyncio.Event().wait()

    began = asyncio.Event()
    write(file, b"one\n")
    follower = Follower(Output(file, limit_bytes=1 << 20), tell)
    follower.start()
    await began.wait()
    write(file, b"x" * (8 << 20))
    async with asyncio.timeout(60):
        while used(file) > 3 << 20:
            await asyncio.sleep(0.01)
    await follower.stop()

"""A process runs before its memory is there, and never sees anything but its memory."""

import sys
from pathlib import Path

import pytest

import apart
from torpor.worker.criu import Criu
from torpor.worker.missing import BLOCK, Missing, Piece, pieces

PROGRAMS = Path(__file__).with_name("lazy_programs.py")


def test_pieces_end_where_blocks_end() -> None:
    found = list(pieces([(0x1000_0000, BLOCK - 0x2000, 0x4000), (0x2000_0000, 3 * BLOCK, 2 * BLOCK)]))
    assert found == [
        Piece(0x1000_0000, 0x1000_2000, BLOCK - 0x2000),
        Piece(0x1000_2000, 0x1000_4000, BLOCK),
        Piece(0x2000_0000, 0x2000_0000 + BLOCK, 3 * BLOCK),
        Piece(0x2000_0000 + BLOCK, 0x2000_0000 + 2 * BLOCK, 4 * BLOCK),
    ]


def test_dropping_cuts_pieces_at_both_ends() -> None:
    missing = Missing(pieces([(0x10000, 0, 0x8000), (0x20000, 0x8000, 0x8000)]))
    dropped = missing.drop(0x16000, 0x22000)
    assert dropped == [Piece(0x16000, 0x18000, 0x6000), Piece(0x20000, 0x22000, 0x8000)]
    assert list(missing) == [Piece(0x10000, 0x16000, 0), Piece(0x22000, 0x28000, 0xA000)]
    assert sorted(missing.of_block(0)) == list(missing)


def test_nothing_is_missing_after_everything_was_dropped() -> None:
    missing = Missing(pieces([(0x10000, 0, 0x8000), (0x7000_0000, 0x8000, 3 * BLOCK)]))
    missing.drop(0, 1 << 48)
    assert not missing
    assert not [block for block in range(4) if missing.of_block(block)]


def test_a_copy_goes_its_own_way() -> None:
    missing = Missing(pieces([(0x10000, 0, 0x8000)]))
    copy = missing.copy()
    missing.move(0x10000, 0x90000, 0x4000)
    assert list(copy) == [Piece(0x10000, 0x18000, 0)]
    assert list(missing) == [Piece(0x14000, 0x18000, 0x4000), Piece(0x90000, 0x94000, 0)]


@pytest.mark.criu
@pytest.mark.parametrize(
    "scenario",
    [
        "runs_before_its_memory_is_there",
        "finds_all_it_had_though_it_looks_at_once",
        "may_fork_move_and_give_up_memory_meanwhile",
        "each_process_of_a_tree_has_its_own",
        "never_sees_zeros_in_place_of_what_is_damaged",
        "dies_with_us_rather_than_see_zeros",
        "a_restore_that_is_canceled_leaves_nothing",
    ],
)
def test_a_process(scenario: str, criu: Criu) -> None:
    done = apart.run(sys.executable, str(PROGRAMS), scenario, *criu.command)
    assert done.returncode == 0, done.stderr

"""When memory is short, runs that wait leave it: who first, and how many."""

from typing import Any

import pytest

from torpor.worker import pressure
from torpor.worker.hold import Held, first_to_leave

GB = 1 << 30


class Run:
    """As much of a run as the duty looks at."""

    def __init__(self, run_id: str, idle_since: float | None) -> None:
        self.lease = type("Lease", (), {"run_id": run_id})
        self.idle_since = idle_since
        self.pid = 1
        self.is_frozen = False

    def freeze_soon(self) -> None:
        self.is_frozen = True


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(pressure, "resident_bytes", lambda _pid: GB)
    return [Run("new", 30.0), Run("old", 10.0), Run("at work", None), Run("older", 5.0)]


def test_while_there_is_room_nobody_leaves(runs: list[Any]) -> None:
    assert pressure.Pressure(10.0, lambda: (2 * GB, 16 * GB)).step(runs) == []
    assert not any(run.is_frozen for run in runs)


def test_the_idlest_leave_first_and_no_more_than_it_takes(runs: list[Any]) -> None:
    assert pressure.Pressure(20.0, lambda: (2 * GB, 20 * GB)).step(runs) == ["older", "old"]
    assert [run.is_frozen for run in runs] == [False, True, False, True]


def test_all_who_wait_leave_if_that_is_not_enough(runs: list[Any]) -> None:
    assert pressure.Pressure(100.0, lambda: (0, 100 * GB)).step(runs) == ["older", "old", "new"]


def test_zero_switches_it_off(runs: list[Any]) -> None:
    assert pressure.Pressure(0.0, lambda: (0, 100 * GB)).step(runs) == []


def test_what_is_free_already_counts() -> None:
    held = [Held("run_1", 1.0, 10), Held("run_2", 2.0, 10)]
    assert first_to_leave(held, free_bytes=95, floor_bytes=100) == ["run_1"]
    assert first_to_leave(held, free_bytes=100, floor_bytes=100) == []

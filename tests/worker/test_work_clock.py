"""How long an attempt has worked, by the worker's clock."""

from torpor.worker.work_clock import WorkClock


def test_T7_waiting_does_not_count_and_what_was_worked_before_a_freeze_does():
    """T7: max_duration counts the time in which an attempt works."""
    clock = WorkClock(60.0, 10.0)
    assert clock.left_s(now=0) == 50
    clock.go(now=0)
    clock.go(now=5)
    assert (clock.worked_s(now=20), clock.left_s(now=20)) == (30, 30)
    clock.stop(now=20)
    clock.stop(now=30)
    assert clock.left_s(now=1000) == 30
    clock.go(now=1000)
    assert clock.left_s(now=1030) == 0
    assert clock.left_s(now=2000) == 0


def test_without_a_limit_nothing_is_left_to_count():
    clock = WorkClock(None, 0.0)
    clock.go(now=0)
    assert clock.left_s(now=1e9) is None

"""A story becomes bars, marks and a scale: nothing is made up, and no long wait squashes the work beside it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from torpor.dashboard import timeline
from torpor.dashboard.timeline import Bar, phases, stretches
from torpor.engine.read_waits import RunWait
from torpor.engine.states import ENDS
from torpor.store.records import Attempt, Event, Run

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOUR = 3600.0


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def a_run(**given: Any) -> Run:
    """One of which only some fields matter."""
    made = object.__new__(Run)
    fields = dict.fromkeys(Run.__dataclass_fields__) | {"id": "run_1", "task_id": "report", "created_at": START} | given
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def story(*events: tuple[str, float] | tuple[str, float, dict[str, Any]]) -> list[Event]:
    return [
        Event(nth, "run_1", at(given[1]), f"run.{given[0]}", 1, given[2] if len(given) == 3 else {})
        for nth, given in enumerate(events, 1)
    ]


def a_wait(since: float, answered: float | None = None, **given: Any) -> RunWait:
    facts: dict[str, Any] = {"kind": "time", "until": None, "title": None} | given
    rest = {"awaited_run_id": None, "awaited_task_id": facts.pop("task", None), "batch_id": None}
    return RunWait("w", "wp", since=at(since), answered_at=None if answered is None else at(answered), **facts, **rest)


def told(bars: Sequence[Bar]) -> list[tuple[str, float, float | None]]:
    return [
        (
            bar.kind,
            (bar.starts - START).total_seconds(),
            None if bar.ends is None else (bar.ends - START).total_seconds(),
        )
        for bar in bars
    ]


FROZEN = {
    "size_bytes": 4_200_000,
    "dump_ms": 80.0,
    "durable_ms": 500.0,
    "worker_id": "worker_a",
    "rss_bytes": 60_000_000,
}
FREEZE = story(
    ("triggered", 0),
    ("dequeued", 1, {"worker_id": "worker_a"}),
    ("started", 1.5),
    ("waiting", 4, {"kinds": ["token"]}),
    ("suspended", 6, FROZEN),
    ("resuming", HOUR, {"kind": "token"}),
    ("dequeued", HOUR + 1, {"worker_id": "worker_b", "checkpoint_id": "checkpoint_1"}),
    ("resumed", HOUR + 1.2, {"worker_id": "worker_b", "restore_ms": 41.0, "checkpoint_id": "checkpoint_1"}),
    ("completed", HOUR + 3),
)


def test_a_freeze_is_drawn_with_what_it_cost_and_where_it_came_back() -> None:
    bars, marks = phases(a_run(), FREEZE, [a_wait(4, HOUR, title="Send it?")])
    assert told(bars) == [
        ("queued", 0, 1),
        ("starting", 1, 1.5),
        ("working", 1.5, 4),
        ("held", 4, 5.5),
        ("freezing", 5.5, 6),
        ("frozen", 6, HOUR),
        ("queued", HOUR, HOUR + 1),
        ("thawing", HOUR + 1, HOUR + 1.2),
        ("working", HOUR + 1.2, HOUR + 3),
    ]
    assert bars[3].label == "waits for Send it?"
    assert bars[5].label == "frozen · 4.0 MiB · froze in 80 ms · thawed in 41 ms"
    assert "on another worker, worker_b" in bars[5].told
    assert [mark.tone for mark in marks] == ["move", "end"]


def test_an_answer_that_comes_in_memory_ends_the_wait_though_the_story_has_no_line_for_it() -> None:
    events = story(("triggered", 0), ("dequeued", 0), ("started", 0), ("waiting", 1), ("completed", 9))
    bars, _ = phases(a_run(), events, [a_wait(1, 3, kind="run", task="child")])
    assert told(bars) == [("working", 0, 1), ("held", 1, 3), ("working", 3, 9)]
    assert bars[1].label == "waits for child"


def test_what_goes_on_has_an_open_end() -> None:
    bars, _ = phases(a_run(), FREEZE[:5], [a_wait(4)])
    assert told(bars)[-1] == ("frozen", 6, None)
    bars, _ = phases(a_run(), FREEZE[:4], [a_wait(4)])
    assert told(bars)[-1] == ("held", 4, None)


def test_a_retry_is_drawn_as_its_delay_and_then_its_place_in_line() -> None:
    failed = {"error": {"name": "ValueError", "message": "no"}, "retry_at": at(12).isoformat(), "delay_s": 10}
    events = story(
        ("triggered", 0), ("dequeued", 1), ("started", 1), ("retrying", 2, failed), ("dequeued", 13), ("started", 13)
    )
    bars, marks = phases(a_run(), events, [])
    assert told(bars) == [
        ("queued", 0, 1),
        ("working", 1, 2),
        ("delayed", 2, 12),
        ("queued", 12, 13),
        ("working", 13, None),
    ]
    assert [(mark.tone, "ValueError: no" in mark.told) for mark in marks] == [("trouble", True)]


def test_a_run_that_is_delayed_is_queued_when_its_time_has_come() -> None:
    bars, _ = phases(a_run(delay_until=at(60)), story(("triggered", 0), ("dequeued", 61)), [])
    assert told(bars) == [("delayed", 0, 60), ("queued", 60, 61), ("starting", 61, None)]


def test_a_fork_begins_frozen() -> None:
    origin = {"from": {"run_id": "run_0", "checkpoint_id": "checkpoint_1"}}
    events = story(
        ("forked", 0, origin), ("dequeued", 1, {"checkpoint_id": "checkpoint_2"}), ("forked", 2, {"as": "run_2"})
    )
    bars, _ = phases(a_run(), events, [])
    assert told(bars) == [("frozen", 0, 1), ("thawing", 1, None)]


@pytest.mark.parametrize("end", sorted(ENDS))
def test_every_end_closes_the_last_bar(end: str) -> None:
    bars, marks = phases(a_run(), story(("triggered", 0), ("dequeued", 1), ("started", 1), (str(end), 5)), [])
    assert told(bars)[-1] == ("working", 1, 5)
    assert marks[-1].tone == "end"


def test_a_week_of_waiting_is_as_short_as_its_break_mark_and_work_keeps_its_scale() -> None:
    week = 7 * 24 * HOUR
    bars = [
        Bar("working", at(0), at(10), "", ""),
        Bar("frozen", at(10), at(week), "", ""),
        Bar("working", at(week), at(week + 30), "", ""),
    ]
    found, most_idle_ms = stretches(bars, [], at(week + 99))
    assert [(each.is_idle, each.is_broken, each.weight_ms) for each in found] == [
        (False, False, 10_000),
        (True, True, most_idle_ms),
        (False, False, 30_000),
    ]
    assert most_idle_ms < 10_000
    assert found[0].starts == START
    assert found[-1].ends == at(week + 30)


def test_a_short_wait_beside_long_work_is_no_break() -> None:
    bars = [
        Bar("working", at(0), at(100), "", ""),
        Bar("held", at(100), at(101), "", ""),
        Bar("working", at(101), at(200), "", ""),
    ]
    assert [each.is_idle for each in stretches(bars, [], at(200))[0]] == [False]


def test_a_line_that_was_printed_in_a_long_wait_is_not_hidden_in_its_break() -> None:
    bars = [Bar("working", at(0), at(10), "", ""), Bar("held", at(10), at(HOUR), "", "")]
    found, _ = stretches(bars, [at(HOUR / 2)], at(HOUR))
    assert [each.is_idle for each in found] == [False, True, False, True]


def test_the_last_stretch_is_open_as_long_as_the_run_is() -> None:
    bars = [Bar("working", at(0), at(10), "", ""), Bar("frozen", at(10), None, "", "")]
    last = stretches(bars, [], at(HOUR))[0][-1]
    assert (last.ends, last.is_idle, last.weight_ms) == (None, True, None)
    assert stretches([Bar("queued", START, None, "", "")], [], START)[0][-1].ends is None


def test_children_stand_below_their_parents_and_attempts_only_where_there_are_several() -> None:
    child, grandchild = a_run(id="run_2", parent_run_id="run_1"), a_run(id="run_3", parent_run_id="run_2")
    tries = [
        Attempt(
            "run_1", 1, "v1", "worker_a", 1, at(0), at(0), at(4), "failed", {"name": "ValueError", "message": "no"}
        ),
        Attempt("run_1", 2, "v1", "worker_a", 2, at(5), at(5), None, None, None),
    ]
    made = timeline.timeline(
        a_run(), tries, FREEZE, [], [(child, FREEZE[:3]), (grandchild, FREEZE[:3])], [], now=at(2 * HOUR)
    )
    assert [(row.id, row.kind, row.depth, row.parent) for row in made.rows] == [
        ("run", "run", 0, None),
        ("attempts", "attempts", 0, None),
        ("run_2", "kin", 1, "run"),
        ("run_3", "kin", 2, "run_2"),
    ]
    assert [bar.kind for bar in made.rows[1].bars] == ["failed", "attempt"]
    assert made.rows[1].bars[0].told == "Attempt 1: failed, ValueError: no"
    assert len(timeline.timeline(a_run(), tries[1:], FREEZE, [], [], [], now=at(2 * HOUR)).rows) == 1

"""A story becomes bars and marks: nothing is made up, what is left out is told, and news follow on what is there."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from torpor.dashboard.timeline import Bar, Gap, Mark, attempt_bar, phases, wait_bar
from torpor.engine.read_failures import FAILED
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


def told_of(*given: Any) -> tuple[list[Bar], list[Mark]]:
    made = phases(*given)
    return made.bars, made.marks


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
    bars, marks = told_of(a_run(), FREEZE, [a_wait(4, HOUR, title="Send it?")])
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
    bars, _ = told_of(a_run(), events, [a_wait(1, 3, kind="run", task="child")])
    assert told(bars) == [("working", 0, 1), ("held", 1, 3), ("working", 3, 9)]
    assert bars[1].label == "waits for child"


def test_what_goes_on_has_an_open_end() -> None:
    bars, _ = told_of(a_run(), FREEZE[:5], [a_wait(4)])
    assert told(bars)[-1] == ("frozen", 6, None)
    bars, _ = told_of(a_run(), FREEZE[:4], [a_wait(4)])
    assert told(bars)[-1] == ("held", 4, None)


def test_a_retry_is_drawn_as_its_delay_and_then_its_place_in_line() -> None:
    failed = {"error": {"name": "ValueError", "message": "no"}, "retry_at": at(12).isoformat(), "delay_s": 10}
    events = story(
        ("triggered", 0), ("dequeued", 1), ("started", 1), ("retrying", 2, failed), ("dequeued", 13), ("started", 13)
    )
    bars, marks = told_of(a_run(), events, [])
    assert told(bars) == [
        ("queued", 0, 1),
        ("working", 1, 2),
        ("delayed", 2, 12),
        ("queued", 12, 13),
        ("working", 13, None),
    ]
    assert [(mark.tone, "ValueError: no" in mark.told) for mark in marks] == [("trouble", True)]


def test_a_run_that_is_delayed_is_queued_when_its_time_has_come() -> None:
    bars, _ = told_of(a_run(delay_until=at(60)), story(("triggered", 0), ("dequeued", 61)), [])
    assert told(bars) == [("delayed", 0, 60), ("queued", 60, 61), ("starting", 61, None)]


def test_a_fork_begins_frozen() -> None:
    origin = {"from": {"run_id": "run_0", "checkpoint_id": "checkpoint_1"}}
    events = story(
        ("forked", 0, origin), ("dequeued", 1, {"checkpoint_id": "checkpoint_2"}), ("forked", 2, {"as": "run_2"})
    )
    bars, _ = told_of(a_run(), events, [])
    assert told(bars) == [("frozen", 0, 1), ("thawing", 1, None)]


@pytest.mark.parametrize("end", sorted(ENDS))
def test_every_end_closes_the_last_bar(end: str) -> None:
    bars, marks = told_of(a_run(), story(("triggered", 0), ("dequeued", 1), ("started", 1), (str(end), 5)), [])
    assert told(bars)[-1] == ("working", 1, 5)
    assert marks[-1].tone == ("failure" if end in FAILED else "end")


def test_a_verb_whose_request_came_earlier_is_drawn_where_it_stands_in_the_story() -> None:
    events = story(("triggered", 0), ("dequeued", 2), ("started", 1), ("completed", 3))
    bars, _ = told_of(a_run(), events, [])
    assert told(bars) == [("queued", 0, 2), ("working", 2, 3)]


def test_what_is_left_out_of_a_long_story_is_a_bar_of_its_own() -> None:
    head, window = FREEZE[:3], FREEZE[5:]
    made = phases(a_run(), [*head, *window], [], [Gap(window[0].id, 120_000)])
    assert told(made.bars)[2:5] == [
        ("skipped", 1.5, HOUR),
        ("queued", HOUR, HOUR + 1),
        ("thawing", HOUR + 1, HOUR + 1.2),
    ]
    assert made.bars[2].label == "more than 100,000 entries"
    behind = phases(a_run(finished_at=at(9)), head, [], [Gap(None, 7)])
    assert told(behind.bars)[-1] == ("skipped", 1.5, 9)
    assert behind.bars[-1].told == "7 entries of the story not shown here"


@pytest.mark.parametrize("known", range(1, len(FREEZE)))
def test_news_follow_on_what_is_known_wherever_that_ends(known: int) -> None:
    """Told in two parts, from the anchor on, it is what it is when told at once."""
    asked = [a_wait(4, HOUR, title="Send it?")]
    whole = phases(a_run(), FREEZE, asked)
    before = phases(a_run(), FREEZE[:known], asked)
    news = [event for event in FREEZE if event.id >= before.anchor]
    after = phases(a_run(), news, asked, known=FREEZE[known - 1].id)
    assert before.bars[: before.anchor_bars] + after.bars == whole.bars
    assert before.marks + after.marks == whole.marks
    assert before.anchor_bars + after.anchor_bars == whole.anchor_bars


def test_attempts_and_waits_are_bars_of_their_own() -> None:
    failed = Attempt(
        "run_1", 1, "v1", "worker_a", 1, at(0), at(0), at(4), "failed", {"name": "ValueError", "message": "no"}
    )
    made = attempt_bar(failed)
    assert (made.kind, made.label, made.told) == ("failed", "1 failed", "Attempt 1: failed, ValueError: no")
    assert wait_bar(a_wait(4, title="Send it?")) == Bar("wait", at(4), None, "Send it?", "Wait for Send it?")

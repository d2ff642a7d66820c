"""How events are put in words: figures stand where they are known, and nothing is made up where they aren't."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console, RenderableType

from torpor.cli.story import (
    Times,
    error_lines,
    event_line,
    how_to_answer,
    log_line,
    next_answer,
    times,
    usage_line,
)
from torpor.engine.states import ENDS
from torpor.words import words

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def event(kind: str, after_s: float = 0, **data: Any) -> dict[str, Any]:
    return {"id": 1, "at": (START + timedelta(seconds=after_s)).isoformat(), "kind": kind, "data": data}


def printed(shown: RenderableType) -> str:
    out = StringIO()
    Console(file=out, width=200, highlight=False).print(shown)
    return out.getvalue()


def test_a_freeze_is_told_with_its_figures_and_the_line_where_it_stands() -> None:
    place = {"file": "/app/tasks.py", "line": 33, "source": "await wait.for_(hours=6)"}
    told = printed(
        event_line(
            event(
                "run.suspended",
                size_bytes=31_457_280,
                dump_ms=41.2,
                durable_ms=83.0,
                rss_bytes=64_000_000,
                waiting_at=[place],
            )
        )
    )
    assert "frozen" in told
    assert "30.0 MiB on disk" in told
    assert "dumped in 41 ms" in told
    assert "durable after 83 ms" in told
    assert "61.0 MiB of memory given back" in told
    assert "at tasks.py:33  await wait.for_(hours=6)" in told


def test_figures_that_an_event_lacks_are_left_out() -> None:
    assert words(event("run.resumed")).rest == ""
    assert "None" not in printed(event_line(event("run.started")))


def test_a_run_says_what_it_reaches_where_that_is_not_everything() -> None:
    assert "no network" in words(event("run.started", network="none")).rest
    assert "private network" in words(event("run.started", network="private")).rest
    assert "network" not in words(event("run.started", network="host")).rest


def test_a_start_says_how_far_the_run_is_kept_apart_and_what_it_has_to_do_without() -> None:
    assert "isolated" in words(event("run.started", isolation="full")).rest
    assert "not isolated" in words(event("run.started", isolation="off")).rest
    lacks = event("run.started", isolation="partial", missing=["a limit on its memory", "a network of its own"])
    assert "partly isolated, without a limit on its memory, a network of its own" in words(lacks).rest
    assert "without a limit" in words(event("run.resumed", isolation="partial", missing=["a limit on its memory"])).rest
    assert "isolated" not in words(event("run.resumed", isolation="full")).rest


def test_a_run_that_cannot_be_frozen_says_what_stops_it() -> None:
    told = printed(event_line(event("run.held", blockers=["task-3 awaits a socket at app.py:12"])))
    assert "held in memory" in told
    assert "task-3 awaits a socket at app.py:12" in told


def test_what_a_person_is_asked_is_told() -> None:
    told = words(event("token.created", waitpoint_id="waitpoint_1", title="Ship it?"))
    assert (told.verb, told.rest) == ("asks a person", "Ship it?")
    assert words(event("token.created", waitpoint_id="waitpoint_1")).rest == "waitpoint_1"


@pytest.mark.parametrize("kind", ["run.invented_later", "token.invented_later"])
def test_an_unknown_kind_is_told_by_its_name(kind: str) -> None:
    assert words(event(kind)).verb == kind.removeprefix("run.").replace("_", " ").replace(".", " ")


@pytest.mark.parametrize("end", sorted(ENDS))
def test_every_end_of_a_run_has_words_of_its_own(end: str) -> None:
    said = words(event(f"run.{end}"))
    assert said.style.startswith("bold")


def test_a_wait_for_a_person_comes_with_the_command_that_answers_it() -> None:
    waiting = event("run.waiting", kinds=["token"], count=1)
    assert how_to_answer(waiting, "run_1") == "torpor approve run_1"
    assert next_answer([waiting, event("run.suspended")], "run_1") == "torpor approve run_1"
    assert how_to_answer(event("run.waiting", kinds=["time"], count=1), "run_1") is None


def test_time_is_divided_into_executing_held_and_frozen() -> None:
    story = [
        event("run.triggered", 0),
        event("run.started", 1),
        event("run.waiting", 3),
        event("run.suspended", 4),
        event("run.resuming", 104),
        event("run.resumed", 105),
        event("run.waiting", 106),
        event("run.resuming", 108),
        event("run.completed", 110),
    ]
    assert times(story, START + timedelta(hours=1)) == Times(queued_s=2, executing_s=5, held_s=3, frozen_s=100)


def test_a_run_that_still_sleeps_is_counted_up_to_now() -> None:
    story = [event("run.triggered", 0), event("run.started", 0), event("run.suspended", 1)]
    assert times(story, START + timedelta(seconds=61)).frozen_s == 60


def test_an_error_shows_the_users_traceback_and_its_cause_once() -> None:
    trace = 'Traceback (most recent call last):\n  File "tasks.py", line 9, in f\n    1 / 0\nZeroDivisionError: division by zero'
    error = {"name": "ZeroDivisionError", "message": "division by zero", "stackTrace": trace}
    told = printed(error_lines({**error, "causes": [{"name": "KeyError", "message": "'x'"}]}))
    assert told.count("ZeroDivisionError: division by zero") == 1
    assert 'File "tasks.py", line 9' in told
    assert "KeyError: 'x'" in told


def test_an_error_that_comes_from_the_room_says_what_would_give_more() -> None:
    error = {"name": "OSError", "message": "[Errno 30] Read-only file system: '/srv/report'"}
    assert "TORPOR_WRITABLE" in printed(error_lines(error))
    assert "TORPOR_WRITABLE" not in printed(
        error_lines({"name": "OSError", "message": "[Errno 28] No space left on device"})
    )


def test_what_user_code_prints_is_never_read_as_markup() -> None:
    line = {"at": START.isoformat(), "level": "warning", "message": "[bold]not bold[/] [/red]", "attributes": {"n": 3}}
    told = printed(log_line(line))
    assert "warning [bold]not bold[/] [/red]" in told
    assert "n=3" in told


def test_only_the_clock_is_dim() -> None:
    """A Text's own style would colour all that is appended to it."""
    assert event_line(event("run.completed")).style == ""
    assert log_line({"at": START.isoformat(), "message": "x"}).style == ""


def test_an_oom_kill_tells_the_larger_machine_and_from_where_it_goes_on() -> None:
    told = words(event("run.out_of_memory", limit_bytes=536_870_912, machine="small-1x", next_machine="large-1x"))
    assert told.rest == "512.0 MiB of small-1x used up · goes on with large-1x, from the top"
    assert words(event("run.out_of_memory", from_checkpoint="checkpoint_1")).rest.endswith("from its newest checkpoint")


def test_what_a_run_has_used_is_told_once_something_is_known() -> None:
    used = {"cpuMs": 1500, "peakMemoryBytes": 31_457_280, "frozenMs": 0}
    told = usage_line({"machine": "small-1x", "usage": used})
    assert told is not None
    assert told.plain == "used 1.5 s of CPU  at most 30.0 MiB of memory  on small-1x"
    assert usage_line({"machine": "small-1x", "usage": {"cpuMs": 0, "peakMemoryBytes": 0}}) is None
    assert usage_line({}) is None

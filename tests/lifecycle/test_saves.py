"""Save points: by name and by themselves, what a run that dies finds when it comes back from one, and lives that go apart."""

import os
import signal
from itertools import pairwise

import pytest
from stack import Stack, eventually

pytestmark = pytest.mark.criu


def test_a_named_save_point_is_where_a_dead_run_comes_back(stack: Stack) -> None:
    run_id = stack.trigger("saved_by_name", str(stack.journal()))
    eventually(lambda: len(stack.lines()) == 2, what="it goes on behind its save point")
    [saved] = stack.events(run_id, "run.saved")
    assert saved["name"] == "half way"
    stack.journal("journal.go").touch()
    assert stack.output(run_id) == ["as it was", True, "half way"]
    assert stack.lines() == ["before", "after, restored=False", "after, restored=True"]
    stack.assert_nothing_left()


def test_a_run_that_lives_goes_on_from_its_save_points(stack: Stack) -> None:
    run_id = stack.trigger("saved_twice", str(stack.journal()))
    assert stack.output(run_id) == [True, True, False, False]
    assert [event["name"] for event in stack.events(run_id, "run.saved")] == ["first", "second"]
    assert stack.lines() == ["first", "second"]
    stack.assert_nothing_left()


@pytest.mark.parametrize("victim", ["run", "worker"])
def test_a_run_that_saves_itself_loses_no_more_than_it_worked_since(stack: Stack, victim: str) -> None:
    run_id = stack.trigger("saves_itself", str(stack.journal()))
    stack.await_event(run_id, "run.saved")
    counted, saved = numbers(stack)[-1], stack.kinds(run_id).count("run.saved")
    stack.await_event(run_id, "run.saved", saved + 2)  # one of them may have been made before we looked
    if victim == "worker":
        stack.kill_worker()
        stack.start_worker()
    else:
        pid = stack.process_of(run_id)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    stack.await_event(run_id, "run.saved", stack.kinds(run_id).count("run.saved") + 1)
    stack.journal("journal.go").touch()
    stack.output(run_id)
    assert all(after > counted for before, after in pairwise(numbers(stack)) if after <= before)
    assert len(stack.lines()) == 1
    assert stack.kinds(run_id).count("run.started") == 1
    stack.assert_nothing_left()


def numbers(stack: Stack) -> list[int]:
    return [int(line) for line in stack.lines("journal.numbers")]


def test_three_lives_of_one_image_go_their_own_ways_at_the_same_time(stack: Stack) -> None:
    """All three are at work on one worker at once before any may end: none finds a trace of the others."""
    token = stack.client.create_token()["id"]
    original = stack.trigger("goes_its_way", {"journal": str(stack.journal()), "token_id": token})
    stack.await_event(original, "run.suspended")
    runs = {answer: stack.client.fork(original, answer=answer)["id"] for answer in ("left", "right")}
    stack.client.complete_token(token, "straight on")
    runs["straight on"] = original
    eventually(lambda: len(stack.lines()) == 3, what="all three are at work")
    assert sorted(stack.lines()) == sorted(runs)
    assert len({stack.process_of(run_id) for run_id in runs.values()} - {None}) == 3
    stack.journal("journal.go").touch()
    for answer, run_id in runs.items():
        assert stack.output(run_id) == [run_id, [answer], answer, answer]
        assert stack.kinds(run_id).count("run.resumed") == 1
    assert stack.kinds(original).count("run.forked") == 2
    stack.assert_nothing_left()

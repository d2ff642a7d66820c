"""Limits, as authors and operators meet them."""

import pytest
from stack import Stack, eventually


def test_runs_of_a_queue_with_one_place_follow_each_other(stack: Stack) -> None:
    """Q1: never two at once, and each with its turn."""
    journal = str(stack.journal())
    runs = [stack.trigger("one_at_a_time", {"journal": journal, "name": str(number)}) for number in range(4)]
    for run_id in runs:
        stack.output(run_id)
    names = ["0", "1", "2", "3"]
    assert stack.lines() == [f"{what} {name}" for name in names for what in ("begin", "end")]
    stack.assert_nothing_left()


@pytest.mark.criu
def test_parents_do_not_starve_their_children_in_a_queue_with_one_place(stack: Stack) -> None:
    """BB2: three parents, each waiting for the next in the same queue, frozen on the way."""
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("nested", {"depth": 3, "token": token})
    stack.await_event(run_id, "run.suspended")
    eventually(lambda: stack.client.token(token)["runIds"] != [], what="the innermost waits")
    stack.client.complete_token(token, "go")
    assert stack.output(run_id) == 3
    stack.assert_nothing_left()


def test_a_paused_queue_holds_its_runs_back(stack: Stack) -> None:
    """Q4: until it is resumed; meanwhile others go on."""
    stack.client.pause_queue("narrow")
    try:
        held = stack.trigger("nested", {"depth": 0})
        assert stack.output(stack.trigger("adder", {"a": 1, "b": 2})) == 3
        assert stack.status(held) == "QUEUED"
        assert stack.client.queue("narrow")["queued"] == 1
    finally:
        stack.client.resume_queue("narrow")
    assert stack.output(held) == 0
    stack.assert_nothing_left()

"""Runs that are ended: what their code sees of it, that it ends in time, and what their stories say."""

import os
import signal

from stack import Stack, eventually


def said(stack: Stack, line: str, times: int = 1) -> None:
    eventually(lambda: stack.lines().count(line) >= times, what=f"{line!r} in the journal")


def test_a_sync_task_that_computes_is_told_and_ends_by_itself(stack: Stack) -> None:
    run_id = stack.trigger("counts", str(stack.journal()))
    said(stack, "counting")
    stack.client.cancel(run_id)
    assert stack.await_end(run_id)["status"] == "CANCELED"
    assert stack.lines() == ["counting", "told"]
    assert stack.kinds(run_id)[-2:] == ["run.cancel_requested", "run.canceled"]
    eventually(lambda: stack.process_of(run_id) is None, what="its process is gone")


def test_a_task_that_will_not_end_is_killed(stack: Stack) -> None:
    runs = [stack.trigger(task, str(stack.journal())) for task in ("ignores", "blocks_its_loop")]
    said(stack, "going", 2)
    for run_id in runs:
        stack.client.cancel(run_id)
    for run_id in runs:
        assert stack.await_end(run_id)["status"] == "CANCELED"
        last = list(stack.client.story(run_id))[-1]
        assert "did not end within 2 s" in last["data"]["note"]
        eventually(lambda run_id=run_id: stack.process_of(run_id) is None, what="its process is gone")
    assert stack.lines().count("ignored") == 1


def test_a_frozen_run_is_canceled_at_once(stack: Stack) -> None:
    run_id = stack.trigger("naps", str(stack.journal()))
    stack.await_event(run_id, "run.suspended")
    stack.client.cancel(run_id)
    assert stack.client.run(run_id)["status"] == "CANCELED"
    assert stack.lines() == ["napping"]


def test_now_kills_without_asking(stack: Stack) -> None:
    run_id = stack.trigger("counts", str(stack.journal()))
    said(stack, "counting")
    stack.client.cancel(run_id, at_once=True)
    assert stack.client.run(run_id)["status"] == "CANCELED"
    eventually(lambda: stack.process_of(run_id) is None, what="its process is gone")
    assert stack.lines() == ["counting"]


def test_G18_children_are_canceled_with_their_parent(stack: Stack) -> None:
    """G18: also when all of them are frozen."""
    run_id = stack.trigger("has_children", str(stack.journal()))
    said(stack, "child", 3)
    children = [child["id"] for child in stack.client.run(run_id)["relatedRuns"]["children"]]
    stack.client.cancel(run_id)
    for each in (run_id, *children):
        assert stack.await_end(each)["status"] == "CANCELED"
    assert len(children) == 3


def test_a_process_that_dies_of_the_request_is_canceled_not_crashed(stack: Stack) -> None:
    run_id = stack.trigger("ignores", str(stack.journal()))
    said(stack, "going")
    stack.client.cancel(run_id)
    said(stack, "ignored")
    pid = stack.process_of(run_id)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert stack.await_end(run_id)["status"] == "CANCELED"

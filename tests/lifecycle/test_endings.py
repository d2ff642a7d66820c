"""Runs that are ended: what their code sees of it, that it ends in time, and what their stories say."""

import os
import signal
import socket

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
        assert "did not end within 5 s" in last["data"]["note"]
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


def test_BB13_on_cancel_is_called_for_a_frozen_run(stack: Stack) -> None:
    """BB13: in a process of its own."""
    run_id = stack.trigger("has_hooks", str(stack.journal()))
    stack.await_event(run_id, "run.suspended")
    stack.client.cancel(run_id)
    said(stack, "canceled: canceled through the API")
    stack.await_event(run_id, "hook.completed")
    assert stack.lines()[0] == "begins"
    assert [run["id"] for run in stack.client.runs(task="has_hooks")] == [run_id]


def test_BB13_on_failure_is_called_for_a_process_that_was_killed(stack: Stack) -> None:
    """BB13: with the dead run's context, payload and error."""
    run_id = stack.trigger("dies", str(stack.journal()))
    said(stack, "begins")
    pid = stack.process_of(run_id)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert stack.await_end(run_id)["status"] == "CRASHED"
    said(stack, f"CRASHED: ProcessDied of {run_id}")
    assert len(stack.lines()) == 2


def test_T7_a_run_that_works_for_too_long_is_killed(stack: Stack) -> None:
    """T7: its waits don't count, another attempt isn't made, and on_failure is called."""
    run_id = stack.trigger("works_too_long", str(stack.journal()))
    run = stack.await_end(run_id)
    assert run["status"] == "TIMED_OUT"
    assert "max_duration is 3 s" in run["error"]["message"]
    said(stack, "TIMED_OUT: MaxDurationExceeded")
    assert stack.lines()[:2] == ["begins", "waited"]
    eventually(lambda: stack.process_of(run_id) is None, what="its process is gone")


def test_T10_a_connection_is_closed_before_a_freeze_and_opened_after(stack: Stack) -> None:
    """T10: around a real freeze."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        run_id = stack.trigger("has_a_connection", server.getsockname()[1])
        first, _ = server.accept()
        assert first.recv(1) == b"", "closed before the freeze"
        stack.await_event(run_id, "run.suspended")
        [token] = [each for each in stack.client.tokens(status="WAITING") if run_id in each["runIds"]]
        stack.client.complete_token(token["id"], None)
        second, _ = server.accept()
        second.sendall(b"hello again")
        second.close()
        assert stack.output(run_id) == "hello again"
        assert "run.suspended" in stack.kinds(run_id)
        first.close()

"""A rough first user: answers at the worst moments, odd holdings, odd ends, kills without a plan."""

import os
import random
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from stack import Stack, StackMaker, eventually

from torpor.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.criu


def test_an_answer_is_neither_lost_nor_doubled_whenever_it_comes(stack: Stack) -> None:
    """It comes while the run enters its wait, is dumped, is accepted, or sleeps: a seeded draw decides."""
    chance = random.Random(7)
    delays = [chance.uniform(0, 0.3) * chance.random() for _ in range(24)]
    answered: dict[int, str] = {}

    def one(number: int, delay_s: float) -> None:
        token = stack.client.create_token()["id"]
        task = ("answered_async", "answered_sync")[number % 2]
        payload = {"journal": str(stack.journal(f"journal{number}")), "token_id": token}
        run_id = answered[number] = stack.trigger(task, payload)
        stack.await_event(run_id, "run.waiting")
        time.sleep(delay_s)
        stack.client.complete_token(token, run_id)

    for at in range(0, len(delays), 8):
        threads = [threading.Thread(target=one, args=each) for each in list(enumerate(delays))[at : at + 8]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, run_id in answered.items():
        assert stack.output(run_id) == run_id
        assert stack.lines(f"journal{number}") == ["before", "after"]
    stack.assert_nothing_left()


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("first_completed", ["A"]),
        ("group_with_failure", "A"),
        ("shielded", "A"),
        ("as_completed", ["A", "B"]),
        ("the_same_twice", ["A", "A"]),
        ("child_fails_meanwhile", [True, "A"]),
        ("two_hundred", "A"),
    ],
)
def test_waits_are_awaited_in_any_form(stack: Stack, form: str, expected: object) -> None:
    first, second, last = (stack.client.create_token()["id"] for _ in range(3))
    run_id = stack.trigger("in_parallel", {"form": form, "first": first, "second": second, "last": last})
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(first, "A")
    if form in ("as_completed", "child_fails_meanwhile"):
        stack.await_event(run_id, "run.suspended", 2)
        stack.client.complete_token(second, "B")
    eventually(
        lambda: last in frozen_for(stack, run_id), what="it is frozen again", told=lambda: stack.how_it_stands(run_id)
    )
    stack.client.complete_token(last, None)
    assert stack.output(run_id) == expected
    stack.assert_nothing_left()


def frozen_for(stack: Stack, run_id: str) -> list[str]:
    """The tokens that a run's last image waits for."""
    last = stack.client.checkpoint(stack.client.checkpoints(run_id)[-1]["id"])
    return [wait["waitpointId"] for wait in last["waits"]]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("odd_files", [6, True]),
        ("many_files", 500),
        ("pipe_with_bytes", "hey"),
        ("nameless_files", ["abc", 0, "def"]),
        ("open_transaction", [[1]]),
        ("worker_processes", [2, 4]),
        ("memory_by_name", ["abcde", None, []]),
        ("file_with_a_hole", ["end", True]),
        ("connections", "127.0.0.1"),
        ("interval_timer", True),
    ],
)
def test_what_a_run_holds_comes_back_with_it(stack: Stack, what: str, expected: object) -> None:
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("holds", {"what": what, "token_id": token})
    stack.await_event(run_id, "run.suspended")
    eventually(lambda: stack.process_of(run_id) is None, what="its process is gone")
    eventually(lambda: not list(Path("/dev/shm").glob("torpor-lifecycle")), what="its shared memory is gone, too")
    stack.client.complete_token(token, None)
    assert stack.output(run_id) == expected
    stack.assert_nothing_left()


@pytest.mark.parametrize(
    ("how", "status", "told"),
    [
        ("exit", "CRASHED", "exit status 3"),
        ("sys.exit", "FAILED", "sys.exit(4)"),
        ("fault", "CRASHED", "SIGSEGV"),
        ("terminate", "CRASHED", "exit status 143"),
        ("interrupt", "FAILED", "interrupted"),
        ("endless", "FAILED", "recursion"),
        ("unwritable", "FAILED", "can't be JSON"),
    ],
)
def test_every_way_to_end_is_one_outcome_with_its_reason(stack: Stack, how: str, status: str, told: str) -> None:
    run_id = stack.trigger("ends/in ünusual ways", how)
    run = stack.await_end(run_id)
    assert (run["status"], run["attemptCount"]) == (status, 1)
    assert told in run["error"]["message"]
    assert sum(kind in ("run.completed", "run.failed", "run.crashed") for kind in stack.kinds(run_id)) == 1


def test_runs_come_through_kills_without_a_plan(stack: Stack, postgres: EmbeddedPostgres) -> None:
    """No run is stuck or wrong, and none that has a checkpoint begins from the top again."""
    chance = random.Random(11)
    runs = {}
    last = stack.client.create_token()["id"]
    for number in range(8):
        journal = stack.journal(f"journal{number}")
        runs[stack.trigger("many_waits", {"journal": str(journal), "count": 6, "last": last})] = number
    for _ in range(24):
        time.sleep(chance.uniform(0.05, 0.4))
        naming = chance.choice(["torpor run", "torpor run", "criu", "torpor spare"])
        victims = stack.criu() if naming == "criu" else stack.processes(naming=naming)
        if victims:
            try:
                os.kill(chance.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                continue  # it was quicker
    for run_id in runs:
        stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(last, None)
    for run_id, number in runs.items():
        assert stack.output(run_id) == [0, 1, 2, 3, 4, 5]
        story = stack.kinds(run_id)
        assert "run.started" not in story[story.index("run.suspended") :], story
        lines = stack.lines(f"journal{number}")
        steps = [-1 if line == "begun" else int(line.removeprefix("over ")) for line in lines]
        deaths = sum(kind in ("run.retrying", "run.rescued") for kind in story)
        assert sum(after <= before for before, after in pairwise(steps)) <= deaths, (lines, story)
        assert all(after <= before + 1 for before, after in pairwise(steps)), lines
    stack.assert_nothing_left()


def test_runs_wait_for_runs_at_any_depth(make_stack: StackMaker) -> None:
    """Six runs, each waiting for the next, on a worker that holds two: those that wait leave memory for those that work."""
    stack = make_stack(TORPOR_WORKER_SLOTS="2")
    stack.start()
    assert stack.output(stack.trigger("levels", 5)) == 5
    stack.assert_nothing_left()


def test_a_run_that_somebody_had_stopped_when_it_was_frozen_wakes_up(stack: Stack) -> None:
    """Its image is of a stopped process: woken by its signal alone, it would be killed for silence, on each worker anew."""
    stack.pause_at("before_dump")
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("waits_for_token", {"journal": str(stack.journal()), "token_id": token})
    stack.await_reached("before_dump")
    pid = stack.process_of(run_id)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", what="it is stopped")
    stack.go_on("before_dump")
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(token, "the answer")
    assert stack.output(run_id) == "the answer"
    stack.assert_nothing_left()


def test_when_memory_is_short_runs_leave_it_though_an_answer_is_near(make_stack: StackMaker) -> None:
    """All of the memory is to be free, which it never is."""
    stack = make_stack(TORPOR_MEMORY_FLOOR_PERCENT="100", TORPOR_HOLD_S="3600", TORPOR_HOLD_CHILD_S="3600")
    stack.start()
    token = stack.client.create_token()["id"]
    payload = {"journal": str(stack.journal()), "count": 0, "token_id": token}
    parent = stack.trigger("batch_parent", payload)
    sleeping = stack.trigger("sleeper", {"journal": str(stack.journal("sleeping")), "seconds": 3000})
    for run_id in (parent, sleeping):
        stack.await_event(run_id, "run.suspended")
    stack.client.cancel(sleeping)
    stack.client.complete_token(token, "the answer")
    assert stack.output(parent) == ["the answer"]
    stack.assert_nothing_left()


def test_a_store_that_is_down_costs_nothing_but_time(stack: Stack) -> None:
    """During a freeze the run is held in memory, and its story says why; a restore is tried until the store is back."""
    store = stack.directory / "data" / "worker" / "store"
    away = store.with_name("away")

    def take_down() -> None:
        store.rename(away)
        store.write_text("no directory any more")

    def bring_back() -> None:
        store.unlink()
        away.rename(store)

    token = stack.client.create_token()["id"]
    take_down()
    run_id = stack.trigger("waits_for_token", {"journal": str(stack.journal()), "token_id": token})
    stack.await_event(run_id, "run.freeze_failed")
    assert "object store" in stack.events(run_id, "run.freeze_failed")[0]["reason"]
    assert stack.process_of(run_id)
    bring_back()
    stack.await_event(run_id, "run.suspended")
    take_down()
    stack.client.complete_token(token, "the answer")
    stack.await_event(run_id, "run.start_failed")
    assert "object store" in stack.events(run_id, "run.start_failed")[0]["reason"]
    bring_back()
    assert stack.output(run_id) == "the answer"
    assert stack.lines() == ["before", "after"]
    stack.assert_nothing_left()

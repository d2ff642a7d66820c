"""What a task's author sees, with every process real: runs begin, wait, leave memory, come back, end."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from stack import Stack, eventually

from torpor.errors import NotFound, Unprocessable
from whole_files import put


def test_a_payload_becomes_the_call(stack: Stack) -> None:
    order = {"customer": "Ann", "items": [{"sku": "a", "count": 2}, {"sku": "b", "count": 3}]}
    assert stack.output(stack.trigger("total", order)) == 5
    assert stack.output(stack.trigger("adder", {"a": 1, "b": 2})) == 3
    stack.assert_nothing_left()


def test_an_unknown_task_is_told_with_near_names(stack: Stack) -> None:
    with pytest.raises(NotFound) as refused:
        stack.trigger("addr", {"a": 1, "b": 2})
    assert "adder" in refused.value.body["near"]


def test_a_payload_that_does_not_fit_makes_no_run_and_says_where(stack: Stack) -> None:
    before = len(list(stack.client.runs(task="total")))
    with pytest.raises(Unprocessable) as refused:
        stack.trigger("total", {"customer": "Ann", "items": [{"sku": "a", "count": "many"}]})
    assert [problem["path"] for problem in refused.value.body["problems"]] == ["items[0].count"]
    assert len(list(stack.client.runs(task="total"))) == before


def test_print_and_output_are_told(stack: Stack) -> None:
    run_id = stack.trigger("adder", {"a": 20, "b": 22})
    assert stack.output(run_id) == 42
    assert [line["message"] for line in stack.client.logs(run_id)] == ["adding 20 and 22"]


@pytest.mark.criu
@pytest.mark.parametrize("task", ["sleeper", "sync_sleeper"])
def test_a_waiting_run_leaves_memory_and_goes_on_at_the_next_line(stack: Stack, task: str) -> None:
    sleeping = stack.trigger(task, {"journal": str(stack.journal("sleeping")), "seconds": 3600})
    stack.await_event(sleeping, "run.suspended")
    eventually(lambda: stack.process_of(sleeping) is None, what="its process is gone")
    assert stack.status(sleeping) == "WAITING"
    assert [line.split()[0] for line in stack.lines("sleeping")] == ["before"]
    [where] = stack.events(sleeping, "run.suspended")[0]["waiting_at"]
    assert where["file"] == "tasks.py"
    assert "wait.for_(seconds=seconds)" in where["source"]
    stack.client.cancel(sleeping)

    def wakes(seconds: float) -> str:
        return stack.trigger(task, {"journal": str(stack.journal(str(seconds))), "seconds": seconds})

    run_id, seconds = frozen_before_its_time(stack, wakes)
    output = stack.output(run_id)
    secret = output["secret"] if isinstance(output, dict) else output
    assert stack.lines(str(seconds)) == [f"before {secret}", f"after {secret}"]
    assert "run.resumed" in stack.kinds(run_id)
    stack.assert_nothing_left()


def frozen_before_its_time(stack: Stack, begin: Callable[[float], str], times: int = 1) -> tuple[str, float]:
    """A run that has ended, and was frozen so often before so many seconds were over: as many as this machine needs."""
    for seconds in (1.0, 2.0, 4.0, 8.0, 16.0):
        run_id = begin(seconds)
        stack.await_end(run_id)
        if stack.kinds(run_id).count("run.suspended") >= times:
            return run_id, seconds
    raise AssertionError(stack.how_it_stands(run_id))


@pytest.mark.criu
def test_a_run_may_be_frozen_again_and_again(stack: Stack) -> None:
    first, second = (stack.client.create_token()["id"] for _ in range(2))
    run_id = stack.trigger("two_waits", {"journal": str(stack.journal()), "first": first, "second": second})
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(first, {"n": 1})
    stack.await_event(run_id, "run.suspended", count=2)
    assert stack.lines() == ["between"]
    stack.client.complete_token(second, "two")
    assert stack.output(run_id) == [{"n": 1}, "two"]
    stack.assert_nothing_left()


@pytest.mark.criu
def test_two_runs_sleep_at_once_and_neither_gets_the_others_answer(stack: Stack) -> None:
    tokens = [stack.client.create_token()["id"] for _ in range(2)]
    runs = [
        stack.trigger("waits_for_token", {"journal": str(stack.journal(f"j{n}")), "token_id": token})
        for n, token in enumerate(tokens)
    ]
    for run_id in runs:
        stack.await_event(run_id, "run.suspended")
    for n, token in reversed(list(enumerate(tokens))):
        stack.client.complete_token(token, n)
    assert [stack.output(run_id) for run_id in runs] == [0, 1]
    assert [stack.lines(f"j{n}") for n in range(2)] == [["before", "after"]] * 2
    stack.assert_nothing_left()


@pytest.mark.criu
def test_ten_runs_are_restored_at_once(stack: Stack) -> None:
    """All ten wait for one token: its completion wakes them in the same instant."""
    token = stack.client.create_token()["id"]
    runs = [
        stack.trigger("waits_for_token", {"journal": str(stack.journal(f"j{n}")), "token_id": token}) for n in range(10)
    ]
    for run_id in runs:
        stack.await_event(run_id, "run.suspended")
    eventually(lambda: not stack.processes(naming="torpor run"), what="none has a process")
    stack.client.complete_token(token, "go")
    assert [stack.output(run_id) for run_id in runs] == ["go"] * 10
    assert [stack.lines(f"j{n}") for n in range(10)] == [["before", "after"]] * 10
    stack.assert_nothing_left()


def test_a_parent_waits_for_its_child(stack: Stack) -> None:
    assert stack.output(stack.trigger("parent", False)) == 5


def test_a_childs_failure_is_the_parents_to_see(stack: Stack) -> None:
    run = stack.await_end(stack.trigger("parent", True))
    assert run["status"] == "FAILED"
    assert run["error"]["name"] == "RunFailed"
    assert "the child's own reason" in run["error"]["message"]


def test_one_freeze_covers_parallel_waits(stack: Stack) -> None:
    assert stack.output(stack.trigger("gathers", 1.0)) == [3, 7, None]


@pytest.mark.criu
def test_a_limit_of_asyncio_counts_while_the_run_is_frozen(stack: Stack) -> None:
    """BB3: asyncio.timeout around a wait."""
    token = stack.client.create_token()["id"]
    run_id, seconds = frozen_before_its_time(
        stack, lambda seconds: stack.trigger("limited", {"token_id": token, "seconds": seconds})
    )
    output = stack.output(run_id)
    assert output["answer"] == "timed out"
    assert seconds <= output["loop"] <= output["wall"] + 0.1
    assert "run.resumed" in stack.kinds(run_id)
    stack.assert_nothing_left()


@pytest.mark.criu
def test_an_answer_that_comes_before_the_limit_counts(stack: Stack) -> None:
    """BB3: first of token or time-out."""
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("limited", {"token_id": token, "seconds": 3600.0})
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(token, "in time")
    assert stack.output(run_id)["answer"] == "in time"


@pytest.mark.criu
def test_waits_have_deadlines_of_their_own(stack: Stack) -> None:
    """BB3: timeouts on each wait; what was waited for goes on."""
    token = stack.client.create_token()["id"]
    other = stack.trigger("waits_for_token", {"journal": str(stack.journal()), "token_id": token})
    payload = {"token_id": token, "run_id": other}
    run_id, _ = frozen_before_its_time(
        stack, lambda seconds: stack.trigger("waits_with_limits", payload | {"seconds": seconds}), times=2
    )
    assert stack.output(run_id) == ["TokenTimeout", "WaitTimeout"]
    assert stack.kinds(run_id).count("run.resumed") == 2
    stack.client.complete_token(token, "late")
    assert stack.output(other) == "late"


@pytest.mark.criu
@pytest.mark.parametrize("task", ["waits_in_threads", "pool_of_waits"])
def test_waits_in_threads_are_frozen_and_frozen_again(stack: Stack, task: str) -> None:
    """BB3: to_thread, a pool and a plain thread."""
    first, second = (stack.client.create_token()["id"] for _ in range(2))
    run_id = stack.trigger(task, {"first": first, "second": second})
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(first, 1)
    stack.await_event(run_id, "run.suspended", count=2)
    stack.client.complete_token(second, 2)
    assert stack.output(run_id) == ([1, 2] if task == "waits_in_threads" else ["1", "1", "2"])
    stack.assert_nothing_left()


@pytest.mark.criu
def test_runs_that_wait_for_each_other_are_told(stack: Stack) -> None:
    """BB12: the one that closes the circle; the other gets its output."""
    runs = [stack.trigger("waits_for_run", str(stack.journal(name))) for name in ("first", "second")]
    put(stack.journal("first"), runs[1])
    stack.await_event(runs[0], "run.waiting")
    put(stack.journal("second"), runs[0])
    told = stack.output(runs[1])
    assert told.startswith(f"told: {runs[1]} waits for {runs[0]}, which waits for {runs[1]}")
    assert stack.output(runs[0]) == told


def test_another_attempt_does_not_wait_again(stack: Stack) -> None:
    """W6: a time wait with an idempotency key."""
    run_id = stack.trigger("waits_once", str(stack.journal()))
    stack.output(run_id)
    assert stack.lines() == ["attempt 1", "attempt 2"]
    assert stack.kinds(run_id).count("run.waiting") == 1


def test_an_approval_is_given_by_a_person(stack: Stack) -> None:
    run_id = stack.trigger("approval")
    [token] = eventually(
        lambda: [token for token in stack.client.tokens(status="WAITING") if run_id in token["runIds"]],
        what="the approval is open",
    )
    assert token["title"] == "Ship it?"
    assert token["context"] == {"cost": 3}
    stack.client.approve(token["id"], True, by="ann")
    assert stack.output(run_id) == {"approved": True, "by": "ann"}


def test_a_token_that_nobody_completes_times_out(stack: Stack) -> None:
    assert stack.output(stack.trigger("times_out")) == "TokenTimeout"


def test_an_exception_is_tried_again_by_policy(stack: Stack) -> None:
    run_id = stack.trigger("flaky", str(stack.journal()))
    assert stack.output(run_id) == 3
    assert stack.lines() == ["attempt 1", "attempt 2", "attempt 3"]
    assert stack.run(run_id)["attemptCount"] == 3


def test_abort_ends_without_another_attempt(stack: Stack) -> None:
    run = stack.await_end(stack.trigger("aborts"))
    assert (run["status"], run["attemptCount"]) == ("FAILED", 1)
    assert run["error"]["message"] == "no use trying"
    assert "tasks.py" in run["error"]["stackTrace"]
    assert "session.py" not in run["error"]["stackTrace"]


@pytest.mark.criu
def test_large_values_go_through_the_object_store(stack: Stack) -> None:
    """G14: a payload, an output, and the answer to a run that was frozen."""
    text = "x" * 700_000
    assert stack.output(stack.trigger("doubles", text)) == text * 2
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("waits_for_token", {"journal": str(stack.journal()), "token_id": token})
    stack.await_event(run_id, "run.suspended")
    stack.client.complete_token(token, text)
    assert stack.output(run_id) == text


def test_an_output_that_is_too_large_is_the_tasks_error(stack: Stack) -> None:
    run = stack.await_end(stack.trigger("large_output", 40))
    assert (run["status"], run["attemptCount"], run["error"]["name"]) == ("FAILED", 1, "OutputError")


def test_a_canceled_run_ends_wherever_it_is(stack: Stack) -> None:
    token = stack.client.create_token()["id"]
    running = stack.trigger("busy", str(stack.journal()))
    waiting = stack.trigger("waits_for_token", {"journal": str(stack.journal("w")), "token_id": token})
    eventually(lambda: stack.lines() == ["busy 1"], what="user code runs")
    stack.await_event(waiting, "run.waiting")
    for run_id in (running, waiting):
        stack.client.cancel(run_id)
    for run_id in (running, waiting):
        eventually(lambda run_id=run_id: stack.status(run_id) == "CANCELED", what="it has ended")
    stack.client.complete_token(token, 1)
    stack.assert_nothing_left()
    assert stack.lines("w") == ["before"]


def test_code_that_blocks_the_loop_is_no_stall(stack: Stack) -> None:
    """BB8: heartbeats come from the supervisor, for longer than a lease lasts without one."""
    run_id = stack.trigger("blocks_the_loop", str(stack.journal()))
    eventually(lambda: stack.lines() == ["blocked"], what="its loop is blocked")
    lease_is_over = last_seen(stack) + timedelta(seconds=4)
    eventually(lambda: last_seen(stack) > lease_is_over, what="the worker is heard of", interval_s=0.2)
    stack.journal("journal.go").touch()
    assert stack.output(run_id) == "done"
    assert "run.rescued" not in stack.kinds(run_id)


def last_seen(stack: Stack) -> datetime:
    [worker] = stack.client.workers()
    return datetime.fromisoformat(worker["seenAt"])


def test_what_runs_when_its_worker_is_stopped_goes_on_in_the_next(stack: Stack) -> None:
    run_id = stack.trigger("busy", str(stack.journal()))
    eventually(lambda: stack.lines() == ["busy 1"], what="user code runs")
    stack.stop_worker()
    assert "run.moved" in stack.kinds(run_id)
    assert not stack.processes(naming="torpor run")
    stack.start_worker()
    eventually(lambda: stack.process_of(run_id), what="it goes on")
    stack.journal("journal.go").touch()
    stack.output(run_id)
    assert stack.lines() == ["busy 1"]
    stack.assert_nothing_left()


def test_every_line_is_told_in_order_however_many(stack: Stack) -> None:
    run_id = stack.trigger("prints_much", 30_000)
    stack.output(run_id)
    told = [line["message"].split()[1] for line in stack.client.logs(run_id)]
    assert told == [str(number) for number in range(30_000)]


def test_a_forged_log_line_costs_nobody_anything(stack: Stack) -> None:
    run_id = stack.trigger("forges_log_lines")
    assert stack.output(run_id) == "told"
    assert stack.run(run_id)["attemptCount"] == 1
    assert len(list(stack.client.logs(run_id))) >= 4


@pytest.mark.criu
def test_a_parent_is_frozen_until_its_batch_has_ended(stack: Stack) -> None:
    """B4, G3, BB24: it wakes once, with all results in order, whatever became of each."""
    token = stack.client.create_token()["id"]
    run_id = stack.trigger("batch_parent", {"journal": str(stack.journal()), "count": 20, "token_id": token})
    stack.await_event(run_id, "run.suspended")
    eventually(lambda: stack.process_of(run_id) is None, what="its process is gone")
    [batch] = stack.events(run_id, "batch.sealed")
    eventually(
        lambda: sum(run["isCompleted"] for run in stack.client.runs(batch=batch["batch_id"])) == 20,
        what="all but one have ended",
    )
    assert "run.resuming" not in stack.kinds(run_id)
    stack.client.complete_token(token, "done")
    squares = [f"not {number}" if number % 3 == 0 else number * number for number in range(20)]
    assert stack.output(run_id) == [*squares, "done"]
    assert stack.kinds(run_id).count("run.resuming") == 1
    assert stack.client.batch(batch["batch_id"])["status"] == "COMPLETED"
    stack.assert_nothing_left()

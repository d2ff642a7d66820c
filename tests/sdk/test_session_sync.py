"""Blocking tasks: no event loop, no thread of ours; whoever waits reads."""

import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from fake_supervisor import Supervisor, json, until_let_go_on

from torpor import TokenTimeout, task
from torpor.sync import create_token, wait
from torpor.wire.runner import Answer, Block, Call, Result, StayingAwake, Suspend


def test_a_blocking_task_waits_freezes_and_goes_on_twice(supervisor: Supervisor) -> None:
    @task
    def nap(month: str) -> str:
        kept = [month]
        wait.for_(hours=6)
        kept.append("slept")
        wait.until(datetime(2030, 1, 1, tzinfo=UTC))
        return " ".join(kept)

    supervisor.start(nap, "May")
    for kind in (21600.0, None):
        block = supervisor.expect(Block)
        (new,) = block.waits
        assert (block.idle, new.duration_s) == (True, kind)
        supervisor.suspend()
        assert supervisor.wake(Answer(new.wait_id, "completed")).open_waits == [new.wait_id]
    assert supervisor.output_of_run() == "May slept"


def test_an_answer_while_in_memory_ends_a_blocking_wait(supervisor: Supervisor) -> None:
    @task
    def ask() -> object:
        token = create_token(timeout="1h", tags="t")
        assert token.public_access_token == "a token for a page"
        return wait.for_token(token)

    supervisor.start(ask)
    made = {"waitpoint_id": "waitpoint_1", "url": "http://x", "public_token": "a token for a page"}
    asked = supervisor.reply("create_token", made)
    assert (asked["timeout_s"], asked["tags"]) == (3600, ["t"])
    supervisor.answer(supervisor.expect_idle().waits[0].wait_id, {"paid": True})
    assert supervisor.output_of_run() == {"paid": True}


def test_a_blocking_task_triggers_and_waits(supervisor: Supervisor) -> None:
    @task
    def child(a: int, b: int) -> int:
        return a + b

    @task
    def parent() -> int:
        return child.sync.trigger_and_wait(1, b=2)

    supervisor.start(parent)
    assert supervisor.reply("trigger", {"run_id": "run_c"})["payload"] == {"a": 1, "b": 2}
    supervisor.answer(supervisor.expect_idle().waits[0].wait_id, 3)
    assert supervisor.output_of_run() == 3


def test_threads_of_a_blocking_task_may_wait_side_by_side(supervisor: Supervisor) -> None:
    @task
    def threaded() -> list[str]:
        done: list[str] = []

        def other() -> None:
            wait.for_(hours=1)
            done.append("other")
            wait.for_(hours=3)
            done.append("other again")

        thread = threading.Thread(target=other)
        thread.start()
        until_let_go_on(supervisor.directory)
        wait.for_(hours=2)
        done.append("main")
        thread.join()
        return done

    supervisor.start(threaded)
    block = supervisor.expect(Block)
    assert not block.idle
    assert re.match(r"the main thread is at work at (test_session_sync|fake_supervisor)\.py:", block.blockers[0])
    (other,) = block.waits
    supervisor.lets_go_on()
    (main,) = supervisor.expect_idle().waits
    supervisor.suspend()
    supervisor.wake(Answer(other.wait_id, "completed"))
    (again,) = supervisor.expect_idle().waits
    supervisor.suspend()
    supervisor.wake(Answer(main.wait_id, "completed"))
    supervisor.expect_idle()  # it joins the other, which alone can end that
    supervisor.suspend()
    supervisor.wake(Answer(again.wait_id, "completed"))
    assert supervisor.output_of_run() == ["other", "main", "other again"]


def test_a_run_that_calls_the_server_meanwhile_stays_awake(supervisor: Supervisor) -> None:
    @task
    def child() -> None: ...

    @task
    def threaded() -> None:
        thread = threading.Thread(target=child.sync.trigger)
        thread.start()
        until_let_go_on(supervisor.directory)
        wait.for_(hours=2)
        thread.join()

    supervisor.start(threaded)
    call = supervisor.expect(Call)
    supervisor.lets_go_on()
    block = supervisor.expect(Block)
    assert not block.idle
    supervisor.send(Suspend())
    assert supervisor.expect(StayingAwake).reasons
    supervisor.send(Result(call.call_id, True, b'{"run_id":"r"}'))  # pyright: ignore[reportArgumentType]
    assert supervisor.expect_idle().waits == []
    supervisor.answer(block.waits[0].wait_id)
    assert supervisor.finished().ok


def test_a_wait_thrown_out_of_by_a_signal_handler_is_dropped(supervisor: Supervisor) -> None:
    @task
    def alarmed() -> str:
        def ring(*_: object) -> None:
            raise TimeoutError("ring")

        signal.signal(signal.SIGALRM, ring)
        try:
            wait.for_(hours=1)
        except TimeoutError:
            wait.for_(hours=2)
        return "rung"

    supervisor.start(alarmed)
    (first,) = supervisor.expect_idle().waits
    os.kill(supervisor.pid, signal.SIGALRM)
    block = supervisor.expect(Block)
    assert block.dropped == [first.wait_id]
    supervisor.answer((block.waits or supervisor.expect_idle().waits)[0].wait_id)
    assert supervisor.output_of_run() == "rung"


def test_a_pool_of_threads_that_wait_is_frozen_as_a_whole(supervisor: Supervisor) -> None:
    """BB3: ThreadPoolExecutor.map over child runs, in a blocking task, more than it has threads."""

    @task
    def child(number: int) -> int:
        return number

    @task
    def maps() -> list[int]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(child.sync.trigger_and_wait, [1, 2, 3]))

    supervisor.start(maps)
    for nth in range(2):
        supervisor.reply_to_trigger(f"run_{nth}")
    opened = supervisor.expect_idle_with(2)
    supervisor.suspend()
    supervisor.wake(Answer(opened[0].wait_id, "completed", json(10)))
    supervisor.reply_to_trigger("run_2")
    (third,) = supervisor.expect_idle_with(1)
    supervisor.suspend()
    supervisor.wake(Answer(opened[1].wait_id, "completed", json(20)), Answer(third.wait_id, "completed", json(30)))
    assert sorted(supervisor.output_of_run()) == [10, 20, 30]


def test_a_thread_at_work_is_named_and_the_run_is_frozen_when_it_is_done(supervisor: Supervisor) -> None:
    """BB3: a wait in the main thread, while a plain thread works."""

    @task
    def threaded() -> str:
        def crunch() -> None:
            begun.set()
            until_let_go_on(supervisor.directory)

        begun = threading.Event()
        threading.Thread(target=crunch, name="cruncher").start()
        begun.wait()
        wait.for_(hours=1)
        return "done"

    supervisor.start(threaded)
    block = supervisor.expect(Block)
    assert not block.idle
    assert re.match(r"thread 'cruncher' is at work at (test_session_sync|fake_supervisor)\.py:", block.blockers[0])
    supervisor.lets_go_on()
    assert supervisor.expect_idle().waits == []
    supervisor.suspend()
    supervisor.wake(Answer(block.waits[0].wait_id, "completed"))
    assert supervisor.output_of_run() == "done"


def test_a_daemon_thread_is_frozen_along(supervisor: Supervisor) -> None:
    @task
    def threaded() -> str:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        wait.for_(hours=1)
        return "done"

    supervisor.start(threaded)
    block = supervisor.expect(Block)
    assert block.idle
    supervisor.suspend()
    supervisor.wake(Answer(block.waits[0].wait_id, "completed"))
    assert supervisor.output_of_run() == "done"


def test_blocking_waits_have_deadlines_and_keys_as_well(supervisor: Supervisor) -> None:
    """W6, BB3: the blocking twins."""

    @task
    def limited() -> str:
        wait.for_("1h", idempotency_key="k")
        try:
            wait.for_token("waitpoint_1", timeout="1m")
        except TokenTimeout:
            return str(wait.for_run("run_1", timeout="2m"))
        return ""

    supervisor.start(limited)
    (new,) = supervisor.expect_idle().waits
    assert new.idempotency_key
    supervisor.answer(new.wait_id)
    (new,) = supervisor.expect_idle().waits
    assert new.timeout_s == 60
    supervisor.answer(new.wait_id, status="timed_out")
    (new,) = supervisor.expect_idle().waits
    assert (new.kind, new.timeout_s) == ("run", 120)
    supervisor.answer(new.wait_id, 7)
    assert supervisor.output_of_run() == "7"

"""The run is asked to end: what user code sees of it, and what becomes of the run."""

import asyncio
import os
import threading
import time

import pytest
from fake_supervisor import Supervisor

from torpor import RunCanceled, task
from torpor import wait as awaited
from torpor.sdk.canceling import INTERRUPT
from torpor.sync import wait
from torpor.wire.runner import Answer, Cancel, Finished

CANCEL = Cancel("too dear")


def cancel(supervisor: Supervisor) -> None:
    """As a worker does: the message, then the signal for code that reads no messages."""
    supervisor.send(CANCEL)
    os.kill(supervisor.pid, INTERRUPT)


def test_an_async_task_gets_CancelledError_where_it_awaits(supervisor: Supervisor) -> None:
    @task
    async def nap() -> str:
        try:
            await awaited.for_(hours=1)
        except asyncio.CancelledError as error:
            print("cleaning up after", error)
            raise
        return "slept"

    supervisor.start(nap)
    (new,) = supervisor.expect_idle().waits
    cancel(supervisor)
    done = supervisor.finished()
    assert (done.ok, done.canceled, done.error, done.retryable) == (False, True, None, False)
    assert "cleaning up after too dear" in supervisor.output()
    assert new.wait_id


def test_its_wait_is_dropped_and_its_cleanup_may_wait_and_trigger(supervisor: Supervisor) -> None:
    @task
    async def refund() -> None: ...

    @task
    async def nap() -> None:
        try:
            await awaited.for_(hours=1)
        finally:
            await refund.trigger()
            await awaited.for_(seconds=5)

    supervisor.start(nap)
    (new,) = supervisor.expect_idle().waits
    cancel(supervisor)
    supervisor.reply("trigger", {"run_id": "run_refund"})
    block = supervisor.expect_idle()
    assert (block.dropped, block.waits[0].duration_s) == ([new.wait_id], 5)
    supervisor.answer(block.waits[0].wait_id)
    assert supervisor.finished().canceled


def test_an_async_task_that_swallows_it_is_canceled_all_the_same(supervisor: Supervisor) -> None:
    @task
    async def stubborn() -> str:
        try:
            print("sleeping")
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            print("no")
        return "done"

    supervisor.start(stubborn)
    supervisor.until_says("sleeping")
    cancel(supervisor)
    done = supervisor.finished()
    assert (done.ok, done.canceled) == (False, True)


def test_an_error_of_the_cleanup_is_told(supervisor: Supervisor) -> None:
    @task
    async def clumsy() -> None:
        try:
            await awaited.for_(hours=1)
        finally:
            raise ValueError("cleanup failed")

    supervisor.start(clumsy)
    supervisor.expect_idle()
    cancel(supervisor)
    done = supervisor.finished()
    assert done.canceled
    assert done.error is not None
    assert done.error.message == "cleanup failed"


def test_BB8_a_sync_task_that_computes_is_interrupted(supervisor: Supervisor) -> None:
    """BB8: code that blocks is no stall: it is told even while it never looks."""

    @task
    def spin() -> int:
        print("spinning")
        count = 0
        try:
            while True:
                count += 1
        except RunCanceled as canceled:
            print("stopped:", canceled.reason)
            raise

    supervisor.start(spin)
    supervisor.until_says("spinning")
    cancel(supervisor)
    assert supervisor.finished().canceled
    assert "stopped: too dear" in supervisor.output()


def test_a_sync_task_that_sleeps_is_interrupted(supervisor: Supervisor) -> None:
    @task
    def doze() -> None:
        print("dozing")
        time.sleep(3600)

    supervisor.start(doze)
    supervisor.until_says("dozing")
    cancel(supervisor)
    assert supervisor.finished().canceled


def test_a_sync_wait_raises_and_the_cleanup_may_wait(supervisor: Supervisor) -> None:
    @task
    def nap() -> None:
        try:
            wait.for_(hours=1)
        except RunCanceled as canceled:
            print("cleaning up after", canceled.reason)
            wait.for_(seconds=5)
            print("cleaned up")
            raise

    supervisor.start(nap)
    (new,) = supervisor.expect_idle().waits
    cancel(supervisor)
    block = supervisor.expect_idle()
    assert block.dropped == [new.wait_id]
    supervisor.answer(block.waits[-1].wait_id)
    assert supervisor.finished().canceled
    assert "cleaning up after too dear\ncleaned up" in supervisor.output()


def test_except_Exception_does_not_stop_it(supervisor: Supervisor) -> None:
    @task
    def careless() -> None:
        while True:
            try:
                print("turning")
                time.sleep(0.01)
            except Exception:  # noqa: BLE001 - the point
                print("swallowed")

    supervisor.start(careless)
    supervisor.until_says("turning")
    cancel(supervisor)
    assert supervisor.finished().canceled
    assert "swallowed" not in supervisor.output()


def test_it_comes_once_however_often_it_is_sent(supervisor: Supervisor) -> None:
    @task
    def careful() -> str:
        try:
            wait.for_(hours=1)
        except RunCanceled:
            time.sleep(0.5)
            print("not disturbed")
        return "swallowed"

    supervisor.start(careful)
    supervisor.expect_idle()
    for _ in range(3):
        cancel(supervisor)
    assert supervisor.finished().canceled
    assert "not disturbed" in supervisor.output()


def test_threads_that_wait_are_told_too(supervisor: Supervisor) -> None:
    @task
    def threaded() -> None:
        def other() -> None:
            try:
                wait.for_(hours=2)
            except RunCanceled:
                print("thread told")

        thread = threading.Thread(target=other)
        thread.start()
        try:
            wait.for_(hours=1)
        finally:
            thread.join()

    supervisor.start(threaded)
    supervisor.expect_idle_with(2)
    cancel(supervisor)
    assert supervisor.finished().canceled
    assert "thread told" in supervisor.output()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_request_that_crosses_with_a_freeze_is_heard_after_it(supervisor: Supervisor, kind: str) -> None:
    @task
    def nap() -> None:
        wait.for_(hours=1)

    @task
    async def async_nap() -> None:
        await awaited.for_(hours=1)

    supervisor.start(nap if kind == "sync" else async_nap)
    supervisor.expect_idle()
    supervisor.suspend()
    os.kill(supervisor.pid, INTERRUPT)  # meant for the process before it stood still
    supervisor.wake(restored=False)
    cancel(supervisor)
    assert supervisor.finished().canceled


def test_who_is_done_already_is_not_disturbed(supervisor: Supervisor) -> None:
    @task
    def quick() -> str:
        return "done"

    supervisor.start(quick)
    done = supervisor.expect(Finished)
    cancel(supervisor)
    assert done.ok
    time.sleep(0.2)
    from torpor.wire.runner import Finishing

    supervisor.send(Finishing())
    assert supervisor.exit_code() == 0


def test_a_request_with_the_answer_counts(supervisor: Supervisor) -> None:
    """Both arrive in one packet: the wait has its answer, and the run is to end all the same."""

    @task
    def nap() -> str:
        wait.for_(hours=1)
        print("went on")
        return "slept"

    from torpor.wire.runner import Answers

    supervisor.start(nap)
    (new,) = supervisor.expect_idle().waits
    supervisor.send(Answers([Answer(new.wait_id, "completed")]), CANCEL)
    os.kill(supervisor.pid, INTERRUPT)
    assert supervisor.finished().canceled
    assert "went on" not in supervisor.output()

"""Hooks in the run's own process, and in one that is there only for them."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fake_supervisor import Supervisor, context, json

from torpor import AbortRun, RunFailed, app, current, task, wait
from torpor.sdk.canceling import INTERRUPT
from torpor.sync import wait as blocking_wait
from torpor.wire.runner import Answer, Begin, Block, Cancel, Hello, HookCall, StayingAwake, Suspend, TaskError


@pytest.fixture(autouse=True)
def _own_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_hooks", {})


def lines(supervisor: Supervisor) -> list[str]:
    return [line for line in supervisor.output().splitlines() if line.startswith("- ")]


def telling(hooked: Any, whose: str) -> None:
    """Hooks of every kind that say what they were given."""

    @hooked.middleware
    def around(payload: object) -> Iterator[None]:
        print("-", whose, "around", payload)
        try:
            yield
        finally:
            print("-", whose, "around ends")

    @hooked.on_start
    def start() -> None:
        print("-", whose, "start", current.attempt)

    @hooked.on_success
    def success(output: object) -> None:
        print("-", whose, "success", output)

    @hooked.on_failure
    async def failure(error: BaseException, payload: object) -> None:
        await asyncio.sleep(0)
        print("-", whose, "failure", repr(error), payload)

    @hooked.on_cancel
    def cancel(reason: str | None) -> None:
        print("-", whose, "cancel", reason)

    @hooked.on_complete
    def complete(status: str) -> None:
        print("-", whose, "complete", status)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_T10_hooks_are_called_in_order_the_apps_around_the_tasks(supervisor: Supervisor, kind: str) -> None:
    """T10, T11: hooks of a task and of the app, with middleware, in a run that completes."""

    def half(n: int) -> int:
        print("- works")
        return n // 2

    async def async_half(n: int) -> int:
        return half(n)

    made: Any = task(half if kind == "sync" else async_half)
    telling(app, "app")
    telling(made, "task")
    supervisor.start(made, 14)
    assert supervisor.finished().ok
    assert lines(supervisor) == [
        "- app around 14",
        "- task around 14",
        "- app start 1",
        "- task start 1",
        "- works",
        "- task around ends",
        "- app around ends",
        "- task success 7",
        "- app success 7",
        "- task complete COMPLETED",
        "- app complete COMPLETED",
    ]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_T10_on_failure_is_called_for_the_last_attempt_only(supervisor: Supervisor, kind: str) -> None:
    """T10: a failure that will be tried again is none yet."""

    @task(id="sync")
    def fails(n: int) -> None:
        raise ValueError("no")

    @task(id="async")
    async def fails_async(n: int) -> None:
        raise ValueError("no")

    made: Any = fails if kind == "sync" else fails_async
    telling(made, "task")
    supervisor.start(made, 7, attempt=1, max_attempts=2)
    done = supervisor.finished()
    assert (done.hooks, done.retryable) == ([], True)
    assert not [line for line in lines(supervisor) if "failure" in line or "complete" in line]


@pytest.mark.parametrize("is_last", [False, True])
def test_which_attempt_is_the_last_is_told_anew_after_a_restore(supervisor: Supervisor, is_last: bool) -> None:
    """A fork of a run in its last attempt is in its first; a run that crashed comes back in a later one."""

    @task
    async def fails(token: str) -> None:
        await wait.for_token(token)
        raise ValueError("no")

    telling(fails, "task")
    supervisor.start(fails, "waitpoint_1", attempt=1 if is_last else 2, max_attempts=2)
    [waiting] = supervisor.expect(Block).waits
    supervisor.suspend()
    now = context(attempt=2 if is_last else 1, max_attempts=2)
    supervisor.wake(Answer(waiting.wait_id, "completed"), context=now)
    assert supervisor.finished().hooks == (["on_failure"] if is_last else [])


@pytest.mark.parametrize(("error", "attempt"), [(ValueError("no"), 3), (AbortRun("no"), 1)])
def test_on_failure_gets_the_exception_itself(supervisor: Supervisor, error: Exception, attempt: int) -> None:
    @task
    async def fails(n: int) -> None:
        raise error

    telling(fails, "task")
    supervisor.start(fails, 7, attempt=attempt)
    assert supervisor.finished().hooks == ["on_failure"]
    assert lines(supervisor)[-2:] == [f"- task failure {error!r} 7", "- task complete FAILED"]


def test_a_payload_that_does_not_fit_is_told_as_it_came(supervisor: Supervisor) -> None:
    @task
    async def fails(n: int) -> None: ...

    @fails.on_failure
    def tell(error: BaseException, payload: object) -> None:
        print("-", type(error).__name__, payload)

    supervisor.start(fails, "seven")
    assert not supervisor.finished().ok
    assert lines(supervisor) == ["- PayloadError seven"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_on_cancel_is_called_in_the_process_that_was_asked(supervisor: Supervisor, kind: str) -> None:
    @task(id="sync")
    def naps() -> None:
        blocking_wait.for_(hours=1)

    @task(id="async")
    async def naps_async() -> None:
        await wait.for_(hours=1)

    made: Any = naps if kind == "sync" else naps_async

    @made.on_cancel
    async def undo(reason: str) -> None:
        await asyncio.sleep(0.01)
        await wait.for_(seconds=3)
        print("- undone:", reason)

    supervisor.start(made)
    supervisor.expect_idle()
    supervisor.send(Cancel("too dear"))
    os.kill(supervisor.pid, INTERRUPT)
    supervisor.answer(supervisor.expect_idle().waits[-1].wait_id)
    done = supervisor.finished()
    assert (done.canceled, done.hooks) == (True, ["on_cancel"])
    assert lines(supervisor) == ["- undone: too dear"]


def test_what_a_hook_raises_changes_nothing_and_is_logged(supervisor: Supervisor) -> None:
    @task
    async def fine() -> str:
        return "fine"

    @fine.on_success
    def broken() -> None:
        raise SystemExit(3)

    @fine.on_complete
    def after() -> None:
        print("- after")

    supervisor.start(fine)
    assert supervisor.output_of_run() == "fine"
    assert "on_success hook" in supervisor.output()
    assert "SystemExit" in supervisor.output()
    assert lines(supervisor) == ["- after"]


def test_what_on_start_and_middleware_raise_fails_the_attempt(supervisor: Supervisor) -> None:
    @task
    async def never() -> None:
        print("- not reached")

    @never.on_start
    def refuse() -> None:
        raise RuntimeError("not today")

    supervisor.start(never)
    done = supervisor.finished()
    assert done.error is not None
    assert (done.error.message, done.retryable, lines(supervisor)) == ("not today", True, [])


def test_T11_an_async_middleware_sees_what_the_task_raises(supervisor: Supervisor) -> None:
    """T11: it wraps the run, and may turn one error into another."""

    @task
    async def fails() -> None:
        raise KeyError("a")

    @fails.middleware
    async def translated() -> AsyncIterator[None]:
        await asyncio.sleep(0)
        try:
            yield
        except KeyError as error:
            raise AbortRun("translated") from error

    supervisor.start(fails)
    done = supervisor.finished()
    assert done.error is not None
    assert (done.error.name, done.retryable) == ("AbortRun", False)


def test_an_async_middleware_of_the_app_says_that_it_cannot_wrap_a_sync_task(supervisor: Supervisor) -> None:
    @task
    def plain() -> None: ...

    @app.middleware
    async def around() -> AsyncIterator[None]:
        yield

    supervisor.start(plain)
    done = supervisor.finished()
    assert done.error is not None
    assert "plain generator" in done.error.message
    with pytest.raises(TypeError, match="plain generator"):
        plain.middleware(around)


def test_what_a_hook_cannot_have_is_refused_where_it_is_written() -> None:
    @task
    def work() -> None: ...

    with pytest.raises(TypeError, match="wants 'result': it may ask for output and payload"):

        @work.on_success
        def success(result: object) -> None: ...

    with pytest.raises(TypeError, match="takes no parameters"):

        @work.on_suspend
        def suspend(payload: object) -> None: ...

    with pytest.raises(TypeError, match="generator"):

        @work.middleware
        def around() -> None: ...


def test_BB13_the_manifest_says_which_ends_need_a_process() -> None:
    """BB13: only those for which something is to be called."""

    @task
    def plain() -> None: ...

    @task
    def careful() -> None: ...

    @careful.on_failure
    def tell() -> None: ...

    assert (plain.manifest().hooks, careful.manifest().hooks) == ([], ["on_failure"])

    @app.on_complete
    def always() -> None: ...

    assert plain.manifest().hooks == ["on_failure", "on_cancel"]


# -- a process that is there for hooks only ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_BB13_a_fresh_process_calls_the_hooks_of_a_run_that_is_over(supervisor: Supervisor, kind: str) -> None:
    """BB13: with that run's context, payload and error; the task's function isn't called."""

    @task(id="sync")
    def work(n: int) -> None:
        print("- not reached")

    @task(id="async")
    async def work_async(n: int) -> None:
        print("- not reached")

    made: Any = work if kind == "sync" else work_async

    @made.on_failure
    async def tell(error: RunFailed, payload: int) -> None:
        assert error.error is not None
        print("-", current.run_id, error.run_id, error.status, error.error["name"], payload)

    @made.on_complete
    def after(status: str) -> None:
        print("- after", status)

    from fake_supervisor import _perform

    supervisor.start_doing(lambda: _perform(supervisor.path, made))
    supervisor.accept()
    supervisor.expect(Hello)
    call = HookCall("on_failure", "run_hook", TaskError("ProcessDied", "killed"), "CRASHED")
    supervisor.send(Begin(context(run_id="run_dead"), json(7), hook=call))
    assert supervisor.finished().ok
    assert lines(supervisor) == ["- run_dead run_dead CRASHED ProcessDied 7", "- after CRASHED"]


def test_a_hook_that_fails_there_fails_its_run_to_be_tried_again(supervisor: Supervisor) -> None:
    @task
    async def work() -> None: ...

    @work.on_cancel
    def broken() -> None:
        raise OSError("mail server down")

    from fake_supervisor import _perform

    supervisor.start_doing(lambda: _perform(supervisor.path, work))
    supervisor.accept()
    supervisor.expect(Hello)
    supervisor.send(Begin(context(), json(None), hook=HookCall("on_cancel", "run_hook", reason="no")))
    done = supervisor.finished()
    assert (done.ok, done.retryable) == (False, True)
    assert done.error is not None
    assert done.error.message == "mail server down"


# -- around a freeze --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_T10_what_on_suspend_closes_is_not_frozen_and_on_resume_comes_first(supervisor: Supervisor, kind: str) -> None:
    """T10: before descriptors are looked at, and before user code goes on; of sync and async tasks."""
    state: dict[str, Any] = {}

    @task(id="sync")
    def naps() -> str:
        state["pipe"] = os.pipe()  # of no use in an image
        blocking_wait.for_(hours=1)
        print("- went on with", state["pipe"])
        return "done"

    @task(id="async")
    async def naps_async() -> str:
        state["pipe"] = os.pipe()
        await wait.for_(hours=1)
        print("- went on with", state["pipe"])
        return "done"

    made: Any = naps if kind == "sync" else naps_async

    @made.on_suspend
    async def close() -> None:
        await asyncio.sleep(0.05)
        for number in state.pop("pipe"):
            os.close(number)
        print("- closed")

    @made.on_resume
    async def reopen() -> None:
        await asyncio.sleep(0.05)
        state["pipe"] = "a new one"
        print("- opened")

    supervisor.start(made)
    (new,) = supervisor.expect_idle().waits
    supervisor.suspend()
    assert lines(supervisor) == ["- closed"]
    supervisor.wake(Answer(new.wait_id, "completed"))
    assert supervisor.output_of_run() == "done"
    assert lines(supervisor) == ["- closed", "- opened", "- went on with a new one"]


def test_hooks_around_a_freeze_can_neither_wait_nor_trigger(supervisor: Supervisor) -> None:
    @task
    async def naps() -> None:
        await wait.for_(hours=1)

    @naps.on_suspend
    async def waits() -> None:
        await wait.for_(hours=2)

    supervisor.start(naps)
    (new,) = supervisor.expect_idle().waits
    supervisor.suspend()
    assert "can neither wait nor trigger" in supervisor.output()
    supervisor.wake(Answer(new.wait_id, "completed"))
    assert supervisor.finished().ok


def test_an_answer_during_on_suspend_is_given_after_on_resume(supervisor: Supervisor) -> None:
    @task
    async def naps() -> None:
        await wait.for_(hours=1)
        print("- went on")

    @naps.on_suspend
    async def slow() -> None:
        while not (supervisor.directory / "go").exists():
            await asyncio.sleep(0.01)
        print("- closed")

    @naps.on_resume
    def opened() -> None:
        print("- opened")

    supervisor.start(naps)
    (new,) = supervisor.expect_idle().waits
    supervisor.send(Suspend())
    supervisor.answer(new.wait_id)
    supervisor.lets_go_on()
    assert supervisor.expect(StayingAwake).moved
    assert supervisor.finished().ok
    assert lines(supervisor) in (["- closed", "- opened", "- went on"], ["- went on"])

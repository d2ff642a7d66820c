"""What user code returned or raised, as it is told."""

import asyncio
import sys

import pytest
from fake_supervisor import Supervisor

from torpor import AbortRun, Retry, task, wait
from torpor.errors import WaitCycle
from torpor.sdk import outcome
from torpor.wire.runner import Finished


def of(perform: object) -> Finished:
    return outcome.decide(perform)  # pyright: ignore[reportArgumentType]


def test_an_exception_is_told_with_the_authors_own_frames() -> None:
    def inner() -> bytes:
        raise ValueError("no")

    def outer() -> bytes:
        try:
            return inner()
        except ValueError as error:
            raise RuntimeError("outer") from error

    finished = of(outer)
    assert (finished.ok, finished.retryable) == (False, True)
    assert finished.error is not None
    assert (finished.error.name, finished.error.message) == ("RuntimeError", "outer")
    assert finished.error.stack_trace.endswith("RuntimeError: outer")
    assert "outcome.py" not in finished.error.stack_trace.replace("test_outcome.py", "")
    (cause,) = finished.error.causes
    assert (cause.name, cause.message) == ("ValueError", "no")
    assert "in inner" in cause.stack_trace


@pytest.mark.parametrize(
    ("code", "message"),
    [(3, "the task called sys.exit(3)"), (None, "the task called sys.exit()"), ("x", "the task called sys.exit('x')")],
)
def test_leaving_the_process_is_a_failure_told_as_such(code: object, message: str) -> None:
    finished = of(lambda: sys.exit(code))  # pyright: ignore[reportArgumentType]
    assert finished.error is not None
    assert finished.error.message == message
    assert finished.retryable


def test_abort_run_is_not_tried_again() -> None:
    def leave() -> bytes:
        raise AbortRun("left")

    assert not of(leave).retryable


def test_a_circle_of_waits_is_not_closed_again() -> None:
    """BB12: another attempt would wait for the same runs, which wait for this one."""

    def wait_for_each_other() -> bytes:
        raise WaitCycle("run_a waits for run_b, which waits for run_a: none of them could ever go on")

    assert not of(wait_for_each_other).retryable


def test_members_of_a_group_are_told() -> None:
    def several() -> bytes:
        raise ExceptionGroup("both", [ValueError("a"), KeyError("b")])

    error = of(several).error
    assert error is not None
    assert [cause.name for cause in error.causes] == ["ValueError", "KeyError"]


def test_an_exception_that_cannot_be_shown_is_still_told() -> None:
    class Mean(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def fail() -> bytes:
        raise Mean

    error = of(fail).error
    assert error is not None
    assert (error.name, error.message) == ("Mean", "<its text could not be made: RuntimeError>")


def test_causes_that_go_in_a_circle_end() -> None:
    def circle() -> bytes:
        first, second = ValueError("1"), ValueError("2")
        first.__cause__, second.__cause__ = second, first
        raise first

    error = of(circle).error
    assert error is not None
    assert error.causes[0].causes == []


def test_endless_recursion_and_lone_surrogates_are_told() -> None:
    def deep() -> bytes:
        return deep()

    def odd() -> bytes:
        raise ValueError("\ud800")

    assert (of(deep).error or pytest.fail("no error")).name == "RecursionError"
    assert (of(odd).error or pytest.fail("no error")).message == "?"


def test_frames_of_asyncio_are_left_out(supervisor: Supervisor) -> None:
    @task
    async def late() -> None:
        async with asyncio.timeout(0.01):
            await wait.for_(hours=1)

    supervisor.start(late)
    outcome = supervisor.finished()
    assert outcome.error is not None
    assert outcome.error.name == "TimeoutError"
    lines = [line for line in outcome.error.stack_trace.splitlines() if line.startswith("  File")]
    assert all("test_outcome.py" in line for line in lines)


@pytest.mark.parametrize(
    ("payload", "retryable", "name"),
    [({"a": "x"}, False, "PayloadError"), ({"a": 1}, False, "OutputError"), ({"a": 0}, True, "SystemExit")],
)
def test_misfits_end_a_run_without_another_attempt(
    supervisor: Supervisor, payload: object, retryable: bool, name: str
) -> None:
    @task
    async def t(a: int, b: int = 0) -> str:
        if not a:
            sys.exit(1)
        return a  # type: ignore

    supervisor.start(t, payload)
    outcome = supervisor.finished()
    assert (outcome.ok, outcome.retryable) == (False, retryable)
    assert outcome.error is not None
    assert outcome.error.name == name


def test_a_retry_that_makes_no_sense_is_refused() -> None:
    policy = Retry(max_attempts=2, min_delay="2s", max_delay=90, factor=3, jitter=False).policy
    assert (policy.min_delay_s, policy.max_delay_s, policy.factor, policy.jitter) == (2, 90, 3, False)
    for wrong in ({"max_attempts": 0}, {"min_delay": -1}, {"factor": 0.5}, {"min_delay": "2m"}, {"min_delay": "soon"}):
        with pytest.raises(ValueError, match=r"Retry|duration"):
            Retry(**wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="on_oom"):
        Retry(on_oom=8)  # pyright: ignore[reportArgumentType]
    assert Retry(on_oom="large-1x").policy.on_oom == "large-1x"

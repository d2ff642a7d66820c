"""`retry` around plain calls."""

import asyncio
from typing import Any

import pytest
from fake_supervisor import Supervisor

from torpor import AbortRun, retry, task


def failing(times: int, error: Exception) -> Any:
    tried: list[int] = []

    def call() -> int:
        tried.append(1)
        if len(tried) <= times:
            raise error
        return len(tried)

    return call


def test_T14_a_call_is_tried_again_until_it_works() -> None:
    """T14: the `retry` around plain calls, sync and async."""
    assert retry(min_delay=0)(failing(2, OSError("no")))() == 3

    call = failing(1, OSError("no"))

    @retry(min_delay=0)
    async def works(extra: int) -> int:
        await asyncio.sleep(0)
        return call() + extra

    assert asyncio.run(works(extra=10)) == 12


def test_its_last_error_comes_out() -> None:
    call = failing(9, OSError("no"))
    with pytest.raises(OSError, match="no"):
        retry(max_attempts=2, min_delay=0)(call)()


@pytest.mark.parametrize("retry_on", [KeyError, (KeyError, IndexError), lambda error: "yes" in str(error)])
def test_only_what_is_wanted_is_tried_again(retry_on: Any) -> None:
    with pytest.raises(ValueError, match="no"):
        retry(min_delay=0, retry_on=retry_on)(failing(1, ValueError("no")))()
    assert retry(min_delay=0, retry_on=retry_on)(failing(1, KeyError("yes")))() == 2


def test_AbortRun_is_never_tried_again() -> None:
    with pytest.raises(AbortRun):
        retry(min_delay=0)(failing(1, AbortRun("enough")))()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="retry\\(max_attempts=0\\)"):
        retry(max_attempts=0)
    with pytest.raises(TypeError, match="retry_on"):
        retry(retry_on=KeyboardInterrupt)  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_long_pause_in_a_run_is_a_wait(supervisor: Supervisor, kind: str) -> None:
    call = failing(1, OSError("no"))
    patient = retry(min_delay="1h", max_delay="1h", jitter=False)

    @task(id="sync")
    def work() -> int:
        return patient(call)()

    @task(id="async")
    async def work_async() -> int:
        async def awaited() -> int:
            return call()

        return await patient(awaited)()

    supervisor.start(work if kind == "sync" else work_async)
    (new,) = supervisor.expect_idle().waits
    assert new.duration_s == 3600
    supervisor.answer(new.wait_id)
    assert supervisor.output_of_run() == 2

"""`torpor.retry`: try a plain call again, inside of a run or anywhere else. (`Retry` is what tries whole attempts again.)

Between two tries a long pause is a wait, so that the run can be frozen meanwhile; a short one is slept.
"""

import functools
import inspect
import random
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, overload

from torpor.errors import AbortRun
from torpor.sdk import running
from torpor.sdk.retry import Retry

F = TypeVar("F", bound=Callable[..., Any])
RetryOn = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]

WAIT_FROM_S = 5.0
"""A pause of a run that is at least so long is a wait. (A shorter wait would be held in memory as well.)"""


@overload
def retry(function: F, /) -> F: ...
@overload
def retry(
    *,
    max_attempts: int = 3,
    min_delay: str | float | timedelta = "1s",
    max_delay: str | float | timedelta = "1m",
    factor: float = 2.0,
    jitter: bool = True,
    retry_on: RetryOn = Exception,
) -> Callable[[F], F]: ...
def retry(
    function: Callable[..., Any] | None = None,
    /,
    *,
    max_attempts: int = 3,
    min_delay: str | float | timedelta = "1s",
    max_delay: str | float | timedelta = "1m",
    factor: float = 2.0,
    jitter: bool = True,
    retry_on: RetryOn = Exception,
) -> Any:
    """Make a function, async or not, that is tried again when it raises. `AbortRun` is never tried again.

    Args:
        max_attempts: all tries together, the first one included.
        min_delay: the pause after the first: text such as "1s", seconds, or a timedelta.
        max_delay: no pause is longer.
        factor: each pause is this many times the one before.
        jitter: stretch pauses at random, up to twice as long (but not beyond `max_delay`).
        retry_on: which exceptions: a type, a tuple of types, or a function that says so.

    Raises:
        ValueError, TypeError: an argument makes no sense.

    Example:
        >>> from torpor import retry
        >>> @retry(max_attempts=5, min_delay=0, retry_on=(ConnectionError, TimeoutError))
        ... def fetch(url: str, tried: list[str]) -> int:
        ...     tried.append(url)
        ...     if len(tried) < 3:
        ...         raise ConnectionError(url)
        ...     return len(tried)
        >>> fetch("http://example.com", [])
        3
    """
    try:
        policy = Retry(max_attempts, min_delay, max_delay, factor, jitter).policy
    except ValueError as error:
        raise ValueError(str(error).replace("Retry(", "retry(", 1)) from None
    is_wanted = _wanted(retry_on)

    def pause_s(error: Exception, tried: int) -> float | None:
        """Before the next try; None: there is none."""
        if tried >= policy.max_attempts or isinstance(error, AbortRun) or not is_wanted(error):
            return None
        # Beyond this many doublings and the like it is the maximum in any case; a float has an end.
        delay_s = policy.min_delay_s * policy.factor ** min(tried - 1, 60)
        return min(delay_s * (1.0 + random.random() * policy.jitter), policy.max_delay_s)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(function):
            raise TypeError(f"retry takes a function, not {function!r}")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def tried_again(*args: Any, **kwargs: Any) -> Any:
                tried = 0
                while True:
                    try:
                        return await function(*args, **kwargs)
                    except Exception as error:
                        tried += 1
                        delay_s = pause_s(error, tried)
                        if delay_s is None:
                            raise
                    await _pause(delay_s)

            return tried_again

        @functools.wraps(function)
        def tried_again_blocking(*args: Any, **kwargs: Any) -> Any:
            tried = 0
            while True:
                try:
                    return function(*args, **kwargs)
                except Exception as error:
                    tried += 1
                    delay_s = pause_s(error, tried)
                    if delay_s is None:
                        raise
                _pause_blocking(delay_s)

        return tried_again_blocking

    return decorate if function is None else decorate(function)


def _wanted(retry_on: Any) -> Callable[[Exception], bool]:
    types = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    if all(isinstance(each, type) and issubclass(each, Exception) for each in types):
        return lambda error: isinstance(error, types)
    if callable(retry_on) and not isinstance(retry_on, type):
        return lambda error: bool(retry_on(error))
    raise TypeError(f"retry(retry_on={retry_on!r}): an exception type, a tuple of them, or a function is needed")


async def _pause(delay_s: float) -> None:
    if running.session is not None and delay_s >= WAIT_FROM_S:
        from torpor.sdk import wait

        await wait.for_(delay_s)
    else:
        import asyncio

        await asyncio.sleep(delay_s)


def _pause_blocking(delay_s: float) -> None:
    asyncio = sys.modules.get("asyncio")
    is_in_loop = asyncio is not None and asyncio._get_running_loop() is not None
    if running.session is not None and delay_s >= WAIT_FROM_S and not is_in_loop:
        from torpor.sdk import sync_wait

        sync_wait.for_(delay_s)
    else:
        time.sleep(delay_s)

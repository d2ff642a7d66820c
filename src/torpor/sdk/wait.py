"""`torpor.wait`: leave memory until something has happened, and go on with the next line.

Each of these blocks the asyncio task that awaits it. When all of a run's asyncio tasks and threads are blocked like that, the
whole process is frozen to disk; it costs nothing until an answer comes. `torpor.sync.wait` has the same for blocking code.

A wait may have a deadline of its own: `for_token(timeout=…)`, `for_run(timeout=…)`, `for_approval(timeout=…)`. What asyncio
offers works as well: `asyncio.timeout` and `asyncio.wait_for` count wall time, also while the run is frozen.

Example:
    >>> from torpor import task, wait
    >>> @task
    ... async def follow_up(name: str) -> str:
    ...     await wait.for_(days=3)
    ...     approval = await wait.for_approval(f"Write to {name} again?", timeout="1d")
    ...     return "written" if approval else "let go"
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from torpor.sdk import running, waits
from torpor.sdk.runs import Run
from torpor.sdk.waits import Approval, Duration, Key, Token

__all__ = ["Approval", "Token", "for_", "for_approval", "for_run", "for_token", "until"]

T = TypeVar("T")


async def for_(
    duration: Duration | None = None,
    *,
    weeks: float = 0,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
    idempotency_key: str | None = None,
    idempotency_key_ttl: Duration | None = None,
) -> None:
    """Wait for a length of time, by the server's clock.

    Args:
        duration: text such as "2h30m" (units w, d, h, m, s), a number of seconds, or a timedelta. Or by name:
        weeks, days, hours, minutes, seconds: they are added up.
        idempotency_key: the same key in the same run is the same wait: an attempt that comes here again goes on at once, or
            waits for the rest.
        idempotency_key_ttl: for how long the key stands. Default: 30 days.

    Raises:
        NotInRun: called outside a run.
        TypeError: neither or both ways were used.
        ValueError: the duration is negative, longer than a century, or can't be read.

    Example:
        >>> from torpor import wait
        >>> async def remind() -> None:
        ...     await wait.for_("2h30m")
        ...     await wait.for_(days=1, hours=12)
    """
    key = Key(idempotency_key, idempotency_key_ttl)
    await _enter("wait.for_()", waits.for_(duration, weeks, days, hours, minutes, seconds, key))


async def until(
    instant: datetime, *, idempotency_key: str | None = None, idempotency_key_ttl: Duration | None = None
) -> None:
    """Wait until a point in time. One that is past is no wait at all.

    Args:
        instant: with a time zone.
        idempotency_key, idempotency_key_ttl: as for `for_`.

    Raises:
        NotInRun: called outside a run.
        ValueError: the datetime has no time zone, so it could mean any.

    Example:
        >>> from datetime import UTC, datetime
        >>> async def greet() -> None:
        ...     await wait.until(datetime(2027, 1, 1, tzinfo=UTC))
    """
    await _enter("wait.until()", waits.until(instant, Key(idempotency_key, idempotency_key_ttl)))


async def for_token(token: Token | str, *, timeout: Duration | datetime | None = None) -> Any:
    """Wait until someone outside completes a token (see `create_token`).

    Args:
        token: the token, or its id.
        timeout: how long, or until when, to wait here. The token itself may have less, and may be completed later.

    Returns:
        What it was completed with: plain JSON.

    Raises:
        NotInRun: called outside a run.
        TokenTimeout: the token's time ran out, or that of this wait.

    Example:
        >>> from torpor import create_token
        >>> async def order() -> str:
        ...     token = await create_token(timeout="1d")
        ...     print("the shop calls", token.url)
        ...     return (await wait.for_token(token))["status"]
    """
    return await _enter("wait.for_token()", waits.for_token(token, timeout))


async def for_run(run: Run | str, *, timeout: Duration | datetime | None = None) -> Any:
    """Wait until a run has ended that was triggered before, here or elsewhere.

    Args:
        run: what `trigger` returned, or a run's id.
        timeout: how long, or until when, to wait here. The run itself goes on.

    Returns:
        Its output. For a `Run` of a task that is defined here as the task returns it; else plain JSON.

    Raises:
        NotInRun: called outside a run, where `Client.result` waits.
        RunFailed: the run did not complete; its own error is inside.
        WaitTimeout: the time ran out.
        WaitCycle: that run waits for this one.

    Example:
        >>> from torpor import task, wait
        >>> @task
        ... async def count(words: str) -> int:
        ...     return len(words.split())
        >>> async def later() -> int:
        ...     run = await count.trigger("one two")
        ...     print("counting")
        ...     return await wait.for_run(run, timeout="1h")
    """
    return await _enter("wait.for_run()", waits.for_any_run(run, timeout))


async def for_approval(
    title: str,
    *,
    timeout: Duration | datetime | None = None,
    context: Any = None,
    tags: str | Sequence[str] | None = None,
    idempotency_key: str | None = None,
    idempotency_key_ttl: Duration | None = None,
) -> Approval:
    """Ask a person, and wait for the answer.

    Args:
        title: the question, in one line.
        timeout: how long, or until when, an answer is waited for; without it, for ever.
        context: what the person should see to decide; anything that can be JSON.
        tags: to find it again.
        idempotency_key: the same key in the same run asks once: an attempt that comes here again waits for the same answer.
        idempotency_key_ttl: for how long the key stands. Default: 30 days.

    Returns:
        The answer. It counts as true when approved, as false when rejected or timed out.

    Raises:
        NotInRun: called outside a run.

    Example:
        >>> async def publish(draft: str) -> str:
        ...     approval = await wait.for_approval("Publish the draft?", timeout="2d", context={"draft": draft})
        ...     return f"published by {approval.by}" if approval else "dropped"
    """
    session = running.required("wait.for_approval()")
    token = waits.token(
        await session.call(
            "create_token",
            waits.approval_call(title, timeout, context, tags, Key(idempotency_key, idempotency_key_ttl)),
        )
    )
    return await _enter("wait.for_approval()", waits.for_approval(token))


async def create_token(
    *,
    timeout: Duration | datetime | None = None,
    tags: str | Sequence[str] | None = None,
    idempotency_key: str | None = None,
    idempotency_key_ttl: Duration | None = None,
) -> Token:
    """Make a token that someone outside completes: a webhook, another program, a person. Works outside of runs, too.

    Args:
        timeout: how long, or until when, it may be completed; without it, for ever.
        tags: to find it again.
        idempotency_key: the same key gives the same token, so that a retried run doesn't make a second one. In a run a key
            is the run's own.
        idempotency_key_ttl: for how long the key stands. Default: 30 days.

    Raises:
        ApiError: the server refused; ConnectionFailed: outside of a run, it could not be reached.
        ConfigError: outside of a run, no secret key is set.

    Example:
        >>> async def ask() -> str:
        ...     token = await create_token(timeout="1h", idempotency_key="order-7")
        ...     return token.url
    """
    call = waits.token_call(timeout, tags, Key(idempotency_key, idempotency_key_ttl))
    if running.session is not None or running.is_fork:
        return waits.token(await running.required("create_token()").call("create_token", call))
    from torpor.sdk.kept_client import kept_async

    client = await kept_async()
    made = await client.create_token(
        timeout, tags=call.tags, idempotency_key=idempotency_key, idempotency_key_ttl=idempotency_key_ttl
    )
    return waits.token_of_client(made)


async def _enter(what: str, request: waits.Request[T]) -> T:
    return request.read(await running.required(what).wait(request.new))

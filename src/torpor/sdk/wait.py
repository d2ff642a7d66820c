"""`torpor.wait`: leave memory until something has happened, and go on with the next line.

Each of these blocks the asyncio task that awaits it. When all of a run's asyncio tasks are blocked like that, the whole
process is frozen to disk; it costs nothing until an answer comes. `torpor.sync.wait` has the same for blocking code.

A deadline belongs to the wait itself: `create_token(timeout=…)`, `for_approval(timeout=…)`. `asyncio.timeout` and
`asyncio.wait_for` around a wait stand still while the run is frozen: they count only the time in memory, so a limit of an
hour does not end a wait of a week.

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
from torpor.sdk.waits import Approval, Duration, Token

__all__ = ["Approval", "Token", "for_", "for_approval", "for_token", "until"]

T = TypeVar("T")


async def for_(
    duration: Duration | None = None,
    *,
    weeks: float = 0,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
) -> None:
    """Wait for a length of time, by the server's clock.

    Args:
        duration: text such as "2h30m" (units w, d, h, m, s), a number of seconds, or a timedelta. Or by name:
        weeks, days, hours, minutes, seconds: they are added up.

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
    await _enter("wait.for_()", waits.for_(duration, weeks, days, hours, minutes, seconds))


async def until(instant: datetime) -> None:
    """Wait until a point in time. One that is past is no wait at all.

    Args:
        instant: with a time zone.

    Raises:
        NotInRun: called outside a run.
        ValueError: the datetime has no time zone, so it could mean any.

    Example:
        >>> from datetime import UTC, datetime
        >>> async def greet() -> None:
        ...     await wait.until(datetime(2027, 1, 1, tzinfo=UTC))
    """
    await _enter("wait.until()", waits.until(instant))


async def for_token(token: Token | str) -> Any:
    """Wait until someone outside completes a token (see `create_token`).

    Args:
        token: the token, or its id.

    Returns:
        What it was completed with: plain JSON.

    Raises:
        NotInRun: called outside a run.
        TokenTimeout: the token's time ran out.

    Example:
        >>> from torpor import create_token
        >>> async def order() -> str:
        ...     token = await create_token(timeout="1d")
        ...     print("the shop calls", token.url)
        ...     return (await wait.for_token(token))["status"]
    """
    return await _enter("wait.for_token()", waits.for_token(token))


async def for_approval(
    title: str,
    *,
    timeout: Duration | datetime | None = None,
    context: Any = None,
    tags: str | Sequence[str] | None = None,
) -> Approval:
    """Ask a person, and wait for the answer.

    Args:
        title: the question, in one line.
        timeout: how long, or until when, an answer is waited for; without it, for ever.
        context: what the person should see to decide; anything that can be JSON.
        tags: to find it again.

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
    token = waits.token(await session.call("create_token", waits.approval_call(title, timeout, context, tags)))
    return await _enter("wait.for_approval()", waits.for_approval(token))


async def create_token(
    *,
    timeout: Duration | datetime | None = None,
    tags: str | Sequence[str] | None = None,
    idempotency_key: str | None = None,
) -> Token:
    """Make a token that someone outside completes: a webhook, another program, a person. Works outside of runs, too.

    Args:
        timeout: how long, or until when, it may be completed; without it, for ever.
        tags: to find it again.
        idempotency_key: the same key gives the same token, so that a retried run doesn't make a second one.

    Raises:
        ApiError: the server refused; ConnectionFailed: outside of a run, it could not be reached.
        ConfigError: outside of a run, no secret key is set.

    Example:
        >>> async def ask() -> str:
        ...     token = await create_token(timeout="1h", idempotency_key="order-7")
        ...     return token.url
    """
    call = waits.token_call(timeout, tags, idempotency_key)
    if running.session is not None or running.is_fork:
        return waits.token(await running.required("create_token()").call("create_token", call))
    from torpor.sdk.kept_client import kept_async

    client = await kept_async()
    return waits.token_of_client(await client.create_token(timeout, tags=call.tags, idempotency_key=idempotency_key))


async def _enter(what: str, request: waits.Request[T]) -> T:
    return request.read(await running.required(what).wait(request.new))

"""`torpor.sync.wait`: the waits of `torpor.wait` for code that does not await. Each blocks its thread.

The process is frozen all the same. In an async task these are for functions in other threads; in its event loop they
raise BlockingInLoop, since they would stop everything else there.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from torpor.sdk import running, waits
from torpor.sdk.runs import Run
from torpor.sdk.waits import Approval, Duration, Key, Token

__all__ = ["Approval", "Token", "for_", "for_approval", "for_run", "for_token", "until"]

T = TypeVar("T")


def for_(
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
    """Wait for a length of time, by the server's clock. As `torpor.wait.for_`, blocking.

    Raises:
        NotInRun: called outside a run.
        BlockingInLoop: called in a running event loop.
        TypeError, ValueError: the duration can't be used.

    Example:
        >>> from torpor.sync import wait
        >>> def remind() -> None:
        ...     wait.for_(hours=6)
    """
    key = Key(idempotency_key, idempotency_key_ttl)
    _enter("wait.for_()", waits.for_(duration, weeks, days, hours, minutes, seconds, key))


def until(
    instant: datetime, *, idempotency_key: str | None = None, idempotency_key_ttl: Duration | None = None
) -> None:
    """Wait until a point in time, given with a time zone. As `torpor.wait.until`, blocking.

    Raises:
        NotInRun: called outside a run.
        BlockingInLoop: called in a running event loop.
        ValueError: the datetime has no time zone.

    Example:
        >>> from datetime import UTC, datetime
        >>> def greet() -> None:
        ...     wait.until(datetime(2027, 1, 1, tzinfo=UTC))
    """
    _enter("wait.until()", waits.until(instant, Key(idempotency_key, idempotency_key_ttl)))


def for_token(token: Token | str, *, timeout: Duration | datetime | None = None) -> Any:
    """Wait until someone outside completes a token; returns what with. As `torpor.wait.for_token`, blocking.

    Raises:
        NotInRun: called outside a run.
        BlockingInLoop: called in a running event loop.
        TokenTimeout: the token's time ran out, or that of this wait.

    Example:
        >>> from torpor.sync import create_token
        >>> def order() -> str:
        ...     return wait.for_token(create_token(timeout="1d"))["status"]
    """
    return _enter("wait.for_token()", waits.for_token(token, timeout))


def for_run(run: Run | str, *, timeout: Duration | datetime | None = None) -> Any:
    """Wait until a run has ended; returns its output. As `torpor.wait.for_run`, blocking.

    Raises:
        NotInRun: called outside a run.
        BlockingInLoop: called in a running event loop.
        RunFailed, WaitTimeout, WaitCycle: there is no output, or not yet.

    Example:
        >>> def output(run_id: str) -> object:
        ...     return wait.for_run(run_id, timeout="1h")
    """
    return _enter("wait.for_run()", waits.for_any_run(run, timeout))


def for_approval(
    title: str,
    *,
    timeout: Duration | datetime | None = None,
    context: Any = None,
    tags: str | Sequence[str] | None = None,
    idempotency_key: str | None = None,
    idempotency_key_ttl: Duration | None = None,
) -> Approval:
    """Ask a person, and wait for the answer. As `torpor.wait.for_approval`, blocking.

    Raises:
        NotInRun: called outside a run.
        BlockingInLoop: called in a running event loop.

    Example:
        >>> def publish() -> bool:
        ...     return bool(wait.for_approval("Publish the draft?", timeout="2d"))
    """
    session = running.required("wait.for_approval()")
    _not_in_loop("wait.for_approval()")
    call = waits.approval_call(title, timeout, context, tags, Key(idempotency_key, idempotency_key_ttl))
    token = waits.token(session.call_blocking("create_token", call))
    return _enter("wait.for_approval()", waits.for_approval(token))


def create_token(
    *,
    timeout: Duration | datetime | None = None,
    tags: str | Sequence[str] | None = None,
    idempotency_key: str | None = None,
    idempotency_key_ttl: Duration | None = None,
) -> Token:
    """Make a token that someone outside completes. As `torpor.create_token`, blocking.

    Raises:
        BlockingInLoop: called in a running event loop.
        ApiError: the server refused; ConnectionFailed: outside of a run, it could not be reached.
        ConfigError: outside of a run, no secret key is set.

    Example:
        >>> def ask() -> str:
        ...     return create_token(timeout="1h", idempotency_key="order-7").url
    """
    _not_in_loop("create_token()")
    call = waits.token_call(timeout, tags, Key(idempotency_key, idempotency_key_ttl))
    if running.session is not None or running.is_fork:
        return waits.token(running.required("create_token()").call_blocking("create_token", call))
    from torpor.sdk.kept_client import kept

    made = kept().create_token(
        timeout, tags=call.tags, idempotency_key=idempotency_key, idempotency_key_ttl=idempotency_key_ttl
    )
    return waits.token_of_client(made)


def _enter(what: str, request: waits.Request[T]) -> T:
    session = running.required(what)
    _not_in_loop(what)
    return request.read(session.wait_blocking(request.new))


def _not_in_loop(what: str) -> None:
    running.refuse_in_loop(f"torpor.sync.{what}")

"""Torpor's exceptions, in one tree.

Exception
  TorporError                    anything we raise on purpose
    ConfigError                  a setting is missing or wrong; the message names it and the fix
    NotInRun                     something that only works inside a run was called outside
    NotYet                       a documented option that this version does not carry out
    PayloadError                 arguments don't fit the task's signature; `.path` and `.problems` say where
    OutputError                  a task's return value doesn't fit its annotation or can't be JSON
    AbortRun                     raised by user code: end the run now, without another attempt
    RunFailed                    a run that was waited for did not complete; `.run_id`, `.status`, `.error`
    TokenTimeout                 a wait token's time ran out
    BlockingInLoop               a torpor.sync call inside a running event loop: await the other one
    ApiError                     the server said no; `.status`, `.body`
      Unauthorized (401)  NotFound (404)  Unprocessable (422)  RateLimited (429)  ServerError (5xx)
    ConnectionFailed             the server could not be reached
    CriuError                    CRIU could not dump or restore; `.reason` is in plain words
    ImageDamaged                 a checkpoint image failed verification; it is never restored
"""

from typing import Any


class TorporError(Exception):
    """Anything that Torpor raises on purpose."""


class ConfigError(TorporError):
    """A setting is missing or wrong. The message names the setting and the fix."""


class NotInRun(TorporError):
    """Called outside a run, where there is nothing to wait for."""


class NotYet(TorporError):
    """A documented option which this version does not carry out; it is refused rather than ignored."""


class PayloadError(TorporError):
    """The arguments don't fit the task's signature.

    Attributes:
        problems: one `{"path": "user.email", "message": "…"}` per misfit.
    """

    def __init__(self, message: str, problems: list[dict[str, str]] | None = None) -> None:
        super().__init__(message)
        self.problems = problems or []


class OutputError(TorporError):
    """A task's return value doesn't fit its annotation, or can't be written as JSON."""


class AbortRun(TorporError):
    """Raise it in a task to end the run now: it fails without another attempt.

    Example:
        >>> raise AbortRun("the customer has left")
        Traceback (most recent call last):
        torpor.errors.AbortRun: the customer has left
    """


class RunFailed(TorporError):
    """A run that was waited for ended without an output.

    Attributes:
        run_id: the run that failed.
        status: its final status, such as `FAILED` or `CANCELED`.
        error: the run's own error: `{"name", "message", "stackTrace"}`, or None (a canceled run has none).
    """

    def __init__(self, run_id: str, status: str, error: dict[str, Any] | None = None) -> None:
        told = f"{error['name']}: {error['message']}" if error else "no error was recorded"
        super().__init__(f"run {run_id} ended {status} ({told})")
        self.run_id = run_id
        self.status = status
        self.error = error


class TokenTimeout(TorporError):
    """A wait token was not completed in time.

    Attributes:
        token_id: the token.
    """

    def __init__(self, token_id: str) -> None:
        super().__init__(f"wait token {token_id} was not completed in time")
        self.token_id = token_id


class BlockingInLoop(TorporError):
    """A blocking call of `torpor.sync` was made inside a running event loop, which it would stop. Await the other one."""


class ApiError(TorporError):
    """The server refused a request.

    Attributes:
        status: the HTTP status.
        body: the parsed JSON body, if there was one; `body["error"]` is the message.
    """

    def __init__(self, status: int, message: str, body: Any = None) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.body = body


class Unauthorized(ApiError):
    """401: no key, or one that the server does not know."""


class NotFound(ApiError):
    """404: no such run, token or task; for a task, `body["near"]` holds similar names."""


class Unprocessable(ApiError):
    """422: the request is understood and wrong; `body["problems"]` says where."""


class RateLimited(ApiError):
    """429: too many requests."""


class ServerError(ApiError):
    """5xx: the server's own trouble; the request may be repeated."""


class ConnectionFailed(TorporError):
    """The server could not be reached. The message names the URL."""


class CriuError(TorporError):
    """CRIU could not dump or restore.

    Attributes:
        reason: in plain words, what stopped it: which descriptor, process or kernel feature.
        log: the last lines of CRIU's own log.
    """

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.log = log


class ImageDamaged(TorporError):
    """A checkpoint image failed verification: it was changed, cut short or isn't ours. It is never restored."""

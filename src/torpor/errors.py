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
    WaitTimeout                  a wait's own time ran out
      TokenTimeout               a wait token's time ran out, or that of the wait for it
    WaitCycle                    the runs would wait for each other for ever
    BlockingInLoop               a torpor.sync call inside a running event loop: await the other one
    ApiError                     the server said no; `.status`, `.body`
      Unauthorized (401)  Forbidden (403)  NotFound (404)  Unprocessable (422)  RateLimited (429)  ServerError (5xx)
    ConnectionFailed             the server could not be reached
    CriuError                    CRIU could not dump or restore; `.reason` is in plain words
    ImageDamaged                 a checkpoint image failed verification; it is never restored
      ImageMissing               part of it is not in the object store
    MemoryLost                   a process was restored before its memory, and could not be given the rest of it
BaseException
  RunCanceled                    the run was asked to end (sync tasks; async ones get asyncio.CancelledError)
"""

from typing import Any


class TorporError(Exception):
    """Anything that Torpor raises on purpose.

    Example:
        >>> issubclass(RunFailed, TorporError)
        True
    """


class ConfigError(TorporError):
    """A setting is missing or wrong. The message names the setting and the fix.

    Example:
        >>> from torpor.config import Settings
        >>> Settings.from_environment({"TORPOR_PORT": "http"})
        Traceback (most recent call last):
        torpor.errors.ConfigError: TORPOR_PORT='http' can't be used: it should be a whole number
    """


class NotInRun(TorporError):
    """Called outside a run, where there is nothing to wait for.

    Example:
        >>> from torpor.sync import wait
        >>> try:
        ...     wait.for_(hours=6)
        ... except NotInRun:
        ...     print("only a worker can perform this")
        only a worker can perform this
    """


class NotYet(TorporError):
    """A documented option which this version does not carry out; it is refused rather than ignored.

    Example:
        >>> from torpor.errors import NotYet, TorporError
        >>> issubclass(NotYet, TorporError)
        True
    """


class PayloadError(TorporError):
    """The arguments don't fit the task's signature.

    Attributes:
        problems: one `{"path": "user.email", "message": "…"}` per misfit.

    Example:
        >>> from torpor import task
        >>> @task
        ... def area(width: float, height: float) -> float:
        ...     return width * height
        >>> try:
        ...     area.sync.trigger(width="wide", height=2)
        ... except PayloadError as error:
        ...     print([problem["path"] for problem in error.problems])
        ['width']
    """

    def __init__(self, message: str, problems: list[dict[str, str]] | None = None) -> None:
        super().__init__(message)
        self.problems = problems or []


class OutputError(TorporError):
    """A task's return value doesn't fit its annotation, or can't be written as JSON. The run fails at once.

    Example:
        >>> from torpor import task
        >>> @task
        ... def length(text: str) -> int:
        ...     return text  # the mistake
        >>> length.write_output("abc")  # what a run does with the return value
        Traceback (most recent call last):
        torpor.errors.OutputError: task 'length': output: Input should be a valid integer, unable to parse string as an integer
    """


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

    Example:
        >>> from torpor import task
        >>> @task
        ... async def charge(order: str) -> str: ...
        >>> @task
        ... async def checkout(order: str) -> str:
        ...     try:
        ...         return await charge.trigger_and_wait(order)
        ...     except RunFailed as failed:
        ...         return f"not paid: {failed.status}"
    """

    def __init__(self, run_id: str, status: str, error: dict[str, Any] | None = None) -> None:
        told = f"{error['name']}: {error['message']}" if error else "no error was recorded"
        super().__init__(f"run {run_id} ended {status} ({told})")
        self.run_id = run_id
        self.status = status
        self.error = error


class WaitTimeout(TorporError):
    """The time of a wait itself ran out (`timeout=`). What was waited for goes on: it may be waited for again.

    Attributes:
        what: what was waited for.

    Example:
        >>> from torpor import Run, wait
        >>> async def output_or_none(run: Run) -> object:
        ...     try:
        ...         return await wait.for_run(run, timeout="1h")
        ...     except WaitTimeout:
        ...         return None
    """

    def __init__(self, what: str, message: str | None = None) -> None:
        super().__init__(message or f"the wait for {what} timed out")
        self.what = what


class TokenTimeout(WaitTimeout):
    """A wait token was not completed in time: its own time ran out, or that of the wait for it.

    Attributes:
        token_id: the token.

    Example:
        >>> from torpor import create_token, wait
        >>> async def delivered() -> bool:
        ...     token = await create_token(timeout="3d")
        ...     try:
        ...         return await wait.for_token(token)
        ...     except TokenTimeout:
        ...         return False
    """

    def __init__(self, token_id: str) -> None:
        super().__init__(f"wait token {token_id}", f"wait token {token_id} was not completed in time")
        self.token_id = token_id


class WaitCycle(TorporError):
    """This wait would never end: the run that it is for waits for this one, directly or through others.

    The message names the circle. It is raised in the run that would have closed it; the others still wait.

    Example:
        >>> from torpor import task, wait
        >>> @task
        ... async def patient(other: str) -> str:
        ...     try:
        ...         return str(await wait.for_run(other))
        ...     except WaitCycle as error:
        ...         return str(error)  # run_a waits for run_b, which waits for run_a: none of them could ever go on
    """


class BlockingInLoop(TorporError):
    """A blocking call of `torpor.sync` was made inside a running event loop, which it would stop. Await the other one.

    Example:
        >>> import asyncio
        >>> from torpor.sync import create_token
        >>> async def ask() -> None:
        ...     try:
        ...         create_token(timeout="1h")  # the mistake; right: `await torpor.create_token(...)`
        ...     except BlockingInLoop as error:
        ...         print(str(error).partition(":")[0])
        >>> asyncio.run(ask())
        torpor.sync.create_token() would stop the running event loop
    """


class ApiError(TorporError):
    """The server refused a request.

    Attributes:
        status: the HTTP status.
        body: the parsed JSON body, if there was one; `body["error"]` is the message.

    Example:
        >>> raise NotFound(404, 'Task not found: "adder"', {"error": 'Task not found: "adder"', "near": ["add"]})
        Traceback (most recent call last):
        torpor.errors.NotFound: 404: Task not found: "adder"
    """

    def __init__(self, status: int, message: str, body: Any = None) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.body = body


class Unauthorized(ApiError):
    """401: no key, or one that the server does not know."""


class Forbidden(ApiError):
    """403: the key or token is good, but lacks the scope that the message names."""


class NotFound(ApiError):
    """404: no such run, token or task; for a task, `body["near"]` holds similar names."""


class Unprocessable(ApiError):
    """422: the request is understood and wrong; `body["problems"]` says where."""


class RateLimited(ApiError):
    """429: too many requests."""


class ServerError(ApiError):
    """5xx: the server's own trouble; the request may be repeated."""


class ConnectionFailed(TorporError):
    """The server could not be reached. The message names the URL.

    Example:
        >>> from torpor import Client
        >>> def is_up() -> bool:
        ...     try:
        ...         with Client() as client:
        ...             return bool(client.workers())
        ...     except ConnectionFailed:
        ...         return False
    """


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


class ImageMissing(ImageDamaged):
    """A checkpoint image, or a part of it, is not in the object store: it was deleted, or is in another store."""


class MemoryLost(TorporError):
    """A process was restored before its memory, and could not be given the rest of it: it has to be killed."""


class RunCanceled(BaseException):
    """Raised in a sync task when its run is canceled: in the wait that it is blocked in, or wherever its main thread is.

    Clean up in `finally` or an `on_cancel` hook, and let it pass: the run is canceled in any case, and its process is killed
    30 seconds after the request. Like KeyboardInterrupt it is no Exception, so that `except Exception` doesn't stop it.
    Async tasks get asyncio.CancelledError instead.

    Attributes:
        reason: what was said with the request.

    Example:
        >>> from torpor import task
        >>> @task
        ... def crawl(urls: list[str]) -> int:
        ...     done = 0
        ...     try:
        ...         for url in urls:
        ...             done += 1
        ...     except RunCanceled:
        ...         print(f"canceled after {done}")
        ...         raise
        ...     return done
    """

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or "the run was canceled")
        self.reason = reason

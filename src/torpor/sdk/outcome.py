"""The end of an attempt: what user code returned or raised becomes one `Finished`, decided in one place.

A traceback is told as its author knows it. Frames of Torpor and of asyncio above and below their own are left out: they
are the same every time and point at nothing that they could mend.
"""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec

from torpor.errors import AbortRun, OutputError, PayloadError, WaitCycle
from torpor.wire.http import MAX_OUTPUT_BYTES
from torpor.wire.runner import Finished, TaskError

MAX_MESSAGE_CHARS = 16_000
MAX_TRACE_CHARS = 64_000
MAX_CAUSES = 10

_TORPOR = str(Path(__file__).resolve().parent.parent) + os.sep
_ASYNCIO = os.path.join(os.path.dirname(os.path.abspath(os.__file__)), "asyncio") + os.sep


def decide(perform: Callable[[], bytes]) -> Finished:
    """Perform the task and say how it ended. `perform` returns the output as JSON."""
    try:
        return completed(perform())
    except BaseException as error:  # noqa: BLE001 - whatever user code does is an outcome, sys.exit() included
        return failed(error)


def completed(output: bytes) -> Finished:
    """The end of an attempt that returned this, as JSON.

    Raises:
        OutputError: it is too large to be sent.
    """
    if len(output) > MAX_OUTPUT_BYTES:
        raise OutputError(f"the output has {len(output)} bytes of JSON; at most {MAX_OUTPUT_BYTES} can be sent")
    return Finished(ok=True, output=msgspec.Raw(output))


def canceled(done: Finished) -> Finished:
    """The same end, of a run that was asked for it. An error of its own is told; being canceled is none."""
    is_own = done.error is not None and done.error.name not in ("CancelledError", "RunCanceled")
    return Finished(ok=False, error=done.error if is_own else None, retryable=False, canceled=True, hooks=done.hooks)


def failed(error: BaseException) -> Finished:
    """The end of an attempt that raised this."""
    told = tell(error)
    match error:
        case AbortRun() | PayloadError() | OutputError() | WaitCycle():
            return Finished(ok=False, error=told, retryable=False)
        case SystemExit():
            message = f"the task called sys.exit({'' if error.code is None else repr(error.code)})"
            return Finished(ok=False, error=msgspec.structs.replace(told, message=message))
        case KeyboardInterrupt():
            return Finished(ok=False, error=msgspec.structs.replace(told, message="the task was interrupted"))
        case _:
            return Finished(ok=False, error=told)


def tell(error: BaseException) -> TaskError:
    """An exception with the author's own frames, its causes, and the members of a group.

    >>> tell(ValueError("no")).name
    'ValueError'
    """
    return _tell(error, set())


def _tell(error: BaseException, seen: set[int]) -> TaskError:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    within = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    causes: list[TaskError] = []
    for cause in (before, *within):
        if cause is not None and id(cause) not in seen and len(seen) <= MAX_CAUSES:
            causes.append(_tell(cause, seen))
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    message = _message(error)
    return TaskError(kind.__name__, message, _trace(error.__traceback__, name, message), causes)


def _message(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - the author's __str__ must not cost the run its outcome
        message = f"<its text could not be made: {type(broken).__name__}>"
    clean = message.encode("utf-8", "replace").decode()  # lone surrogates can't be JSON
    return clean if len(clean) <= MAX_MESSAGE_CHARS else clean[:MAX_MESSAGE_CHARS] + " … (cut)"


def _trace(start: TracebackType | None, name: str, message: str) -> str:
    frames = traceback.extract_tb(start)
    own = [
        index for index, frame in enumerate(frames) if not frame.filename.startswith((_TORPOR, _ASYNCIO, "<frozen "))
    ]
    if own:
        frames = traceback.StackSummary.from_list(frames[own[0] : own[-1] + 1])
    lines = ["Traceback (most recent call last):\n", *frames.format()] if frames else []
    text = "".join(lines).encode("utf-8", "replace").decode()
    if len(text) > MAX_TRACE_CHARS:
        half = MAX_TRACE_CHARS // 2
        text = f"{text[:half]}\n  … (cut)\n{text[-half:]}"
    return f"{text}{name}: {message}" if message else f"{text}{name}"

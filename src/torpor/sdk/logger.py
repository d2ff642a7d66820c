"""`torpor.logger`: log lines with fields, for the run's trace; and the standard library's logging led the same way.

In a run a line goes to the run's output as one record (`\\x1e`, JSON, newline) in one write, so that lines of threads and
child processes don't mix. Outside, it is plain text on stderr, so that unit tests and scripts need nothing.
"""

import contextlib
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

from torpor.sdk import running

ExcInfo = (
    bool
    | BaseException
    | tuple[type[BaseException], BaseException, TracebackType | None]
    | tuple[None, None, None]
    | None
)

_LEVELS = {10: "debug", 20: "info", 30: "warning", 40: "error"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Logger:
    """Logs lines with fields. Compatible with the standard library's loggers: `%` arguments, `extra=`, `exc_info=`.

    Example:
        >>> from torpor import logger
        >>> logger.info("sent %d mails", 3, campaign="spring")
        >>> logger.warning("slow reply", host="api.example.com", seconds=4.2)
    """

    def debug(self, message: object, *args: object, **fields: Any) -> None:
        """For the author's eyes."""
        self.log(logging.DEBUG, message, *args, **fields)

    def info(self, message: object, *args: object, **fields: Any) -> None:
        """What happened."""
        self.log(logging.INFO, message, *args, **fields)

    def warning(self, message: object, *args: object, **fields: Any) -> None:
        """Something that should be looked at, some day."""
        self.log(logging.WARNING, message, *args, **fields)

    def error(self, message: object, *args: object, **fields: Any) -> None:
        """Something went wrong."""
        self.log(logging.ERROR, message, *args, **fields)

    def exception(self, message: object, *args: object, **fields: Any) -> None:
        """An error with the traceback of the exception that is being handled."""
        self.log(logging.ERROR, message, *args, **{"exc_info": True, **fields})

    critical = fatal = error
    warn = warning

    def log(
        self,
        level: int,
        message: object,
        *args: object,
        exc_info: ExcInfo = None,
        extra: dict[str, Any] | None = None,
        stack_info: bool = False,
        stacklevel: int = 1,
        **fields: Any,
    ) -> None:
        """Log at a numeric level of the standard library.

        Args:
            level: 10 debug, 20 info, 30 warning, 40 error.
            message: text, with `%` placeholders for `args`.
            exc_info: an exception, or True for the one being handled: its traceback is appended.
            extra: more fields.
            stack_info: append where this was called.
            stacklevel: accepted for compatibility.
            **fields: values that go along with the line; anything that can be JSON, else its text.
        """
        text = _text(message, args)
        if exc_info:
            text += "\n" + _traceback(exc_info)
        if stack_info:
            text += "\n" + "".join(traceback.format_stack(sys._getframe(1))).rstrip()
        write(level, text, {**(extra or {}), **fields})


logger = Logger()


def write(level: int, text: str, attributes: dict[str, Any], at: datetime | None = None) -> None:
    """One line: a record for the run's trace, or plain text outside a run. Never raises for what it is given."""
    name = _LEVELS[max(10, min(level // 10 * 10, 40))]
    text = text.encode("utf-8", "replace").decode()
    if running.session is None and not running.is_fork:
        fields = "".join(f" {key}={value!r}" for key, value in attributes.items())
        with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr closed
            print(f"{name.upper():7} {text}{fields}", file=sys.stderr)
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stdout closed or replaced by user code
        sys.stdout.flush()  # what was printed before comes before
    when = (at or datetime.now(UTC)).isoformat()
    record = {"at": when, "level": name, "message": text, "attributes": attributes}
    try:
        line = msgspec.json.encode(record, enc_hook=_plain)
    except (
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
    ):  # keys that aren't text, numbers beyond 64 bits, cycles
        record["attributes"] = {str(key): _or_text(value) for key, value in attributes.items()}
        line = msgspec.json.encode(record)
    with contextlib.suppress(OSError):  # a full disk loses lines, not runs
        os.write(1, b"\x1e" + line + b"\n")


class RunHandler(logging.Handler):
    """Leads records of the standard library's logging to the run's trace, with their `extra` as fields."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception as broken:  # noqa: BLE001 - a wrong placeholder is no reason to fail
            text = f"{record.msg} {record.args} ({broken})"
        if record.exc_info:
            text += "\n" + _traceback(record.exc_info)
        if record.stack_info:
            text += "\n" + record.stack_info
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        write(record.levelno, text, {"logger": record.name, **extra}, datetime.fromtimestamp(record.created, UTC))


def take_over_logging() -> None:
    """In a run: records of all loggers from INFO up go to the trace. User code that has set up logging keeps its own."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(RunHandler())
        if root.level in (logging.NOTSET, logging.WARNING):  # WARNING is what Python starts with
            root.setLevel(logging.INFO)


def _text(message: object, args: tuple[object, ...]) -> str:
    text = str(message)
    if not args:
        return text
    try:
        only = args[0] if len(args) == 1 and isinstance(args[0], dict) and args[0] else args
        return text % only
    except (TypeError, ValueError, KeyError):
        return f"{text} {args!r}"


def _traceback(exc_info: ExcInfo) -> str:
    match exc_info:
        case BaseException():
            error = exc_info
        case (_, error, _):
            pass
        case _:
            error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
    return "".join(traceback.format_exception(error)).rstrip() if error else ""


def _plain(value: Any) -> Any:
    """What msgspec doesn't know: pydantic models dump themselves, everything else is shown."""
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        try:
            return dump(mode="json")
        except Exception:  # noqa: BLE001 - shown as text instead
            return _repr(value)
    return _repr(value)


def _or_text(value: Any) -> Any:
    try:
        return msgspec.Raw(msgspec.json.encode(value, enc_hook=_plain))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return _repr(value)


def _repr(value: Any) -> str:
    try:
        return repr(value).encode("utf-8", "replace").decode()
    except Exception as broken:  # noqa: BLE001 - the author's __repr__ must not cost the line
        return f"<its text could not be made: {type(broken).__name__}>"

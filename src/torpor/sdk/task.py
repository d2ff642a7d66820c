"""`@task`: a function that can also be performed as a run, elsewhere and later.

Calling it is a plain call. What it offers besides, the ways to ask for a run, is in triggering.py.
"""

import functools
import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, Unpack, cast, overload

from torpor.durations import parse_duration
from torpor.errors import ConfigError
from torpor.sdk.checkpoints import Checkpoints
from torpor.sdk.hooks import Hook, Hooked, needed_elsewhere
from torpor.sdk.options import Settings, refuse
from torpor.sdk.payload import Signature
from torpor.sdk.queue import Queue
from torpor.sdk.retry import Retry
from torpor.sdk.triggering import Doors
from torpor.wire.networks import KINDS
from torpor.wire.runner import ScheduleManifest, TaskManifest

P = ParamSpec("P")
R = TypeVar("R")


class Task(Doors[P, R], Hooked):
    """A task: call it like the function it is, or trigger a run of it. Made by `@task`.

    Attributes:
        id: its name on the server.
        function: the function itself.

    Example:
        >>> @task
        ... def double(number: int) -> int:
        ...     return 2 * number
        >>> double(21), double.id
        (42, 'double')
    """

    __name__: str
    __qualname__: str
    """The function's own, like its docstring: by update_wrapper."""

    def __init__(
        self, function: Callable[P, Any], *, id: str | None = None, retry: Retry | None = None, **settings: Any
    ) -> None:
        functools.update_wrapper(cast("Any", self), function)
        name = getattr(function, "__name__", None)
        if id is None and (name is None or name == "<lambda>"):
            raise TypeError('a task without a name of its own needs one: @task(id="…")')
        self.id: str = _checked_id(id if id is not None else str(name))
        self.function = function
        self.is_async: bool = inspect.iscoroutinefunction(function)
        self.retry = retry if retry is not None else Retry()
        self.queue: Queue | None = settings.get("queue")
        self.ttl_s = _seconds("ttl", settings.get("ttl"))
        self.max_duration_s = _seconds("max_duration", settings.get("max_duration"))
        self.checkpoints: Checkpoints = settings.get("checkpoints") or Checkpoints()
        self.network: str | None = settings.get("network")
        self.machine: str | None = settings.get("machine")
        self.signature = Signature(function, f"task {self.id!r}")
        self.schedule: ScheduleManifest | None = None  # by @schedule
        self._task, self._options = self, {}
        self._hooks: dict[str, list[Hook]] = {}
        self._is_async = self.is_async
        _register(self)

    def perform(self, payload: bytes) -> Any:
        """What a run does: call the function with the payload's arguments. For async tasks this returns the coroutine.

        Raises:
            PayloadError: the payload doesn't fit.
        """
        return self.function(**self.signature.read(payload))  # pyright: ignore[reportCallIssue]

    def write_output(self, value: Any) -> bytes:
        """A return value as JSON.

        Raises:
            OutputError: it doesn't fit the annotation.
        """
        return self.signature.write_output(value)

    def warm(self) -> None:
        """Make ready what a run of this task will need, so that no run has to.

        Raises:
            TypeError: an annotation can't be used for JSON.
        """
        self.signature.build()

    def manifest(self) -> TaskManifest:
        """What the platform should know of this task.

        Raises:
            TypeError: an annotation can't be used for JSON, or the clock can't trigger it.
        """
        file, line = self.place
        doc = inspect.getdoc(self.function)
        schema, policy = self.signature.schema(), self.retry.policy
        if self.schedule:
            from torpor.sdk.schedule import check_signature

            check_signature(self)
        return TaskManifest(
            self.id,
            file,
            line,
            self.is_async,
            self.signature.rule,
            schema,
            policy,
            doc,
            queue=self.queue.manifest if self.queue else None,
            ttl_s=self.ttl_s,
            max_duration_s=self.max_duration_s,
            schedule=self.schedule,
            hooks=needed_elsewhere(self),
            checkpoints=self.checkpoints.policy,
            network=self.network,
            machine=self.machine,
        )

    @property
    def place(self) -> tuple[str, int]:
        """File and line of the function."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        return (code.co_filename, code.co_firstlineno) if code else ("", 0)

    def _is_redefined_by(self, other: "Task[..., Any]") -> bool:
        (file, _), (other_file, _) = self.place, other.place
        typed_in = file.startswith("<") or other_file.startswith("<")  # at a prompt, in a notebook or in a doctest
        return typed_in or (file, self.__qualname__) == (other_file, other.__qualname__)

    def __repr__(self) -> str:
        file, line = self.place
        return f"<task {self.id!r} at {Path(file).name}:{line}>"

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled and copied by name, as functions are


class AsyncTask(Task[P, R]):
    """A task from an `async def` function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function, here and now."""
        return self.function(*args, **kwargs)


class SyncTask(Task[P, R]):
    """A task from an ordinary function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now."""
        return self.function(*args, **kwargs)


# -- the decorator ----------------------------------------------------------------------------------------------------


class _Decorator:
    """`@task(...)` with arguments."""

    def __init__(self, id: str | None, retry: Retry | None, settings: dict[str, Any]) -> None:
        self._id, self._retry, self._settings = id, retry, settings

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload] - a coroutine function is a function, too
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        kind = AsyncTask if inspect.iscoroutinefunction(function) else SyncTask
        return kind(function, id=self._id, retry=self._retry, **self._settings)


@overload
def task(  # pyright: ignore[reportOverlappingOverload] - a coroutine function is a function, too
    function: Callable[P, Coroutine[Any, Any, R]], /
) -> AsyncTask[P, R]: ...
@overload
def task(function: Callable[P, R], /) -> SyncTask[P, R]: ...
@overload
def task(*, id: str | None = None, retry: Retry | None = None, **settings: Unpack[Settings]) -> _Decorator: ...
def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    id: str | None = None,
    retry: Retry | None = None,
    **settings: Any,
) -> Any:
    """Make a task of a function, async or not.

    Args:
        function: with named parameters only; their annotations are what payloads are checked against.
        id: the task's name on the server. Default: the function's name.
        retry: how failed attempts are tried again. Default: three attempts.
        queue: the `Queue` in which its runs line up. Default: one of its own, without a limit.
        ttl: a run that nobody has started after so long is expired: text such as "1h", seconds, or a timedelta.
        max_duration: an attempt that has worked for longer, waits not counted, is ended.
        checkpoints: when its runs are saved by themselves, and how long their `Checkpoints` are kept.
        machine: the size of machine for its runs, by name: "small-1x" is half a CPU and half a gigabyte. Default: the project's
            (`[tool.torpor] machine`), else the server's.
        network: what its runs reach: "host" (what the worker reaches), "private" (the outside, but neither the machine nor its
            neighbours), "none". A stricter one of the worker or the project wins. Default: theirs.

    Raises:
        TypeError: the function can't be a task, or there is no such setting.
        ConfigError: another task has this id.

    Example:
        >>> from torpor import Retry, task
        >>> @task(retry=Retry(max_attempts=5))
        ... async def area(width: float, height: float = 1.0) -> float:
        ...     return width * height
        >>> import asyncio
        >>> asyncio.run(area(3, 2))
        6
    """
    refuse(settings, tuple(Settings.__annotations__), "@task", ("id", "retry"))
    if settings.get("queue") is not None and not isinstance(settings["queue"], Queue):
        raise TypeError(f"@task(queue={settings['queue']!r}): a Queue(…) is needed")
    if settings.get("checkpoints") is not None and not isinstance(settings["checkpoints"], Checkpoints):
        raise TypeError(f"@task(checkpoints={settings['checkpoints']!r}): a Checkpoints(…) is needed")
    if (machine := settings.get("machine")) is not None and (not isinstance(machine, str) or not machine):
        raise TypeError(f'@task(machine={machine!r}): the name of a size is needed, such as "small-1x"')
    if (network := settings.get("network")) is not None and network not in KINDS:
        raise ValueError(f"@task(network={network!r}): it should be {' or '.join(map(repr, KINDS))}")
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"@task(retry={retry!r}): a Retry(...) is needed")
    decorator = _Decorator(id, retry, settings)
    if function is None:
        return decorator
    if not callable(function):
        raise TypeError(f"@task takes a function, not {function!r}; name a task with @task(id=…)")
    return decorator(function)


def _seconds(name: str, given: Any) -> float | None:
    """A duration of `@task(…)`."""
    if given is None:
        return None
    try:
        seconds = parse_duration(given).total_seconds()
    except (TypeError, ValueError) as error:
        raise type(error)(f"@task({name}={given!r}): {error}") from None
    if seconds <= 0:
        raise ValueError(f"@task({name}={given!r}): it must be longer than nothing")
    return seconds


_REGISTRY: dict[str, Task[..., Any]] = {}


def registry() -> dict[str, Task[..., Any]]:
    """All tasks that this process has defined, by id."""
    return dict(_REGISTRY)


def _register(new: Task[..., Any]) -> None:
    """A function that is defined again (a reload, a module that was run and then imported, a prompt) takes its place."""
    old = _REGISTRY.get(new.id)
    if old is not None and not old._is_redefined_by(new):
        places = " and ".join(f"{file}:{line}" for file, line in (old.place, new.place))
        raise ConfigError(f'two tasks have the id {new.id!r}: {places}. Give one of them @task(id="…")')
    _REGISTRY[new.id] = new


def _checked_id(id: str) -> str:
    if not isinstance(id, str) or not id or len(id) > 128 or not id.isprintable() or id != id.strip():
        raise TypeError(f"@task(id={id!r}): a name of 1 to 128 printable characters is needed")
    return id

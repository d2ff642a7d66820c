"""`@task`: a function that can also be performed as a run, elsewhere and later.

Calling it is a plain call. `trigger` asks for a run: inside a run through its supervisor, outside through the HTTP API.
`trigger_and_wait` is a trigger and a wait for the child run, so the waiting run can be frozen meanwhile.
"""

import functools
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, cast, overload

from torpor import ids
from torpor.durations import parse_duration
from torpor.errors import ConfigError
from torpor.sdk import running
from torpor.sdk.checkpoints import Checkpoints
from torpor.sdk.hooks import Hook, Hooked, needed_elsewhere
from torpor.sdk.idempotency import resolved
from torpor.sdk.options import Duration, Options, Settings, refuse, to_api
from torpor.sdk.payload import Signature
from torpor.sdk.queue import Queue
from torpor.sdk.retry import Retry
from torpor.sdk.runs import Run
from torpor.wire.networks import KINDS
from torpor.wire.runner import ScheduleManifest, TaskManifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from torpor.sdk.batch import Batch, BatchItem, BatchResult
    from torpor.sdk.waits import Request

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class _Trigger:
    """One request for a run."""

    run_id: str
    payload: bytes | None
    options: dict[str, Any]  # by their names in the public API


class _Doors(Generic[P, R]):
    """What a task and a task with options have in common: the ways to ask for a run."""

    _task: "Task[P, R]"
    _options: dict[str, Any]

    def options(self, **options: Unpack[Options]) -> "TaskWithOptions[P, R]":
        """The same task, triggered with options. Options given before are kept.

        Raises:
            TypeError: there is no such option.
            ValueError: a value makes no sense.

        Example:
            >>> @task
            ... async def greet(name: str) -> str:
            ...     return f"Hello {name}"
            >>> async def later() -> None:
            ...     await greet.options(delay="1h", tags=["greeting"]).trigger("Ada")
        """
        return TaskWithOptions(self._task, {**self._options, **to_api(dict(options))})

    async def trigger(self, *args: P.args, **kwargs: P.kwargs) -> Run:
        """Ask for a run with these arguments. Returns as soon as the server has accepted it.

        Raises:
            PayloadError: the arguments don't fit the signature; nothing was sent.
            ApiError: the server refused. ConnectionFailed, ConfigError: outside of a run, no server or no key.

        Example:
            >>> @task
            ... async def double(number: int) -> int:
            ...     return 2 * number
            >>> async def ask() -> str:
            ...     return (await double.trigger(21)).id
        """
        wanted = self._prepare(args, kwargs)
        if running.session is None and not running.is_fork:
            from torpor.sdk.kept_client import kept_async

            client = await kept_async()
            return self._triggered(await client.trigger(self._task.id, _raw(wanted.payload), **wanted.options))
        session = running.required(f"{self._task.id}.trigger()")
        return self._reply(await session.call("trigger", self._call(wanted)))

    async def trigger_and_wait(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Ask for a run and wait for its output. The waiting run leaves memory meanwhile.

        Raises:
            RunFailed: the run did not complete; its own error is inside.
            NotInRun: called outside a run, where `Client.result` waits.
            PayloadError: the arguments don't fit the signature; nothing was sent.

        Example:
            >>> @task
            ... async def double(number: int) -> int:
            ...     return 2 * number
            >>> @task
            ... async def quadruple(number: int) -> int:
            ...     return await double.trigger_and_wait(await double.trigger_and_wait(number))
        """
        session = self._session_to_wait_in("trigger_and_wait")
        run = self._reply(await session.call("trigger", self._call(self._prepare(args, kwargs))))
        request = self._wait_for(run)
        return request.read(await session.wait(request.new))

    @property
    def sync(self) -> "BlockingDoors[P, R]":
        """The same for code that does not await: `task.sync.trigger(...)`."""
        return BlockingDoors(self)

    def item(self, *args: P.args, **kwargs: P.kwargs) -> "BatchItem[R]":
        """This call as an item of a batch, with the options given before.

        Raises:
            PayloadError: the arguments don't fit the signature.

        Example:
            >>> @task
            ... async def area(width: float, height: float) -> float:
            ...     return width * height
            >>> async def areas() -> None:
            ...     await area.batch_trigger([area.item(3, height=4), area.options(delay="1h").item(5, 6)])
        """
        from torpor.sdk.batch import BatchItem

        wanted = self._prepare(args, kwargs)
        return BatchItem(self._task.id, wanted.payload, wanted.options, task=self._task)

    async def batch_trigger(
        self,
        items: "Iterable[Any] | AsyncIterable[Any]",
        *,
        idempotency_key: str | None = None,
        idempotency_key_ttl: Duration | None = None,
    ) -> "Batch":
        """Ask for a run of each item, all in one batch. Returns as soon as the server has accepted them.

        Args:
            items: of a task with one parameter, its values; with several, tuples of arguments or dicts by name; of any
                task what `task.item(…)` makes. Any iterable or async iterable will do: it is sent as it comes.
            idempotency_key: the same key gives the same batch; in a run it is the run's own.
            idempotency_key_ttl: for how long.

        An item that can't become a run doesn't stop the others: `batch.errors` says why.

        Raises:
            ApiError: the server refused. ConnectionFailed, ConfigError: outside of a run, no server or no key.

        Example:
            >>> @task
            ... async def double(number: int) -> int:
            ...     return 2 * number
            >>> async def ask() -> list[str]:
            ...     return (await double.batch_trigger(range(1000))).run_ids
        """
        from torpor.sdk import batch_doors

        return await batch_doors.trigger(self._task, self._options, items, idempotency_key, idempotency_key_ttl)

    async def batch_trigger_and_wait(
        self,
        items: "Iterable[Any] | AsyncIterable[Any]",
        *,
        idempotency_key: str | None = None,
        idempotency_key_ttl: Duration | None = None,
    ) -> "list[BatchResult[R]]":
        """As `batch_trigger`, and wait until the last run has ended. The waiting run leaves memory, and wakes once.

        Returns:
            A result for each item, in their order. One failure doesn't hide the others.

        Raises:
            NotInRun: called outside a run.
            ApiError: the server refused.

        Example:
            >>> @task
            ... async def double(number: int) -> int:
            ...     return 2 * number
            >>> @task
            ... async def total(numbers: list[int]) -> int:
            ...     return sum(result.unwrap() for result in await double.batch_trigger_and_wait(numbers))
        """
        from torpor.sdk import batch_doors

        return await batch_doors.trigger_and_wait(
            self._task, self._options, items, idempotency_key, idempotency_key_ttl
        )

    # -- built and read once, for both doors --

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Trigger:
        payload = self._task.signature.write(args, kwargs)
        return _Trigger(ids.new("run"), payload, resolved(self._options, payload))

    def _call(self, wanted: _Trigger) -> Any:
        from torpor.wire.http import TriggerCall

        return TriggerCall(wanted.run_id, self._task.id, _raw(wanted.payload or b"null"), options=wanted.options)

    def _reply(self, body: Any) -> Run:
        import msgspec

        from torpor.wire.http import TriggerReply

        reply = msgspec.json.decode(body, type=TriggerReply)
        return Run(reply.run_id, self._task.id, reply.is_cached)

    def _triggered(self, reply: dict[str, Any]) -> Run:
        return Run(reply["id"], self._task.id, reply.get("isCached", False))

    def _session_to_wait_in(self, what: str) -> Any:
        return running.required(f"{self._task.id}.{what}()")

    def _wait_for(self, run: Run) -> "Request[R]":
        from torpor.sdk import waits

        return waits.for_run(run.id, self._task.signature.read_output)


class Task(_Doors[P, R], Hooked):
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


class TaskWithOptions(_Doors[P, R]):
    """A task together with options for its runs. Made by `task.options(...)`."""

    def __init__(self, task: Task[P, R], options: dict[str, Any]) -> None:
        self._task, self._options = task, options

    def __repr__(self) -> str:
        return f"{self._task!r}.options({', '.join(self._options)})"


class BlockingDoors(Generic[P, R]):
    """`task.sync`: ask for runs from code that does not await.

    Example:
        >>> @task
        ... def double(number: int) -> int:
        ...     return 2 * number
        >>> @task
        ... def quadruple(number: int) -> int:
        ...     return double.sync.trigger_and_wait(double.sync.trigger_and_wait(number))
    """

    def __init__(self, doors: _Doors[P, R]) -> None:
        self._doors = doors

    def trigger(self, *args: P.args, **kwargs: P.kwargs) -> Run:
        """As `Task.trigger`, blocking.

        Raises:
            BlockingInLoop: called in a running event loop.
        """
        doors = self._doors
        running.refuse_in_loop(f"{doors._task.id}.sync.trigger()")
        wanted = doors._prepare(args, kwargs)
        if running.session is None and not running.is_fork:
            from torpor.sdk.kept_client import kept

            return doors._triggered(kept().trigger(doors._task.id, _raw(wanted.payload), **wanted.options))
        session = running.required(f"{doors._task.id}.sync.trigger()")
        return doors._reply(session.call_blocking("trigger", doors._call(wanted)))

    def trigger_and_wait(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `Task.trigger_and_wait`, blocking.

        Raises:
            BlockingInLoop: called in a running event loop.
        """
        doors = self._doors
        session = doors._session_to_wait_in("sync.trigger_and_wait")
        running.refuse_in_loop(f"{doors._task.id}.sync.trigger_and_wait()")
        run = doors._reply(session.call_blocking("trigger", doors._call(doors._prepare(args, kwargs))))
        request = doors._wait_for(run)
        return request.read(session.wait_blocking(request.new))

    def batch_trigger(
        self,
        items: "Iterable[Any]",
        *,
        idempotency_key: str | None = None,
        idempotency_key_ttl: Duration | None = None,
    ) -> "Batch":
        """As `Task.batch_trigger`, blocking.

        Raises:
            BlockingInLoop: called in a running event loop.
        """
        from torpor.sdk import batch_doors

        doors = self._doors
        return batch_doors.trigger_blocking(doors._task, doors._options, items, idempotency_key, idempotency_key_ttl)

    def batch_trigger_and_wait(
        self,
        items: "Iterable[Any]",
        *,
        idempotency_key: str | None = None,
        idempotency_key_ttl: Duration | None = None,
    ) -> "list[BatchResult[R]]":
        """As `Task.batch_trigger_and_wait`, blocking.

        Raises:
            BlockingInLoop: called in a running event loop.
        """
        from torpor.sdk import batch_doors

        doors = self._doors
        return batch_doors.trigger_and_wait_blocking(
            doors._task, doors._options, items, idempotency_key, idempotency_key_ttl
        )


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


def _raw(payload: bytes | None) -> Any:
    """JSON that is passed on as it is."""
    import msgspec

    return None if payload is None else msgspec.Raw(payload)

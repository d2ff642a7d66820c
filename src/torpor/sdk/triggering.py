"""The ways to ask for runs of a task: awaited or blocking, inside a run through its supervisor, outside through the HTTP API.

`trigger_and_wait` is a trigger and a wait for the child run, so the waiting run can be frozen meanwhile.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack

from torpor import ids
from torpor.sdk import running
from torpor.sdk.idempotency import resolved
from torpor.sdk.options import Duration, Options, to_api
from torpor.sdk.runs import Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from torpor.sdk.batch import Batch, BatchItem, BatchResult
    from torpor.sdk.task import Task
    from torpor.sdk.waits import Request

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class _Trigger:
    """One request for a run."""

    run_id: str
    payload: bytes | None
    options: dict[str, Any]  # by their names in the public API


class Doors(Generic[P, R]):
    """What a task and a task with options have in common: the ways to ask for a run."""

    _task: "Task[P, R]"
    _options: dict[str, Any]

    def options(self, **options: Unpack[Options]) -> "TaskWithOptions[P, R]":
        """The same task, triggered with options. Options given before are kept.

        Raises:
            TypeError: there is no such option.
            ValueError: a value makes no sense.

        Example:
            >>> from torpor import task
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
            >>> from torpor import task
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
            >>> from torpor import task
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
            >>> from torpor import task
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
            >>> from torpor import task
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
            >>> from torpor import task
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


class TaskWithOptions(Doors[P, R]):
    """A task together with options for its runs. Made by `task.options(...)`."""

    def __init__(self, task: "Task[P, R]", options: dict[str, Any]) -> None:
        self._task, self._options = task, options

    def __repr__(self) -> str:
        return f"{self._task!r}.options({', '.join(self._options)})"


class BlockingDoors(Generic[P, R]):
    """`task.sync`: ask for runs from code that does not await.

    Example:
        >>> from torpor import task
        >>> @task
        ... def double(number: int) -> int:
        ...     return 2 * number
        >>> @task
        ... def quadruple(number: int) -> int:
        ...     return double.sync.trigger_and_wait(double.sync.trigger_and_wait(number))
    """

    def __init__(self, doors: Doors[P, R]) -> None:
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


def _raw(payload: bytes | None) -> Any:
    """JSON that is passed on as it is."""
    import msgspec

    return None if payload is None else msgspec.Raw(payload)

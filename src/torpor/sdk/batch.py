"""Many runs triggered together: what goes in (`BatchItem`), what comes out (`Batch`, `BatchResult`), and the sending.

Items are sent in chunks as they come from wherever they come from, so a batch takes no more memory than a chunk. An item
that can't be written fails by itself, as one that the server refuses does. What is sent and how replies are read is
here, once; `batch_doors.py` awaits it or blocks for it, inside a run or outside.
"""

import hashlib
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from torpor import ids
from torpor.durations import parse_duration
from torpor.errors import NotYet, OutputError, PayloadError, RunFailed
from torpor.sdk import running
from torpor.wire import http as wire

if TYPE_CHECKING:
    from torpor.sdk.task import Task

R = TypeVar("R", covariant=True)

CHUNK_BYTES = 1 << 20
LARGEST_ITEM = wire.MAX_OUTPUT_BYTES
NOT_TRIGGERED = "NOT_TRIGGERED"


@dataclass(frozen=True)
class BatchItem(Generic[R]):
    """One run to trigger, as part of a batch: made by `task.item(...)`, which takes the task's own arguments.

    Example:
        >>> from torpor import task
        >>> @task
        ... async def area(width: float, height: float) -> float:
        ...     return width * height
        >>> area.options(tags=["wide"]).item(30, height=1).payload
        b'{"width":30.0,"height":1.0}'
    """

    task_id: str
    payload: bytes | None = None  # as JSON
    options: dict[str, Any] = field(default_factory=dict)  # by their names in the public API
    error: str | None = None  # why it can't be sent
    task: "Task[..., R] | None" = None


@dataclass(frozen=True)
class BatchResult(Generic[R]):
    """How one item of a batch ended.

    Attributes:
        index: its place among the items.
        task_id: its task.
        run_id: its run; None if it could not become one.
        status: the run's final status, such as `COMPLETED`; `NOT_TRIGGERED` if there is no run.
        error: `{"name", "message", "stackTrace"}` when there is no output; a canceled run has none.

    Example:
        >>> BatchResult(0, "area", "run_1", "COMPLETED", 30.0).unwrap()
        30.0
        >>> BatchResult(1, "area", "run_2", "CANCELED").ok
        False
    """

    index: int
    task_id: str
    run_id: str | None
    status: str
    output: R | None = None
    error: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Whether there is an output."""
        return self.status == "COMPLETED" and self.error is None

    def unwrap(self) -> R:
        """The output.

        Raises:
            RunFailed: there is none.
        """
        if not self.ok:
            raise RunFailed(self.run_id or f"of item {self.index}", self.status, self.error)
        return cast("R", self.output)


@dataclass(frozen=True)
class Batch:
    """A batch that was triggered.

    Attributes:
        id: the batch's id.
        run_ids: its runs in the order of the items, each once; an item that failed has none.
        errors: why items could not become runs, by their index.
        is_cached: the idempotency key was known, so this is the batch of an earlier call.

    Example:
        >>> Batch("batch_1", ["run_1"], {1: "options.delay: it can't be read"}).errors[1]
        "options.delay: it can't be read"
    """

    id: str
    run_ids: list[str]
    errors: dict[int, str]
    is_cached: bool = False

    async def retrieve(self) -> dict[str, Any]:
        """The batch as the API tells it: `status`, `runCount`, `runs`, `processing` with its `errors`.

        Raises:
            NotYet: called inside a run, which holds no key.
            ApiError, ConnectionFailed: the server refused or could not be reached.

        Example:
            >>> async def status(batch: Batch) -> str:
            ...     return (await batch.retrieve())["status"]
        """
        if running.session is not None or running.is_fork:
            raise NotYet("batch.retrieve() inside a run is not carried out yet: use batch_trigger_and_wait()")
        from torpor.sdk.kept_client import kept_async

        return await (await kept_async()).batch(self.id)


# -- from what the author gives to an item -----------------------------------------------------------------------------


def item_of(task: "Task[..., Any] | None", options: dict[str, Any], given: Any) -> BatchItem[Any]:
    """A BatchItem as it is; anything else is what a call of the task would be given.

    Raises:
        TypeError: there is no task, so only BatchItems will do.
    """
    if isinstance(given, BatchItem):
        return cast("BatchItem[Any]", given)
    if task is None:
        raise TypeError(f"a batch of any tasks takes items made with task.item(…), not {given!r}")
    try:
        args, kwargs = _arguments(task, given)
        return BatchItem(task.id, task.signature.write(args, kwargs), options, task=task)
    except (PayloadError, TypeError) as error:
        return BatchItem(task.id, error=str(error), task=task)


def _arguments(task: "Task[..., Any]", given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    match task.signature.rule:
        case "one":
            return (given,), {}
        case "none":
            if given is None or given == ():
                return (), {}
            raise TypeError(f"task {task.id!r} takes no arguments: None is its item, not {given!r}")
        case _:
            if isinstance(given, tuple):
                return cast("tuple[Any, ...]", given), {}
            if isinstance(given, Mapping):
                return (), dict(cast("Mapping[str, Any]", given))
            raise TypeError(
                f"task {task.id!r} takes several arguments: its items are tuples of them, dicts by name, "
                f"or task.item(…), not {given!r}"
            )


def _hashed(key: str | None) -> str | None:
    """What the engine goes by: in a run a key is the run's own."""
    if key is None:
        return None
    if not isinstance(key, str) or not key:
        raise TypeError(f"idempotency_key={key!r}: text is needed")
    if running.session is None:
        return key
    return hashlib.sha256(msgspec.json.encode(["batch", key, running.session.context.run_id])).hexdigest()


def length(items: Any) -> int | None:
    """How many there are, if that is known before they are read."""
    return len(items) if isinstance(items, Sized) else None


# -- sending -----------------------------------------------------------------------------------------------------------


class Upload:
    """A batch on its way: what to send next, and what came of it.

    Args:
        count: how many items there will be, if that is known.
        waits: the run is going to wait for the batch.
    """

    def __init__(
        self,
        count: int | None,
        idempotency_key: str | None = None,
        idempotency_key_ttl: str | float | timedelta | None = None,
        *,
        waits: bool = False,
    ) -> None:
        self._batch_id = ids.new("batch")
        # A large batch is not announced: the server would have to name each item that never came.
        self._count = count if count is None or count <= 10_000 else None
        self._key = _hashed(idempotency_key)
        self._ttl_s = None if idempotency_key_ttl is None else parse_duration(idempotency_key_ttl).total_seconds()
        self._waits = waits
        self._tasks: dict[str, Task[..., Any]] = {}
        self._chunk: list[wire.BatchItemCall] = []
        self._size = 0
        self._next = 0
        self._runs: dict[str, None] = {}
        self._errors: dict[int, str] = {}
        self._is_cached = False
        self.is_sealed = False
        """Nothing more is to be sent."""

    def opening(self) -> wire.BatchCall:
        return wire.BatchCall(
            self._batch_id, run_count=self._count, idempotency_key=self._key, idempotency_key_ttl_s=self._ttl_s
        )

    def opened(self, reply: wire.BatchReply) -> None:
        """A batch of an earlier call that lacks items gets the rest of them; those it has count once."""
        self._batch_id, self._is_cached, self.is_sealed = reply.batch_id, reply.is_cached, reply.is_sealed

    def put(self, item: BatchItem[Any]) -> wire.BatchItemsCall | None:
        """Take an item along; a chunk when one is full and to be sent now."""
        if item.task is not None:
            self._tasks[item.task_id] = item.task
        payload, options, error = item.payload or b"null", item.options, item.error
        size = len(payload) + (len(msgspec.json.encode(options)) if options else 0) + 200
        if error is None and size > LARGEST_ITEM:
            error = f"its payload and options have {size} bytes; at most {LARGEST_ITEM} are taken"
        if error is not None:
            payload, options, size = b"null", {}, 200 + len(error)
        full = self._cut() if self._chunk and self._size + size > CHUNK_BYTES else None
        call = wire.BatchItemCall(self._next, item.task_id, msgspec.Raw(payload), options, error)
        self._next += 1
        self._chunk.append(call)
        self._size += size
        if full is None and len(self._chunk) >= wire.MAX_CHUNK_ITEMS:
            full = self._cut()
        return full

    def last(self) -> wire.BatchItemsCall:
        """The rest, with which the batch is sealed."""
        chunk = self._cut()
        chunk.seal = True
        return chunk

    def _cut(self) -> wire.BatchItemsCall:
        chunk = wire.BatchItemsCall(self._batch_id, self._chunk, waits=self._waits)
        self._chunk, self._size = [], 0
        return chunk

    def took(self, reply: wire.BatchItemsReply) -> None:
        for item in reply.items:
            if item.run_id is not None:
                self._runs[item.run_id] = None
            else:
                self._errors[item.index] = item.error or "no reason was recorded"

    def found(self, page: wire.BatchResultsReply) -> None:
        """What there is of a batch that an earlier call has filled."""
        replies = [
            wire.BatchItemReply(one.index, one.run_id, error=one.error.message if one.error else None)
            for one in page.items
        ]
        self.took(wire.BatchItemsReply(replies, True, len(replies)))

    def batch(self) -> Batch:
        return Batch(self._batch_id, list(self._runs), self._errors, self._is_cached)

    def told(self) -> dict[str, Any]:
        """The same as JSON."""
        errors = [{"index": index, "error": error} for index, error in sorted(self._errors.items())]
        return {"id": self._batch_id, "isCached": self._is_cached, "runs": list(self._runs), "errors": errors}

    @property
    def batch_id(self) -> str:
        return self._batch_id

    def read(self, one: wire.BatchResult) -> BatchResult[Any]:
        """An item's result, with the output as its task's annotation has it."""
        error = one.error and {
            "name": one.error.name,
            "message": one.error.message,
            "stackTrace": one.error.stack_trace,
        }
        output = None
        status = one.status or NOT_TRIGGERED
        if status == "COMPLETED":
            try:
                output = self._read_output(one.task_id, bytes(one.output))
            except OutputError as misfit:
                error = {"name": "OutputError", "message": str(misfit), "stackTrace": ""}
        return BatchResult(one.index, one.task_id, one.run_id, status, output, error)

    def _read_output(self, task_id: str, output: bytes) -> Any:
        from torpor.sdk.task import registry

        task = self._tasks.get(task_id) or registry().get(task_id)
        return task.signature.read_output(output) if task is not None else msgspec.json.decode(output)

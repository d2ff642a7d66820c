"""What user code asks of the server and tells it, through its worker, on behalf of its run."""

from typing import Any, Literal

import msgspec

from torpor.wire.runner import Op, Part, TaskError


class TriggerCall(msgspec.Struct):
    """Trigger a run from inside a run. `run_id` is made by the SDK: a repeated message triggers once."""

    run_id: str
    task_id: str
    payload: msgspec.Raw
    lease: int = 0  # set by the supervisor
    options: dict[str, Any] = {}  # as in the public API: tags, maxAttempts, idempotencyKey, …


class TriggerReply(msgspec.Struct):
    run_id: str
    is_cached: bool = False


class BatchCall(msgspec.Struct):
    """Open a batch from inside a run. `batch_id` is made by the SDK. Without `run_count` it is sealed by its last items."""

    batch_id: str
    lease: int = 0
    run_count: int | None = None
    idempotency_key: str | None = None
    idempotency_key_ttl_s: float | None = None


class BatchReply(msgspec.Struct):
    batch_id: str
    is_cached: bool = False  # the idempotency key was known: this is the batch of an earlier call
    is_sealed: bool = False  # it has all its items: none need be sent


class BatchItemCall(msgspec.Struct, omit_defaults=True):
    """One item: a request for a run, or the reason why it can't be one."""

    index: int
    task: str
    payload: msgspec.Raw = msgspec.Raw(b"null")
    options: dict[str, Any] = {}  # as in the public API
    error: str | None = None


class BatchItemsCall(msgspec.Struct):
    """Some items of a batch: at most `MAX_CHUNK_ITEMS`. The same ones again count once."""

    batch_id: str
    items: list[BatchItemCall]
    lease: int = 0
    seal: bool = False  # these are the last
    waits: bool = False  # the run is going to wait for the batch


class BatchItemReply(msgspec.Struct):
    index: int
    run_id: str | None = None
    is_cached: bool = False
    error: str | None = None  # why it is no run


class BatchItemsReply(msgspec.Struct):
    items: list[BatchItemReply]
    is_sealed: bool
    run_count: int


class BatchResultsCall(msgspec.Struct):
    """The results behind index `after`, in order: as many as fit into one reply."""

    batch_id: str
    lease: int = 0
    after: int = -1


class BatchResult(msgspec.Struct):
    index: int
    task_id: str
    run_id: str | None = None  # None: the item could not become a run; `error` says why
    status: str | None = None  # the run's public status
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: TaskError | None = None


class BatchResultsReply(msgspec.Struct):
    items: list[BatchResult]
    next: int | None = None  # `after` of the next page; None: that was all


class TokenCall(msgspec.Struct):
    """Make a wait token from inside a run. `waitpoint_id` is made by the SDK."""

    waitpoint_id: str
    lease: int = 0
    timeout_s: float | None = None
    timeout_at: str | None = None
    tags: list[str] = []
    idempotency_key: str | None = None
    idempotency_key_ttl_s: float | None = None
    approval: dict[str, Any] | None = None  # {"title", "context"} when a person is asked


class TokenReply(msgspec.Struct):
    waitpoint_id: str
    url: str
    is_cached: bool = False
    public_token: str | None = None


class CompleteTokenCall(msgspec.Struct):
    """Complete a wait token from inside a run."""

    waitpoint_id: str
    data: msgspec.Raw
    lease: int = 0


class MetadataReport(msgspec.Struct):
    """What a run's code did to its metadata and tags, and to its parent's and its root's metadata, in order.

    Answered 410 when the lease is over; 413, 422 when it can't be done. Then none of it is, and the number is not used up.
    """

    lease: int
    number: int  # counts the reports of this lease from 1: one that comes late, or again, changes nothing
    operations: list[Op] = []
    parent_operations: list[Op] = []
    root_operations: list[Op] = []
    tags: list[str] = []  # to be added


class MetadataReply(msgspec.Struct):
    """The run's own, as they are now."""

    metadata: dict[str, Any]
    tags: list[str]


class StreamReport(msgspec.Struct):
    """What a run's code has appended to a stream of its own, or of its parent's or its root's, in order.

    Answered 410 when the lease is over; 413, 422 when it can't be done. Then none of it is.
    """

    lease: int
    key: str
    parts: list[Part]
    target: Literal["self", "parent", "root"] = "self"


class StreamReply(msgspec.Struct):
    added: int  # of its parts; the others were there already


class InputRead(msgspec.Struct):
    """What was sent to one of a run's input streams behind `after`: as much as fits into one reply, in order."""

    lease: int
    key: str
    after: int = -1
    wait_s: float = 0.0  # for the first one


class InputPart(msgspec.Struct, frozen=True):
    seq: int  # from 0, without gaps
    data: msgspec.Raw


class InputReply(msgspec.Struct):
    parts: list[InputPart]

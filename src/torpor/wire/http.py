"""What server and worker say to each other over HTTP. JSON both ways, `Authorization: Bearer <worker token>`.

    POST /worker/v1/hello                    Introduction      -> Welcome
    POST /worker/v1/versions                 VersionReport     -> VersionAccepted
    POST /worker/v1/dequeue                  DequeueRequest    -> DequeueReply      (held open up to wait_s for work)
    GET  /worker/v1/news?worker_id=&instance_id=   a long-lived stream, one News as JSON per line, "\\n" as keep-alive
    POST /worker/v1/heartbeat                HeartbeatRequest  -> HeartbeatReply
    POST /worker/v1/keys                     KeysRequest       -> KeysReply         (what images are sealed with)
    POST /worker/v1/variables                VariablesRequest  -> VariablesReply    (of all runs; never logged)
    POST /worker/v1/checkpoints              CheckpointCensus  -> CheckpointCensus  (which of these to keep)
    POST /worker/v1/garbage                  GarbageRequest    -> GarbageReply      (which objects to delete)
    POST /worker/v1/images                   ImagesRequest     -> ImagesReply       (what the store must hold)
    POST /worker/v1/warm                     WarmReport        -> LeaseReply
    POST /worker/v1/warm/find                WarmRequest       -> WarmFound
    POST /worker/v1/warm/refuse              WarmRefusal       -> LeaseReply
    POST /worker/v1/runs/{run_id}/payload    PayloadCall       -> the payload, as JSON
    POST /worker/v1/runs/{run_id}/start      StartReport       -> LeaseReply
    POST /worker/v1/runs/{run_id}/block      BlockReport       -> BlockReply
    POST /worker/v1/runs/{run_id}/collect    CollectRequest    -> BlockReply
    POST /worker/v1/runs/{run_id}/suspend    SuspendReport     -> LeaseReply
    POST /worker/v1/runs/{run_id}/save       SaveReport        -> LeaseReply
    POST /worker/v1/runs/{run_id}/move       MoveReport        -> LeaseReply
    POST /worker/v1/runs/{run_id}/refuse     Refusal           -> LeaseReply
    POST /worker/v1/runs/{run_id}/finish     FinishReport      -> LeaseReply
    POST /worker/v1/runs/{run_id}/events     EventReport       -> LeaseReply
    POST /worker/v1/runs/{run_id}/logs       LogReport         -> {}
    POST /worker/v1/runs/{run_id}/trigger            TriggerCall       -> TriggerReply      (from user code, on the run's behalf)
    POST /worker/v1/runs/{run_id}/batches            BatchCall         -> BatchReply
    POST /worker/v1/runs/{run_id}/batches/items      BatchItemsCall    -> BatchItemsReply
    POST /worker/v1/runs/{run_id}/batches/results    BatchResultsCall  -> BatchResultsReply
    POST /worker/v1/runs/{run_id}/tokens             TokenCall         -> TokenReply
    POST /worker/v1/runs/{run_id}/tokens/complete    CompleteTokenCall -> {"success": true}
    POST /worker/v1/runs/{run_id}/metadata           MetadataReport    -> MetadataReply
    POST /worker/v1/runs/{run_id}/streams            StreamReport      -> StreamReply
    POST /worker/v1/runs/{run_id}/inputs             InputRead         -> InputReply        (held open up to wait_s)

Every message is idempotent: it carries the lease number, and ids that the sender made. A message with an old lease
changes nothing and is answered `stale`: the worker kills that process. Errors are `{"error": "…"}` as in the public API.
The headers OF_PROJECT and OF_ENVIRONMENT name the environment that the worker serves; without one that is as of the server's own.
"""

from typing import Any, Literal

import msgspec

from torpor.wire.presets import BUILT_IN, DEFAULT_PRESET, Preset
from torpor.wire.runner import (
    Answer,
    HookCall,
    NewWait,
    Op,
    Part,
    QueueManifest,
    RunContext,
    TaskError,
    TaskManifest,
    WordLimits,
)

OF_PROJECT, OF_ENVIRONMENT = "x-torpor-project", "x-torpor-environment"
MAX_BODY_BYTES = 32 << 20
"""The largest message that the server takes from a worker."""
MAX_OUTPUT_BYTES = MAX_BODY_BYTES - (1 << 20)
"""The largest output of a task, as JSON: it travels in such a message."""
MAX_CHUNK_ITEMS = 500
"""The most items of a batch in one message."""
RESULTS_BYTES = 8 << 20
"""How many bytes of outputs one page of a batch's results holds, about; a larger output is a page of its own."""


class Usage(msgspec.Struct, frozen=True):
    """What a run has used since it was handed out under this lease: of all its processes together, those that ended included.
    A later report of a lease holds what an earlier one said, so none counts twice."""

    cpu_ms: float = 0.0
    peak_memory_bytes: int = 0  # the most at any moment


class OutOfMemory(msgspec.Struct, frozen=True):
    """A process was killed because its run had used up its memory."""

    limit_bytes: int  # what the run was allowed
    used_bytes: int = 0  # the most that was measured


class Introduction(msgspec.Struct):
    """A worker comes up. A new instance of a known worker proves that its former processes are gone."""

    worker_id: str  # kept in the worker's data directory
    instance_id: str  # new at each start
    host: str
    slots: int
    can_freeze: bool
    facts: dict[str, Any]  # criu, kernel, arch, python, why it can't freeze, …
    store_id: str = ""  # of the object store that it reads and writes; "": its images are on its own disk
    fitness: str = ""  # digest of what an image may be unfit for: workers of equal fitness refuse the same images
    cpu: float | None = None  # how many CPUs it has to give, oversubscription included; None: it doesn't count them
    memory_bytes: int | None = None  # the same
    labels: dict[str, str] = {}  # what presets may ask for besides


class Welcome(msgspec.Struct):
    environment: str  # slug
    lease_s: float
    heartbeat_interval_s: float
    rescued: int  # runs taken back from the former instance
    limits: WordLimits = WordLimits()


class VersionReport(msgspec.Struct):
    """The version a worker has imported; it becomes the environment's current one."""

    worker_id: str
    version: str
    tasks: list[TaskManifest]
    queues: list[QueueManifest] = []  # those declared with Queue(...)
    machine: str | None = None  # the project's preset: of tasks that name none


class VersionAccepted(msgspec.Struct):
    version: str


class DequeueRequest(msgspec.Struct):
    worker_id: str
    instance_id: str
    free: int  # how many runs it could take now
    versions: list[str]  # that it can start from scratch
    can_restore: bool
    wait_s: float = 20.0
    number: int = 0  # counts an instance's requests, repeated ones too; 0: it doesn't count them
    holding: list["HeldLease"] | None = None  # all it has got by earlier requests: an assignment not listed was lost


class Pack(msgspec.Struct, frozen=True):
    """An object that holds pages and blocks of images."""

    id: str
    size_bytes: int  # as stored
    key_id: str = ""  # the data key that it is sealed with; "": its image's
    is_new: bool = True  # made for this image; false: the engine has it from an earlier one, or it is of no use


class StoredCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint as worker and engine know it.

    `kind` tells how its process wakes. wait, named: it sleeps until it is signaled. auto, move: it was frozen wherever it
    was, and works on at once. warm: the process of a version that has no run yet.
    """

    id: str
    size_bytes: int  # all that is stored of it, what it shares with others included
    files_bytes: int = 0  # the run's working directory, packed
    dump_ms: float = 0.0  # CRIU alone
    durable_ms: float = 0.0  # from the wait entered to everything fsynced
    rss_bytes: int = 0  # of the process tree before the dump
    facts: dict[str, Any] = {}  # criu, kernel, arch, python
    image_id: str = ""  # what is stored of it; "": the same as `id`. A fork's checkpoint has its origin's image
    kind: Literal["wait", "named", "auto", "move", "warm"] = "wait"
    name: str | None = None  # of a named save point
    store_id: str = ""  # where it is; "": on the disk of the worker that made it
    digest: str = ""  # blake3, in hex, of the manifest object: what this id stands for, and nothing else
    key_id: str = ""  # the data key that it is sealed with
    base: str | None = None  # image id of the warm image that it shares pages with
    packs: list[Pack] = []  # all that it refers to, its base's included; left out of assignments
    new_bytes: int = 0  # stored for this image alone: packs that are new, and its manifest
    shared_bytes: int = 0  # how much of its content others had stored already, uncompressed


class Assignment(msgspec.Struct):
    """A lease on a run: start it, or restore its checkpoint."""

    run_id: str
    lease: int
    lease_s: float
    task_id: str
    version: str
    context: RunContext
    payload: msgspec.Raw
    checkpoint: StoredCheckpoint | None = None
    answers: list[Answer] = []  # with a checkpoint: of all its answered waits
    due_at: str | None = (
        None  # with a checkpoint: when the wait that woke it was answered (for the story and the bench)
    )
    hook: HookCall | None = None  # perform this hook instead of the task
    payload_is_large: bool = False  # ask for it: runs/{run_id}/payload
    active_s: float = 0.0  # how long the attempt has worked already: counts towards context.max_duration_s
    save_every_s: float | None = None  # make a save point whenever it has worked for so long without one
    preset: Preset = BUILT_IN[DEFAULT_PRESET]  # how much of the machine it may use
    variables_revision: int = 0  # the run has the environment's variables as they were then, or newer: ask for them


class DequeueReply(msgspec.Struct):
    assignments: list[Assignment]


class PayloadCall(msgspec.Struct):
    """The payload that its assignment left out, as it is too large to be handed out on spec."""

    lease: int


class HeldLease(msgspec.Struct, frozen=True):
    run_id: str
    lease: int


class Disk(msgspec.Struct, frozen=True):
    """What a worker's data directory is on."""

    size_bytes: int
    free_bytes: int


class HeartbeatRequest(msgspec.Struct):
    worker_id: str
    instance_id: str
    leases: list[HeldLease]
    disk: Disk | None = None


class News(msgspec.Struct, frozen=True):
    """Something happened to a run that this worker holds. Lost news come again with the next heartbeat."""

    kind: Literal["answered", "stale", "cancel"]
    """answered: collect the answers. stale: the lease is over, kill the process. cancel: ask it to end."""
    run_id: str
    lease: int
    reason: str | None = None  # cancel: as whoever canceled said it


class HeartbeatReply(msgspec.Struct):
    known: bool  # false: the server doesn't know this worker instance; say hello again
    news: list[News]
    current_key: str | None = None  # the data key to seal with now: ask for the keys when it isn't at hand
    variables_revision: int = 0  # of the environment's variables: ask for them when those at hand are older
    drain: bool = False  # somebody wants this worker to leave: take no more runs, move those that are here, and end


class DataKey(msgspec.Struct, frozen=True):
    """A key that images are sealed with. Workers keep it in memory only."""

    id: str
    key: str  # 32 bytes, base64


class KeysRequest(msgspec.Struct):
    worker_id: str


class KeysReply(msgspec.Struct):
    """All data keys of the environment that some image may be sealed with."""

    keys: list[DataKey]
    current: str  # id of the one to seal with


class VariablesRequest(msgspec.Struct):
    worker_id: str


class VariablesReply(msgspec.Struct):
    """The environment's variables. Workers keep them in memory only, and hand them to runs."""

    revision: int
    variables: dict[str, str]


class CheckpointCensus(msgspec.Struct):
    worker_id: str
    ids: list[str]


class GarbageRequest(msgspec.Struct):
    """What a worker has deleted of its store, and has found there. Names are `images/<id>` and `packs/<id>`."""

    worker_id: str
    deleted: list[str] = []  # condemned by an earlier reply, and gone now
    strays: list[str] = []  # older than the grace period: perhaps nothing the engine knows of


class GarbageReply(msgspec.Struct):
    condemned: list[str]  # nothing refers to these, and nothing will: delete them, then say so
    more: bool = False  # there are others: ask again when these are gone


class ImagesRequest(msgspec.Struct):
    """Which images must be in my store? For a scrub, and for proving that a deletion takes nothing from them."""

    worker_id: str
    after: str = ""  # those behind this id


class LiveImage(msgspec.Struct, frozen=True):
    id: str
    digest: str


class ImagesReply(msgspec.Struct):
    images: list[LiveImage]
    next: str | None = None  # `after` of the next page; None: that was all


class WarmReport(msgspec.Struct):
    """The image of a version's warmed process, which has no run yet, is durable."""

    worker_id: str
    version: str
    checkpoint: StoredCheckpoint  # of kind warm


class WarmRequest(msgspec.Struct):
    """Is there a warmed process of this version in my store that I can thaw?"""

    worker_id: str
    version: str


class WarmFound(msgspec.Struct):
    checkpoint: StoredCheckpoint | None = None  # the newest that nobody of this worker's fitness has refused


class WarmRefusal(msgspec.Struct):
    """This worker can't thaw that warm image."""

    worker_id: str
    image_id: str
    reason: str
    damaged: bool = False  # nobody can: it is not to be used any more, by anyone


class LeaseReply(msgspec.Struct):
    """`ok`, `stale` (kill the process), and for suspend and move: `suspended` (kill it) or `awake` (let it run, drop the
    image; a save point that can't be accepted any more is answered so too). `gone`: nothing has changed; packs in `gone`,
    which the image refers to, are being deleted: publish it again without them."""

    status: Literal["ok", "stale", "suspended", "awake", "gone"]
    gone: list[str] = []


class StartReport(msgspec.Struct):
    """User code is running: freshly, or again with these waits answered."""

    lease: int
    answered: list[str] = []
    pid: int | None = None
    start_ms: float | None = None  # from the assignment to the runner's first words
    restore_ms: float | None = None  # CRIU alone
    since_due_ms: float | None = None  # from the waitpoint's completion to the runner's first words
    trust: str = ""  # own, foreign: how far its code is trusted there
    network: str = ""  # host, private, none: what it reaches
    isolation: str = ""  # full, partial, off: how far it is kept apart from others there
    missing: list[str] = []  # partial: what it has to do without


class BlockReport(msgspec.Struct):
    lease: int
    waits: list[NewWait] = []
    dropped: list[str] = []
    idle: bool = False
    blockers: list[str] = []
    nth: int = (
        0  # counts what a lease's holder says of its waits; a copy that comes after a later report counts for nothing
    )


class OpenWait(msgspec.Struct, frozen=True):
    wait_id: str
    kind: Literal["time", "run", "batch", "token", "slot"]  # slot: answered, but limits don't let it go on yet
    due_in_s: float | None  # until its deadline, if it has one


class BlockReply(msgspec.Struct):
    status: Literal["ok", "stale"]
    answers: list[Answer] = []  # those answered already; the run goes on
    open: list[OpenWait] = []  # those still open: what the worker decides by, to hold or to suspend


class CollectRequest(msgspec.Struct):
    """Which waits the process still has open. The engine forgets others, and answers those that are complete."""

    lease: int
    open_waits: list[str]
    idle: bool = False  # nothing but these keeps it
    nth: int = 0  # as in BlockReport


class SuspendReport(msgspec.Struct):
    """The image is durable; may the process be killed?"""

    lease: int
    checkpoint: StoredCheckpoint
    waiting_at: list[dict[str, Any]] = []  # where each asyncio task stands: file, line, source
    nth: int = 0  # as in BlockReport
    usage: Usage = Usage()


class SaveReport(msgspec.Struct):
    """A save point is durable. The process goes on; its state in the engine stays what it is."""

    lease: int
    checkpoint: StoredCheckpoint  # of kind named or auto
    open_waits: list[str]  # what the frozen process waits for
    waiting_at: list[dict[str, Any]] = []  # where each asyncio task and thread stands
    nth: int = 0  # as in BlockReport
    usage: Usage = Usage()


class MoveReport(msgspec.Struct):
    """The image of a process that was frozen wherever it was is durable. May it be ended, to go on elsewhere?"""

    lease: int
    checkpoint: StoredCheckpoint  # of kind move
    open_waits: list[str]
    waiting_at: list[dict[str, Any]] = []
    nth: int = 0  # as in BlockReport
    reason: str = ""  # for the run's story
    usage: Usage = Usage()


class Refusal(msgspec.Struct):
    """This worker can't do what the assignment asks. Nothing of the user's ran, so no attempt is used up.

    With `checkpoint_unusable` (damaged, foreign) the run goes on from the checkpoint before it, or with a new attempt.
    With `unfit` this worker, and any of its fitness, can't use that image; another one might.
    With `lost` the run had started, and its process is gone by a fault of ours: it goes back to its checkpoint.
    """

    lease: int
    reason: str
    checkpoint_unusable: bool = False
    unfit: bool = False
    lost: bool = False


class FinishReport(msgspec.Struct):
    """An attempt has ended: completed, failed (an exception), crashed (the process died), canceled (it was asked to end,
    and did or was killed), timed_out (it worked for longer than max_duration, and was killed)."""

    lease: int
    outcome: Literal["completed", "failed", "crashed", "canceled", "timed_out"]
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: TaskError | None = None
    retryable: bool = True
    hooks: list[str] = []  # on_failure, on_cancel: performed already, in the process
    usage: Usage = Usage()
    oom: OutOfMemory | None = None  # crashed: its memory was used up


class StoryEvent(msgspec.Struct):
    """A line of a run's story that only the worker can tell, such as `run.held`."""

    kind: str
    at: str
    data: dict[str, Any] = {}


class EventReport(msgspec.Struct):
    lease: int
    events: list[StoryEvent]


class LogLine(msgspec.Struct):
    at: str
    level: str  # debug, info, warning, error; print() is info
    message: str
    attributes: dict[str, Any] = {}
    stream: str = "log"  # log | output


class LogReport(msgspec.Struct):
    lease: int
    first: int  # byte offset of the first line in the run's output: the server drops what it has
    lines: list[LogLine]


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

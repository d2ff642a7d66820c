"""What supervisor, zygote and runner say to each other on their unix sockets.

    zygote                          supervisor                              runner (one run)
      |  Imported, or ZygoteReady     |                                        |
      |------------------------------>|                                        |
      |            Fork               |                                        |
      |<------------------------------|                                        |
      |  Forked ----------------------|--> (the child)                         |
      |------------------------------>|                         Hello          |
      |                               |<---------------------------------------|
      |                               |  Begin                                 |
      |                               |--------------------------------------->|
      |                               |     Call / Block        Result/Answers |
      |                               |<-------------------------------------->|
      |                               |     Change / Append     Known          |
      |                               |<-------------------------------------->|
      |                               |     SavePoint, then EOF: it sleeps in sigwait(SIGUSR1)
      |                               |<---------------------------------------|
      |                               |  ... dump, SIGUSR1; or kill, restore, SIGUSR1: `Resumed`, `Awoken` as below ...
      |                               |  Suspend                               |
      |                               |--------------------------------------->|
      |                               |    Suspending, then EOF: it sleeps in sigwait(SIGUSR1)
      |                               |  ... dump, kill, days pass, restore, SIGUSR1 ...
      |                               |     Resumed (a new connection)         |
      |                               |<---------------------------------------|
      |                               |  Awoken (with the answers)             |
      |                               |--------------------------------------->|
      |                               |     Finished                           |
      |                               |<---------------------------------------|
      |                               |  Finishing (it may exit)               |

The control socket is `<run directory>/ctl.sock`. The runner closes it just before a freeze and opens it again after, so
no descriptor of ours is ever in an image. EOF without `Suspending` or `SavePoint` means that the runner died.

A runner may also be frozen at any moment, without being asked. Then it is the supervisor that closes the connection, when the
tree stands still, everything that the runner had sent is read, and no `Call` is without its `Result`. The runner finds that
out at its next use of the socket, or when it gets the signal INTERRUPT (sdk/canceling.py). It connects again, says
`Resumed` (`Hello`, if it has had no `Begin` yet), gets `Awoken`, and sends again what the supervisor had not read to its end.
"""

from typing import Any, Literal

import msgspec

from torpor.wire.presets import Preset

# -- parts ------------------------------------------------------------------------------------------------------------


class RetryPolicy(msgspec.Struct, frozen=True):
    """How often and how late a failed attempt is tried again; delays in seconds."""

    max_attempts: int = 3
    min_delay_s: float = 1.0
    max_delay_s: float = 60.0
    factor: float = 2.0
    jitter: bool = True
    resume: str = "top"  # top | checkpoint: where the next attempt begins
    on_oom: str | None = None  # the preset on which it goes on when its memory was used up


class CheckpointPolicy(msgspec.Struct, frozen=True):
    """When save points are made by themselves, and how long checkpoints are kept."""

    every_s: float | None = None  # a save point whenever the run has worked for so long; None: only where the code says
    keep_s: float | None = None  # after the run's end; None: as the server is set
    keep_last: int = 2  # while it lives: the newest of those without a name


class QueueManifest(msgspec.Struct, frozen=True):
    """A queue that is declared in code."""

    name: str
    concurrency_limit: int | None = None


class ScheduleManifest(msgspec.Struct, frozen=True):
    """When a task is triggered by the clock, as declared in code."""

    cron: str
    timezone: str = "UTC"
    window: str | None = None  # "30m", "10%"; None: exactly on time
    catch_up: str = "last"  # none | last | all


class TaskManifest(msgspec.Struct, frozen=True):
    """What the platform knows of a task without loading its code."""

    id: str
    file: str
    line: int
    is_async: bool
    parameters: str  # "none" | "one" | "named": the payload rule of the task's signature
    payload_schema: dict[str, Any]  # JSON schema of the payload
    retry: RetryPolicy
    doc: str | None = None
    queue: QueueManifest | None = None  # None: its own, named `task/<id>`, without a limit
    ttl_s: float | None = None
    max_duration_s: float | None = None
    hooks: list[str] = []  # those of on_failure, on_cancel that the task or the app has
    schedule: ScheduleManifest | None = None
    checkpoints: CheckpointPolicy = CheckpointPolicy()
    network: str | None = None  # what its runs reach at most: host | private | none; None: what worker and project say
    machine: str | None = None  # preset; None: the project's, else the server's default


class TaskError(msgspec.Struct, frozen=True):
    """An exception of user code, or a failure told as one. `stack_trace` holds the user's own frames."""

    name: str
    message: str
    stack_trace: str = ""
    causes: list["TaskError"] = []


class Answer(msgspec.Struct, frozen=True):
    """What a wait got. `output` is JSON text."""

    wait_id: str
    status: (
        str  # "completed" | "failed" (a child run that did not complete) | "timed_out" (a token, or the wait itself)
    )
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: TaskError | None = None
    run_id: str | None = None  # the child, when the wait was for a run
    run_status: str | None = None  # its final public status: COMPLETED, FAILED, CANCELED, …
    completed_at: str | None = None  # ISO instant
    output_object: str | None = None  # from the engine to the server, which puts the output in its place


class NewWait(msgspec.Struct, frozen=True):
    """A wait that user code has entered. `wait_id` is made by the SDK, so sending it twice ties it once."""

    wait_id: str
    kind: str  # "time" | "run" | "batch" | "token"
    duration_s: float | None = None  # time: from when the engine hears of it
    until: str | None = None  # time: an absolute ISO instant instead
    run_id: str | None = None  # run: the child
    waitpoint_id: str | None = None  # token
    batch_id: str | None = None  # batch
    timeout_s: float | None = (
        None  # any kind: answered as timed_out when this is over; from when the engine hears of it
    )
    idempotency_key: str | None = None  # time: the same key is the same wait, also in a later attempt
    idempotency_key_ttl_s: float | None = None


Target = Literal["self", "parent", "root"]
"""Whose metadata or stream is meant: the run's own, or that of one above it."""


class Op(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change of a run's metadata, as in the public API. A `key` that starts with `$.` is a path into it."""

    type: Literal["set", "delete", "append", "remove", "increment", "update"]
    key: str = ""  # update has none
    value: Any = None  # delete has none; increment: a number; update: an object


class Part(msgspec.Struct, frozen=True):
    """A part of a stream."""

    id: str  # made by the SDK, unique in its stream: a repeated one adds nothing
    data: msgspec.Raw


class WordLimits(msgspec.Struct, frozen=True):
    """How much a run may say of itself, as the server is set: so that what is too much is refused where it is said."""

    metadata_bytes: int = 256 << 10
    tags: int = 10


class RunContext(msgspec.Struct, frozen=True):
    """What `torpor.current` shows, and what is known of the run's metadata."""

    run_id: str
    task_id: str
    attempt: int
    max_attempts: int
    version: str
    environment: str
    tags: list[str]
    is_test: bool
    created_at: str
    started_at: str | None = None
    parent_run_id: str | None = None
    root_run_id: str | None = None
    idempotency_key: str | None = None
    machine: Preset | None = None
    worker_id: str | None = None
    queue: str | None = None
    concurrency_key: str | None = None
    batch_id: str | None = None
    schedule_id: str | None = None
    replayed_from: str | None = None
    max_duration_s: float | None = None
    metadata: dict[str, Any] = {}
    limits: WordLimits = WordLimits()  # set by the worker


class HookCall(msgspec.Struct, frozen=True):
    """This process performs no attempt but a hook, for a run that has ended without one (`RunContext` is that run's)."""

    name: str  # on_failure | on_cancel
    run_id: str  # the hook's own run, under whose lease it is performed
    error: TaskError | None = None  # of the run that has ended
    status: str | None = None  # its final public status
    reason: str | None = None  # on_cancel: why it was canceled


# -- runner -> supervisor ---------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, tag="hello"):
    """First words of a newborn runner on its control socket. It may have to wait for `Begin`: it was forked ahead."""

    name: str  # as in Fork


class Block(msgspec.Struct, tag="block"):
    """Waits entered and left since the last message, and whether anything but waits keeps this run awake.

    `idle` is true when every asyncio task of the run (or the one thread of a sync task) is blocked in a Torpor wait or in
    something that only those can wake. `blockers` says what isn't, for the run's story.
    """

    waits: list[NewWait] = []
    dropped: list[str] = []  # wait ids nobody waits for any more (the asyncio task was cancelled)
    idle: bool = False
    blockers: list[str] = []


class Call(msgspec.Struct, tag="call"):
    """A request to the server that the supervisor passes on: the runner holds no credentials.

    kind "trigger" (body: TriggerCall of wire/http/), "create_token" (TokenCall), "complete_token" (CompleteTokenCall),
    "create_batch" (BatchCall), "batch_items" (BatchItemsCall), "batch_results" (BatchResultsCall), "inputs" (InputRead).

    kind "flush" (Flush) is for the supervisor itself. It is answered when all that was said before (`Change`, `Append`) is
    stored, with the run's metadata and tags (MetadataReply); or, if some of it can't be, with the reason.
    """

    call_id: int
    kind: str
    body: msgspec.Raw


class Flush(msgspec.Struct):
    """The body of a `Call` of that kind."""


class Change(msgspec.Struct, tag="change"):
    """User code changes metadata or adds tags. There is no answer to it: the supervisor sees to it that the server knows soon,
    and before it is told of a wait or of the end.
    """

    number: int  # counts what a process says, through all its lives
    seen: int  # the number of the last `Known` that it has read
    target: Target = "self"
    op: Op | None = None
    tags: list[str] = []  # to be added to the run's own


class Append(msgspec.Struct, tag="append"):
    """User code appends to a stream. No answer, as to a `Change`."""

    target: Target
    key: str
    part: Part


class Suspending(msgspec.Struct, tag="suspending"):
    """Descriptors are parked and output is flushed; after this the socket closes and the process may be dumped."""

    parked: list[str] = []  # what was let go and will be opened again, for the story
    waiting_at: list[dict[str, Any]] = []  # where each asyncio task and thread stands: task, file, line, source


class SavePoint(msgspec.Struct, tag="save_point"):
    """User code asks for a checkpoint after which it goes on. As after `Suspending`, the socket closes and the process may be
    dumped; it wakes by SIGUSR1, says `Resumed`, and learns from `Awoken` what became of it.

    No `Call` of this process is without its `Result`. Other asyncio tasks and threads stand still wherever they are.
    """

    name: str
    parked: list[str] = []  # as in Suspending
    left_open: list[str] = []  # what could not be parked, and so must not change until a restore
    waiting_at: list[dict[str, Any]] = []
    open_waits: list[str] = []  # of other asyncio tasks and threads


class NotSaved(msgspec.Struct, tag="not_saved"):
    """User code asked for a save point, but something is open that no image can hold: for the story. It goes on."""

    name: str
    reasons: list[str]


class StayingAwake(msgspec.Struct, tag="staying_awake"):
    """The answer to `Suspend` when something can't be frozen, or (`moved`) when the run is no longer idle.

    With `moved` a new `Block` follows when it is idle again; else only a later try may find things changed.
    """

    reasons: list[str]
    moved: bool = False


class Resumed(msgspec.Struct, tag="resumed"):
    """First words after a freeze, on a new connection; also after a dump that was given up, and after a save point.

    `open_waits` has no wait that is only in a `Block` which is yet to be sent (again).
    """

    run_id: str
    open_waits: list[str]  # wait ids this process still waits for: the engine's view is set to exactly these
    lost: list[str] = []  # descriptors that could not be opened again, and connections that are closed


class Finished(msgspec.Struct, tag="finished"):
    """The end of this attempt. Exactly one of `output` and `error` counts, by `ok`."""

    ok: bool
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: TaskError | None = None
    retryable: bool = True  # false for AbortRun, a payload that doesn't fit, an output that can't be JSON
    canceled: bool = False  # it ended because it was asked to (`Cancel`)
    hooks: list[str] = []  # on_failure, on_cancel: those that were performed here, so nobody else need


class Imported(msgspec.Struct, tag="imported"):
    """The version is imported, and this is in it: from a zygote, or from a runner that was asked to tell (`Fork.tells`).

    `threads` > 1 means that forking is unsafe: a run is then thawed, or imports for itself.
    """

    tasks: list[TaskManifest]
    threads: int
    import_ms: float
    queues: list[QueueManifest] = []


class ImportFailed(msgspec.Struct, tag="import_failed"):
    """The version can't be imported; the traceback is the user's own."""

    error: TaskError


RunnerMessage = (
    Hello
    | Block
    | Call
    | Change
    | Append
    | Suspending
    | SavePoint
    | NotSaved
    | StayingAwake
    | Resumed
    | Finished
    | Imported
    | ImportFailed
)

# -- supervisor -> runner ---------------------------------------------------------------------------------------------


class Begin(msgspec.Struct, tag="begin"):
    """The attempt to make."""

    context: RunContext
    payload: msgspec.Raw
    env: dict[str, str] | None = None  # variables that the server has for all runs; None: nothing is known of them
    env_all: dict[str, str] | None = (
        None  # all that are user code's here, those included: those of its zygote may be old
    )
    hook: HookCall | None = None


class Answers(msgspec.Struct, tag="answers"):
    """Waits that have been answered while the process lives."""

    answers: list[Answer]


class Result(msgspec.Struct, tag="result"):
    """The reply to a `Call`. On failure `status` and `error` are those of the HTTP reply."""

    call_id: int
    ok: bool
    body: msgspec.Raw = msgspec.Raw(b"null")
    status: int = 200
    error: str | None = None


class Known(msgspec.Struct, tag="known"):
    """The run's metadata and tags as the server has them, with every `Change` up to the one with the number `through`."""

    number: int  # counts these, from 1, on behalf of one process here
    through: int
    metadata: dict[str, Any]
    tags: list[str]
    refused: list[str] = []  # why something that was said since the last one is not stored: one line each


class Suspend(msgspec.Struct, tag="suspend"):
    """Please park and close: a checkpoint is to be taken. Answered by Suspending + EOF, or by StayingAwake."""


class Awoken(msgspec.Struct, tag="awoken"):
    """The reply to `Resumed`."""

    restored: bool  # false: this is the same process as before (a dump that was given up, a save point)
    answers: list[Answer] = []
    env: dict[str, str] | None = None  # variables that the server has for all runs; None: nothing is known of them
    env_all: dict[str, str] | None = None  # all that are user code's here, those included: what is not in it is gone
    context: RunContext | None = None  # after a restore: the attempt may be a later one than that which was frozen
    saved: str | None = None  # after a SavePoint: the checkpoint's id, also in a process that was restored from it
    error: str | None = None  # after a SavePoint: why there is no checkpoint


class Cancel(msgspec.Struct, tag="cancel"):
    """Please end: user code gets asyncio.CancelledError (async) or RunCanceled (sync), then its on_cancel hooks run."""

    reason: str | None = None
    grace_s: float = 30.0  # then the process is killed


class Finishing(msgspec.Struct, tag="finishing"):
    """The supervisor holds the outcome and will deliver it; the runner may exit."""


SupervisorMessage = Begin | Answers | Result | Known | Suspend | Awoken | Cancel | Finishing

# -- supervisor <-> zygote --------------------------------------------------------------------------------------------


class ZygoteReady(msgspec.Struct, tag="ready"):
    """A bare zygote can fork. It has imported nothing of the user's."""


class RoomOrder(msgspec.Struct, frozen=True):
    """What a runner is to enter, and to be, before it asks for a run; see worker/room.py. Paths are the supervisor's."""

    root: str  # its root directory: everything else is out of its sight from then on
    own: str  # where its own file system is, seen from in there: work/ (cwd), ctl.sock
    uid: int
    gid: int
    limits: dict[str, int] = {}  # by the names of the module `resource`, such as RLIMIT_NOFILE: soft and hard limit
    cgroups: list[str] = []  # `cgroup.procs` files: it writes itself into each
    network: str | None = None  # the file of a network namespace to join; None: that of the worker
    environment: dict[str, str] = {}  # variables to set, over those of the zygote


class Fork(msgspec.Struct, tag="fork"):
    """Make a runner. No payload and no secret passes through the zygote: every run inherits its memory."""

    name: str  # of the runner: it has no run yet
    directory: str  # its own: ctl.sock, output.log, work/ (cwd), tmp/
    isolated: bool  # own pid, ipc and uts namespaces (needs root)
    parked: bool = False  # say Hello, close, and sleep in sigwait(SIGUSR1): to be frozen before there is a run
    room: RoomOrder | None = None  # None: it stays root, and sees what the worker sees
    tells: bool = False  # of a bare zygote: say `Imported` or `ImportFailed`, and close, before `Hello`
    environment: dict[str, str] | None = None  # of a bare zygote: the variables of user code; None: those of the zygote


class Forked(msgspec.Struct, tag="forked"):
    """The runner's pid, as the supervisor sees it."""

    name: str
    pid: int  # 0: it could not be made


ZygoteMessage = ZygoteReady | Imported | ImportFailed | Forked


class _Codec:
    """Encode any message; decode those of one side."""

    def __init__(self, side: Any) -> None:
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(side)

    def encode(self, message: msgspec.Struct) -> bytes:
        return self._encoder.encode(message)

    def decode(self, body: bytes) -> Any:
        """Raises msgspec.ValidationError or msgspec.DecodeError on garbage."""
        try:
            return self._decoder.decode(body)
        except RecursionError:  # from a decoder that reads a million opening brackets
            raise msgspec.DecodeError("JSON is nested too deeply") from None
        except UnicodeDecodeError as error:  # from one that reads bytes which are no text
            raise msgspec.DecodeError(str(error)) from None


from_runner = _Codec(RunnerMessage)
from_supervisor = _Codec(SupervisorMessage)
from_zygote = _Codec(ZygoteMessage)
to_zygote = _Codec(Fork)

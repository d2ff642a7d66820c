"""What a worker reports of a run that it holds."""

from typing import Any, Literal

import msgspec

from torpor.wire.http.images import StoredCheckpoint
from torpor.wire.runner import Answer, NewWait, TaskError


class Usage(msgspec.Struct, frozen=True):
    """What a run has used since it was handed out under this lease: of all its processes together, those that ended included.
    A later report of a lease holds what an earlier one said, so none counts twice."""

    cpu_ms: float = 0.0
    peak_memory_bytes: int = 0  # the most at any moment


class OutOfMemory(msgspec.Struct, frozen=True):
    """A process was killed because its run had used up its memory."""

    limit_bytes: int  # what the run was allowed
    used_bytes: int = 0  # the most that was measured


class LeaseReply(msgspec.Struct):
    """`ok`, `stale` (kill the process), and for suspend and move: `suspended` (kill it) or `awake` (let it run, drop the
    image; a save point that can't be accepted any more is answered so too). `gone`: nothing has changed; packs in `gone`,
    which the image refers to, are being deleted: publish it again without them."""

    status: Literal["ok", "stale", "suspended", "awake", "gone"]
    gone: list[str] = []


class PayloadCall(msgspec.Struct):
    """The payload that its assignment left out, as it is too large to be handed out on spec."""

    lease: int


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

"""What a worker says of itself, and asks for."""

from typing import Any, Literal

import msgspec

from torpor.wire.http.images import StoredCheckpoint
from torpor.wire.presets import BUILT_IN, DEFAULT_PRESET, Preset
from torpor.wire.runner import Answer, HookCall, QueueManifest, RunContext, TaskManifest, WordLimits


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

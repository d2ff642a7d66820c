"""Checkpoints: their types, and their routes."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from torpor.server.described.operation import (
    PAGED,
    REPEATABLE,
    Answer,
    Body,
    Cursors,
    Given,
    Instant,
    Operation,
    Resource,
    Shape,
)
from torpor.server.described.run_types import Status
from torpor.server.described.runs import NO_RUN


class Checkpoint(Shape, kw_only=True):
    """The stored image of a run's frozen processes."""

    id: str
    run_id: str
    number: int
    kind: Annotated[
        Literal["wait", "named", "auto", "move"],
        Meta(
            description="`wait`: frozen in a wait. `named`: a save point of the code's. `auto`: one that was made by itself. "
            "`move`: frozen to go on elsewhere."
        ),
    ]
    name: str | UnsetType = UNSET
    state: Annotated[
        Literal["usable", "kept", "dropped", "unusable"],
        Meta(
            description="`usable`: the run itself can be restored from it, and forked there. `kept`: only forked, until "
            "`keptUntil`. `dropped`: its image is or will be deleted. `unusable`: nobody can restore it, for that `reason`."
        ),
    ]
    reason: str | UnsetType = UNSET
    attempt: int
    worker_id: str
    image_id: Annotated[
        str, Meta(description="What is stored: a fork's first checkpoint has the image of the original's.")
    ]
    store_id: str
    base_image_id: str | UnsetType = UNSET
    key_id: str | UnsetType = UNSET
    digest: str | UnsetType = UNSET
    size_bytes: Annotated[int, Meta(description="What is stored of it in all.")]
    new_bytes: Annotated[int, Meta(description="Of that, what is stored for it alone.")]
    shared_bytes: Annotated[
        int, Meta(description="How much of its content, not compressed, others had stored already.")
    ]
    files_bytes: int
    rss_bytes: int
    dump_ms: float
    durable_ms: float
    waiting_at: Annotated[
        list[dict[str, Any]],
        Meta(description="Where each asyncio task and thread stands: `task` or `thread`, `file`, `line`, `source`."),
    ]
    facts: dict[str, Any]
    created_at: Instant
    kept_until: Instant | UnsetType = UNSET


class Checkpoints(Shape):
    data: list[Checkpoint]


class CheckpointPage(Shape):
    data: list[Checkpoint]
    pagination: Cursors


class WaitOfProcess(Shape, kw_only=True):
    """A wait that a frozen process is in. Timers of the event loop can't be answered by a fork."""

    id: str
    kind: str
    status: Literal["WAITING", "COMPLETED", "TIMED_OUT"]
    waitpoint_id: str
    run_id: str | UnsetType = UNSET
    due_at: Instant | UnsetType = UNSET
    can_be_answered: bool


class CheckpointWithWaits(Checkpoint, kw_only=True):
    waits: list[WaitOfProcess]


class Fork(Given):
    checkpoint: Annotated[str, Meta(description="An id, a name, or `latest`, which is meant unless it is given.")] = (
        "latest"
    )
    answer: Annotated[Any, Meta(description="What its wait gets, instead of what the original got or will get.")] = None
    wait_id: Annotated[str, Meta(description="Which wait that is, if there are several.")] | None = None


class Forked(Shape):
    id: str
    checkpoint_id: str
    status: Status


EXAMPLE = {
    "id": "checkpoint_2h6d9s0x",
    "runId": "run_8fz3k1v0q2m4",
    "number": 1,
    "kind": "named",
    "name": "epoch 3",
    "state": "usable",
    "attempt": 1,
    "workerId": "worker_5n1c7b3t",
    "imageId": "checkpoint_2h6d9s0x",
    "storeId": "store_1",
    "sizeBytes": 5242880,
    "newBytes": 1048576,
    "sharedBytes": 20971520,
    "filesBytes": 0,
    "rssBytes": 31457280,
    "dumpMs": 41.5,
    "durableMs": 60.2,
    "waitingAt": [{"task": "main", "file": "tasks.py", "line": 12, "source": "await wait.for_(days=1)"}],
    "facts": {},
    "createdAt": "2026-03-01T07:00:01Z",
}

RESOURCE = Resource(
    "Checkpoints",
    "The stored images of frozen processes. All Torpor's own.",
    {
        "GET /api/v1/runs/{run_id}/checkpoints": Operation(
            "listRunCheckpoints",
            "The checkpoints of a run, oldest first.",
            is_own=True,
            answers={200: Answer("All of them.", Checkpoints, {"data": [EXAMPLE]})},
            refusals=NO_RUN,
        ),
        "GET /api/v1/checkpoints": Operation(
            "listCheckpoints",
            "The checkpoints of all runs that are `usable` or `kept`.",
            is_own=True,
            query=PAGED,
            answers={200: Answer("A page, newest first.", CheckpointPage, {"data": [EXAMPLE], "pagination": {}})},
        ),
        "GET /api/v1/checkpoints/{checkpoint_id}": Operation(
            "retrieveCheckpoint",
            "One checkpoint, and the waits that its process is in.",
            is_own=True,
            answers={
                200: Answer(
                    "The checkpoint.",
                    CheckpointWithWaits,
                    EXAMPLE
                    | {
                        "waits": [
                            {
                                "id": "wait_3d",
                                "kind": "token",
                                "status": "WAITING",
                                "waitpointId": "waitpoint_9k2p",
                                "canBeAnswered": True,
                            }
                        ]
                    },
                )
            },
            refusals={404: "There is no such checkpoint."},
        ),
        "POST /api/v1/runs/{run_id}/fork": Operation(
            "forkRun",
            "A new run goes on from a checkpoint of this one, which may be over.",
            "The new run has the original's task, version, payload, tags, metadata and settings, a first attempt that has begun "
            "already, and `forkedFrom` and `forkedCheckpointId`. 422 when there is no such checkpoint, or it is not kept any "
            "more; and when it must be said which wait is answered: `waits` names them.",
            is_own=True,
            headers=REPEATABLE,
            body=Body(Fork, {"checkpoint": "latest", "answer": {"approved": True}}),
            answers={
                200: Answer(
                    "The new run.",
                    Forked,
                    {"id": "run_0a7c5d2e9b1f", "checkpointId": "checkpoint_2h6d9s0x", "status": "QUEUED"},
                )
            },
            refusals=NO_RUN,
        ),
    },
)

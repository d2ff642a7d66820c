"""Queues and the environment: their types, and their routes."""

from typing import Annotated, Literal

from msgspec import Meta

from torpor.server.described.operation import (
    NUMBERED,
    Answer,
    Body,
    Given,
    Instant,
    Operation,
    PageNumber,
    Parameter,
    Resource,
    Shape,
)

KindOfName = Annotated[
    Literal["any", "id", "task", "custom"],
    Meta(description="How the queue is named: by its task, by its own name, or by its id. Left out, all are tried."),
]


class QueueAction(Given):
    action: Literal["pause", "resume"]
    type: KindOfName = "any"


class QueueLimit(Given):
    concurrency_limit: Annotated[int, Meta(ge=0, le=100_000)]
    type: KindOfName = "any"


class QueueNamed(Given):
    type: KindOfName = "any"


class EnvironmentChange(Given):
    """What is not named stays. Null: no limit."""

    concurrency_limit: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    burst_factor: Annotated[float, Meta(ge=1, le=100)] = 1.0
    max_queued: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    accepts_unknown_tasks: bool = False
    paused: bool = False


class Bound(Shape):
    current: int | None
    base: Annotated[int | None, Meta(description="As declared in code.")]
    override: Annotated[int | None, Meta(description="As set while running.")]
    overridden_at: Instant | None
    overridden_by: Annotated[str, Meta(description="Whose personal token did it.")] | None


class Queue(Shape):
    """Null: no limit."""

    id: str
    name: str
    type: Literal["task", "custom"]
    running: int
    queued: int
    paused: bool
    concurrency_limit: int | None
    concurrency: Bound


class QueuePage(Shape):
    data: list[Queue]
    pagination: PageNumber


class Environment(Shape):
    """Null: no limit."""

    project: str
    slug: str
    concurrency_limit: int | None
    burst_factor: float
    max_queued: int | None
    accepts_unknown_tasks: bool
    paused: bool


QUEUE = {
    "id": "queue_1b5h",
    "name": "emails",
    "type": "custom",
    "running": 5,
    "queued": 12,
    "paused": False,
    "concurrencyLimit": 5,
    "concurrency": {"current": 5, "base": 5, "override": None, "overriddenAt": None, "overriddenBy": None},
}
ENVIRONMENT = {
    "project": "default",
    "slug": "dev",
    "concurrencyLimit": None,
    "burstFactor": 1.0,
    "maxQueued": None,
    "acceptsUnknownTasks": False,
    "paused": False,
}
NO_QUEUE = {404: "There is no such queue (`queue-not-found`); the message names similar ones."}

RESOURCE = Resource(
    "Queues",
    "Where runs line up. What they mean is in [queues](queues.md). A slash in a name is encoded twice.",
    {
        "GET /api/v1/queues": Operation(
            "listQueues",
            "List queues; 25 per page unless it is given.",
            query=NUMBERED,
            answers={
                200: Answer(
                    "A page of queues.",
                    QueuePage,
                    {"data": [QUEUE], "pagination": {"currentPage": 1, "totalPages": 1, "count": 1}},
                )
            },
        ),
        "GET /api/v1/queues/{name}": Operation(
            "retrieveQueue",
            "Look at a queue.",
            query=(Parameter("type", KindOfName, "How the queue is named.", "custom"),),
            answers={200: Answer("The queue.", Queue, QUEUE)},
            refusals=NO_QUEUE,
        ),
        "POST /api/v1/queues/{name}/pause": Operation(
            "pauseQueue",
            "Pause a queue, or let it go on.",
            body=Body(QueueAction, {"type": "custom", "action": "pause"}, is_required=True),
            answers={200: Answer("The queue as it is then.", Queue, QUEUE | {"paused": True})},
            refusals=NO_QUEUE,
        ),
        "POST /api/v1/queues/{name}/concurrency/override": Operation(
            "overrideQueueLimit",
            "Set a queue's limit while running.",
            body=Body(QueueLimit, {"type": "custom", "concurrencyLimit": 2}, is_required=True),
            answers={200: Answer("The queue as it is then.", Queue, QUEUE)},
            refusals=NO_QUEUE,
        ),
        "POST /api/v1/queues/{name}/concurrency/reset": Operation(
            "resetQueueLimit",
            "Let the declared limit hold again.",
            body=Body(QueueNamed, {"type": "custom"}),
            answers={200: Answer("The queue as it is then.", Queue, QUEUE)},
            refusals=NO_QUEUE,
        ),
        "GET /api/v1/environment": Operation(
            "retrieveEnvironment",
            "The limits that all runs share.",
            is_own=True,
            answers={200: Answer("The environment.", Environment, ENVIRONMENT)},
        ),
        "POST /api/v1/environment": Operation(
            "changeEnvironment",
            "Change the limits that all runs share.",
            is_own=True,
            body=Body(EnvironmentChange, {"concurrencyLimit": 100, "burstFactor": 1.5}),
            answers={
                200: Answer("The environment as it is then.", Environment, ENVIRONMENT | {"concurrencyLimit": 100})
            },
        ),
    },
)

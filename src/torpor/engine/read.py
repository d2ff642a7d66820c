"""Fetch and list, for the API, the command line and the dashboard. Writes nothing."""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.answers import ALARM
from torpor.engine.complete import next_due
from torpor.engine.pages import FIRST, Conditions, Listing, Numbered, Page, read_page
from torpor.engine.read_runs import RunFilter, runs
from torpor.store.database import Transaction
from torpor.store.records import (
    Attempt,
    Checkpoint,
    Deployment,
    Environment,
    Event,
    LogLine,
    Queue,
    Run,
    Schedule,
    Task,
    Waitpoint,
    Worker,
)

__all__ = [
    "Listing",
    "Numbered",
    "Page",
    "QueueView",
    "RunFilter",
    "TokenFilter",
    "TokenView",
    "attempts",
    "checkpoints",
    "children",
    "current_deployment",
    "deployment",
    "deployments",
    "environment",
    "environment_counts",
    "environment_of_run",
    "environment_or_none",
    "environments",
    "environments_in_line",
    "is_instance",
    "logs",
    "next_due",
    "queue",
    "queue_names",
    "queues",
    "run",
    "runs",
    "schedule",
    "schedules",
    "scopes_of_run",
    "story",
    "task",
    "task_ids",
    "tasks",
    "token",
    "tokens",
    "workers",
]

STORY_LIMIT = 1000

TOKEN_STATUS = {"WAITING": "pending", "COMPLETED": "completed", "TIMED_OUT": "timed_out"}


@dataclass(frozen=True, slots=True)
class TokenFilter:
    """Which tokens; `status` holds public names: WAITING, COMPLETED, TIMED_OUT."""

    status: list[str] | None = None
    idempotency_key: str | None = None
    tags: list[str] | None = None  # any of
    is_approval: bool | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token, and the runs that are blocked on it."""

    token: Waitpoint
    run_ids: list[str]


@dataclass(frozen=True, slots=True)
class WaitView:
    """A wait that a frozen process is in."""

    wait_id: str
    waitpoint_id: str
    kind: str
    status: str
    awaited_run_id: str | None
    due_at: datetime | None
    title: str | None  # what a person is asked, where one is
    completed_by: str | None
    can_be_answered: bool


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue, and how many runs stand in its lines and work."""

    queue: Queue
    queued: int
    running: int


async def environment_or_none(tx: Transaction, environment_id: str) -> Environment | None:
    """The environment with this id, which somebody has named."""
    row = await tx.fetchrow("select * from environments where id = $1 and deleted_at is null", environment_id)
    return Environment.of(row) if row else None


async def environments(tx: Transaction) -> list[Environment]:
    """All there are."""
    rows = await tx.fetch("select * from environments where deleted_at is null order by created_at, id")
    return [Environment.of(row) for row in rows]


async def environment_counts(tx: Transaction, *, now: datetime) -> dict[str, tuple[int, int]]:
    """Of each environment: how many workers it has now, and how many runs that work or are in line."""
    rows = await tx.fetch(
        """select id, (select count(*) from workers where environment_id = environments.id and expires_at > $1) as workers,
             (select count(*) from runs where environment_id = environments.id
                and state in ('queued', 'dequeued', 'executing')) as runs
           from environments where deleted_at is null""",
        now,
    )
    return {row["id"]: (row["workers"], row["runs"]) for row in rows}


async def is_instance(tx: Transaction, environment_id: str, worker_id: str, instance_id: str) -> bool:
    """Whether this instance of a worker has said hello, there, and no other one after it."""
    return bool(
        await tx.fetchval(
            "select true from workers where id = $1 and instance_id = $2 and environment_id = $3",
            worker_id,
            instance_id,
            environment_id,
        )
    )


async def environment_of_run(tx: Transaction, run_id: str) -> str | None:
    """The id of the environment in which this run is. For whoever may look at all of them."""
    return await tx.fetchval("select environment_id from runs where id = $1", run_id)


async def environments_in_line(tx: Transaction) -> list[str]:
    """Where runs wait in memory for a slot. (One probe of an index per environment.)"""
    rows = await tx.fetch(
        """select id from environments
           where exists (select from runs where environment_id = environments.id and ready_at is not null)"""
    )
    return [row["id"] for row in rows]


async def environment(tx: Transaction, environment_id: str) -> Environment:
    """One that exists."""
    return Environment.of(await tx.fetchrow("select * from environments where id = $1", environment_id))


async def queues(
    tx: Transaction, environment_id: str, *, page: int = 1, size: int = 100, most: int | None = None
) -> Numbered[QueueView]:
    """Queues by name, with what they hold. `most`: no more than so many queued runs of each are counted."""
    count = await tx.fetchval("select count(*) from queues where environment_id = $1", environment_id)
    rows = await tx.fetch(
        "select * from queues where environment_id = $1 order by name limit $2 offset $3",
        environment_id,
        size,
        (page - 1) * size,
    )
    views = await _queue_views(tx, environment_id, [Queue.of(row) for row in rows], most)
    return Numbered(views, page, size, count or 0)


async def queue(
    tx: Transaction, environment_id: str, *, id: str | None = None, name: str | None = None
) -> QueueView | None:
    """One queue, by its id or its whole name."""
    row = await tx.fetchrow(
        "select * from queues where environment_id = $1 and (id = $2 or name = $3)", environment_id, id, name
    )
    return (await _queue_views(tx, environment_id, [Queue.of(row)]))[0] if row else None


async def queue_names(tx: Transaction, environment_id: str) -> list[str]:
    """All names, for "did you mean …?"."""
    rows = await tx.fetch("select name from queues where environment_id = $1 order by name", environment_id)
    return [row["name"] for row in rows]


async def _queue_views(
    tx: Transaction, environment_id: str, queues: list[Queue], most: int | None = None
) -> list[QueueView]:
    """Along the indexes of queues. Hooks hold slots, but stand in no list of queued runs."""
    rows = await tx.fetch(
        """select name, queued.count as queued, running.count as running
           from unnest($2::text[]) as names (name) cross join lateral (
                    select count(*) from (
                        select from runs where environment_id = $1 and queue = name and state = 'queued' and hook is null
                        limit $3) as line) as queued
                cross join lateral (
                    select count(*) from runs
                    where environment_id = $1 and queue = name and state in ('dequeued', 'executing')) as running""",
        environment_id,
        [queue.name for queue in queues],
        most,
    )
    counts = {row["name"]: (row["queued"], row["running"]) for row in rows}
    return [QueueView(queue, *counts.get(queue.name, (0, 0))) for queue in queues]


async def run(tx: Transaction, environment_id: str, run_id: str) -> Run | None:
    """One run."""
    row = await tx.fetchrow("select * from runs where id = $1 and environment_id = $2", run_id, environment_id)
    return Run.of(row) if row else None


async def scopes_of_run(tx: Transaction, environment_id: str, run_id: str) -> dict[str, list[str]] | None:
    """By what else than its id a scope may mean this run: its task, its tags, and the batches that it is an item of."""
    row = await tx.fetchrow(
        """select task_id, tags, array(select batch_id from batch_items where run_id = runs.id) as batches
           from runs where id = $1 and environment_id = $2""",
        run_id,
        environment_id,
    )
    return {"task": [row["task_id"]], "tag": row["tags"], "batch": row["batches"]} if row else None


async def children(tx: Transaction, environment_id: str, run_id: str, *, limit: int = 100) -> list[Run]:
    """Runs that this run has triggered, oldest first."""
    rows = await tx.fetch(
        "select * from runs where parent_run_id = $1 and environment_id = $2 order by created_at, id limit $3",
        run_id,
        environment_id,
        limit,
    )
    return [Run.of(row) for row in rows]


async def attempts(tx: Transaction, run_id: str) -> list[Attempt]:
    """A run's attempts, in order."""
    rows = await tx.fetch("select * from attempts where run_id = $1 order by number", run_id)
    return [Attempt.of(row) for row in rows]


async def story(tx: Transaction, run_id: str, after: int = 0, *, limit: int = STORY_LIMIT) -> list[Event]:
    """A run's events after that id, in order."""
    rows = await tx.fetch(
        "select * from events where run_id = $1 and id > $2 order by id limit $3", run_id, after, limit
    )
    return [Event.of(row) for row in rows]


async def logs(tx: Transaction, run_id: str, after: int = 0, *, limit: int = STORY_LIMIT) -> list[LogLine]:
    """A run's log lines after that id, in order."""
    rows = await tx.fetch("select * from logs where run_id = $1 and id > $2 order by id limit $3", run_id, after, limit)
    return [LogLine.of(row) for row in rows]


async def checkpoints(tx: Transaction, run_id: str) -> list[Checkpoint]:
    """A run's images, oldest first; those that were dropped too."""
    rows = await tx.fetch("select * from checkpoints where run_id = $1 order by number", run_id)
    return [Checkpoint.of(row) for row in rows]


async def checkpoint(tx: Transaction, environment_id: str, checkpoint_id: str) -> Checkpoint | None:
    """One checkpoint."""
    row = await tx.fetchrow(
        """select checkpoints.* from checkpoints join runs on runs.id = checkpoints.run_id
           where checkpoints.id = $1 and runs.environment_id = $2""",
        checkpoint_id,
        environment_id,
    )
    return Checkpoint.of(row) if row else None


async def newest_checkpoints(tx: Transaction, run_id: str, *, limit: int) -> list[Checkpoint]:
    """A run's newest images, newest first; those that were dropped too."""
    rows = await tx.fetch("select * from checkpoints where run_id = $1 order by number desc limit $2", run_id, limit)
    return [Checkpoint.of(row) for row in rows]


async def waits_of_checkpoint(tx: Transaction, checkpoint: Checkpoint) -> list[WaitView]:
    """What a frozen process waits for, and whether that is answered by now."""
    return (await waits_of_checkpoints(tx, checkpoint.run_id, [checkpoint])).get(checkpoint.id, [])


async def waits_of_checkpoints(
    tx: Transaction, run_id: str, checkpoints: list[Checkpoint]
) -> dict[str, list[WaitView]]:
    """The same of several of a run's, by the checkpoint's id."""
    asked = sorted({wait_id for each in checkpoints for wait_id in each.open_waits})
    if not asked:
        return {}
    rows = await tx.fetch(
        """select waits.wait_id, waits.waitpoint_id, waitpoints.kind, waitpoints.status, waitpoints.awaited_run_id,
                  waitpoints.due_at, waitpoints.title, waitpoints.completed_by
           from waits join waitpoints on waitpoints.id = waits.waitpoint_id
           where waits.run_id = $1 and waits.wait_id = any($2::text[]) order by waits.created_at, waits.wait_id""",
        run_id,
        asked,
    )
    found = [WaitView(**row, can_be_answered=not row["wait_id"].startswith(ALARM)) for row in rows]
    return {each.id: [wait for wait in found if wait.wait_id in each.open_waits] for each in checkpoints}


async def live_images(
    tx: Transaction, store_id: str, environment_id: str | None = None, *, after: str = "", limit: int = 1000
) -> list[tuple[str, str]]:
    """(id, digest) of images in that store that are not condemned, by id; of one environment, or of all."""
    rows = await tx.fetch(
        """select id, digest from images where store_id = $1 and condemned_at is null and id > $2
             and ($4::text is null or environment_id = $4) order by id limit $3""",
        store_id,
        after,
        limit,
        environment_id,
    )
    return [(row["id"], row["digest"]) for row in rows]


async def token(tx: Transaction, environment_id: str, waitpoint_id: str) -> TokenView | None:
    """One token."""
    row = await tx.fetchrow(
        "select * from waitpoints where id = $1 and environment_id = $2 and kind = 'token'",
        waitpoint_id,
        environment_id,
    )
    return (await views(tx, [Waitpoint.of(row)]))[0] if row else None


async def tokens(
    tx: Transaction, environment_id: str, where: TokenFilter = TokenFilter(), page: Page = FIRST
) -> Listing[TokenView]:
    """Tokens, newest first."""
    conditions = Conditions(environment_id)
    conditions.parts.append("kind = 'token'")
    if where.status is not None:
        wanted = [TOKEN_STATUS[name] for name in where.status if name in TOKEN_STATUS]
        if "COMPLETED" in where.status:
            wanted.append("failed")  # completed with an error is completed, to who made it
        conditions.add("status = any({}::text[])", wanted)
    conditions.add_if("idempotency_key = {}", where.idempotency_key)
    conditions.add_if("tags && {}::text[]", where.tags)
    conditions.add_if("(title is not null) = {}", where.is_approval)
    conditions.add_if("created_at >= {}", where.created_from)
    conditions.add_if("created_at <= {}", where.created_to)
    listing = await read_page(tx, "waitpoints", conditions, page, Waitpoint.of)
    return Listing(await views(tx, listing.items), listing.next, listing.previous)


async def workers(tx: Transaction, environment_id: str | None = None) -> list[Worker]:
    """Workers that have ever said hello; those past `expires_at` are gone."""
    rows = await tx.fetch(
        "select * from workers where $1::text is null or environment_id = $1 order by hello_at, id", environment_id
    )
    return [Worker.of(row) for row in rows]


async def worker_loads(tx: Transaction, worker_ids: list[str]) -> dict[str, tuple[int, int]]:
    """How many runs each worker has that work, and how many that wait in its memory. Along the index of what is held."""
    rows = await tx.fetch(
        """select worker_id, count(*) filter (where state in ('dequeued', 'executing')) as running,
                  count(*) filter (where state = 'waiting') as held
           from runs where worker_id = any($1::text[]) group by worker_id""",
        worker_ids,
    )
    return {row["worker_id"]: (row["running"], row["held"]) for row in rows}


async def tasks(tx: Transaction, environment_id: str) -> list[Task]:
    """The tasks of the current version."""
    rows = await tx.fetch(
        """select tasks.* from tasks join environments on environments.id = tasks.environment_id
           where environments.id = $1 and tasks.version = environments.current_version order by tasks.id""",
        environment_id,
    )
    return [Task.of(row) for row in rows]


async def task(tx: Transaction, environment_id: str, task_id: str) -> Task | None:
    """One task of the current version."""
    row = await tx.fetchrow(
        """select tasks.* from tasks join environments on environments.id = tasks.environment_id
           where environments.id = $1 and tasks.version = environments.current_version and tasks.id = $2""",
        environment_id,
        task_id,
    )
    return Task.of(row) if row else None


async def task_ids(tx: Transaction, environment_id: str, version: str) -> list[str]:
    """The tasks of a version, by id."""
    rows = await tx.fetch(
        "select id from tasks where environment_id = $1 and version = $2 order by id", environment_id, version
    )
    return [row["id"] for row in rows]


async def deployments(
    tx: Transaction,
    environment_id: str,
    created_from: datetime | None = None,
    created_to: datetime | None = None,
    page: Page = FIRST,
) -> Listing[Deployment]:
    """Versions that were registered, newest first."""
    conditions = Conditions(environment_id)
    conditions.add_if("created_at >= {}", created_from)
    conditions.add_if("created_at <= {}", created_to)
    return await read_page(tx, "deployments", conditions, page, Deployment.of)


async def deployment(tx: Transaction, environment_id: str, deployment_id: str) -> Deployment | None:
    """One of them."""
    row = await tx.fetchrow(
        "select * from deployments where id = $1 and environment_id = $2", deployment_id, environment_id
    )
    return Deployment.of(row) if row else None


async def current_deployment(tx: Transaction, environment_id: str) -> Deployment | None:
    """That of the current version."""
    row = await tx.fetchrow(
        """select deployments.* from deployments join environments on environments.id = deployments.environment_id
           where environments.id = $1 and deployments.version = environments.current_version""",
        environment_id,
    )
    return Deployment.of(row) if row else None


async def schedule(tx: Transaction, environment_id: str, schedule_id: str) -> Schedule | None:
    """One schedule."""
    row = await tx.fetchrow(
        "select * from schedules where id = $1 and environment_id = $2", schedule_id, environment_id
    )
    return Schedule.of(row) if row else None


async def schedules(tx: Transaction, environment_id: str, page: int = 1, size: int = 20) -> Numbered[Schedule]:
    """Schedules, newest first."""
    count = await tx.fetchval("select count(*) from schedules where environment_id = $1", environment_id)
    rows = await tx.fetch(
        """select * from schedules where environment_id = $1 order by created_at desc, id desc limit $2 offset $3""",
        environment_id,
        size,
        (page - 1) * size,
    )
    return Numbered([Schedule.of(row) for row in rows], page, size, count or 0)


async def views(tx: Transaction, waitpoints: list[Waitpoint]) -> list[TokenView]:
    """These tokens, with the runs that are blocked on those that are open."""
    rows = await tx.fetch(
        """select distinct waitpoint_id, run_id from waits
           where waitpoint_id = any($1::text[]) and detached_at is null order by run_id""",
        [waitpoint.id for waitpoint in waitpoints if waitpoint.status == "pending"],
    )
    blocked: dict[str, list[str]] = {}
    for row in rows:
        blocked.setdefault(row["waitpoint_id"], []).append(row["run_id"])
    return [TokenView(waitpoint, blocked.get(waitpoint.id, [])) for waitpoint in waitpoints]

"""What there is: the tasks of the current version, the workers, the limits, and whether the database answers."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor.config import Settings
from torpor.engine import bulk, read
from torpor.engine.drain import Draining, Gone, drain_worker
from torpor.engine.outcomes import Unknown
from torpor.engine.query import TIMEOUT_S
from torpor.engine.query_grammar import MAX_ROWS
from torpor.engine.query_words import MAX_CHARS
from torpor.engine.streams import MAX_INPUT_BYTES, MAX_STREAMS
from torpor.server import env_vars, options, query, render, scopes
from torpor.server.auth import Keyed
from torpor.server.bodies import reply
from torpor.server.errors import Refused, not_found
from torpor.server.hub import hub
from torpor.store.database import Transaction
from torpor.store.records import Environment, Worker
from torpor.wire.http import MAX_OUTPUT_BYTES
from torpor.wire.streams import MAX_PART_BYTES

router = APIRouter()


@router.api_route("/healthz", methods=["GET", "HEAD"])
async def healthz(request: Request) -> Response:
    """No key: for load balancers. 503 when the database doesn't answer."""
    async with hub(request).database.transaction() as tx:
        await tx.fetchval("select 1")
    return reply({"status": "ok"})


@router.get("/api/v1/tasks")
async def tasks(request: Request, environment: Keyed) -> Response:
    async with hub(request).database.transaction() as tx:
        found = await read.tasks(tx, environment.id)
    return reply({"data": [render.task(task) for task in found]})


@router.get("/api/v1/workers")
async def workers(request: Request, environment: Keyed) -> Response:
    here = hub(request)
    async with here.database.transaction() as tx:
        found = await read.workers(tx, environment.id)
        loads = await read.worker_loads(tx, [worker.id for worker in found])
    now = here.clock.now()
    return reply({"data": [render.worker(worker, loads.get(worker.id, (0, 0)), now) for worker in found]})


@router.get("/api/v1/workers/{worker_id}")
async def worker(request: Request, worker_id: str, environment: Keyed) -> Response:
    here = hub(request)
    async with here.database.transaction() as tx:
        found = next((each for each in await read.workers(tx, environment.id) if each.id == worker_id), None)
        if found is None:
            raise not_found()
        loads = await read.worker_loads(tx, [worker_id])
    return reply(render.worker(found, loads.get(worker_id, (0, 0)), here.clock.now()))


@router.post("/api/v1/workers/{worker_id}/drain")
async def drain(request: Request, worker_id: str, environment: Keyed) -> Response:
    here = hub(request)
    now = here.clock.now()
    async with here.database.transaction() as tx:
        worker = await drain_asked(tx, environment.id, worker_id, now=now)
        loads = await read.worker_loads(tx, [worker_id])
    return reply(render.worker(worker, loads.get(worker_id, (0, 0)), now))


async def drain_asked(tx: Transaction, environment_id: str, worker_id: str, *, now: datetime) -> Worker:
    """Ask a worker to leave, or refuse."""
    match await drain_worker(tx, environment_id, worker_id, now=now):
        case Unknown():
            raise not_found()
        case Gone(worker):
            raise Refused(
                422, f"The worker {worker.id} is gone: nothing was heard of it since {worker.seen_at:%F %T} UTC."
            )
        case Draining(worker):
            return worker


@router.get("/api/v1/limits")
async def limits(request: Request, environment: Keyed) -> Response:
    """What a request is held to; the same numbers stand in refusals."""
    return reply(limits_of(hub(request).settings, environment))


def limits_of(settings: Settings, environment: Environment | None) -> dict[str, Any]:
    """All limits of a server, and of an environment if there is one."""
    return {
        "requestBytes": settings.max_request_bytes,
        "batchItemBytes": settings.max_request_bytes,
        "uploadBytes": settings.max_request_bytes,
        "batchItems": settings.max_batch_items,
        "bulkRunIds": bulk.MAX_NAMED,
        "outputBytes": MAX_OUTPUT_BYTES,
        "metadataBytes": settings.max_metadata_bytes,
        "streams": MAX_STREAMS,
        "streamBytes": settings.stream_bytes,
        "streamPartBytes": MAX_PART_BYTES,
        "streamInputBytes": MAX_INPUT_BYTES,
        "tags": settings.max_tags,
        "tagCharacters": options.MAX_TAG_LENGTH,
        "idempotencyKeyCharacters": options.MAX_KEY_LENGTH,
        "attempts": settings.max_attempts,
        "ttlSeconds": settings.max_ttl_s or None,
        "schedules": settings.max_schedules or None,
        "concurrentRuns": environment.concurrency_limit if environment else None,
        "queuedPerQueue": environment.max_queued if environment else None,
        "keyRequestsPerSecond": settings.key_requests_per_s or None,
        "keyRequestsBurst": settings.key_requests_burst if settings.key_requests_per_s else None,
        "tokenRequestsPerSecond": settings.token_requests_per_s or None,
        "tokenRequestsBurst": settings.token_requests_burst if settings.token_requests_per_s else None,
        "realtimeSubscriptions": settings.realtime_subscriptions or None,
        "publicTokenSeconds": settings.max_public_token_s,
        "scopes": scopes.MAX_SCOPES,
        "queries": query.AT_ONCE,
        "queryCharacters": MAX_CHARS,
        "queryRows": MAX_ROWS,
        "querySeconds": TIMEOUT_S,
        "variables": settings.max_variables,
        "variableBytes": env_vars.MAX_VALUE_BYTES,
        "allVariablesBytes": env_vars.MAX_ALL_BYTES,
    }

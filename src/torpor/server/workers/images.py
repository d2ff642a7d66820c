"""What workers have stored, what of it is to be kept, and processes that wait for a run."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from torpor import engine
from torpor.engine import read
from torpor.server import auth
from torpor.server.bodies import reply
from torpor.server.errors import Refused
from torpor.server.garbage import collect_garbage
from torpor.server.hub import hub
from torpor.server.workers.messages import read_message, told
from torpor.store.database import Transaction
from torpor.wire import http as wire

MAX_CONDEMNED = 1000
"""The most objects that a worker is told to delete at once."""

_census = msgspec.json.Decoder(wire.CheckpointCensus)
_garbage_request = msgspec.json.Decoder(wire.GarbageRequest)
_images_request = msgspec.json.Decoder(wire.ImagesRequest)
_warm_report = msgspec.json.Decoder(wire.WarmReport)
_warm_request = msgspec.json.Decoder(wire.WarmRequest)
_warm_refusal = msgspec.json.Decoder(wire.WarmRefusal)


async def garbage(request: Request) -> Response:
    """What a worker has deleted and has found, and what it is to delete now. Each step in a transaction of its own, in the
    order in which they are useful to each other."""
    environment = await auth.worker_environment(request)
    here, asked = hub(request), await read_message(request, _garbage_request)
    now = here.clock.now()
    async with here.database.transaction() as tx:
        store_id = await _store_of(tx, asked.worker_id)
    async with here.database.transaction() as tx:
        await engine.confirm_deleted(tx, environment.id, store_id, asked.deleted, now=now)
    async with here.database.transaction() as tx:
        await engine.note_strays(tx, environment.id, store_id, asked.strays, now=now)
    await collect_garbage(here, steps=10)
    async with here.database.transaction() as tx:
        names = await engine.condemned(tx, environment.id, store_id, limit=MAX_CONDEMNED, now=now)
    return reply(wire.GarbageReply(names, more=len(names) == MAX_CONDEMNED))


async def images(request: Request) -> Response:
    """The images that a worker's store must hold, page by page."""
    environment = await auth.worker_environment(request)
    here, asked = hub(request), await read_message(request, _images_request)
    only_of = (
        environment.id if auth.caller(request).key_id else None
    )  # whose token opens one environment sees no other's
    async with here.database.transaction() as tx:
        store_id = await _store_of(tx, asked.worker_id)
        found = await read.live_images(tx, store_id, only_of, after=asked.after, limit=MAX_CONDEMNED)
    after = found[-1][0] if len(found) == MAX_CONDEMNED else None
    return reply(wire.ImagesReply([wire.LiveImage(id, digest) for id, digest in found], after))


async def _store_of(tx: Transaction, worker_id: str) -> str:
    store_id = await tx.fetchval("select store_id from workers where id = $1", worker_id)
    if store_id is None:
        raise Refused(404, f"worker {worker_id} has not said hello")
    return store_id


async def warm(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, report = hub(request), await read_message(request, _warm_report)
    async with here.database.transaction() as tx:
        outcome = await engine.warm(tx, environment.id, report, now=here.clock.now())
    return reply(told(outcome))


async def find_warm(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, asked = hub(request), await read_message(request, _warm_request)
    async with here.database.transaction() as tx:
        found = await engine.find_warm(tx, environment.id, asked.worker_id, asked.version, now=here.clock.now())
    return reply(wire.WarmFound(found))


async def refuse_warm(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, refusal = hub(request), await read_message(request, _warm_refusal)
    async with here.database.transaction() as tx:
        await engine.refuse_warm(
            tx,
            environment.id,
            refusal.worker_id,
            refusal.image_id,
            refusal.reason,
            is_damaged=refusal.damaged,
            now=here.clock.now(),
        )
    return reply(wire.LeaseReply("ok"))


async def checkpoints(request: Request) -> Response:
    await auth.worker_environment(request)
    here, census = hub(request), await read_message(request, _census)
    async with here.database.transaction() as tx:
        kept = await engine.keep(tx, census.worker_id, census.ids, now=here.clock.now())
    return reply(wire.CheckpointCensus(census.worker_id, kept))


routes = [
    Route("/worker/v1/checkpoints", checkpoints, methods=["POST"]),
    Route("/worker/v1/garbage", garbage, methods=["POST"]),
    Route("/worker/v1/images", images, methods=["POST"]),
    Route("/worker/v1/warm", warm, methods=["POST"]),
    Route("/worker/v1/warm/find", find_warm, methods=["POST"]),
    Route("/worker/v1/warm/refuse", refuse_warm, methods=["POST"]),
]

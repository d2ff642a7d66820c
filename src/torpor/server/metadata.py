"""A run's metadata and tags: through the API, and as its worker reports them."""

from collections.abc import Iterable
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from torpor import engine
from torpor.config import Settings
from torpor.engine import read
from torpor.engine.family import family
from torpor.engine.metadata import CHANGEABLE_S
from torpor.server import auth
from torpor.server.auth import Keyed
from torpor.server.bodies import WORKER_LIMIT, decode, read_body, reply
from torpor.server.errors import Refused, not_found, stale
from torpor.server.hub import Hub, hub
from torpor.server.options import read_tags
from torpor.server.repeats import HEADER, id_for
from torpor.wire import http as wire
from torpor.wire import operations
from torpor.wire.runner import Op

router = APIRouter()


class MetadataBody(msgspec.Struct, rename="camel"):
    metadata: dict[str, Any] | None = None
    operations: list[Op] | None = None
    parent_operations: list[Op] | None = None
    root_operations: list[Op] | None = None


class TagsBody(msgspec.Struct):
    tags: Any = None


_metadata_body = msgspec.json.Decoder(MetadataBody)
_tags_body = msgspec.json.Decoder(TagsBody)
_metadata_report = msgspec.json.Decoder(wire.MetadataReport)


@router.put("/api/v1/runs/{run_id}/metadata")
async def change_metadata(request: Request, run_id: str, environment: Keyed) -> Response:
    """`metadata` is all there is from then on; operations change what is there. The run's own, as it is then."""
    here, body = hub(request), decode(await read_body(request), _metadata_body)
    whole = [] if body.metadata is None else [Op("update", value=body.metadata)]
    change = engine.MetadataChange(
        [*whole, *(body.operations or ())], body.parent_operations or (), body.root_operations or ()
    )
    _check((*change.own, *change.parent, *change.root))
    await _check_relatives(request, run_id, change)
    request_id = id_for(request, "change", run_id) if HEADER in request.headers else None
    async with here.database.transaction() as tx:
        outcome = await engine.change_metadata(
            tx,
            environment.id,
            run_id,
            change,
            request_id=request_id,
            bounds=_bounds(here),
            now=here.clock.now(),
        )
    return reply({"metadata": _changed(outcome, here.settings).metadata})


@router.get("/api/v1/runs/{run_id}/metadata")
async def metadata(request: Request, run_id: str, environment: Keyed) -> Response:
    async with hub(request).database.transaction() as tx:
        run = await read.run(tx, environment.id, run_id)
    if run is None:
        raise not_found()
    return reply({"metadata": run.metadata or {}, "metadataType": "application/json"})


@router.post("/api/v1/runs/{run_id}/tags")
async def add_tags(request: Request, run_id: str, environment: Keyed) -> Response:
    """One tag or several: `{"message"}`. Those that the run has count once."""
    here, body = hub(request), decode(await read_body(request), _tags_body)
    tags = read_tags("tags", body.tags, here.settings)
    async with here.database.transaction() as tx:
        outcome = await engine.add_tags(
            tx, environment.id, run_id, tags, most=here.settings.max_tags, now=here.clock.now()
        )
    match outcome:
        case engine.Unknown():
            raise not_found()
        case engine.TooManyTags():
            raise _too_many(outcome, here.settings)
        case engine.Tagged(added=0):
            return reply({"message": "No new tags to add"})
        case engine.Tagged(added=added):
            return reply({"message": f"Added {added} {'tag' if added == 1 else 'tags'}"})


async def report(request: Request) -> Response:
    """What a run's code did to its metadata and tags: the run's own, as they are then."""
    await auth.worker_environment(request)
    here, message = hub(request), decode(await read_body(request, WORKER_LIMIT), _metadata_report)
    if message.number < 1:
        raise Refused(400, "number: reports are counted from 1")
    _check((*message.operations, *message.parent_operations, *message.root_operations))
    message.tags = read_tags("tags", message.tags, here.settings)
    lease = engine.Lease(request.path_params["run_id"], message.lease)
    async with here.database.transaction() as tx:
        outcome = await engine.report_metadata(tx, lease, message, bounds=_bounds(here), now=here.clock.now())
    now = _changed(outcome, here.settings)
    return reply(wire.MetadataReply(now.metadata, now.tags))


async def _check_relatives(request: Request, run_id: str, change: engine.MetadataChange) -> None:
    """The scopes of a run are for its own metadata; another's need that one's."""
    caller = auth.caller(request)
    if caller.scopes is None or not (change.parent or change.root):
        return
    async with hub(request).database.transaction() as tx:
        kin = await family(tx, run_id, caller.environment.id)
    if kin is None:
        raise not_found()
    for owner_id, wanted in ((kin.parent_id, change.parent), (kin.root_id, change.root)):
        if wanted and owner_id != run_id:
            caller.require(f"write:runs:{owner_id}")


def _check(wanted: Iterable[Op]) -> None:
    for operation in wanted:
        try:
            operations.check(operation)
        except ValueError as error:
            raise Refused(400, str(error)) from None


def _bounds(here: Hub) -> engine.MetadataBounds:
    return engine.MetadataBounds(here.settings.max_metadata_bytes, here.settings.max_tags)


def _changed(outcome: object, limits: Settings) -> engine.Metadata:
    match outcome:
        case engine.Metadata():
            return outcome
        case engine.MetadataTooLarge(run_id=run_id, value=value):
            most = limits.max_metadata_bytes
            told = f"the metadata of {run_id} would have {value} bytes; at most {most} are kept"
            raise Refused(413, told, limit=most, value=value)
        case engine.TooManyOperations(run_id=run_id, value=value):
            told = (
                f"{value} operations at once are too many for metadata as large as that of {run_id}: send fewer at once"
            )
            raise Refused(413, told, value=value)
        case engine.TooManyTags():
            raise _too_many(outcome, limits)
        case engine.EndedLongAgo():
            raise Refused(
                422, f"the run is over for more than {CHANGEABLE_S / 60:g} minutes: its metadata stays as it is"
            )
        case engine.Stale():
            raise stale()
        case _:
            raise not_found()


def _too_many(outcome: engine.TooManyTags, limits: Settings) -> Refused:
    told = f"a run has at most {limits.max_tags} tags; with these it would have {outcome.value}"
    return Refused(422, told, limit=limits.max_tags, value=outcome.value)


routes = [Route("/worker/v1/runs/{run_id}/metadata", report, methods=["POST"])]

"""Checkpoints: look, and go on from one in another run."""

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.engine import read, read_checkpoints
from torpor.engine.states import STATUS, RunState
from torpor.server import offload, paging, render
from torpor.server.auth import Keyed
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused, not_found
from torpor.server.hub import hub
from torpor.server.repeats import id_for

router = APIRouter()


@router.get("/api/v1/runs/{run_id}/checkpoints")
async def of_run(request: Request, run_id: str, environment: Keyed) -> Response:
    async with hub(request).database.transaction() as tx:
        run = await read.run(tx, environment.id, run_id)
        if run is None:
            raise not_found()
        found = await read.checkpoints(tx, run.id)
    return reply({"data": [render.checkpoint(one) for one in found]})


@router.get("/api/v1/checkpoints")
async def listing(request: Request, environment: Keyed) -> Response:
    """Those that are usable or kept, of all runs, newest first."""
    async with hub(request).database.transaction() as tx:
        found = await read_checkpoints.stored(tx, environment.id, paging.read_page(request.query_params))
    return reply(paging.page_reply([render.checkpoint(one) for one in found.items], found))


@router.get("/api/v1/checkpoints/{checkpoint_id}")
async def retrieve(request: Request, checkpoint_id: str, environment: Keyed) -> Response:
    async with hub(request).database.transaction() as tx:
        found = await read.checkpoint(tx, environment.id, checkpoint_id)
        if found is None:
            raise not_found()
        waits = await read.waits_of_checkpoint(tx, found)
    return reply(render.checkpoint(found) | {"waits": [render.wait(wait) for wait in waits]})


class ForkBody(msgspec.Struct):
    checkpoint: str = engine.LATEST
    answer: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    waitId: str | None = None  # the wire's name


_fork_body = msgspec.json.Decoder(ForkBody)


@router.post("/api/v1/runs/{run_id}/fork")
async def fork(request: Request, run_id: str, environment: Keyed) -> Response:
    """A new run that goes on from a checkpoint of this one: `{"id", "checkpointId", "status"}`."""
    here, body = hub(request), decode(await read_body(request), _fork_body)
    new_id = id_for(request, "run", environment.id, "fork", run_id)
    answer = None if body.answer is msgspec.UNSET else bytes(body.answer).decode()
    if answer is None and body.waitId is not None:
        raise Refused(422, "waitId says which wait is answered: answer is missing")
    kept_as = await offload.stow(here, environment.id, new_id, "answer", answer.encode()) if answer else None
    asked = engine.ForkRequest(body.checkpoint, answer, kept_as, body.waitId, new_id)
    async with here.database.transaction() as tx:
        outcome = await engine.fork(tx, environment.id, run_id, asked, now=here.clock.now())
    match outcome:
        case engine.Unknown():
            raise not_found()
        case engine.NoCheckpoint(reason=reason):
            raise Refused(422, reason)
        case engine.WhichWait(open=waits):
            raise Refused(422, _which(waits, body.waitId), waits=[{"id": id, "kind": kind} for id, kind in waits])
        case engine.Forked():
            state = RunState.SUSPENDED if outcome.is_suspended else RunState.QUEUED
            return reply({"id": outcome.run_id, "checkpointId": outcome.checkpoint_id, "status": STATUS[state]})


def _which(waits: list[tuple[str, str]], asked: str | None) -> str:
    named = ", ".join(f"{id} (for a {kind})" for id, kind in waits)
    if not waits:
        return "the process that is frozen there waits for nothing that could be answered"
    if asked is not None:
        return f"waitId: that process is in no wait {asked}; it is in {named}"
    return f"that process is in several waits: say with waitId which one is answered: {named}"

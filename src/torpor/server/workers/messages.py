"""How a worker's message is read, and an outcome told, for all of them."""

from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from torpor import engine, ids
from torpor.server import auth
from torpor.server.bodies import WORKER_LIMIT, decode, read_body
from torpor.server.errors import Refused
from torpor.wire import http as wire

MessageT = TypeVar("MessageT")


async def read_message(request: Request, decoder: msgspec.json.Decoder[MessageT]) -> MessageT:
    """The message. 403 if the worker that it says it is from is not of the environment whose token it has."""
    message = decode(await read_body(request, WORKER_LIMIT), decoder)
    if (worker_id := getattr(message, "worker_id", None)) is not None:
        await auth.check_worker_itself(request, worker_id)
    return message


def lease_of(request: Request, message: Any) -> engine.Lease:
    return engine.Lease(request.path_params["run_id"], message.lease)


def made_id(name: str, given: str) -> str:
    """An id that was made in a run's process. A worker will ask for `runs/<id>/finish`: with another run's name in it, and the
    same lease number, it would be that run that ends.
    """
    if not ids.is_one(given):
        raise Refused(422, f"{name} is no id: {given[:40]!r}")
    return given


def told(outcome: object) -> wire.LeaseReply | wire.BlockReply:
    match outcome:
        case engine.Blocked(answers=answers, open=still_open):
            return wire.BlockReply("ok", answers, still_open)
        case engine.Stale():
            return wire.LeaseReply("stale")
        case engine.Suspended():
            return wire.LeaseReply("suspended")
        case engine.Awake() | engine.ImageRejected():
            return wire.LeaseReply("awake")
        case engine.Gone(packs=packs):
            return wire.LeaseReply("gone", packs)
        case _:
            return wire.LeaseReply("ok")

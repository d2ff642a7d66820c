"""What a worker reports of a run that it holds."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from torpor import engine
from torpor.server import auth, offload
from torpor.server.bodies import decode, reply
from torpor.server.errors import stale
from torpor.server.hub import hub
from torpor.server.workers.messages import lease_of, made_id, read_message, told
from torpor.store.database import Transaction
from torpor.wire import http as wire

MessageT = TypeVar("MessageT")

_anything = msgspec.json.Decoder()
_save_report = msgspec.json.Decoder(wire.SaveReport)
_move_report = msgspec.json.Decoder(wire.MoveReport)
_payload_call = msgspec.json.Decoder(wire.PayloadCall)
_start_report = msgspec.json.Decoder(wire.StartReport)
_block_report = msgspec.json.Decoder(wire.BlockReport)
_collect_request = msgspec.json.Decoder(wire.CollectRequest)
_suspend_report = msgspec.json.Decoder(wire.SuspendReport)
_refusal = msgspec.json.Decoder(wire.Refusal)
_finish_report = msgspec.json.Decoder(wire.FinishReport)
_event_report = msgspec.json.Decoder(wire.EventReport)
_log_report = msgspec.json.Decoder(wire.LogReport)


async def payload(request: Request) -> Response:
    """A large payload, for the worker that has its run. 410 when it is not there; the store down is a 503 to be repeated."""
    await auth.worker_environment(request)
    here, call = hub(request), await read_message(request, _payload_call)
    lease = lease_of(request, call)
    async with here.database.transaction() as tx:
        if not await engine.holds(tx, lease):
            raise stale()
        name = await tx.fetchval("select payload_object from runs where id = $1", lease.run_id)
    text = await offload.text_of(here, name) if name else "null"
    return reply(msgspec.Raw(text.encode()))


async def start(request: Request) -> Response:
    return await _leased(request, _start_report, engine.start)


async def block(request: Request) -> Response:
    await auth.worker_environment(request)
    report = await read_message(request, _block_report)
    for wait in report.waits:
        made_id("wait_id", wait.wait_id)
    return await _leased(request, report, engine.block)


async def collect(request: Request) -> Response:
    async def verb(tx: Transaction, lease: engine.Lease, asked: wire.CollectRequest, *, now: datetime) -> object:
        return await engine.collect(tx, lease, asked.open_waits, idle=asked.idle, nth=asked.nth, now=now)

    return await _leased(request, _collect_request, verb)


async def suspend(request: Request) -> Response:
    return await _leased(request, _suspend_report, _by_its_worker(engine.suspend))


async def save(request: Request) -> Response:
    return await _leased(request, _save_report, _by_its_worker(engine.save))


async def move(request: Request) -> Response:
    return await _leased(request, _move_report, _by_its_worker(engine.move))


def _by_its_worker(act: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    """A verb that wants to know whose image it is told of."""

    async def verb(tx: Transaction, lease: engine.Lease, report: object, *, now: datetime) -> object:
        # It was made where the lease is held. Read without a lock: if the verb finds this lease alive, so it was here.
        worker_id = await tx.fetchval("select worker_id from runs where id = $1", lease.run_id)
        return await act(tx, lease, report, worker_id=worker_id or "", now=now)

    return verb


async def refuse(request: Request) -> Response:
    max_rescues = hub(request).settings.max_rescues
    return await _leased(request, _refusal, partial(engine.refuse, max_rescues=max_rescues))


async def finish(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here = hub(request)

    async def verb(tx: Transaction, lease: engine.Lease, report: wire.FinishReport, *, now: datetime) -> object:
        return await engine.finish(tx, lease, report, jitter=random.random, output_object=name, now=now)

    report = await read_message(request, _finish_report)
    # A raw member is skipped unread: numbers in it may be too large for any reader.
    decode(bytes(report.output), _anything)
    name = await offload.stow(here, environment.id, request.path_params["run_id"], "output", bytes(report.output))
    return await _leased(request, report, verb)


async def events(request: Request) -> Response:
    return await _leased(request, _event_report, engine.tell)


async def _leased(
    request: Request, expected: msgspec.json.Decoder[MessageT] | MessageT, verb: Callable[..., Awaitable[object]]
) -> Response:
    """One message about a run, to the verb of that name; its outcome in the wire's words."""
    await auth.worker_environment(request)
    here = hub(request)
    message = await read_message(request, expected) if isinstance(expected, msgspec.json.Decoder) else expected
    async with here.database.transaction() as tx:
        outcome = await verb(tx, lease_of(request, message), message, now=here.clock.now())
    if isinstance(outcome, engine.Blocked):
        outcome = replace(outcome, answers=await offload.whole_answers(here, outcome.answers))
    return reply(told(outcome))


async def logs(request: Request) -> Response:
    """What a run said is kept even when its lease is over: it did say it."""
    await auth.worker_environment(request)
    here, report = hub(request), await read_message(request, _log_report)
    async with here.database.transaction() as tx:
        await engine.append(tx, request.path_params["run_id"], report, now=here.clock.now())
    return reply({})


routes = [
    Route("/worker/v1/runs/{run_id}/payload", payload, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/start", start, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/block", block, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/collect", collect, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/suspend", suspend, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/save", save, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/move", move, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/refuse", refuse, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/finish", finish, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/events", events, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/logs", logs, methods=["POST"]),
]

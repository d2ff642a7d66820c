"""A worker comes up, asks for work, and says that it lives."""

import asyncio
import base64
from collections.abc import AsyncIterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from torpor import engine
from torpor.engine import read
from torpor.server import auth
from torpor.server.bodies import reply
from torpor.server.errors import Refused
from torpor.server.hub import Hub, hub
from torpor.server.master_keys import ensure_key
from torpor.server.runs import SWEEP_S, no_such_machine
from torpor.server.workers.messages import read_message
from torpor.store.records import Environment
from torpor.wire import http as wire
from torpor.wire.runner import WordLimits

LONGEST_HOLD_S = 25.0
KEEP_ALIVE_S = 10.0

_introduction = msgspec.json.Decoder(wire.Introduction)
_version_report = msgspec.json.Decoder(wire.VersionReport)
_dequeue_request = msgspec.json.Decoder(wire.DequeueRequest)
_heartbeat_request = msgspec.json.Decoder(wire.HeartbeatRequest)
_keys_request = msgspec.json.Decoder(wire.KeysRequest)
_variables_request = msgspec.json.Decoder(wire.VariablesRequest)


async def hello(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, intro = hub(request), await read_message(request, _introduction)
    settings, now = here.settings, here.clock.now()
    async with here.database.transaction() as tx:
        # One that is at work goes on by the old name: its runs shall not pay for another one.
        former = auth.caller(request).former_name
        if former and not await read.is_instance(tx, environment.id, intro.worker_id, intro.instance_id):
            raise Refused(401, _renamed(former, environment))
        rescued = await engine.register_worker(
            tx, environment.id, intro, lease_s=settings.lease_s, max_rescues=settings.max_rescues, now=now
        )
    limits = WordLimits(settings.max_metadata_bytes, settings.max_tags)
    return reply(wire.Welcome(environment.slug, settings.lease_s, settings.heartbeat_interval_s, rescued, limits))


def _renamed(former: str, environment: Environment) -> str:
    said = f"TORPOR_ENVIRONMENT={environment.slug}"
    if environment.project != engine.PROJECT:
        said = f"TORPOR_PROJECT={environment.project} {said}"
    return f"the environment {former} has another name by now: start this worker with {said}"


async def versions(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, report = hub(request), await read_message(request, _version_report)
    async with here.database.transaction() as tx:
        unknown = await engine.register_version(tx, environment.id, report, now=here.clock.now())
    if unknown is not None:
        whose = f"task {unknown.task_id}" if unknown.task_id else "pyproject.toml, [tool.torpor]"
        raise Refused(422, f"{whose}: {no_such_machine(unknown)}", names=unknown.names)
    return reply(wire.VersionAccepted(report.version))


async def dequeue(request: Request) -> Response:
    """Held until there is work for this worker, or `wait_s` is over."""
    environment = await auth.worker_environment(request)
    here, asked = hub(request), await read_message(request, _dequeue_request)
    await _take_back_lost(here, asked)
    loop = asyncio.get_running_loop()
    until = loop.time() + min(asked.wait_s, LONGEST_HOLD_S)
    was_woken = False
    with here.wakeups.listen("work", environment.id) as ear:
        while not await request.is_disconnected():
            assignments = await _take(here, asked)
            # A wake-up is for one waiter. It goes on to the next when this one took nothing, or as much as it could, or was too
            # full for some, or took a run that was to be restored: others may have been announced with it that only another
            # worker can restore.
            took_all = 0 < len(assignments) < asked.free and not any(given.checkpoint for given in assignments)
            took_all = took_all and not (was_woken and await _is_short(here, environment.id, asked.worker_id))
            if was_woken and not took_all:
                ear.pass_on()
            left_s = until - loop.time()
            if assignments or left_s <= 0 or here.wakeups.is_closed:
                return reply(wire.DequeueReply(assignments))
            was_woken = await ear.wait(min(left_s, SWEEP_S))
        if was_woken:
            ear.pass_on()
    return reply(wire.DequeueReply([]))


async def _is_short(here: Hub, environment_id: str, worker_id: str) -> bool:
    async with here.database.transaction() as tx:
        return await engine.is_short(tx, environment_id, worker_id)


async def _take_back_lost(here: Hub, asked: wire.DequeueRequest) -> None:
    async with here.database.transaction() as tx:
        await engine.take_back_lost(
            tx,
            asked.worker_id,
            asked.instance_id,
            asked.number,
            asked.holding,
            max_rescues=here.settings.max_rescues,
            now=here.clock.now(),
        )


async def _take(here: Hub, asked: wire.DequeueRequest) -> list[wire.Assignment]:
    async with here.database.transaction() as tx:
        return await engine.dequeue(
            tx,
            asked.worker_id,
            asked.instance_id,
            free=asked.free,
            versions=asked.versions,
            can_restore=asked.can_restore,
            lease_s=here.settings.lease_s,
            number=asked.number,
            now=here.clock.now(),
        )


async def news(request: Request) -> Response:
    """A stream that stays open: one News per line as it happens, an empty line when nothing does."""
    await auth.worker_environment(request)
    worker_id = request.query_params.get("worker_id")
    if not worker_id:
        raise Refused(400, "worker_id is missing")
    await auth.check_worker_itself(request, worker_id)
    return StreamingResponse(_news(hub(request), worker_id), media_type="application/x-ndjson")


async def _news(here: Hub, worker_id: str) -> AsyncIterator[bytes]:
    with here.wakeups.listen("news", worker_id) as ear:
        while not here.wakeups.is_closed:
            await ear.wait(KEEP_ALIVE_S)
            lines = b""
            while ear.heard:
                said = ear.heard.popleft()
                lines += (
                    msgspec.json.encode(wire.News(said["kind"], said["run_id"], said["lease"], said.get("reason")))
                    + b"\n"
                )
            yield lines or b"\n"


async def heartbeat(request: Request) -> Response:
    await auth.worker_environment(request)
    here, beat = hub(request), await read_message(request, _heartbeat_request)
    async with here.database.transaction() as tx:
        answer = await engine.heartbeat(
            tx,
            beat.worker_id,
            beat.instance_id,
            beat.leases,
            disk=beat.disk,
            lease_s=here.settings.lease_s,
            now=here.clock.now(),
        )
    return reply(answer)


async def keys(request: Request) -> Response:
    """The data keys, unwrapped: for workers only, and never logged."""
    environment = await auth.worker_environment(request)
    here = hub(request)
    await read_message(request, _keys_request)
    async with here.database.transaction() as tx:
        await ensure_key(tx, here.master_keys, environment.id, now=here.clock.now())
        found = await engine.data_keys(tx, environment.id)
    told = [wire.DataKey(key.id, base64.b64encode(here.master_keys.unwrap(key)).decode()) for key in found]
    return reply(wire.KeysReply(told, next(key.id for key in found if key.retired_at is None)))


async def variables(request: Request) -> Response:
    """The environment's variables with their values: for workers only, and never logged."""
    environment = await auth.worker_environment(request)
    here = hub(request)
    await read_message(request, _variables_request)
    async with here.database.transaction() as tx:
        revision, found = await engine.variables(tx, environment.id)
    return reply(wire.VariablesReply(revision, {each.name: here.master_keys.open_variable(each) for each in found}))


routes = [
    Route("/worker/v1/hello", hello, methods=["POST"]),
    Route("/worker/v1/versions", versions, methods=["POST"]),
    Route("/worker/v1/dequeue", dequeue, methods=["POST"]),
    Route("/worker/v1/news", news, methods=["GET"]),
    Route("/worker/v1/heartbeat", heartbeat, methods=["POST"]),
    Route("/worker/v1/keys", keys, methods=["POST"]),
    Route("/worker/v1/variables", variables, methods=["POST"]),
]

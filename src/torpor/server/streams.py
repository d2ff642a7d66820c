"""Streams: read as server-sent events, appended to from outside, and what workers say and ask of them.

GET  /realtime/v1/streams/{run_id}/{stream_key}                   follow what a run makes
GET  /realtime/v1/streams/{run_id}/input/{stream_key}             follow what is sent to it
POST /realtime/v1/streams/{run_id}/input/{stream_key}             send it something
POST /realtime/v1/streams/{run_id}/{target}/{stream_key}/append   one part, as text
POST /realtime/v1/streams/{run_id}/{target}/{stream_key}          many parts, one JSON text per line
PUT  /realtime/v1/streams/{run_id}/{target}/{stream_key}          how to send many: as above
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from torpor import engine, ids
from torpor.engine import read_streams
from torpor.engine.family import Target, family
from torpor.engine.streams import (
    MAX_INPUT_BYTES,
    MAX_PART_ID_CHARS,
    MAX_STREAMS,
    Direction,
    Part,
)
from torpor.server import auth, paging
from torpor.server.bodies import WORKER_LIMIT, decode, read_body, reply
from torpor.server.errors import Refused, not_found, stale
from torpor.server.event_streams import KEEP_ALIVE_S, STILL_HERE, Cut, EventStream
from torpor.server.hub import Hub, hub
from torpor.server.realtime import check_room
from torpor.server.repeats import id_for
from torpor.server.runs import LONGEST_POLL_S, SWEEP_S
from torpor.server.tails import Tails
from torpor.store.database import DatabaseDown
from torpor.wire import http as wire
from torpor.wire.streams import KEYS, MAX_PART_BYTES, is_key

QUIET_S = 60
LONGEST_QUIET_S = 600
"""A reader is let go when nothing has come for so long: what it asks for, and the most that it may ask for."""
OVER = b"event: end\ndata: {}\n\n"
"""The run is over, and all was sent. (The official client passes over events that it doesn't know.)"""
LINES_AT_ONCE = 200

_anything = msgspec.json.Decoder()
_input_body = msgspec.json.Decoder(dict[str, msgspec.Raw])
_stream_report = msgspec.json.Decoder(wire.StreamReport)
_input_read = msgspec.json.Decoder(wire.InputRead)

# -- reading ----------------------------------------------------------------------------------------------------------


async def read(request: Request) -> Response:
    if request.method == "HEAD":
        return await _last_part(request)
    return await _followed(request, "output")


async def read_input(request: Request) -> Response:
    return await _followed(request, "input")


async def _followed(request: Request, direction: Direction) -> Response:
    here, run_id = hub(request), request.path_params["run_id"]
    key, after, quiet_s = _key(request), _after(request), _quiet_s(request)
    if here.wakeups.is_closed:
        raise Refused(503, "the server stops")
    environment_id = auth.environment(request).id
    async with here.database.transaction() as tx:
        if await family(tx, run_id, environment_id) is None:
            raise not_found()
    check_room(here, here.feeds.held[environment_id] + 1)
    events = _held(here, environment_id, _events(here, run_id, direction, key, after, quiet_s))
    return EventStream(events, {"x-stream-version": "v2"})


async def _held(here: Hub, environment_id: str, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same events, to one who counts as a subscriber meanwhile."""
    with here.feeds.hold(environment_id):
        async with aclosing(events):
            async for event in events:
                yield event


async def _events(
    here: Hub, run_id: str, direction: Direction, key: str, after: int | None, quiet_s: float
) -> AsyncGenerator[bytes, None]:
    """Parts behind that one (None: behind the newest), until the run is over or nothing has come for so long."""
    loop = asyncio.get_running_loop()
    tails: Tails = here.tails
    try:
        async with tails.reading(here, run_id, direction, key) as tail:
            position = tail.position if after is None else after
            if after is None:
                # One who is cut off before anything has come asks for what is behind this, not for what comes from then on.
                yield b'event: start\ndata: {"after":%d}\n\n' % position
            until = loop.time() + quiet_s
            while True:
                moved = tail.moved  # before the look: what comes after it is not missed
                if lot := await tail.after(position):
                    yield lot.after(position)
                    position, until = lot.last, loop.time() + quiet_s
                    continue
                if here.wakeups.is_closed:
                    raise Cut
                if tail.is_over:
                    yield OVER
                    return
                left_s = until - loop.time()
                if left_s <= 0:
                    return
                try:
                    async with asyncio.timeout(min(left_s, KEEP_ALIVE_S)):
                        await moved.wait()
                except TimeoutError:
                    if left_s > KEEP_ALIVE_S:
                        yield STILL_HERE
    except DatabaseDown:
        raise Cut from None


def _after(request: Request) -> int | None:
    """The number of the last part that the reader has; None: it wants what comes from now on."""
    text = request.headers.get("last-event-id")
    if not text:
        return None if request.headers.get("x-trigger-stream-start") == "latest" else -1
    if not re.fullmatch(r"-1|\d{1,18}", text):
        raise Refused(400, f"Last-Event-ID: the number of a part, not {text[:40]!r}")
    return int(text)


def _quiet_s(request: Request) -> float:
    text = request.headers.get("timeout-seconds", str(QUIET_S))
    return float(paging.whole_number("Timeout-Seconds", text, LONGEST_QUIET_S))


async def _last_part(request: Request) -> Response:
    """The number of the last part, or of the last one that this writer has sent."""
    here, run_id = hub(request), request.path_params["run_id"]
    target, _, key = _key(request).partition("/")
    if target not in ("self", "parent", "root") or not key:
        target, key = "self", _key(request)
    client = request.headers.get("x-client-id")
    async with here.database.transaction() as tx:
        kin = await family(tx, run_id, auth.environment(request).id)
        if kin is None:
            raise not_found()
        owner_id = kin.id_of(_target(target))
        if owner_id != run_id:
            auth.caller(request).require(f"read:runs:{owner_id}")
        if client:
            last = await read_streams.last_of_client(tx, owner_id, key, _client(client))
        else:
            last = await read_streams.last_seq(tx, owner_id, "output", key)
    return Response(headers={"x-last-chunk-index": str(last)}, media_type=EventStream.media_type)


# -- appending --------------------------------------------------------------------------------------------------------


async def append(request: Request) -> Response:
    """One part: the body as text, whatever its content type says."""
    text = (await read_body(request, MAX_PART_BYTES)).decode()
    part_id = request.headers.get("x-part-id") or id_for(request, "part", request.path_params["run_id"])
    await _append(request, "output", [Part(_part_id(part_id), msgspec.json.encode(text).decode())])
    return reply({"ok": True})


async def append_lines(request: Request) -> Response:
    """Parts as they come, one JSON text per line. One that was cut off goes on with the number of its next part."""
    client = _client(request.headers.get("x-client-id") or ids.new("client"))
    first = request.headers.get("x-resume-from-chunk", "0")
    if not re.fullmatch(r"\d{1,18}", first):
        raise Refused(400, "X-Resume-From-Chunk: a whole number")
    number, parts = int(first), list[Part]()
    async for lines in _lines(request):
        for line in lines:
            decode(line, _anything)
            parts.append(Part(f"{client}:{number}", line.decode()))
            number += 1
        while parts:
            await _append(request, "output", parts[:LINES_AT_ONCE])
            del parts[:LINES_AT_ONCE]
    return reply({"ok": True})


async def create(request: Request) -> Response:
    """The writer asks where to write: here, by `append_lines`."""
    here, run_id = hub(request), request.path_params["run_id"]
    _key(request)
    target = _target(request.path_params["target"])
    async with here.database.transaction() as tx:
        kin = await family(tx, run_id, auth.environment(request).id)
    if kin is None:
        raise not_found()
    _check_target(request, kin.id_of(target))
    return reply({"version": "v1"}, 202, {"x-stream-version": "v1"})


async def send_input(request: Request) -> Response:
    """`{"data"}`: anything, to be read by the run's code."""
    # The limit is for the data, which stands in an object of one member.
    body = decode(await read_body(request, MAX_INPUT_BYTES + len('{"data":}')), _input_body)
    if "data" not in body:
        raise Refused(400, "data is missing")
    decode(bytes(body["data"]), _anything)
    part = Part(id_for(request, "part", request.path_params["run_id"]), bytes(body["data"]).decode())
    await _append(request, "input", [part])
    return reply({"ok": True})


async def _append(request: Request, direction: Direction, parts: list[Part]) -> None:
    here, run_id, key = hub(request), request.path_params["run_id"], _key(request)
    environment, target = auth.environment(request), _target(request.path_params.get("target", "self"))
    if target != "self":
        async with here.database.transaction() as tx:
            kin = await family(tx, run_id, environment.id)
        if kin is None:
            raise not_found()
        _check_target(request, kin.id_of(target))
    async with here.database.transaction() as tx:
        outcome = await engine.append_parts(
            tx,
            environment.id,
            run_id,
            direction,
            key,
            parts,
            target=target,
            max_bytes=here.settings.stream_bytes,
            now=here.clock.now(),
        )
    _appended(here, key, outcome)


def _appended(here: Hub, key: str, outcome: object) -> engine.Appended:
    match outcome:
        case engine.Appended():
            return outcome
        case engine.RunIsOver(run_id=run_id):
            raise Refused(400, f"{run_id} is over: nothing is added to its streams any more")
        case engine.StreamFull(value=value):
            limit = here.settings.stream_bytes
            told = f'the stream "{key}" would have {value} bytes; at most {limit} are kept'
            raise Refused(413, told, limit=limit, value=value)
        case engine.TooManyStreams():
            raise Refused(422, f"a run has at most {MAX_STREAMS} streams", limit=MAX_STREAMS, value=MAX_STREAMS + 1)
        case engine.Stale():
            raise stale()
        case _:
            raise not_found()


async def _lines(request: Request) -> AsyncIterator[list[bytes]]:
    """Whole lines, as many as have come; none longer than a part may be."""
    rest = bytearray()  # it grows in place: a line may come letter by letter
    try:
        async for data in request.stream():
            first, *more = data.split(b"\n")
            rest += first
            lines = [bytes(rest), *more[:-1]] if more else []
            if more:
                rest[:] = more[-1]
            longest = max(map(len, (rest, *lines)))
            if longest > MAX_PART_BYTES:
                raise _too_long(longest)
            if whole := [line for line in lines if line.strip()]:
                yield whole
    except ClientDisconnect:
        return  # what came whole is kept: the writer asks how far it got, and goes on there
    if rest.strip():
        yield [bytes(rest)]


# -- what workers say and ask -------------------------------------------------------------------------------------------


async def report(request: Request) -> Response:
    await auth.worker_environment(request)
    here, message = hub(request), decode(await read_body(request, WORKER_LIMIT), _stream_report)
    parts: list[Part] = []
    for part in message.parts:
        if len(part.data) > MAX_PART_BYTES:
            raise _too_long(len(part.data))
        decode(bytes(part.data), _anything)
        parts.append(Part(_part_id(part.id), bytes(part.data).decode()))
    lease, key = engine.Lease(request.path_params["run_id"], message.lease), _checked_key(message.key)
    async with here.database.transaction() as tx:
        outcome = await engine.report_parts(
            tx, lease, message.target, key, parts, max_bytes=here.settings.stream_bytes, now=here.clock.now()
        )
    return reply(wire.StreamReply(_appended(here, key, outcome).added))


async def inputs(request: Request) -> Response:
    """Held until something comes behind `after`, or `wait_s` is over."""
    await auth.worker_environment(request)
    here, asked = hub(request), decode(await read_body(request, WORKER_LIMIT), _input_read)
    lease, key = engine.Lease(request.path_params["run_id"], asked.lease), _checked_key(asked.key)
    loop = asyncio.get_running_loop()
    until = loop.time() + min(asked.wait_s, LONGEST_POLL_S)
    with here.wakeups.listen("stream", lease.run_id, "input", key) as ear:
        while True:
            async with here.database.transaction() as tx:
                if not await engine.holds(tx, lease):
                    raise stale()
                page = await read_streams.page(tx, lease.run_id, "input", key, after=asked.after)
            parts = page.parts if page else []
            left_s = until - loop.time()
            if parts or left_s <= 0 or here.wakeups.is_closed or await request.is_disconnected():
                return reply(
                    wire.InputReply([wire.InputPart(one.seq, msgspec.Raw(one.body.encode())) for one in parts])
                )
            await ear.wait(min(left_s, SWEEP_S))


# -- what a request may say ---------------------------------------------------------------------------------------------


def _key(request: Request) -> str:
    return _checked_key(request.path_params["stream_key"])


def _checked_key(key: str) -> str:
    if not is_key(key):
        raise Refused(422, f"the key of a stream has {KEYS}")
    return key


def _part_id(given: str) -> str:
    if not 0 < len(given) <= MAX_PART_ID_CHARS or not given.isprintable():
        raise Refused(422, f"the id of a part has 1 to {MAX_PART_ID_CHARS} printable characters")
    return given


def _client(given: str) -> str:
    if not ids.is_one(given):
        raise Refused(400, "X-Client-Id: letters, digits, _ and -")
    return given


def _target(given: Any) -> Target:
    if given not in ("self", "parent", "root"):
        raise not_found()
    return given


def _check_target(request: Request, owner_id: str) -> None:
    """The scopes of a run are for its own streams; another's need that one's."""
    if owner_id != request.path_params["run_id"]:
        auth.caller(request).require(f"write:runs:{owner_id}")


def _too_long(value: int) -> Refused:
    told = f"a part of a stream has {value} bytes; at most {MAX_PART_BYTES} are taken"
    return Refused(413, told, limit=MAX_PART_BYTES, value=value)


_STREAM = "/realtime/v1/streams/{run_id}"

routes = [
    Route(_STREAM + "/input/{stream_key:path}", read_input, methods=["GET"]),
    Route(_STREAM + "/input/{stream_key:path}", send_input, methods=["POST"]),
    Route(_STREAM + "/{target}/{stream_key:path}/append", append, methods=["POST"]),
    Route(_STREAM + "/{target}/{stream_key:path}", append_lines, methods=["POST"]),
    Route(_STREAM + "/{target}/{stream_key:path}", create, methods=["PUT"]),
    Route(_STREAM + "/{stream_key:path}", read, methods=["GET"]),
    Route("/worker/v1/runs/{run_id}/streams", report, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/inputs", inputs, methods=["POST"]),
]

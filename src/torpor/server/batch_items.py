"""The items of a batch, as they come in: NDJSON of any length.

They are worked off in chunks, each in a transaction of its own, so that neither memory nor locks grow with the batch; a
stream that breaks off is simply sent again.
"""

import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from torpor import engine, ids
from torpor.server import auth, offload, paging, uploads
from torpor.server.auth import Caller, Kind
from torpor.server.bodies import reply
from torpor.server.errors import Refused, stale
from torpor.server.hub import Hub, hub
from torpor.server.options import read_options
from torpor.server.runs import trigger_request, triggered
from torpor.wire import http as wire

CHUNK_BYTES = 1 << 20
MAX_ERROR_CHARS = 2000
ANY_TASK = ("batchTrigger:tasks", "batchTrigger:batch")


class Item(msgspec.Struct):
    index: int
    task: str
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    options: dict[str, Any] | None = None
    error: str | None = None


_item = msgspec.json.Decoder(Item)


async def items(request: Request) -> Response:
    """`POST /api/v3/batches/{batch_id}/items`: a stream of items, one JSON object per line, worked off as it comes.

    `?seal=true`: these are the last. `?runs=true`: the reply says what became of each item.
    """
    here, caller, batch_id = hub(request), auth.caller(request), request.path_params["batch_id"]
    environment = caller.environment
    check = _item_check(caller, batch_id)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-ndjson":
        raise Refused(415, f"items are sent as application/x-ndjson, not {kind or 'without a content type'}")
    seal, tells_runs = (bool(paging.flag(request.query_params, name)) for name in ("seal", "runs"))
    accepted = sent = 0
    told: list[dict[str, Any]] = []
    added: engine.ItemsAdded | None = None
    async for chunk in in_chunks(_of_lines(_lines(request, here.settings.max_request_bytes), here, environment.id)):
        for item in chunk:
            check(item.task_id)
        if added is None:
            await _check_use(here, caller, batch_id)
        added = await add(here, environment.id, batch_id, chunk)
        accepted, sent = accepted + added.accepted, sent + len(chunk)
        if tells_runs:
            told += [_told_item(item) for item in added.items]
    if added is None or seal:
        check(None)
        await _check_use(here, caller, batch_id)
        added = await add(here, environment.id, batch_id, [], seal=seal)
    counts = {"itemsAccepted": accepted, "itemsDeduplicated": sent - accepted, "sealed": added.is_sealed}
    expected = {"runCount": added.run_count, "enqueuedCount": added.item_count, "expectedCount": added.run_count}
    return reply({"id": batch_id, **counts, **expected} | ({"items": told} if tells_runs else {}))


async def _check_use(here: Hub, caller: Caller, batch_id: str) -> None:
    """With a one-time token only that batch gets items which the token has opened."""
    if caller.kind is Kind.ONE_TIME:
        assert caller.token is not None
        async with here.database.transaction() as tx:
            if await engine.token_use(tx, caller.token.identity) != batch_id:
                raise Refused(422, "this token is good for one batch, and this is not that one")


def _item_check(caller: Caller, batch_id: str) -> Callable[[str | None], None]:
    """What refuses an item of a task that is not the caller's to trigger; None: what changes the batch, but is no item."""
    write = f"write:batch:{batch_id}"
    only = caller.token.tasks if caller.token else None
    if caller.may(*ANY_TASK) or (only is None and caller.may(write)):
        return lambda task_id: None

    def check(task_id: str | None) -> None:
        if caller.may(write) and (task_id is None or task_id in (only or ())):
            return
        caller.require(write if task_id is None else f"batchTrigger:tasks:{task_id}")

    return check


async def add(
    here: Hub, environment_id: str, batch_id: str, chunk: list[engine.NewItem], *, seal: bool = False
) -> engine.ItemsAdded:
    chunk = await offload.stow_items(here, environment_id, chunk)
    async with here.database.transaction() as tx:
        outcome = await engine.add_items(tx, environment_id, batch_id, chunk, seal=seal, why=why, now=here.clock.now())
    return added(outcome)


def _told_item(item: Any) -> dict[str, Any]:
    if item.run_id is None:
        return {"index": item.index, "error": item.error}
    return {"index": item.index, "id": item.run_id} | ({"isCached": True} if item.is_cached else {})


async def _of_lines(
    lines: AsyncIterator[tuple[int, bytes]], here: Hub, environment_id: str
) -> AsyncIterator[tuple[int, engine.NewItem]]:
    async for number, line in lines:
        yield len(line), await _read_item(here, environment_id, number, line)


async def asked_for(here: Hub, environment_id: str, asked: list[Item]) -> AsyncIterator[tuple[int, engine.NewItem]]:
    for item in asked:
        now = here.clock.now()
        yield (
            0,
            await new_item(here, environment_id, item, parent_lease=None, trigger_function="batchTrigger", now=now),
        )


async def in_chunks(items: AsyncIterator[tuple[int, engine.NewItem]]) -> AsyncIterator[list[engine.NewItem]]:
    """Items with the bytes that each took in its request: few of them at a time are in memory."""
    chunk: list[engine.NewItem] = []
    size = 0
    async for length, item in items:
        chunk.append(item)
        # A short item may stand for a large upload.
        size += max(length, len(item.request.payload or "") if item.request else 0)
        if len(chunk) >= wire.MAX_CHUNK_ITEMS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


async def _lines(request: Request, longest: int) -> AsyncIterator[tuple[int, bytes]]:
    """The lines that say something, with their numbers. Of one that is too long, its beginning: enough to name it."""
    line, number = bytearray(), 1
    try:
        async for data in request.stream():
            *whole, rest = data.split(b"\n")
            for part in whole:
                line += part[: longest + 1 - len(line)]
                if line.strip():
                    yield number, bytes(line)
                line.clear()
                number += 1
            line += rest[: longest + 1 - len(line)]
    except ClientDisconnect:
        raise Refused(400, "the request ended before its body did; send it again") from None
    if line.strip():
        yield number, bytes(line)


async def _read_item(here: Hub, environment_id: str, number: int, line: bytes) -> engine.NewItem:
    if len(line) > (longest := here.settings.max_request_bytes):
        return _too_large(number, line, longest)
    try:
        item = _item.decode(line)
    except msgspec.ValidationError as error:
        raise Refused(422, f"line {number}: the item doesn't fit: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"line {number}: Invalid JSON: {error}") from None
    if not 0 <= item.index < 2**31:
        raise Refused(422, f"line {number}: index: a whole number from 0, not {item.index}")
    now = here.clock.now()
    return await new_item(here, environment_id, item, parent_lease=None, trigger_function="batchTrigger", now=now)


def _too_large(number: int, line: bytes, longest: int) -> engine.NewItem:
    """It fails by itself, provided that its beginning says which one it is, as the official client's does."""
    begin = line[:4096]
    index, task = re.search(rb'"index"\s*:\s*(\d{1,9})\b', begin), re.search(rb'"task"\s*:\s*"([^"\\]+)"', begin)
    if index is None or task is None:
        raise Refused(413, f"line {number}: an item has at most {longest} bytes", limit=longest)
    why = f"the item has more than {longest} bytes, which are the most that are taken"
    return engine.NewItem(int(index[1]), task[1].decode("utf-8", "replace"), error=why)


async def new_item(
    here: Hub,
    environment_id: str,
    item: Item | wire.BatchItemCall,
    *,
    parent_lease: engine.Lease | None,
    trigger_function: str,
    now: datetime,
) -> engine.NewItem:
    """What an item asks for; if it can't be had, an item that fails by itself and says why."""
    if item.error is not None:
        return engine.NewItem(item.index, item.task, error=item.error[:MAX_ERROR_CHARS] or "no reason was given")
    options = item.options or {}
    try:
        asked = trigger_request(
            item.task,
            await uploads.payload_text(here, environment_id, item.payload, options.get("payloadType")),
            read_options(options, here.settings, now=now),
            run_id=ids.new("run"),
            parent_lease=parent_lease,
            trigger_function=trigger_function,
        )
    except Refused as refused:
        return engine.NewItem(item.index, item.task, error=refused.message[:MAX_ERROR_CHARS])
    return engine.NewItem(item.index, item.task, asked)


def why(task_id: str, outcome: object) -> str:
    """Why an item has no run: what a single trigger would be told."""
    if isinstance(outcome, engine.Unstorable):
        return f"it holds a value that can't be stored: {outcome.problem}"
    try:
        triggered(task_id, outcome)
    except Refused as refused:
        return refused.message
    raise AssertionError(outcome)


def added(outcome: object) -> engine.ItemsAdded:
    """What was added; else the refusal that fits the outcome. Nothing here is worth a retry."""
    match outcome:
        case engine.ItemsAdded():
            return outcome
        case engine.BatchClosed(index=index, is_aborted=True):
            raise Refused(422, f"item {index} comes too late: the batch was aborted, since its items stopped coming")
        case engine.BatchClosed(index=index):
            raise Refused(422, f"item {index} comes too late: the batch is sealed")
        case engine.Misplaced(index=index, run_count=run_count):
            raise Refused(422, f"index {index}: the batch was announced with {run_count} items, numbered from 0")
        case engine.Unknown():
            raise Refused(422, "there is no such batch")
        case engine.Stale():
            raise stale()
        case _:
            raise AssertionError(outcome)


routes = [Route("/api/v3/batches/{batch_id}/items", items, methods=["POST"])]

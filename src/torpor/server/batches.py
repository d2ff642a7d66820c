"""Batches: open one, stream its items, look at it, read its results.

Items come as NDJSON of any length. They are worked off in chunks, each in a transaction of its own, so that neither memory
nor locks grow with the batch; a stream that breaks off is simply sent again.
"""

import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from torpor import engine, ids
from torpor.config import Settings
from torpor.durations import parse_duration
from torpor.engine import read_batch
from torpor.engine.states import STATUS, RunState
from torpor.server import auth, offload, paging, render, signing, uploads
from torpor.server.auth import Caller, Keyed, Kind
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused, not_found, stale
from torpor.server.hub import Hub, hub
from torpor.server.options import read_key, read_options
from torpor.server.repeats import id_for
from torpor.server.runs import trigger_request, triggered
from torpor.wire import http as wire
from torpor.wire.runner import TaskError

CHUNK_BYTES = 1 << 20
MAX_ERROR_CHARS = 2000

router = APIRouter()

# -- open -------------------------------------------------------------------------------------------------------------


class BatchBody(msgspec.Struct):
    runCount: int | None = None  # the wire's names
    taskIdentifiers: list[str] | None = None  # what a token is asked for at once; each item names its task
    idempotencyKey: str | None = None
    idempotencyKeyTTL: Any = None
    idempotencyKeyOptions: dict[str, Any] | None = None  # told only
    parentRunId: str | None = None
    resumeParentOnCompletion: bool | None = None  # told only


_batch_body = msgspec.json.Decoder(BatchBody)


@router.post("/api/v3/batches")
async def create(request: Request, environment: Keyed) -> Response:
    """202, or 200 when the idempotency key was known. Without `runCount` the batch is sealed by its last items."""
    here, caller = hub(request), auth.caller(request)
    body = decode(await read_body(request), _batch_body)
    task_ids = _named_by_scopes(caller) if body.taskIdentifiers is None else body.taskIdentifiers
    _check_tasks(caller, task_ids)
    _refuse_parent(body.parentRunId)
    key = read_key("idempotencyKey", body.idempotencyKey)
    run_count = checked_count(body.runCount, here.settings)
    batch_id, told = await _open(request, caller, run_count, key, _ttl_s(body.idempotencyKeyTTL))
    return reply(told, 200 if told["isCached"] else 202, _headers(request, caller, batch_id, task_ids))


def _refuse_parent(run_id: str | None) -> None:
    if run_id:
        raise Refused(422, "parentRunId is not supported: a batch gets its parent when the task itself triggers it")


async def _open(
    request: Request, caller: Caller, run_count: int | None, key: str | None, ttl_s: float | None
) -> tuple[str, dict[str, Any]]:
    """A batch, or the one that has this key; and what is told of it."""
    here, environment = hub(request), caller.environment
    own_id = id_for(request, "batch", environment.id, *caller.repeats)
    asked = engine.BatchRequest(batch_id=own_id, run_count=run_count, idempotency_key=key, idempotency_key_ttl_s=ttl_s)
    async with here.database.transaction() as tx:
        await signing.use_once(tx, caller, own_id)
        made = await engine.create_batch(tx, environment.id, asked, now=here.clock.now())
    assert isinstance(made, engine.BatchCreated)
    # As with triggers, a repeated call that meets its own batch was not cached. Nor is one that lacks items: they are
    # to be sent, and a client skips that for a cached batch.
    is_cached = made.is_cached and made.batch_id != own_id and made.is_sealed
    told = {"id": made.batch_id, "runCount": made.run_count, "isCached": is_cached}
    return made.batch_id, told | ({"idempotencyKey": key} if key else {})


_ANY_TASK = ("batchTrigger:tasks", "batchTrigger:batch")


def _named_by_scopes(caller: Caller) -> list[str]:
    """The tasks that the caller may batch at most: official clients before 4.5 don't say which a batch is for."""
    prefix = "batchTrigger:tasks:"
    return [scope.removeprefix(prefix) for scope in caller.scopes or () if scope.startswith(prefix)]


def _check_tasks(caller: Caller, task_ids: list[str] | None) -> None:
    """All that are listed, or all there are, must be the caller's to trigger. (Its items are looked at again.)"""
    if not caller.may(*_ANY_TASK):
        for task_id in task_ids or [""]:
            caller.require(f"batchTrigger:tasks:{task_id}" if task_id else "batchTrigger:tasks", "batchTrigger:batch")


def _headers(request: Request, caller: Caller, batch_id: str, task_ids: list[str] | None) -> dict[str, str]:
    """A token to look at the batch; in a browser also to send its items, but only of the tasks that were the caller's."""
    granted, tasks = [f"read:batch:{batch_id}"], None
    if request.headers.get("x-trigger-client") == "browser":
        granted.append(f"write:batch:{batch_id}")
        tasks = None if caller.may(*_ANY_TASK) else task_ids
    return signing.headers(hub(request), caller, granted, lifetime_s=signing.OF_A_BATCH_S, tasks=tasks)


def checked_count(run_count: int | None, limits: Settings) -> int | None:
    most = limits.max_batch_items
    if run_count is not None and not 0 <= run_count <= most:
        raise Refused(
            422,
            f"runCount: from 0 to {most}, not {run_count}; leave it out and seal the batch with ?seal=true",
            limit=most,
            value=run_count,
        )
    return run_count


def _ttl_s(given: Any) -> float | None:
    if given is None:
        return None
    try:
        return parse_duration(given).total_seconds()
    except (ValueError, TypeError) as error:
        raise Refused(422, f"idempotencyKeyTTL: {error}") from None


# -- items ------------------------------------------------------------------------------------------------------------


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
    async for chunk in _in_chunks(_of_lines(_lines(request, here.settings.max_request_bytes), here, environment.id)):
        for item in chunk:
            check(item.task_id)
        if added is None:
            await _check_use(here, caller, batch_id)
        added = await _add(here, environment.id, batch_id, chunk)
        accepted, sent = accepted + added.accepted, sent + len(chunk)
        if tells_runs:
            told += [_told_item(item) for item in added.items]
    if added is None or seal:
        check(None)
        await _check_use(here, caller, batch_id)
        added = await _add(here, environment.id, batch_id, [], seal=seal)
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
    if caller.may(*_ANY_TASK) or (only is None and caller.may(write)):
        return lambda task_id: None

    def check(task_id: str | None) -> None:
        if caller.may(write) and (task_id is None or task_id in (only or ())):
            return
        caller.require(write if task_id is None else f"batchTrigger:tasks:{task_id}")

    return check


async def _add(
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


async def _asked_for(here: Hub, environment_id: str, asked: list[Item]) -> AsyncIterator[tuple[int, engine.NewItem]]:
    for item in asked:
        now = here.clock.now()
        yield (
            0,
            await new_item(here, environment_id, item, parent_lease=None, trigger_function="batchTrigger", now=now),
        )


async def _in_chunks(items: AsyncIterator[tuple[int, engine.NewItem]]) -> AsyncIterator[list[engine.NewItem]]:
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


# -- all at once ------------------------------------------------------------------------------------------------------


class WholeItem(msgspec.Struct):
    task: str
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    options: dict[str, Any] | None = None


class WholeBatchBody(msgspec.Struct):
    items: list[msgspec.Raw]
    parentRunId: str | None = None  # the wire's name


_whole_batch_body = msgspec.json.Decoder(WholeBatchBody)


@router.post("/api/v2/tasks/batch")
async def create_whole(request: Request, environment: Keyed) -> Response:
    """As clients up to 4.2 send a batch: its items in one body, numbered by their places."""
    here, caller = hub(request), auth.caller(request)
    body = decode(await read_body(request), _whole_batch_body)
    _refuse_parent(body.parentRunId)
    items = [_numbered(index, raw) for index, raw in enumerate(body.items)]
    task_ids = list(dict.fromkeys(item.task for item in items))
    _check_tasks(caller, task_ids)
    key = read_key("idempotency-key", request.headers.get("idempotency-key"))
    run_count, ttl_s = checked_count(len(items), here.settings), _ttl_s(request.headers.get("idempotency-key-ttl"))
    batch_id, told = await _open(request, caller, run_count, key, ttl_s)
    if not told["isCached"]:
        async for chunk in _in_chunks(_asked_for(here, environment.id, items)):
            await _add(here, environment.id, batch_id, chunk)
    return reply(told, 202, _headers(request, caller, batch_id, task_ids))


def _numbered(index: int, raw: msgspec.Raw) -> Item:
    """One of them; an item of an older client doesn't say its number."""
    try:
        task = msgspec.json.decode(raw, type=WholeItem)
    except msgspec.ValidationError as error:
        raise Refused(400, f"items[{index}]: {error}") from None
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        RecursionError,
    ) as error:  # as it stands it was only skipped so far
        raise Refused(400, f"items[{index}]: Invalid JSON: {error}") from None
    return Item(index, task.task, task.payload, task.options)


# -- look -------------------------------------------------------------------------------------------------------------


@router.get("/api/v1/batches")
async def listing(request: Request, environment: Keyed) -> Response:
    """Without their runs: how many there are, and how many are yet to come or to end."""
    here, query = hub(request), request.query_params
    paging.refuse_filters(query, _LIST_FILTERS)
    since, until = paging.created_between(query, here.clock.now())
    wanted = read_batch.BatchFilter(paging.statuses(query, read_batch.BATCH_STATUS), since, until)
    async with here.database.transaction() as tx:
        found = await read_batch.batches(tx, environment.id, wanted, paging.read_page(query))
    return reply(paging.page_reply([render.batch_in_list(one) for one in found.items], found))


_LIST_FILTERS = frozenset(
    {"filter[status]", "filter[createdAt][from]", "filter[createdAt][to]", "filter[createdAt][period]"}
)


@router.get("/api/v1/batches/{batch_id}")
@router.get("/api/v2/batches/{batch_id}")
async def retrieve(request: Request, batch_id: str, environment: Keyed) -> Response:
    async with hub(request).database.transaction() as tx:
        batch = await read_batch.batch(tx, environment.id, batch_id)
        if batch is None:
            raise not_found()
        run_ids = await read_batch.run_ids(tx, batch.id)
        failed = await read_batch.failed_items(tx, batch.id)
    shown = render.batch(batch, run_ids, failed)
    if _knows_two_statuses(request):
        shown["status"] = "PENDING" if shown["status"] in ("PENDING", "PROCESSING") else "COMPLETED"
    return reply(shown)


def _knows_two_statuses(request: Request) -> bool:
    """Whether an official client before 4.3 asks: to it any other status of a batch is a reply that it can't read."""
    said = re.match(r"(\d+)\.(\d+)\.", request.headers.get("trigger-version", ""))
    return said is not None and (int(said[1]), int(said[2])) < (4, 3)


@router.get("/api/v1/batches/{batch_id}/results")
async def results(request: Request, batch_id: str, environment: Keyed) -> Response:
    """The items that have ended, in order; `page[after]` an index goes on where a long list was cut."""
    after = request.query_params.get("page[after]") or "-1"
    if not re.fullmatch(r"-?\d{1,9}", after):
        raise Refused(400, f"page[after]: the index of an item, not {after!r}")
    async with hub(request).database.transaction() as tx:
        if await read_batch.batch(tx, environment.id, batch_id) is None:
            raise not_found()
        page, following = await read_batch.results(tx, batch_id, after=int(after), max_bytes=wire.RESULTS_BYTES)
    page = await offload.whole_results(hub(request), page)
    shown = [item for one in page if (item := render.batch_result(one)) is not None]
    pagination = {} if following is None else {"next": str(following)}
    return reply({"id": batch_id, "items": shown, "pagination": pagination})


def result(one: read_batch.ItemResult) -> wire.BatchResult:
    """An item's result, as the task that waited for it gets it."""
    item, run = one.item, one.run
    if run is None:
        why = item.error or "its run was deleted"
        error = TaskError("NotTriggered" if item.error else "NotFound", why)
        return wire.BatchResult(item.index, item.task_id, item.run_id, error=error)
    return wire.BatchResult(
        item.index,
        item.task_id,
        run.id,
        STATUS[RunState(run.state)],
        msgspec.Raw((run.output or "null").encode()),
        msgspec.convert(run.error, TaskError) if run.error else None,
    )


routes = [Route("/api/v3/batches/{batch_id}/items", items, methods=["POST"])]

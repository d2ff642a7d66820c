"""Batches: open one, or send one whole, look at it, read its results. Its items come in by batch_items.py."""

import re
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.config import Settings
from torpor.durations import parse_duration
from torpor.engine import read_batch
from torpor.engine.states import STATUS, RunState
from torpor.server import auth, offload, paging, render_runs, signing
from torpor.server.auth import Caller, Keyed
from torpor.server.batch_items import ANY_TASK, Item, add, asked_for, in_chunks
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused, not_found
from torpor.server.hub import hub
from torpor.server.options import read_key
from torpor.server.repeats import id_for
from torpor.wire import http as wire
from torpor.wire.runner import TaskError

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


def _named_by_scopes(caller: Caller) -> list[str]:
    """The tasks that the caller may batch at most: official clients before 4.5 don't say which a batch is for."""
    prefix = "batchTrigger:tasks:"
    return [scope.removeprefix(prefix) for scope in caller.scopes or () if scope.startswith(prefix)]


def _check_tasks(caller: Caller, task_ids: list[str] | None) -> None:
    """All that are listed, or all there are, must be the caller's to trigger. (Its items are looked at again.)"""
    if not caller.may(*ANY_TASK):
        for task_id in task_ids or [""]:
            caller.require(f"batchTrigger:tasks:{task_id}" if task_id else "batchTrigger:tasks", "batchTrigger:batch")


def _headers(request: Request, caller: Caller, batch_id: str, task_ids: list[str] | None) -> dict[str, str]:
    """A token to look at the batch; in a browser also to send its items, but only of the tasks that were the caller's."""
    granted, tasks = [f"read:batch:{batch_id}"], None
    if request.headers.get("x-trigger-client") == "browser":
        granted.append(f"write:batch:{batch_id}")
        tasks = None if caller.may(*ANY_TASK) else task_ids
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
        async for chunk in in_chunks(asked_for(here, environment.id, items)):
            await add(here, environment.id, batch_id, chunk)
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
    return reply(paging.page_reply([render_runs.batch_in_list(one) for one in found.items], found))


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
    shown = render_runs.batch(batch, run_ids, failed)
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
    shown = [item for one in page if (item := render_runs.batch_result(one)) is not None]
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

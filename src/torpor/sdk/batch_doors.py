"""The ways to trigger a batch: awaited or blocking, inside a run through its supervisor, outside through the HTTP API."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from torpor import ids
from torpor.errors import TorporError, WaitCycle, WaitTimeout
from torpor.sdk import running
from torpor.sdk.batch import Batch, BatchItem, BatchResult, Upload, item_of, length
from torpor.wire import http as wire
from torpor.wire.runner import Answer, NewWait

if TYPE_CHECKING:
    from torpor.sdk.task import Task

Items = Iterable[Any] | AsyncIterable[Any]
Ttl = str | float | timedelta | None
AsItem = Callable[[Any], BatchItem[Any]]

_CALLS: dict[type[Any], tuple[str, type[Any]]] = {
    wire.BatchCall: ("create_batch", wire.BatchReply),
    wire.BatchItemsCall: ("batch_items", wire.BatchItemsReply),
    wire.BatchResultsCall: ("batch_results", wire.BatchResultsReply),
}

# -- sending, from anywhere to anywhere --------------------------------------------------------------------------------


async def send(upload: Upload, ask: Callable[[Any], Awaitable[Any]], items: Items, as_item: AsItem) -> None:
    """Open the batch, and send items as they come. When their source fails, what came before it goes on."""
    upload.opened(await ask(upload.opening()))
    if upload.is_sealed:
        upload.found(await ask(wire.BatchResultsCall(upload.batch_id)))
        return
    try:
        async for given in _each(items):
            if (chunk := upload.put(as_item(given))) is not None:
                upload.took(await ask(chunk))
    except Exception:
        upload.took(await ask(upload.last()))
        raise
    upload.took(await ask(upload.last()))


def send_blocking(upload: Upload, ask: Callable[[Any], Any], items: Iterable[Any], as_item: AsItem) -> None:
    """As `send`, blocking."""
    if isinstance(items, AsyncIterable):
        raise TypeError("items from an async iterable can only be awaited: use batch_trigger without `sync`")
    upload.opened(ask(upload.opening()))
    if upload.is_sealed:
        upload.found(ask(wire.BatchResultsCall(upload.batch_id)))
        return
    try:
        for given in items:
            if (chunk := upload.put(as_item(given))) is not None:
                upload.took(ask(chunk))
    except Exception:
        upload.took(ask(upload.last()))
        raise
    upload.took(ask(upload.last()))


async def _each(items: Items) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


# -- who is asked ------------------------------------------------------------------------------------------------------


async def _asking(what: str) -> Callable[[Any], Awaitable[Any]]:
    if running.session is None and not running.is_fork:
        from torpor.sdk.kept_client import kept_async

        return (await kept_async()).ask_batch
    session = running.required(what)

    async def ask(call: Any) -> Any:
        kind, reply = _CALLS[type(call)]
        return msgspec.json.decode(await session.call(kind, call), type=reply)

    return ask


def _asking_blocking(what: str) -> Callable[[Any], Any]:
    running.refuse_in_loop(what)
    if running.session is None and not running.is_fork:
        from torpor.sdk.kept_client import kept

        return kept().ask_batch
    session = running.required(what)

    def ask(call: Any) -> Any:
        kind, reply = _CALLS[type(call)]
        return msgspec.json.decode(session.call_blocking(kind, call), type=reply)

    return ask


# -- what tasks and torpor offer ---------------------------------------------------------------------------------------


async def trigger(
    task: "Task[..., Any] | None", options: dict[str, Any], items: Items, key: str | None, ttl: Ttl
) -> Batch:
    _refuse_shared_key(options)
    upload = Upload(length(items), key, ttl)
    await send(upload, await _asking("batch_trigger()"), items, lambda given: item_of(task, options, given))
    return upload.batch()


def trigger_blocking(
    task: "Task[..., Any] | None", options: dict[str, Any], items: Iterable[Any], key: str | None, ttl: Ttl
) -> Batch:
    _refuse_shared_key(options)
    upload = Upload(length(items), key, ttl)
    send_blocking(upload, _asking_blocking("sync.batch_trigger()"), items, lambda given: item_of(task, options, given))
    return upload.batch()


async def trigger_and_wait(
    task: "Task[..., Any] | None", options: dict[str, Any], items: Items, key: str | None, ttl: Ttl
) -> list[BatchResult[Any]]:
    _refuse_shared_key(options)
    session = running.required("batch_trigger_and_wait()")
    ask = await _asking("batch_trigger_and_wait()")
    upload = Upload(length(items), key, ttl, waits=True)
    await send(upload, ask, items, lambda given: item_of(task, options, given))
    _check(await session.wait(_wait(upload)), upload)
    results: list[BatchResult[Any]] = []
    after: int | None = -1
    while after is not None:
        page = await ask(wire.BatchResultsCall(upload.batch_id, after=after))
        results += map(upload.read, page.items)
        after = page.next
    return results


def trigger_and_wait_blocking(
    task: "Task[..., Any] | None", options: dict[str, Any], items: Iterable[Any], key: str | None, ttl: Ttl
) -> list[BatchResult[Any]]:
    _refuse_shared_key(options)
    session = running.required("sync.batch_trigger_and_wait()")
    ask = _asking_blocking("sync.batch_trigger_and_wait()")
    upload = Upload(length(items), key, ttl, waits=True)
    send_blocking(upload, ask, items, lambda given: item_of(task, options, given))
    _check(session.wait_blocking(_wait(upload)), upload)
    results: list[BatchResult[Any]] = []
    after: int | None = -1
    while after is not None:
        page = ask(wire.BatchResultsCall(upload.batch_id, after=after))
        results += map(upload.read, page.items)
        after = page.next
    return results


def _wait(upload: Upload) -> NewWait:
    return NewWait(ids.new("wait"), "batch", batch_id=upload.batch_id)


def _check(answer: Answer, upload: Upload) -> None:
    if answer.status == "completed":
        return
    if answer.status == "timed_out":
        raise WaitTimeout(f"batch {upload.batch_id}")
    if answer.error is not None and answer.error.name == "WaitCycle":
        raise WaitCycle(answer.error.message)
    raise TorporError(answer.error.message if answer.error else f"the wait for batch {upload.batch_id} failed")


def _refuse_shared_key(options: dict[str, Any]) -> None:
    if "idempotencyKey" in options:
        raise TypeError(
            "options(idempotency_key=…) would make all items of the batch one run: give the key to the batch, "
            "batch_trigger(items, idempotency_key=…), or one to each item, task.options(idempotency_key=…).item(…)"
        )

"""What workers call, as `wire/http.py` lists it. Plain routes: they are hot, and their messages are typed already.

Each handler checks the worker token, decodes, lets one verb act in one transaction, and says what the verb said.
"""

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from torpor import engine, ids
from torpor.durations import parse_instant
from torpor.engine import read
from torpor.server import auth, batches, offload, render, signing
from torpor.server.bodies import WORKER_LIMIT, decode, read_body, reply
from torpor.server.errors import Refused, not_found, stale
from torpor.server.garbage import collect_garbage
from torpor.server.hub import Hub, hub
from torpor.server.master_keys import ensure_key
from torpor.server.options import read_options, read_tags
from torpor.server.runs import SWEEP_S, no_such_machine, trigger_request, triggered
from torpor.server.waitpoints import complete_with
from torpor.store.database import Transaction
from torpor.wire import http as wire

LONGEST_HOLD_S = 25.0
KEEP_ALIVE_S = 10.0
MAX_CONDEMNED = 1000
"""The most objects that a worker is told to delete at once."""

MessageT = TypeVar("MessageT")

# -- the worker itself ------------------------------------------------------------------------------------------------


async def hello(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, intro = hub(request), await _message(request, _introduction)
    settings, now = here.settings, here.clock.now()
    async with here.database.transaction() as tx:
        rescued = await engine.register_worker(
            tx, environment.id, intro, lease_s=settings.lease_s, max_rescues=settings.max_rescues, now=now
        )
    limits = wire.WordLimits(settings.max_metadata_bytes, settings.max_tags)
    return reply(wire.Welcome(environment.slug, settings.lease_s, settings.heartbeat_interval_s, rescued, limits))


async def versions(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, report = hub(request), await _message(request, _version_report)
    async with here.database.transaction() as tx:
        unknown = await engine.register_version(tx, environment.id, report, now=here.clock.now())
    if unknown is not None:
        whose = f"task {unknown.task_id}" if unknown.task_id else "pyproject.toml, [tool.torpor]"
        raise Refused(422, f"{whose}: {no_such_machine(unknown)}", names=unknown.names)
    return reply(wire.VersionAccepted(report.version))


async def dequeue(request: Request) -> Response:
    """Held until there is work for this worker, or `wait_s` is over."""
    environment = await auth.worker_environment(request)
    here, asked = hub(request), await _message(request, _dequeue_request)
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
    here, beat = hub(request), await _message(request, _heartbeat_request)
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
    await _message(request, _keys_request)
    async with here.database.transaction() as tx:
        await ensure_key(tx, here.master_keys, environment.id, now=here.clock.now())
        found = await engine.data_keys(tx, environment.id)
    told = [wire.DataKey(key.id, base64.b64encode(here.master_keys.unwrap(key)).decode()) for key in found]
    return reply(wire.KeysReply(told, next(key.id for key in found if key.retired_at is None)))


async def variables(request: Request) -> Response:
    """The environment's variables with their values: for workers only, and never logged."""
    environment = await auth.worker_environment(request)
    here = hub(request)
    await _message(request, _variables_request)
    async with here.database.transaction() as tx:
        revision, found = await engine.variables(tx, environment.id)
    return reply(wire.VariablesReply(revision, {each.name: here.master_keys.open_variable(each) for each in found}))


async def garbage(request: Request) -> Response:
    """What a worker has deleted and has found, and what it is to delete now. Each step in a transaction of its own, in the
    order in which they are useful to each other."""
    environment = await auth.worker_environment(request)
    here, asked = hub(request), await _message(request, _garbage_request)
    now = here.clock.now()
    async with here.database.transaction() as tx:
        store_id = await _store_of(tx, asked.worker_id)
    async with here.database.transaction() as tx:
        await engine.confirm_deleted(tx, store_id, asked.deleted, now=now)
    async with here.database.transaction() as tx:
        await engine.note_strays(tx, environment.id, store_id, asked.strays, now=now)
    await collect_garbage(here, steps=10)
    async with here.database.transaction() as tx:
        names = await engine.condemned(tx, environment.id, store_id, limit=MAX_CONDEMNED, now=now)
    return reply(wire.GarbageReply(names, more=len(names) == MAX_CONDEMNED))


async def images(request: Request) -> Response:
    """The images that a worker's store must hold, page by page."""
    await auth.worker_environment(request)
    here, asked = hub(request), await _message(request, _images_request)
    async with here.database.transaction() as tx:
        store_id = await _store_of(tx, asked.worker_id)
        found = await read.live_images(tx, store_id, after=asked.after, limit=MAX_CONDEMNED)
    after = found[-1][0] if len(found) == MAX_CONDEMNED else None
    return reply(wire.ImagesReply([wire.LiveImage(id, digest) for id, digest in found], after))


async def _store_of(tx: Transaction, worker_id: str) -> str:
    store_id = await tx.fetchval("select store_id from workers where id = $1", worker_id)
    if store_id is None:
        raise Refused(404, f"worker {worker_id} has not said hello")
    return store_id


async def warm(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, report = hub(request), await _message(request, _warm_report)
    async with here.database.transaction() as tx:
        outcome = await engine.warm(tx, environment.id, report, now=here.clock.now())
    return reply(_told(outcome))


async def find_warm(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, asked = hub(request), await _message(request, _warm_request)
    async with here.database.transaction() as tx:
        found = await engine.find_warm(tx, environment.id, asked.worker_id, asked.version, now=here.clock.now())
    return reply(wire.WarmFound(found))


async def refuse_warm(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, refusal = hub(request), await _message(request, _warm_refusal)
    async with here.database.transaction() as tx:
        await engine.refuse_warm(
            tx,
            environment.id,
            refusal.worker_id,
            refusal.image_id,
            refusal.reason,
            is_damaged=refusal.damaged,
            now=here.clock.now(),
        )
    return reply(wire.LeaseReply("ok"))


async def checkpoints(request: Request) -> Response:
    await auth.worker_environment(request)
    here, census = hub(request), await _message(request, _census)
    async with here.database.transaction() as tx:
        kept = await engine.keep(tx, census.worker_id, census.ids, now=here.clock.now())
    return reply(wire.CheckpointCensus(census.worker_id, kept))


# -- a run that it holds ----------------------------------------------------------------------------------------------


async def payload(request: Request) -> Response:
    """A large payload, for the worker that has its run. 410 when it is not there; the store down is a 503 to be repeated."""
    await auth.worker_environment(request)
    here, call = hub(request), await _message(request, _payload_call)
    lease = _lease(request, call)
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
    report = await _message(request, _block_report)
    for wait in report.waits:
        _id("wait_id", wait.wait_id)
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

    report = await _message(request, _finish_report)
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
    message = await _message(request, expected) if isinstance(expected, msgspec.json.Decoder) else expected
    async with here.database.transaction() as tx:
        outcome = await verb(tx, _lease(request, message), message, now=here.clock.now())
    if isinstance(outcome, engine.Blocked):
        outcome = replace(outcome, answers=await offload.whole_answers(here, outcome.answers))
    return reply(_told(outcome))


def _lease(request: Request, message: Any) -> engine.Lease:
    return engine.Lease(request.path_params["run_id"], message.lease)


def _id(name: str, given: str) -> str:
    """An id that was made in a run's process. A worker will ask for `runs/<id>/finish`: with another run's name in it, and the
    same lease number, it would be that run that ends.
    """
    if not ids.is_one(given):
        raise Refused(422, f"{name} is no id: {given[:40]!r}")
    return given


def _told(outcome: object) -> wire.LeaseReply | wire.BlockReply:
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


async def logs(request: Request) -> Response:
    """What a run said is kept even when its lease is over: it did say it."""
    await auth.worker_environment(request)
    here, report = hub(request), await _message(request, _log_report)
    async with here.database.transaction() as tx:
        await engine.append(tx, request.path_params["run_id"], report, now=here.clock.now())
    return reply({})


# -- on a run's behalf ------------------------------------------------------------------------------------------------


async def trigger(request: Request) -> Response:
    """A run triggers another. Its lease makes it the parent; a lease that is over triggers nothing."""
    environment = await auth.worker_environment(request)
    here, call = hub(request), await _message(request, _trigger_call)
    now = here.clock.now()
    waits = bool(call.options.get("resumeParentOnCompletion"))
    asked = trigger_request(
        call.task_id,
        bytes(call.payload).decode(),
        read_options(call.options, here.settings, now=now),
        run_id=_id("run_id", call.run_id),
        parent_lease=_lease(request, call),
        trigger_function="triggerAndWait" if waits else "trigger",
    )
    asked = await offload.stow_payload(here, environment.id, asked)
    async with here.database.transaction() as tx:
        outcome = await engine.trigger(tx, environment.id, asked, now=now)
    done = triggered(call.task_id, outcome)
    return reply(wire.TriggerReply(done.run_id, done.is_cached))


async def create_batch(request: Request) -> Response:
    """A run opens a batch. Its lease makes it the parent of the batch's runs."""
    environment = await auth.worker_environment(request)
    here, call = hub(request), await _message(request, _batch_call)
    asked = engine.BatchRequest(
        batch_id=_id("batch_id", call.batch_id),
        run_count=batches.checked_count(call.run_count, here.settings),
        idempotency_key=call.idempotency_key,
        idempotency_key_ttl_s=call.idempotency_key_ttl_s,
        parent_lease=_lease(request, call),
    )
    async with here.database.transaction() as tx:
        made = await engine.create_batch(tx, environment.id, asked, now=here.clock.now())
    if isinstance(made, engine.Stale):
        raise stale()
    return reply(wire.BatchReply(made.batch_id, made.is_cached, made.is_sealed))


async def batch_items(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, call = hub(request), await _message(request, _batch_items_call)
    if len(call.items) > wire.MAX_CHUNK_ITEMS:
        raise Refused(422, f"at most {wire.MAX_CHUNK_ITEMS} items at a time, not {len(call.items)}")
    lease, now = _lease(request, call), here.clock.now()
    function = "batchTriggerAndWait" if call.waits else "batchTrigger"
    asked = [
        await batches.new_item(here, environment.id, item, parent_lease=lease, trigger_function=function, now=now)
        for item in call.items
    ]
    items = await offload.stow_items(here, environment.id, asked)
    async with here.database.transaction() as tx:
        outcome = await engine.add_items(
            tx, environment.id, call.batch_id, items, seal=call.seal, lease=lease, why=batches.why, now=now
        )
    added = batches.added(outcome)
    replies = [wire.BatchItemReply(item.index, item.run_id, item.is_cached, item.error) for item in added.items]
    return reply(wire.BatchItemsReply(replies, added.is_sealed, added.run_count))


async def batch_results(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, call = hub(request), await _message(request, _batch_results_call)
    async with here.database.transaction() as tx:
        if not await engine.holds(tx, _lease(request, call)):
            raise stale()
        if await engine.read_batch.batch(tx, environment.id, call.batch_id) is None:
            raise not_found()
        page, after = await engine.read_batch.results(tx, call.batch_id, after=call.after, max_bytes=wire.RESULTS_BYTES)
    page = await offload.whole_results(here, page)
    return reply(wire.BatchResultsReply([batches.result(one) for one in page], after))


async def tokens(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, call = hub(request), await _message(request, _token_call)
    approval = call.approval or {}
    asked = engine.TokenRequest(
        waitpoint_id=_id("waitpoint_id", call.waitpoint_id),
        timeout_s=call.timeout_s,
        timeout_at=_instant("timeout_at", call.timeout_at),
        tags=read_tags("tags", call.tags, here.settings),
        idempotency_key=call.idempotency_key,
        idempotency_key_ttl_s=call.idempotency_key_ttl_s,
        title=approval.get("title"),
        context=approval.get("context"),
        lease=_lease(request, call),
    )
    async with here.database.transaction() as tx:
        made = await engine.create_token(tx, environment.id, asked, now=here.clock.now())
    if isinstance(made, engine.Stale):
        raise stale()
    url = render.token_url(here, made.waitpoint_id)
    completes = signing.for_a_run(
        here, environment, [f"write:waitpoints:{made.waitpoint_id}"], lifetime_s=signing.OF_A_WAIT_TOKEN_S
    )
    return reply(wire.TokenReply(made.waitpoint_id, url, made.is_cached, completes))


def _instant(name: str, text: str | None) -> datetime | None:
    try:
        return parse_instant(text) if text else None
    except ValueError as error:
        raise Refused(422, f"{name}: {error}") from None


async def complete_token(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, call = hub(request), await _message(request, _complete_token_call)
    async with here.database.transaction() as tx:
        if not await engine.holds(tx, _lease(request, call)):
            raise stale()
        if await read.token(tx, environment.id, call.waitpoint_id) is None:
            raise not_found()
    decode(bytes(call.data), _anything)
    # In a transaction of its own: completing locks the runs that wait, in order, and this run's lock would come first.
    return await complete_with(here, call.waitpoint_id, bytes(call.data))


# -- decoding ---------------------------------------------------------------------------------------------------------


async def _message(request: Request, decoder: msgspec.json.Decoder[MessageT]) -> MessageT:
    return decode(await read_body(request, WORKER_LIMIT), decoder)


_anything = msgspec.json.Decoder()
_introduction = msgspec.json.Decoder(wire.Introduction)
_version_report = msgspec.json.Decoder(wire.VersionReport)
_dequeue_request = msgspec.json.Decoder(wire.DequeueRequest)
_heartbeat_request = msgspec.json.Decoder(wire.HeartbeatRequest)
_census = msgspec.json.Decoder(wire.CheckpointCensus)
_keys_request = msgspec.json.Decoder(wire.KeysRequest)
_variables_request = msgspec.json.Decoder(wire.VariablesRequest)
_garbage_request = msgspec.json.Decoder(wire.GarbageRequest)
_images_request = msgspec.json.Decoder(wire.ImagesRequest)
_warm_report = msgspec.json.Decoder(wire.WarmReport)
_warm_request = msgspec.json.Decoder(wire.WarmRequest)
_warm_refusal = msgspec.json.Decoder(wire.WarmRefusal)
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
_trigger_call = msgspec.json.Decoder(wire.TriggerCall)
_batch_call = msgspec.json.Decoder(wire.BatchCall)
_batch_items_call = msgspec.json.Decoder(wire.BatchItemsCall)
_batch_results_call = msgspec.json.Decoder(wire.BatchResultsCall)
_token_call = msgspec.json.Decoder(wire.TokenCall)
_complete_token_call = msgspec.json.Decoder(wire.CompleteTokenCall)

routes = [
    Route("/worker/v1/hello", hello, methods=["POST"]),
    Route("/worker/v1/versions", versions, methods=["POST"]),
    Route("/worker/v1/dequeue", dequeue, methods=["POST"]),
    Route("/worker/v1/news", news, methods=["GET"]),
    Route("/worker/v1/heartbeat", heartbeat, methods=["POST"]),
    Route("/worker/v1/keys", keys, methods=["POST"]),
    Route("/worker/v1/variables", variables, methods=["POST"]),
    Route("/worker/v1/checkpoints", checkpoints, methods=["POST"]),
    Route("/worker/v1/garbage", garbage, methods=["POST"]),
    Route("/worker/v1/images", images, methods=["POST"]),
    Route("/worker/v1/warm", warm, methods=["POST"]),
    Route("/worker/v1/warm/find", find_warm, methods=["POST"]),
    Route("/worker/v1/warm/refuse", refuse_warm, methods=["POST"]),
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
    Route("/worker/v1/runs/{run_id}/trigger", trigger, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/batches", create_batch, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/batches/items", batch_items, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/batches/results", batch_results, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/tokens", tokens, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/tokens/complete", complete_token, methods=["POST"]),
]

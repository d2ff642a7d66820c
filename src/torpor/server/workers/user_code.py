"""What user code asks for, through its worker, on behalf of its run."""

from datetime import datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from torpor import engine
from torpor.durations import parse_instant
from torpor.engine import read
from torpor.server import auth, batch_items, batches, offload, render, signing
from torpor.server.bodies import decode, reply
from torpor.server.errors import Refused, not_found, stale
from torpor.server.hub import hub
from torpor.server.options import read_options, read_tags
from torpor.server.runs import trigger_request, triggered
from torpor.server.waitpoints import complete_with
from torpor.server.workers.messages import lease_of, made_id, read_message
from torpor.wire import http as wire

_anything = msgspec.json.Decoder()
_trigger_call = msgspec.json.Decoder(wire.TriggerCall)
_batch_call = msgspec.json.Decoder(wire.BatchCall)
_batch_items_call = msgspec.json.Decoder(wire.BatchItemsCall)
_batch_results_call = msgspec.json.Decoder(wire.BatchResultsCall)
_token_call = msgspec.json.Decoder(wire.TokenCall)
_complete_token_call = msgspec.json.Decoder(wire.CompleteTokenCall)


async def trigger(request: Request) -> Response:
    """A run triggers another. Its lease makes it the parent; a lease that is over triggers nothing."""
    environment = await auth.worker_environment(request)
    here, call = hub(request), await read_message(request, _trigger_call)
    now = here.clock.now()
    waits = bool(call.options.get("resumeParentOnCompletion"))
    asked = trigger_request(
        call.task_id,
        bytes(call.payload).decode(),
        read_options(call.options, here.settings, now=now),
        run_id=made_id("run_id", call.run_id),
        parent_lease=lease_of(request, call),
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
    here, call = hub(request), await read_message(request, _batch_call)
    asked = engine.BatchRequest(
        batch_id=made_id("batch_id", call.batch_id),
        run_count=batches.checked_count(call.run_count, here.settings),
        idempotency_key=call.idempotency_key,
        idempotency_key_ttl_s=call.idempotency_key_ttl_s,
        parent_lease=lease_of(request, call),
    )
    async with here.database.transaction() as tx:
        made = await engine.create_batch(tx, environment.id, asked, now=here.clock.now())
    if isinstance(made, engine.Stale):
        raise stale()
    return reply(wire.BatchReply(made.batch_id, made.is_cached, made.is_sealed))


async def add_batch_items(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, call = hub(request), await read_message(request, _batch_items_call)
    if len(call.items) > wire.MAX_CHUNK_ITEMS:
        raise Refused(422, f"at most {wire.MAX_CHUNK_ITEMS} items at a time, not {len(call.items)}")
    lease, now = lease_of(request, call), here.clock.now()
    function = "batchTriggerAndWait" if call.waits else "batchTrigger"
    asked = [
        await batch_items.new_item(here, environment.id, item, parent_lease=lease, trigger_function=function, now=now)
        for item in call.items
    ]
    items = await offload.stow_items(here, environment.id, asked)
    async with here.database.transaction() as tx:
        outcome = await engine.add_items(
            tx, environment.id, call.batch_id, items, seal=call.seal, lease=lease, why=batch_items.why, now=now
        )
    added = batch_items.added(outcome)
    replies = [wire.BatchItemReply(item.index, item.run_id, item.is_cached, item.error) for item in added.items]
    return reply(wire.BatchItemsReply(replies, added.is_sealed, added.run_count))


async def batch_results(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, call = hub(request), await read_message(request, _batch_results_call)
    async with here.database.transaction() as tx:
        if not await engine.holds(tx, lease_of(request, call)):
            raise stale()
        if await engine.read_batch.batch(tx, environment.id, call.batch_id) is None:
            raise not_found()
        page, after = await engine.read_batch.results(tx, call.batch_id, after=call.after, max_bytes=wire.RESULTS_BYTES)
    page = await offload.whole_results(here, page)
    return reply(wire.BatchResultsReply([batches.result(one) for one in page], after))


async def tokens(request: Request) -> Response:
    environment = await auth.worker_environment(request)
    here, call = hub(request), await read_message(request, _token_call)
    approval = call.approval or {}
    asked = engine.TokenRequest(
        waitpoint_id=made_id("waitpoint_id", call.waitpoint_id),
        timeout_s=call.timeout_s,
        timeout_at=_instant("timeout_at", call.timeout_at),
        tags=read_tags("tags", call.tags, here.settings),
        idempotency_key=call.idempotency_key,
        idempotency_key_ttl_s=call.idempotency_key_ttl_s,
        title=approval.get("title"),
        context=approval.get("context"),
        lease=lease_of(request, call),
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
    here, call = hub(request), await read_message(request, _complete_token_call)
    async with here.database.transaction() as tx:
        if not await engine.holds(tx, lease_of(request, call)):
            raise stale()
        if await read.token(tx, environment.id, call.waitpoint_id) is None:
            raise not_found()
    decode(bytes(call.data), _anything)
    # In a transaction of its own: completing locks the runs that wait, in order, and this run's lock would come first.
    return await complete_with(here, call.waitpoint_id, bytes(call.data))


routes = [
    Route("/worker/v1/runs/{run_id}/trigger", trigger, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/batches", create_batch, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/batches/items", add_batch_items, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/batches/results", batch_results, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/tokens", tokens, methods=["POST"]),
    Route("/worker/v1/runs/{run_id}/tokens/complete", complete_token, methods=["POST"]),
]

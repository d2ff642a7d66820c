"""Runs: trigger, look, list, follow, cancel."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.engine import read
from torpor.engine.states import ENDS, STATUS, RunState
from torpor.server import auth, offload, paging, render_runs, run_filter, signing, uploads
from torpor.server.auth import Keyed
from torpor.server.bodies import decode, read_body, reply
from torpor.server.errors import Refused, not_found, stale
from torpor.server.hub import hub
from torpor.server.options import HARMLESS, TriggerOptions, read_options, read_when
from torpor.server.repeats import id_for
from torpor.store.database import Transaction
from torpor.store.records import Environment, Event, LogLine, Run

LONGEST_POLL_S = 30.0
SWEEP_S = 2.0
"""A held request looks again this often even when nothing was announced: announcements can be lost."""

RowT = TypeVar("RowT", Event, LogLine)

router = APIRouter()

# -- trigger ----------------------------------------------------------------------------------------------------------


class TriggerBody(msgspec.Struct):
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    options: dict[str, Any] | None = None


_trigger_body = msgspec.json.Decoder(TriggerBody)


async def trigger(request: Request) -> Response:
    """`POST /api/v1/tasks/{task_id}/trigger`."""
    here, caller = hub(request), auth.caller(request)
    environment = caller.environment
    task_id: str = request.path_params["task_id"]
    body = decode(await read_body(request), _trigger_body)
    given = body.options or {}
    if header_key := request.headers.get("idempotency-key"):
        given = {"idempotencyKey": header_key, **given}
        if header_ttl := request.headers.get("idempotency-key-ttl"):
            given = {"idempotencyKeyTTL": header_ttl, **given}
    now = here.clock.now()
    asked = trigger_request(
        task_id,
        await uploads.payload_text(here, environment.id, body.payload, given.get("payloadType")),
        read_options(given, here.settings, now=now),
        run_id=id_for(request, "run", environment.id, task_id, *caller.repeats),
    )
    asked = await offload.stow_payload(here, environment.id, asked)
    assert asked.run_id is not None
    async with here.database.transaction() as tx:
        await signing.use_once(tx, caller, asked.run_id)
        # What is refused rolls back, so that a one-time token isn't used up by it.
        done = triggered(task_id, await engine.trigger(tx, environment.id, asked, now=now))
    # A repeated call meets the run that it made itself: nothing was cached then, an answer had been lost.
    is_cached = done.is_cached and done.run_id != asked.run_id
    granted = (f"read:runs:{done.run_id}", f"write:inputStreams:{done.run_id}")
    return reply(
        {"id": done.run_id, "isCached": True} if is_cached else {"id": done.run_id},
        headers=signing.headers(here, caller, granted, lifetime_s=signing.OF_A_RUN_S),
    )


def trigger_request(
    task_id: str,
    payload: str | None,
    options: TriggerOptions,
    *,
    run_id: str,
    parent_lease: engine.Lease | None = None,
    trigger_function: str = "trigger",
) -> engine.TriggerRequest:
    return engine.TriggerRequest(
        task_id=task_id,
        payload=payload,
        run_id=run_id,
        parent_lease=parent_lease,
        trigger_function=trigger_function,
        **{field.name: getattr(options, field.name) for field in fields(options)},
    )


def triggered(task_id: str, outcome: object) -> engine.Triggered:
    """The run that a trigger made or found; else the refusal that fits the outcome."""
    match outcome:
        case engine.Triggered():
            return outcome
        case engine.UnknownTask(near=near):
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise Refused(404, f'Task not found: "{task_id}"{hint}', near=list(near))
        case engine.UnknownQueue(name=name, near=near):
            hint = f"; did you mean {', '.join(near)}?" if near else "; declare it in code with Queue(...)"
            raise Refused(422, f'options.queue: no queue "{name}" is declared{hint}', near=list(near))
        case engine.UnknownVersion(version=version, current=current):
            hint = f"; the current one is {current}" if current else ""
            raise Refused(422, f'options.lockToVersion: no worker has reported a version "{version}"{hint}')
        case engine.UnknownPreset(names=names):
            raise Refused(422, f"options.machine: {no_such_machine(outcome)}", names=names)
        case engine.QueueFull(queue=queue, limit=limit, queued=queued):
            raise Refused(
                422,
                f'queue "{queue}" is full: {queued} runs are queued there, and this environment allows {limit} per queue',
                queue=queue,
                limit=limit,
                queued=queued,
            )
        case engine.PayloadMisfit(problems=problems):
            told = "; ".join(f"{problem['path'] or 'payload'}: {problem['message']}" for problem in problems[:3])
            raise Refused(422, f'the payload doesn\'t fit task "{task_id}": {told}', problems=problems)
        case engine.Stale():
            raise stale()
        case _:
            raise AssertionError(outcome)


def no_such_machine(unknown: engine.UnknownPreset) -> str:
    """As a reason, with the names there are."""
    return f'there is no machine "{unknown.name}"; there are {", ".join(unknown.names)}'


# -- look and list ----------------------------------------------------------------------------------------------------


@router.get("/api/v3/runs/{run_id}")
async def retrieve(request: Request, run_id: str, environment: Keyed) -> Response:
    """A run. Large payloads and outputs are told by URL, or with `?inline=true` whole."""
    here, is_inline = hub(request), paging.flag(request.query_params, "inline")
    async with here.database.transaction() as tx:
        run = await _known(tx, environment, run_id)
        root = await read.run(tx, environment.id, run.root_run_id) if run.root_run_id else None
        parent = await read.run(tx, environment.id, run.parent_run_id) if run.parent_run_id else None
        children = await read.children(tx, environment.id, run.id)
        schedule = await read.schedule(tx, environment.id, run.schedule_id) if run.schedule_id else None
    urls = {} if is_inline else uploads.urls(request, run)
    run = await offload.whole(here, run) if is_inline else run
    related = {"root": root, "parent": parent, "children": children, "schedule": schedule}
    return reply(render_runs.run_whole(run, **related, now=here.clock.now()) | urls)


@router.get("/api/v1/runs/{run_id}/result")
async def result(request: Request, run_id: str, environment: Keyed) -> Response:
    """404 until the run has ended; who waits asks again."""
    here = hub(request)
    async with here.database.transaction() as tx:
        run = await _known(tx, environment, run_id)
    if RunState(run.state) not in ENDS:
        raise Refused(404, "Run either doesn't exist or is not finished")
    return reply(render_runs.run_result(await offload.with_output(here, run)))


async def _known(tx: Transaction, environment: Environment, run_id: str) -> Run:
    run = await read.run(tx, environment.id, run_id)
    if run is None:
        raise not_found()
    return run


@router.get("/api/v1/runs")
async def listing(request: Request, environment: Keyed) -> Response:
    return await _page(request, environment)


@router.get("/api/v1/projects/{project_ref}/runs")
async def listing_of_project(request: Request, project_ref: str, environment: Keyed) -> Response:
    """The key says of which project, whatever the path names. `filter[env]`: nothing is in another environment than the key's."""
    return await _page(request, environment, frozenset({"filter[env]"}))


async def _page(request: Request, environment: Environment, more_filters: frozenset[str] = frozenset()) -> Response:
    here, query = hub(request), request.query_params
    now, page = here.clock.now(), paging.read_page(query)
    _check_listing(auth.caller(request), paging.several(query, "filter[taskIdentifier]"))
    wanted = run_filter.of_query(query, more_filters, now)
    if "filter[env]" in more_filters and environment.slug not in (
        paging.several(query, "filter[env]") or [environment.slug]
    ):
        return reply(paging.page_reply([], engine.Listing([], None, None)))
    async with here.database.transaction() as tx:
        found = await read.runs(tx, environment.id, wanted, page)
    return reply(paging.page_reply([render_runs.run_in_list(run, environment, now) for run in found.items], found))


def _check_listing(caller: auth.Caller, task_ids: list[str] | None) -> None:
    """All runs, or those of tasks that the caller may read, each of them."""
    if not caller.may("read:runs", "read:tasks"):
        for task_id in task_ids or [""]:
            caller.require("read:runs", f"read:tasks:{task_id}" if task_id else "read:tasks")


# -- cancel -----------------------------------------------------------------------------------------------------------


@router.post("/api/v2/runs/{run_id}/cancel")
async def cancel(request: Request, run_id: str, environment: Keyed) -> Response:
    """200 too when the run had ended before. `?at_once=true` kills its process instead of asking it to end."""
    here = hub(request)
    at_once = bool(paging.flag(request.query_params, "at_once"))
    reason = auth.caller(request).did("canceled")
    async with here.database.transaction() as tx:
        outcome = await engine.cancel(tx, environment.id, run_id, reason=reason, at_once=at_once, now=here.clock.now())
    if isinstance(outcome, engine.Unknown):
        raise not_found()
    return reply({"id": run_id})


# -- move, perform again, free a key ------------------------------------------------------------------------------------


class RescheduleBody(msgspec.Struct):
    delay: Any = None


_reschedule_body = msgspec.json.Decoder(RescheduleBody)


@router.post("/api/v1/runs/{run_id}/reschedule")
async def reschedule(request: Request, run_id: str, environment: Keyed) -> Response:
    """The run as it is then; 400 if it isn't delayed."""
    here, body = hub(request), decode(await read_body(request), _reschedule_body)
    now = here.clock.now()
    if body.delay is None:
        raise Refused(422, "delay is missing: a length of time or an instant")
    until = read_when("delay", body.delay, now)
    async with here.database.transaction() as tx:
        outcome = await engine.reschedule(tx, environment.id, run_id, until, now=now)
    if isinstance(outcome, engine.Unknown):
        raise not_found()
    if isinstance(outcome, engine.NotDelayed):
        raise Refused(400, f"Cannot reschedule a run that is not delayed: it is {STATUS[outcome.state]}")
    return await retrieve(request, run_id, environment)


_REPLAYED = {
    "queue": "queue",
    "concurrencyKey": "concurrency_key",
    "tags": "tags",
    "metadata": "metadata",
    "idempotencyKey": "idempotency_key",
    "idempotencyKeyTTL": "idempotency_key_ttl_s",
    "idempotencyKeyOptions": "idempotency_key_options",
    "delay": "delay_until",
    "ttl": "ttl_s",
    "maxAttempts": "max_attempts",
    "maxDuration": "max_duration_s",
    "machine": "preset",
    "priority": "priority_s",
    "lockToVersion": "lock_to_version",
    "test": "is_test",
}
"""What a replay may change beside the payload: by the API's name, as the trigger's option, and by the engine's."""


class ReplayBody(msgspec.Struct):
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    payloadType: str | None = None  # the wire's name


_replay_body = msgspec.json.Decoder(ReplayBody)
_replay_options = msgspec.json.Decoder(dict[str, Any])


@router.post("/api/v1/runs/{run_id}/replay")
async def replay(request: Request, run_id: str, environment: Keyed) -> Response:
    """A new run like this one: `{"id"}`."""
    here, body = hub(request), await read_body(request)
    given, options = decode(body, _replay_body), decode(body, _replay_options)
    now = here.clock.now()
    asked = {name: value for name, value in options.items() if name not in ("payload", "payloadType")}
    asked = {{"version": "lockToVersion", "isTest": "test"}.get(name, name): value for name, value in asked.items()}
    for name in asked:
        if name not in _REPLAYED and name not in HARMLESS | {"region"}:
            raise Refused(400, f"{name} can't be changed by a replay; what can: {', '.join(_REPLAYED)}")
    async with here.database.transaction() as tx:
        old = await _known(tx, environment, run_id)
    read_as = read_options(asked, here.settings, now=now)
    changes = {_REPLAYED[name]: getattr(read_as, _REPLAYED[name]) for name in _REPLAYED if asked.get(name) is not None}
    changes["run_id"] = id_for(request, "run", environment.id, "replay", run_id)
    if given.payload is not msgspec.UNSET:
        text = await uploads.payload_text(here, environment.id, given.payload, given.payloadType)
        name = await offload.stow(here, environment.id, changes["run_id"], "payload", text.encode()) if text else None
        changes |= {"payload": text, "payload_object": name}
    async with here.database.transaction() as tx:
        outcome = await engine.replay(tx, environment.id, run_id, changes, now=now)
    if isinstance(outcome, engine.Unknown):
        raise not_found()
    return reply({"id": triggered(old.task_id, outcome).run_id})


class ResetBody(msgspec.Struct):
    taskIdentifier: str | None = None  # the wire's name


_reset_body = msgspec.json.Decoder(ResetBody)


@router.post("/api/v1/idempotencyKeys/{key}/reset")
async def reset_key(request: Request, key: str, environment: Keyed) -> Response:
    """The next trigger of that task with this key makes a new run. 404 if no run has it."""
    here, body = hub(request), decode(await read_body(request), _reset_body)
    if not body.taskIdentifier:
        raise Refused(422, "taskIdentifier is missing: a key belongs to one task")
    async with here.database.transaction() as tx:
        outcome = await engine.reset_key(tx, environment.id, body.taskIdentifier, key, now=here.clock.now())
    if isinstance(outcome, engine.Unknown):
        raise Refused(404, f'no run of task "{body.taskIdentifier}" has this idempotency key')
    return reply({"id": key})


# -- a run's story, as it happens -------------------------------------------------------------------------------------


@router.get("/api/v1/runs/{run_id}/story")
async def story(request: Request, run_id: str, environment: Keyed) -> Response:
    """The events after `after`; held up to `wait_s` for the first one."""
    return await _follow(request, run_id, environment, read.story, render_runs.event)


@router.get("/api/v1/runs/{run_id}/logs")
async def logs(request: Request, run_id: str, environment: Keyed) -> Response:
    """The log lines after `after`; held up to `wait_s` for the first one."""
    return await _follow(request, run_id, environment, read.logs, render_runs.log_line)


async def _follow(
    request: Request,
    run_id: str,
    environment: Environment,
    rows_after: Callable[[Transaction, str, int], Awaitable[Sequence[RowT]]],
    shown: Callable[[RowT], dict[str, Any]],
) -> Response:
    here = hub(request)
    after = int(_number(request, "after"))
    loop = asyncio.get_running_loop()
    until = loop.time() + min(_number(request, "wait_s"), LONGEST_POLL_S)
    with here.wakeups.listen("run", run_id) as ear:
        while True:
            async with here.database.transaction() as tx:
                # The run first: if it has ended, all of its story was there before the story is read.
                run = await _known(tx, environment, run_id)
                rows = await rows_after(tx, run_id, after)
            has_ended = RunState(run.state) in ENDS and len(rows) < read.STORY_LIMIT
            left_s = until - loop.time()
            if rows or has_ended or left_s <= 0 or here.wakeups.is_closed or await request.is_disconnected():
                return reply({"data": [shown(row) for row in rows], "ended": has_ended})
            await ear.wait(min(left_s, SWEEP_S))


def _number(request: Request, name: str) -> float:
    text = request.query_params.get(name, "0")
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 2**63:
        raise Refused(400, f"{name}: a number from 0, not {text!r}")
    return number

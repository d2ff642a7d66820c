"""Who may call what: one line for every route, and nothing else decides it.

A route without a line doesn't start (`guard`), and docs/api.md has the same table; tests compare them, and try every route
with every kind of key and token.

    SECRET      a secret key may do everything
    PERSONAL    a person's token everything that a scoped key could, but not what keys are for: other keys
    SCOPED      a scoped key needs one of the scopes
    PUBLIC      so does a public token
    ONE_TIME    and one that is good for one use
    WORKER      the token that workers and server share, or one for the workers of an environment
    SESSION     a browser that is signed in to the dashboard
    HASH        who knows the URL may ask
    NOTHING     everybody may

In a scope `{name}` is of the path; `{task}`, `{tag}` and `{batch}` are those of the run that the path names, `{each task}`
those that the request names: of these all are needed; `{a tag}` one of those that it names, as it asks for what has all of them.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from string import Formatter
from time import time
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from torpor.engine import read
from torpor.server import auth, presigned
from torpor.server.auth import Caller, Kind
from torpor.server.errors import Refused
from torpor.server.hub import hub
from torpor.server.rates import refused


@dataclass(frozen=True, slots=True)
class Access:
    """What a route takes, and the scopes of which a scoped key or a token needs one."""

    takes: tuple[Kind, ...]
    scopes: tuple[str, ...] = ()
    is_page: bool = False  # of the dashboard: for people, and not part of the API


def secret() -> Access:
    return Access((Kind.SECRET,))


def keyed(*scopes: str) -> Access:
    return Access((Kind.SECRET, Kind.PERSONAL, Kind.SCOPED), scopes)


def public(*scopes: str) -> Access:
    return Access((Kind.SECRET, Kind.PERSONAL, Kind.SCOPED, Kind.PUBLIC), scopes)


def once(*scopes: str) -> Access:
    return Access((Kind.SECRET, Kind.PERSONAL, Kind.SCOPED, Kind.PUBLIC, Kind.ONE_TIME), scopes)


WORKER = Access((Kind.WORKER,))
HASH = Access((Kind.HASH,))
NOTHING = Access((Kind.NOTHING,))
PAGE = Access((Kind.SESSION,), is_page=True)
OPEN_PAGE = Access((Kind.NOTHING,), is_page=True)

READ_RUN = ("read:runs:{run_id}", "read:tasks:{task}", "read:tags:{tag}", "read:batch:{batch}")
WRITE_RUN = ("write:runs:{run_id}", "write:tasks:{task}")
READ_BATCH = ("read:batch:{batch_id}", "read:runs")

ROUTES: dict[str, Access] = {
    # runs
    "POST /api/v1/tasks/{task_id}/trigger": once("trigger:tasks:{task_id}"),
    "GET /api/v1/runs": public("read:runs", "read:tasks:{each task}"),
    "GET /api/v1/projects/{project_ref}/runs": public("read:runs", "read:tasks:{each task}"),
    "GET /api/v3/runs/{run_id}": public(*READ_RUN),
    "GET /api/v1/runs/{run_id}/result": keyed(*READ_RUN),
    "POST /api/v2/runs/{run_id}/cancel": public(*WRITE_RUN),
    "POST /api/v1/runs/{run_id}/reschedule": keyed(*WRITE_RUN),
    "POST /api/v1/runs/{run_id}/replay": keyed(*WRITE_RUN),
    "POST /api/v1/idempotencyKeys/{key}/reset": public("write:runs"),
    "GET /api/v1/runs/{run_id}/story": keyed(*READ_RUN),
    "GET /api/v1/runs/{run_id}/logs": keyed(*READ_RUN),
    "PUT /api/v1/runs/{run_id}/metadata": keyed(*WRITE_RUN),
    "GET /api/v1/runs/{run_id}/metadata": keyed(*READ_RUN),
    "POST /api/v1/runs/{run_id}/tags": keyed(*WRITE_RUN),
    "GET /api/v1/runs/{run_id}/checkpoints": keyed(*READ_RUN),
    "POST /api/v1/runs/{run_id}/fork": keyed(*WRITE_RUN),
    "GET /api/v1/checkpoints": keyed("read:runs"),
    "GET /api/v1/checkpoints/{checkpoint_id}": keyed("read:runs"),
    # payloads and outputs that are large
    "PUT /api/v2/packets/{filename}": keyed(
        "write:packets", "trigger:tasks", "batchTrigger:tasks", "batchTrigger:batch"
    ),
    "GET /api/v1/runs/{run_id}/packets/{field}": public(*READ_RUN),
    "GET /api/v1/packets/runs/{run_id}/{field}": public(*READ_RUN),
    "GET /api/v1/packets/{path}": keyed("read:packets"),
    "PUT /api/v1/objects/{environment_id}/{name}/{given_hash}": HASH,
    "GET /api/v1/objects/{environment_id}/{name}/{given_hash}": HASH,
    "GET /api/v1/runs/{run_id}/trace": keyed(*READ_RUN),
    "GET /api/v1/runs/{run_id}/spans/{span_id}": keyed(*READ_RUN),
    "GET /api/v1/runs/{run_id}/events": keyed(*READ_RUN),
    "GET /api/v1/runs/counts": keyed("read:runs"),
    # bulk actions
    "POST /api/v1/bulk-actions": keyed("write:runs"),
    "GET /api/v1/bulk-actions": keyed("read:runs"),
    "GET /api/v1/bulk-actions/{bulk_id}": keyed("read:runs"),
    "POST /api/v1/bulk-actions/{bulk_id}/abort": keyed("write:runs"),
    # streams
    "GET /realtime/v1/streams/{run_id}/{stream_key}": public(*READ_RUN),
    "POST /realtime/v1/streams/{run_id}/{target}/{stream_key}/append": public(*WRITE_RUN),
    "POST /realtime/v1/streams/{run_id}/{target}/{stream_key}": public(*WRITE_RUN),
    "PUT /realtime/v1/streams/{run_id}/{target}/{stream_key}": public(*WRITE_RUN),
    "GET /realtime/v1/streams/{run_id}/input/{stream_key}": public(*READ_RUN),
    "POST /realtime/v1/streams/{run_id}/input/{stream_key}": public("write:inputStreams:{run_id}"),
    # batches
    "POST /api/v3/batches": once("batchTrigger:tasks:{each task}", "batchTrigger:batch"),
    "POST /api/v3/batches/{batch_id}/items": once("write:batch:{batch_id}", "batchTrigger:tasks:{each task}"),
    "POST /api/v2/tasks/batch": once("batchTrigger:tasks:{each task}", "batchTrigger:batch"),
    "GET /api/v1/batches": keyed("read:batch", "read:runs"),
    "GET /api/v1/batches/{batch_id}": public(*READ_BATCH),
    "GET /api/v2/batches/{batch_id}": public(*READ_BATCH),
    "GET /api/v1/batches/{batch_id}/results": keyed(*READ_BATCH),
    # realtime feeds
    "GET /realtime/v1/runs/{run_id}": public(*READ_RUN),
    "GET /realtime/v1/runs": public("read:runs", "read:tags:{a tag}"),
    "GET /realtime/v1/batches/{batch_id}": public(*READ_BATCH),
    # wait tokens
    "POST /api/v1/waitpoints/tokens": keyed("write:waitpoints"),
    "GET /api/v1/waitpoints/tokens": keyed("read:waitpoints"),
    "GET /api/v1/waitpoints/tokens/{token_id}": keyed("read:waitpoints:{token_id}"),
    "POST /api/v1/waitpoints/tokens/{token_id}/complete": public("write:waitpoints:{token_id}"),
    "POST /api/v1/waitpoints/tokens/{token_id}/callback/{given_hash}": HASH,
    # approvals
    "GET /api/v1/approvals": keyed("read:waitpoints"),
    "GET /api/v1/approvals/{token_id}": public("read:waitpoints:{token_id}", "write:waitpoints:{token_id}"),
    "POST /api/v1/approvals/{token_id}/approve": public("write:waitpoints:{token_id}"),
    "POST /api/v1/approvals/{token_id}/reject": public("write:waitpoints:{token_id}"),
    # schedules
    "POST /api/v1/schedules": keyed("write:schedules"),
    "GET /api/v1/schedules": keyed("read:schedules"),
    "GET /api/v1/schedules/{schedule_id}": keyed("read:schedules:{schedule_id}"),
    "PUT /api/v1/schedules/{schedule_id}": keyed("write:schedules:{schedule_id}"),
    "DELETE /api/v1/schedules/{schedule_id}": keyed("write:schedules:{schedule_id}"),
    "POST /api/v1/schedules/{schedule_id}/activate": keyed("write:schedules:{schedule_id}"),
    "POST /api/v1/schedules/{schedule_id}/deactivate": keyed("write:schedules:{schedule_id}"),
    "GET /api/v1/timezones": NOTHING,
    # queues and the environment
    "GET /api/v1/queues": keyed("read:queues"),
    "GET /api/v1/queues/{name}": keyed("read:queues"),
    "POST /api/v1/queues/{name}/pause": keyed("write:queues"),
    "POST /api/v1/queues/{name}/concurrency/override": keyed("write:queues"),
    "POST /api/v1/queues/{name}/concurrency/reset": keyed("write:queues"),
    "GET /api/v1/environment": keyed("read:environment"),
    "POST /api/v1/environment": keyed("write:environment"),
    # deployments
    "GET /api/v1/deployments": public("read:deployments"),
    "GET /api/v1/deployments/current": public("read:deployments"),
    "GET /api/v1/deployments/latest": public("read:deployments"),
    "GET /api/v1/deployments/{deployment_id}": public("read:deployments:{deployment_id}"),
    # queries
    "POST /api/v1/query": public("read:query:runs"),
    "GET /api/v1/query/schema": public("read:query:runs"),
    "GET /api/v1/query/dashboards": public("read:query:runs"),
    # what there is
    "GET /api/v1/tasks": keyed("read:tasks"),
    "GET /api/v1/workers": keyed("read:workers"),
    "GET /api/v1/workers/{worker_id}": keyed("read:workers:{worker_id}"),
    "POST /api/v1/workers/{worker_id}/drain": keyed("write:workers:{worker_id}"),
    "GET /api/v1/limits": keyed(),
    "GET /healthz": NOTHING,
    "GET /api/openapi.json": NOTHING,
    # keys and tokens
    "GET /api/v1/whoami": keyed(),
    "GET /api/v1/keys": secret(),
    "POST /api/v1/keys": secret(),
    "POST /api/v1/keys/{key_id}/rotate": secret(),
    "POST /api/v1/keys/{key_id}/revoke": secret(),
    "GET /api/v1/data-keys": secret(),
    "POST /api/v1/data-keys/rotate": secret(),
    "POST /api/v1/auth/jwt/claims": secret(),
    "POST /api/v1/auth/jwt": keyed(),
    "POST /api/v1/auth/public-tokens": keyed(),
    # accounts of the dashboard
    "GET /api/v1/accounts": secret(),
    "POST /api/v1/accounts": secret(),
    "DELETE /api/v1/accounts/{account_id}": secret(),
    "POST /api/v1/sign-in-links": secret(),
    # projects and environments
    "GET /api/v1/environments": secret(),
    "POST /api/v1/environments": secret(),
    "PUT /api/v1/environments/{environment_id}": secret(),
    "DELETE /api/v1/environments/{environment_id}": secret(),
    "PUT /api/v1/projects/{project}": secret(),
    "DELETE /api/v1/projects/{project}": secret(),
    # environment variables
    "GET /api/v1/projects/{project_ref}/envvars/{slug}": keyed("read:envvars"),
    "POST /api/v1/projects/{project_ref}/envvars/{slug}": keyed("write:envvars"),
    "POST /api/v1/projects/{project_ref}/envvars/{slug}/import": keyed("write:envvars"),
    "GET /api/v1/projects/{project_ref}/envvars/{slug}/{name}": keyed("read:envvars"),
    "PUT /api/v1/projects/{project_ref}/envvars/{slug}/{name}": keyed("write:envvars"),
    "DELETE /api/v1/projects/{project_ref}/envvars/{slug}/{name}": keyed("write:envvars"),
    # pages of the dashboard
    "GET /static/{name}": OPEN_PAGE,
    "GET /sign-in": OPEN_PAGE,
    "POST /sign-in": OPEN_PAGE,
    "GET /sign-in/{link}": OPEN_PAGE,
    "POST /sign-in/{link}": OPEN_PAGE,
    "GET /openid": OPEN_PAGE,
    "GET /openid/callback": OPEN_PAGE,
    "POST /sign-out": PAGE,
    "POST /sign-out/everywhere": PAGE,
    "GET /account": PAGE,
    "POST /account": PAGE,
    "POST /account/password": PAGE,
    "POST /account/sessions/end": PAGE,
    "GET /live": PAGE,
    "GET /": PAGE,
    "POST /runs/bulk": PAGE,
    "GET /runs/{run_id}": PAGE,
    "GET /runs/{run_id}/timeline": PAGE,
    "GET /runs/{run_id}/packets/{field}": PAGE,
    "GET /runs/{run_id}/log": PAGE,
    "POST /runs/{run_id}/cancel": PAGE,
    "POST /runs/{run_id}/replay": PAGE,
    "POST /runs/{run_id}/fork": PAGE,
    "POST /runs/{run_id}/answer": PAGE,
    "GET /schedules": PAGE,
    "POST /schedules": PAGE,
    "GET /schedules/new": PAGE,
    "GET /schedules/{schedule_id}": PAGE,
    "POST /schedules/{schedule_id}": PAGE,
    "POST /schedules/{schedule_id}/activate": PAGE,
    "POST /schedules/{schedule_id}/deactivate": PAGE,
    "POST /schedules/{schedule_id}/delete": PAGE,
    "GET /queues": PAGE,
    "POST /queues/{queue_id}/pause": PAGE,
    "POST /queues/{queue_id}/resume": PAGE,
    "POST /queues/{queue_id}/limit": PAGE,
    "POST /queues/{queue_id}/reset": PAGE,
    "GET /errors": PAGE,
    "GET /errors/{fingerprint}": PAGE,
    "GET /logs": PAGE,
    "GET /batches": PAGE,
    "GET /batches/{batch_id}": PAGE,
    "GET /workers": PAGE,
    "POST /workers/{worker_id}/drain": PAGE,
    "GET /waiting": PAGE,
    "POST /waiting/{token_id}/approve": PAGE,
    "POST /waiting/{token_id}/reject": PAGE,
    "POST /waiting/{token_id}/complete": PAGE,
    "GET /tasks": PAGE,
    "GET /tasks/{task_id}": PAGE,
    "GET /test/{task_id}": PAGE,
    "POST /test/{task_id}": PAGE,
    "GET /variables": PAGE,
    "POST /variables": PAGE,
    "POST /variables/import": PAGE,
    "POST /variables/{name}/delete": PAGE,
    "GET /keys": PAGE,
    "POST /keys": PAGE,
    "POST /keys/{key_id}/revoke": PAGE,
    "POST /data-keys/rotate": PAGE,
    "GET /environments": PAGE,
    "POST /environments": PAGE,
    "POST /environments/{environment_id}/rename": PAGE,
    "POST /environments/{environment_id}/delete": PAGE,
    "POST /projects/{project}/rename": PAGE,
    "GET /limits": PAGE,
    "GET /checkpoints": PAGE,
    # what workers call
    "POST /worker/v1/hello": WORKER,
    "POST /worker/v1/versions": WORKER,
    "POST /worker/v1/dequeue": WORKER,
    "GET /worker/v1/news": WORKER,
    "POST /worker/v1/heartbeat": WORKER,
    "POST /worker/v1/keys": WORKER,
    "POST /worker/v1/variables": WORKER,
    "POST /worker/v1/checkpoints": WORKER,
    "POST /worker/v1/garbage": WORKER,
    "POST /worker/v1/images": WORKER,
    "POST /worker/v1/warm": WORKER,
    "POST /worker/v1/warm/find": WORKER,
    "POST /worker/v1/warm/refuse": WORKER,
    "POST /worker/v1/runs/{run_id}/payload": WORKER,
    "POST /worker/v1/runs/{run_id}/start": WORKER,
    "POST /worker/v1/runs/{run_id}/block": WORKER,
    "POST /worker/v1/runs/{run_id}/collect": WORKER,
    "POST /worker/v1/runs/{run_id}/suspend": WORKER,
    "POST /worker/v1/runs/{run_id}/save": WORKER,
    "POST /worker/v1/runs/{run_id}/move": WORKER,
    "POST /worker/v1/runs/{run_id}/refuse": WORKER,
    "POST /worker/v1/runs/{run_id}/finish": WORKER,
    "POST /worker/v1/runs/{run_id}/events": WORKER,
    "POST /worker/v1/runs/{run_id}/logs": WORKER,
    "POST /worker/v1/runs/{run_id}/trigger": WORKER,
    "POST /worker/v1/runs/{run_id}/batches": WORKER,
    "POST /worker/v1/runs/{run_id}/batches/items": WORKER,
    "POST /worker/v1/runs/{run_id}/batches/results": WORKER,
    "POST /worker/v1/runs/{run_id}/tokens": WORKER,
    "POST /worker/v1/runs/{run_id}/tokens/complete": WORKER,
    "POST /worker/v1/runs/{run_id}/metadata": WORKER,
    "POST /worker/v1/runs/{run_id}/streams": WORKER,
    "POST /worker/v1/runs/{run_id}/inputs": WORKER,
}

EACH_TASK = "{each task}"
"""The handler asks for these scopes by itself, since only it reads the body; here they let a request through to it."""

A_TAG = "a tag"

# -- letting in -------------------------------------------------------------------------------------------------------


async def admit(request: Request) -> None:
    """A FastAPI dependency of every router: let the request in, or refuse it, before its handler sees it."""
    await _admit(request, request.scope["route"].path)


def guard(route: Route) -> Route:
    """The same for a plain route, which must have a line."""
    declared(route)
    handler: Callable[[Request], Awaitable[Response]] = route.endpoint

    @wraps(handler)
    async def guarded(request: Request) -> Response:
        request.scope["route"] = route  # as FastAPI does for its own: it says what was asked, without the ids
        await _admit(request, route.path)
        return await handler(request)

    return Route(route.path, guarded, methods=[*(route.methods or ())], include_in_schema=route.include_in_schema)


def declared(route: BaseRoute) -> Iterable[str]:
    """The names of this route's lines.

    Raises:
        LookupError: it has none. Who adds a route says who may call it.
    """
    assert isinstance(route, Route | APIRoute)
    names = [name(method, route.path) for method in sorted(route.methods or ()) if method != "HEAD"]
    if missing := [each for each in names if each not in ROUTES]:
        raise LookupError(f"{missing[0]} has no line in server/access.py: nobody has said who may call it")
    return names


def name(method: str, path: str) -> str:
    return f"{'GET' if method == 'HEAD' else method} {path.replace(':path}', '}')}"


async def _admit(request: Request, path: str) -> None:
    access = ROUTES[name(request.method, path)]
    if Kind.NOTHING in access.takes:
        return
    if Kind.HASH in access.takes:
        _check_hash(request)
        return
    if Kind.WORKER in access.takes:
        request.scope["caller"] = await auth.identified_worker(request)
        if "run_id" in request.path_params:
            await auth.check_run_of_worker(request, request.path_params["run_id"])
        return
    if Kind.SESSION in access.takes:
        request.scope["caller"] = await auth.identified_browser(request)
        return
    caller = await auth.identified(request)
    if caller.kind not in access.takes:
        *most, last = access.takes
        wanted = f"{', '.join(most)} or {last}" if most else last
        raise Refused(401, f"this takes a {wanted}, not a {caller.kind}", code="wrong_kind")
    _count(request, caller)
    if caller.scopes is not None and access.scopes:
        await _check_scopes(request, caller, access.scopes)
    request.scope["caller"] = caller


def _check_hash(request: Request) -> None:
    here, parts = hub(request), request.path_params
    if "token_id" in parts:
        if not auth.matches_callback(here, parts["token_id"], parts["given_hash"]):
            raise Refused(401, "this callback URL is not one of this server's")
    elif not presigned.admits(request):
        raise Refused(401, "this URL is not one of this server's, or it has run out")


def _count(request: Request, caller: Caller) -> None:
    """429 when this key or token asks too often. Before anything that costs a query, and before scopes are looked at."""
    rates, is_token = hub(request).rates, caller.token is not None
    taken = rates.take(caller.token.identity if caller.token else caller.key_id, is_token=is_token)
    if taken is not None:
        request.scope["rate"].update(taken.headers(time()))
        if taken.wait_s:
            raise refused(taken, caller.kind, rates.rate(is_token=is_token).per_s)


async def _check_scopes(request: Request, caller: Caller, scopes: tuple[str, ...]) -> None:
    """403 unless one of them is granted. What the path says is enough for most; only then is a run's row asked.

    A run that isn't there and one that is another's are refused alike.
    """
    if any(EACH_TASK in scope for scope in scopes):
        return
    parts = {each: str(value) for each, value in request.path_params.items()}
    tags = [tag for tag in request.query_params.get("tags", "").split(",") if tag]
    if caller.may(*_filled(scopes, {each: [value] for each, value in parts.items()} | {A_TAG: tags})):
        return
    if "run_id" in parts and any(each in _RUN_FIELDS for scope in scopes for each in _fields(scope)):
        here = hub(request)
        async with here.database.transaction() as tx:
            values = await read.scopes_of_run(tx, caller.environment.id, parts["run_id"])
        if values is not None and caller.may(*_filled(scopes, values)):
            return
    raise auth.forbidden(caller, [scope.format_map(_Known(parts)) for scope in scopes])


_RUN_FIELDS = ("task", "tag", "batch")


class _Known(dict[str, Any]):
    """For the message: what is not known stays as it is written."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


def _fields(scope: str) -> list[str]:
    return [field for _, field, _, _ in Formatter().parse(scope) if field]


def _filled(scopes: Iterable[str], values: dict[str, list[str]]) -> list[str]:
    """Those scopes whose one field has values, with each of them; and those without a field."""
    filled: list[str] = []
    for scope in scopes:
        fields = _fields(scope)
        filled += [scope] if not fields else [scope.format(**{fields[0]: value}) for value in values.get(fields[0], ())]
    return filled

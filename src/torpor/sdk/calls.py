"""What each API call sends and how its reply is read, written once for the blocking and the awaiting client.

Nothing here sends: `client.py` does. `Target` makes the request, `Attempts` decides after each answer whether to try
again, `Pages` and `Story` say what to ask next.
"""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from torpor.config import Settings
from torpor.durations import parse_duration
from torpor.errors import (
    ApiError,
    ConfigError,
    ConnectionFailed,
    Forbidden,
    NotFound,
    RateLimited,
    RunFailed,
    ServerError,
    Unauthorized,
    Unprocessable,
)
from torpor.sdk import running
from torpor.sdk.batch import BatchItem
from torpor.sdk.debounce import Debounce
from torpor.sdk.idempotency import Idempotency, hashed, resolved
from torpor.sdk.queue import Queue

if TYPE_CHECKING:
    import httpx2

Json = dict[str, Any]

ATTEMPTS = 5
FIRST_PAUSE_S = 1.0
PAUSE_FACTOR = 1.6
POLL_S = 25.0
"""How long the server holds one request of a follower before it answers that nothing happened."""

# -- one call: what is sent -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    held_s: float = 0.0  # how long the server may hold it
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def get(path: str, query: Json | None = None, held_s: float = 0.0) -> Call:
    pairs = tuple((name, _text(value)) for name, value in (query or {}).items() if value is not None)
    return Call("GET", path, pairs, held_s=held_s)


def post(path: str, body: Json | None = None) -> Call:
    return Call("POST", path, body=b"" if body is None else msgspec.json.encode(body, enc_hook=_plain))


INLINE = {"inline": True}
"""Large payloads and outputs come with their run: one answer, where others are given URLs."""


def run(run_id: str) -> Call:
    return get(f"/api/v3/runs/{segment(run_id)}", INLINE)


def cancel(run_id: str, at_once: bool) -> Call:
    return Call("POST", f"/api/v2/runs/{segment(run_id)}/cancel", (("at_once", "true"),) if at_once else ())


def _text(value: Any) -> str:
    """A query value as the API writes it: lists comma-joined, instants in ISO 8601."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case datetime():
            return value.isoformat()
        case timedelta():
            return f"{round(value.total_seconds())}s"
        case list() | tuple() | set() | frozenset():
            return ",".join(_text(part) for part in value)
        case _:
            return str(value)


def _plain(value: Any) -> Any:
    """msgspec's way out for types it doesn't know: pydantic models, and whatever else can dump itself."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise NotImplementedError(f"a {type(value).__name__} can't be sent as JSON")


def _duration(value: Any) -> Any:
    """A timedelta or a number of seconds as text, since the API takes text; text and dates stay as they are."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.3f}".rstrip("0").rstrip(".") + "s"
    return value


_OPTIONS = {
    "idempotency_key": "idempotencyKey",
    "idempotency_key_ttl": "idempotencyKeyTTL",
    "max_attempts": "maxAttempts",
    "max_duration": "maxDuration",
    "concurrency_key": "concurrencyKey",
    "lock_to_version": "lockToVersion",
    "version": "lockToVersion",
    "inherit_tags": "inheritTags",
    "is_test": "test",
}
_RUN_FILTERS = {
    "status": "status",
    "task": "taskIdentifier",
    "version": "version",
    "tag": "tag",
    "queue": "queue",
    "machine": "machine",
    "region": "region",
    "is_test": "isTest",
    "batch": "batch",
    "schedule": "schedule",
    "bulk_action": "bulkAction",
    "search": "search",
    "since": "from",
    "until": "to",
    "period": "period",
}
"""Which runs: by our names, and as the body of a bulk action has them."""
_FILTERS = {
    **{name: f"filter[{theirs}]" for name, theirs in _RUN_FILTERS.items()},
    "task_id": "filter[taskIdentifier]",
    "tags": "filter[tags]",
    "idempotency_key": "filter[idempotencyKey]",
    "since": "filter[createdAt][from]",
    "until": "filter[createdAt][to]",
    "period": "filter[createdAt][period]",
    "page_size": "page[size]",
}
"""As the queries of listings have them, those of other things than runs as well."""


def trigger(task_id: str, payload: Any, options: Json) -> Call:
    """Options by our names or the API's. A key by our name is hashed, as `task.options` does it; the API's goes as it is."""
    body: Json = {} if payload is None else {"payload": payload}
    if chosen := trigger_options(options, payload):
        body["options"] = chosen
    return post(f"/api/v1/tasks/{segment(task_id)}/trigger", body)


def trigger_options(options: Json, payload: Any) -> Json:
    """As the API names and writes them. The payload may be what the key is made of."""
    key = options.get("idempotency_key")
    if isinstance(key, str | Idempotency) and key:
        written = None if payload is None else msgspec.json.encode(payload, enc_hook=_plain)
        rest = {name: value for name, value in options.items() if name != "idempotency_key"}
        options = resolved({**rest, "idempotencyKey": key}, written)
    chosen = {_OPTIONS.get(name, name): value for name, value in options.items() if value is not None}
    for name in ("delay", "ttl", "idempotencyKeyTTL"):
        if name in chosen:
            chosen[name] = _duration(chosen[name])
    if "maxDuration" in chosen and isinstance(chosen["maxDuration"], str | timedelta):
        chosen["maxDuration"] = parse_duration(chosen["maxDuration"]).total_seconds()
    if isinstance(queue := chosen.get("queue"), str | Queue):
        chosen["queue"] = {"name": queue if isinstance(queue, str) else queue.name}
    if isinstance(debounce := chosen.get("debounce"), Debounce):
        chosen["debounce"] = debounce.to_api()
    return chosen


def batch_item(task_id: str, payload: Any, options: Json) -> BatchItem[Any]:
    """One of a batch's items."""
    try:
        written = None if payload is None else msgspec.json.encode(payload, enc_hook=_plain)
    except (TypeError, ValueError, NotImplementedError) as error:
        return BatchItem(task_id, error=f"its payload can't be JSON: {error}")
    return BatchItem(task_id, written, trigger_options(options, payload))


def run_counts(period: Any, bucket: Any) -> Call:
    return get("/api/v1/runs/counts", {"period": _duration(period), "bucket": _duration(bucket)})


def reschedule(run_id: str, delay: Any) -> Call:
    asked = post(f"/api/v1/runs/{segment(run_id)}/reschedule", {"delay": _text(_duration(delay))})
    return replace(asked, query=get("", INLINE).query)


def replay(run_id: str, changes: Json) -> Call:
    """`payload` may be None: that is a payload, too."""
    rest = {name: value for name, value in changes.items() if name != "payload"}
    body = trigger_options(rest, changes.get("payload"))
    if isinstance(queue := body.get("queue"), dict):
        body["queue"] = queue["name"]  # the replay's own spelling
    return post(
        f"/api/v1/runs/{segment(run_id)}/replay", {**body, **{k: changes[k] for k in changes if k == "payload"}}
    )


UNSET: Any = object()
"""What wasn't given, where None would be a value."""


def fork(run_id: str, checkpoint: str, answer: Any, wait_id: str | None) -> Call:
    body: Json = {"checkpoint": checkpoint}
    if answer is not UNSET:
        body["answer"] = answer
    if wait_id is not None:
        body["waitId"] = wait_id
    return post(f"/api/v1/runs/{segment(run_id)}/fork", body)


def reset_key(task_id: str, key: "str | Idempotency") -> Call:
    text = key if isinstance(key, str) else key.key
    if text is None:
        raise ValueError("the key of a payload can't be reset by itself: pass the run's idempotencyKey text")
    scope = key.scope if isinstance(key, Idempotency) else None
    on_wire = hashed(text, scope or ("run" if running.session is not None else "global"))
    return post(f"/api/v1/idempotencyKeys/{on_wire}/reset", {"taskIdentifier": task_id})


def bulk(action: str, run_ids: Iterable[str] | None, name: str | None, preview: bool, filters: Json) -> Call:
    """Runs by their ids, or by the filters of a list."""
    chosen = _present(_renamed(filters, _RUN_FILTERS))
    chosen |= {key: _when(chosen[key]) for key in chosen.keys() & {"from", "to", "period"}}
    body: Json = {
        "action": action,
        "runIds": None if run_ids is None else [*run_ids],
        "filter": chosen if filters else None,
        "name": name or None,
        "preview": preview or None,
    }
    return post("/api/v1/bulk-actions", _present(body))


def _renamed(given: Json, names: Mapping[str, str], what: str = "filter") -> Json:
    """By the API's names.

    Raises:
        TypeError: there is no such thing; the message has those that there are.
    """
    if unknown := sorted(given.keys() - names.keys()):
        raise TypeError(f"unknown {what} {unknown[0]!r}; there are: {', '.join(names)}")
    return {names[name]: value for name, value in given.items()}


def _present(body: Json) -> Json:
    return {name: value for name, value in body.items() if value is not None}


def _when(value: Any) -> Any:
    """An instant, or how long from now, or ago, as the API writes it."""
    return None if value is None else _text(_duration(value))


def create_token(timeout: Any, tags: Any, idempotency_key: Any, ttl: Any, title: Any, context: Any) -> Call:
    body = {
        "timeout": _duration(timeout),
        "tags": tags,
        "idempotencyKey": idempotency_key,
        "idempotencyKeyTTL": _duration(ttl),
        "title": title,
        "context": context,
    }
    return post("/api/v1/waitpoints/tokens", _present(body))


def approval(approved: bool, by: str | None, comment: str | None) -> Json:
    return _present({"approved": approved, "by": by, "comment": comment})


def complete(token_id: str, data: Any) -> Call:
    return post(f"/api/v1/waitpoints/tokens/{segment(token_id)}/complete", {"data": data})


def queue(queue: str, what: str | None = None, **body: Any) -> Call:
    # A name may hold a slash, and paths are decoded before they are routed: so it is encoded twice.
    path = f"/api/v1/queues/{segment(segment(queue))}"
    return get(path) if what is None else post(f"{path}/{what}", body)


_VARIABLES = "/api/v1/projects/default/envvars/default"
"""A server has one project, whatever it is called, and for now one environment."""


def variable(name: str, method: str = "GET") -> Call:
    return Call(method, f"{_VARIABLES}/{segment(name)}")


def variables() -> Call:
    return get(_VARIABLES)


def set_variable(name: str, value: str, secret: bool | None) -> Call:
    return post(_VARIABLES, _present({"name": name, "value": value, "isSecret": secret}))


def import_variables(variables: Mapping[str, str], override: bool, secret: bool | None) -> Call:
    body = {"variables": dict(variables), "override": override, "isSecret": secret}
    return post(f"{_VARIABLES}/import", _present(body))


def create_key(name: str, scopes: list[str] | None, expires: Any, personal: bool) -> Call:
    body = {"name": name, "scopes": scopes, "expires": _when(expires), "personal": personal or None}
    return post("/api/v1/keys", _present(body))


def create_account(name: str, password: str) -> Call:
    return post("/api/v1/accounts", {"name": name, "password": password})


def remove_account(account_id: str) -> Call:
    return Call("DELETE", f"/api/v1/accounts/{segment(account_id)}")


def rotate_key(key_id: str, overlap: Any) -> Call:
    return post(f"/api/v1/keys/{segment(key_id)}/rotate", {} if overlap is None else {"overlap": _duration(overlap)})


def create_public_token(scopes: list[str], expires: Any, one_time: bool) -> Call:
    body: Json = {"scopes": scopes}
    if expires is not None:
        body["expirationTime"] = expires.timestamp() if isinstance(expires, datetime) else _duration(expires)
    return post("/api/v1/auth/public-tokens", body | ({"oneTimeUse": True} if one_time else {}))


_ENVIRONMENT = {
    "concurrency_limit": "concurrencyLimit",
    "burst_factor": "burstFactor",
    "max_queued": "maxQueued",
    "accepts_unknown_tasks": "acceptsUnknownTasks",
    "paused": "paused",
}


def environment(changes: Json) -> Call:
    if not changes:
        return get("/api/v1/environment")
    return post("/api/v1/environment", _renamed(changes, _ENVIRONMENT, "setting of an environment"))


def schedule(method: str, path: str, fields: Json) -> Call:
    """Make (POST) or change (PUT) a schedule."""
    names = {
        "deduplication_key": "deduplicationKey",
        "external_id": "externalId",
        "tz": "timezone",
        "catch_up": "catchUp",
    }
    body = {names.get(name, name): value for name, value in _present(fields).items()}
    body["window"] = _duration(body.get("window"))
    return Call(method, path, body=msgspec.json.encode(body))


def schedule_path(schedule_id: str) -> str:
    return f"/api/v1/schedules/{segment(schedule_id)}"


def segment(text: str) -> str:
    return quote(text, safe="")


class Pages:
    """A listing, page after page: `call` is what to ask next, None at the end."""

    def __init__(self, path: str, filters: Json, names: dict[str, str] = _FILTERS) -> None:
        self._path = path
        self._query = _renamed(filters, names)
        self.call: Call | None = get(path, self._query)

    def read(self, page: Json) -> list[Json]:
        after = page["pagination"].get("next")
        self.call = get(self._path, {**self._query, "page[after]": after}) if after else None
        return page["data"]


def deployments(filters: Json) -> Pages:
    names = {"status": "status", "since": "from", "until": "to", "period": "period", "page_size": "page[size]"}
    return Pages("/api/v1/deployments", filters, names)


def query(text: str, period: Any, since: Any, until: Any) -> Call:
    body = {"query": text, "period": _when(period), "from": _when(since), "to": _when(until)}
    return post("/api/v1/query", _present(body))


class Numbered:
    """A listing whose pages have numbers."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.call: Call | None = get(path, {"page": 1, "perPage": 100})

    def read(self, page: Json) -> list[Json]:
        told = page["pagination"]
        after = told["currentPage"] + 1
        self.call = get(self._path, {"page": after, "perPage": 100}) if after <= told["totalPages"] else None
        return page["data"]


class Story:
    """A run's events or log lines; with `follow` until the run has ended."""

    def __init__(self, run_id: str, what: str, follow: bool, after: int = 0, timeout_s: float | None = None) -> None:
        self._path = f"/api/v1/runs/{segment(run_id)}/{what}"
        self._follow = follow
        self._until = None if timeout_s is None else time.monotonic() + timeout_s
        self._run_id = run_id
        self._after = after
        self._has_asked = False
        self.call: Call | None = self._next()

    def _next(self) -> Call:
        wait_s = POLL_S if self._follow else 0.0
        if self._until is not None:
            left_s = self._until - time.monotonic()
            if left_s <= 0 and self._has_asked:
                raise TimeoutError(f"run {self._run_id} has not ended in time")
            wait_s = min(wait_s, max(0.0, left_s))
        self._has_asked = True
        return get(self._path, {"after": self._after, "wait_s": round(wait_s, 3) or None}, held_s=wait_s)

    def read(self, page: Json) -> list[Json]:
        data: list[Json] = page["data"]
        if data:
            self._after = data[-1]["id"]
        over = page["ended"] or (not self._follow and not data)
        self.call = None if over else self._next()
        return data


def output(run: Json) -> Any:
    if run["status"] == "COMPLETED":
        return run.get("output")
    error = run.get("error")
    if error is not None:
        error = {"name": "Error", "stackTrace": "", **error}
    raise RunFailed(run["id"], run["status"], error)


# -- one call: where it goes, what comes back, and when it is tried again ---------------------------------------------


@dataclass(frozen=True)
class Target:
    """The server and the key."""

    url: str
    key: str

    @classmethod
    def choose(cls, url: str | None, key: str | None) -> "Target":
        settings = Settings.from_environment()
        key = key or settings.secret_key or settings.access_token
        if not key:
            raise ConfigError(
                "no secret key: pass secret_key=, or set TORPOR_SECRET_KEY to the one the server printed "
                "(or TORPOR_ACCESS_TOKEN to a personal token)"
            )
        return cls((url or settings.api_url or f"http://{settings.host}:{settings.port}").rstrip("/"), key)

    def request(self, http: "httpx2.Client | httpx2.AsyncClient", call: Call) -> "httpx2.Request":
        """One request for all attempts at the call, so that a repeated one is known for what it is."""
        headers = {
            "authorization": f"Bearer {self.key}",
            "content-type": call.content_type,
            "x-trigger-source": "sdk",
            "x-trigger-api-version": "2025-07-16",
            "x-trigger-request-idempotency-key": os.urandom(16).hex(),
            **dict(call.headers),
        }
        timeout = {"connect": 5.0, "read": 30.0 + call.held_s, "write": 30.0, "pool": 60.0}
        return http.build_request(
            call.method,
            self.url + call.path,
            params=call.query or None,
            content=call.body,
            headers=headers,
            extensions={"timeout": timeout},
        )


class Attempts:
    """The attempts at one call. After each: a pause until the next, or None and the value is there, or it raises."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._made = 0
        self.value: Any = None

    def failed(self, error: Exception) -> float:
        """No reply came."""
        pause = self._pause()
        if pause is None:
            told = str(error) or type(error).__name__
            raise ConnectionFailed(f"no answer from {self._target.url} ({told}): is the server running?") from error
        return pause

    def answered(self, response: "httpx2.Response") -> float | None:
        """A reply came."""
        try:
            body = msgspec.json.decode(response.content) if response.content else None
        except msgspec.DecodeError:
            body = None
        if response.is_success:
            self.value = body
            return None
        error = _error(response, body)
        should = response.headers.get("x-should-retry")
        again = should == "true" or (should != "false" and (error.status in (408, 429) or error.status >= 500))
        pause = self._pause() if again else None
        if pause is None:
            raise error
        return max(pause, _asked_pause(response))

    def _pause(self) -> float | None:
        self._made += 1
        return None if self._made >= ATTEMPTS else FIRST_PAUSE_S * PAUSE_FACTOR ** (self._made - 1)


def _asked_pause(response: "httpx2.Response") -> float:
    """Seconds that the server asks for, at most a minute."""
    try:
        if reset := response.headers.get("x-ratelimit-reset"):
            return min(60.0, float(reset) / 1000 - time.time())
        return min(60.0, float(response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def _error(response: "httpx2.Response", body: Any) -> ApiError:
    status = response.status_code
    message = body.get("error") if isinstance(body, dict) else None
    if not isinstance(message, str):
        message = response.reason_phrase or "the server said no more"
    if near := isinstance(body, dict) and body.get("near"):
        message += f" (did you mean {', '.join(map(str, near))}?)" if "did you mean" not in message.lower() else ""
    kinds = {401: Unauthorized, 403: Forbidden, 404: NotFound, 422: Unprocessable, 429: RateLimited}
    return kinds.get(status, ServerError if status >= 500 else ApiError)(status, message, body)

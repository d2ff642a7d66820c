"""Every refusal is JSON: `{"error": "<text>"}`, with the status that the management API gives it; people get pages instead.

Clients retry 409 and 5xx, so a caller's mistake is never answered with either. A database that can't be reached is 503:
workers and clients keep what they have and ask again.
"""

import logging
from collections.abc import Callable
from typing import Any

import asyncpg
import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from torpor.objects import ObjectMissing, ObjectsDown
from torpor.store.database import DatabaseDown

log = logging.getLogger("torpor.server")


class Refused(Exception):
    """The request is answered with this status and `{"error": message, **extra}`."""

    def __init__(self, status: int, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.extra = extra


def not_found() -> Refused:
    return Refused(404, "Not found")


def stale() -> Refused:
    """A worker asks on behalf of a lease that is over: 410, which nobody retries."""
    return Refused(410, "stale: the lease on this run is over", code="stale")


def install(app: FastAPI, nowhere: Callable[[Request, int], Response]) -> None:
    """Answer every failure of this app in the one shape. `nowhere` makes the page for a browser that has gone astray."""
    app.state.nowhere = nowhere
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind in (
        *(DatabaseDown, ObjectsDown, ObjectMissing, UnicodeDecodeError, RecursionError),
        *(asyncpg.TransactionRollbackError, asyncpg.DataError, asyncpg.ProgramLimitExceededError),
    ):
        app.add_exception_handler(kind, _told)
    app.add_exception_handler(Exception, _bug)


PLAIN = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
"""What somebody's browser shows of an answer is text, and stays where it is."""


def _answer(status: int, message: str, **extra: Any) -> Response:
    return Response(msgspec.json.encode({"error": message, **extra}), status, PLAIN, "application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _answer(error.status, error.message, **error.extra)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405) and _is_for_people(request):
        return request.app.state.nowhere(request, error.status_code)
    if error.status_code == 405:
        allowed = ", ".join(_methods(request))
        response = _answer(405, f"{request.method} is not done here, but {allowed}")
        response.headers["allow"] = allowed
        return response
    response = _answer(error.status_code, "Not found" if error.status_code == 404 else str(error.detail))
    response.headers.update(error.headers or {})
    return response


def _is_for_people(request: Request) -> bool:
    """A browser that goes to an address, and not one of the API's."""
    wants_page = "text/html" in request.headers.get("accept", "")
    return request.method == "GET" and wants_page and not request.url.path.startswith("/api/")


def _methods(request: Request) -> list[str]:
    """Those of the path: what the exception tells is of one of its routes only."""
    methods: dict[str, set[str]] = request.app.state.methods
    route = request.scope.get("route")
    if route is None:  # a plain one
        path = request.scope["path"]
        route = next(
            each for each in request.app.router.routes if isinstance(each, Route) and each.path_regex.match(path)
        )
    return sorted(methods[route.path])


async def _invalid(request: Request, error: Exception) -> Response:
    """A path or query parameter of the wrong type: the caller's mistake, 400."""
    assert isinstance(error, RequestValidationError)
    details = [
        {"path": ".".join(str(part) for part in problem["loc"][1:]), "message": problem["msg"]}
        for problem in error.errors()
    ]
    told = "; ".join(f"{detail['path']}: {detail['message']}" for detail in details)
    return _answer(400, f"the request doesn't fit: {told}", details=details)


def _asked(request: Request) -> str:
    """What was asked, for the log: not the path, which may hold the secret of a callback URL."""
    return getattr(request.scope.get("endpoint"), "__name__", request.method)


def refusal_of(request: Request, error: Exception) -> Refused | None:
    """How what was raised below is told to the caller, and noted in the log if it is not theirs; None: it is a bug."""
    match error:
        case DatabaseDown():
            log.warning("%s: the database can't be reached (%s)", _asked(request), error)
            return Refused(503, "the database can't be reached; try again in a moment")
        case ObjectsDown():
            log.warning("%s: %s", _asked(request), error)
            return Refused(503, "the object store does not answer; try again in a moment")
        case ObjectMissing():  # its row says that it was put; trying again won't bring it back, so it is no 5xx
            log.error("%s: %s", _asked(request), error)
            return Refused(410, f"a large payload or output is not in this server's object store: {error}")
        case asyncpg.TransactionRollbackError():
            # The database broke a deadlock at this request's cost. Nothing was done, so it may simply be said again.
            log.warning("%s: %s", _asked(request), type(error).__name__)
            return Refused(503, "the request collided with another; try again")
        case asyncpg.DataError() | asyncpg.ProgramLimitExceededError():
            # Text that Postgres can't hold, such as one with a NUL character, or a name that is too long for an index.
            return Refused(422, f"the request holds a value that can't be stored: {error}")
        case UnicodeDecodeError():
            return Refused(400, "the request holds text that is not UTF-8")
        case RecursionError():  # what is read at one depth of calls is written, or compared, at another
            return Refused(422, "the request holds a value that is nested too deeply")
        case _:
            return None


async def _told(request: Request, error: Exception) -> Response:
    refusal = refusal_of(request, error)
    assert refusal is not None
    response = _answer(refusal.status, refusal.message)
    if isinstance(error, DatabaseDown | ObjectsDown):
        response.headers["retry-after"] = "1"
    return response


async def _bug(request: Request, error: Exception) -> Response:
    """The traceback goes to the log through uvicorn; the caller learns only that it was us."""
    return _answer(500, "internal error")

"""How a page is rendered: the layout around it, the headers that keep it to itself, and fragments that htmx swaps.

A handler is `async def handler(request) -> Response` and ends in `render(request, "runs.html", …)`. A page that refreshes a
part of itself asks for its own address again with the part's id (htmx says so in `HX-Target`); `part(request)` tells the handler,
and `render` then renders the block of that name alone.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from torpor.dashboard import figures, states, static
from torpor.server import auth, environments, sessions
from torpor.server.errors import Refused, refusal_of
from torpor.server.hub import hub
from torpor.server.sessions import Session, SignedOut
from torpor.store import records

log = logging.getLogger("torpor.dashboard")

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""What every answer of the dashboard says of itself. No page is kept by a browser either, unless it says otherwise."""

PRODUCTION = "prod"
"""How the names of environments begin that are shown as what customers depend on."""

MENU: list[tuple[str, str, str]] = []
"""(path, name, key behind `g`) of each page that stands in the menu; app.py fills it."""


def _pretty(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _in_path(name: str) -> str:
    """A name as part of an address. A browser takes `..` out of a path, unless its slashes are no slashes.

    >>> _in_path("orders/process"), _in_path("a/../b")
    ('orders/process', 'a%2F..%2Fb')
    """
    return quote(name, safe="" if {"", ".", ".."} & {*name.split("/")} else "/")


def _query(request: Request, **changes: str | None) -> str:
    """This page's address with some parameters changed, others gone (None)."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in changes]
    kept += [(name, value) for name, value in changes.items() if value is not None]
    return request.url.path + (f"?{urlencode(kept)}" if kept else "")


_RUN_ID = re.compile(r"\b(run_[a-z0-9]{24})\b")


def _mentions(text: str) -> list[tuple[str, bool]]:
    """A text in pieces: each, and whether it is the id of a run."""
    return [(piece, number % 2 == 1) for number, piece in enumerate(_RUN_ID.split(text))]


_jinja = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_jinja.filters.update(
    span=figures.span, stamp=figures.stamp, size=figures.size, pretty=_pretty, mentions=_mentions, in_path=_in_path
)
_jinja.globals.update(static=static.url, menu=MENU, look=states.look, tones=states.TONES)


def session(request: Request) -> Session:
    """Who is signed in, on a page that takes nobody else."""
    return request.scope["session"]


def part(request: Request) -> str | None:
    """The id of the part that htmx wants, if it wants only one."""
    return request.headers.get("hx-target") if "hx-request" in request.headers else None


def render(request: Request, template: str, *, block: str | None = None, status: int = 200, **values: Any) -> Response:
    """The page, or one of its blocks. Templates know `request`, `session` (None: signed out), `environment`, `now`, `here(…)`
    (this address with other parameters), `at(…)` (another one, of the same environment), `m` (the macros), and what is given."""
    signed_in = request.scope.get("session")
    environment = auth.environment(request) if signed_in else None
    known: list[records.Environment] = request.scope.get("environments", [])
    now = hub(request).clock.now()
    context = {
        "request": request,
        "session": signed_in,
        "environment": _called(environment, known) if environment else "",
        "environments": [
            (each.project, each.slug, environments.address(each), environment is not None and each.id == environment.id)
            for each in known
        ],
        "is_production": environment is not None and is_production(environment),
        "at": lambda url: at(request, url),
        "section": _section(request.url.path),
        "now": now,
        "ago": lambda at: figures.since(at, now),
        "here": lambda **changes: _query(request, **changes),
        **values,
    }
    context["m"] = _jinja.get_template("macros.html").make_module(context)
    found = _jinja.get_template(template)
    if block is None:
        return HTMLResponse(found.render(context), status)
    return HTMLResponse("".join(found.blocks[block](found.new_context(context))), status)


def at(request: Request, url: str) -> str:
    """This address of ours, in the environment that the page shows: where there are several, it says in which."""
    if len(request.scope.get("environments", ())) < 2 or "caller" not in request.scope:
        return url
    page, hash, fragment = url.partition("#")
    place = environments.address(auth.environment(request))
    return f"{page}{'&' if '?' in page else '?'}{environments.PARAMETER}={place}{hash}{fragment}"


def is_production(environment: records.Environment) -> bool:
    return environment.slug.startswith(PRODUCTION)


def _called(environment: records.Environment, known: list[records.Environment]) -> str:
    """Its name, with that of its project where there are several."""
    return (
        f"{environment.project}/{environment.slug}" if len({each.project for each in known}) > 1 else environment.slug
    )


def _section(path: str) -> str:
    """The page of the menu that this one belongs to: what one looks at in another environment.

    >>> _section("/runs/run_1")  # the menu is filled by app.py, with "/tasks" for a task's page
    '/'
    """
    section = "/" + path.split("/")[1]
    return section if section in {path for path, _, _ in MENU} else "/"


def go(request: Request, url: str) -> Response:
    """After a form: the browser goes on to this page. htmx is told in its own way, and swaps nothing."""
    url = at(request, url)
    if "hx-request" in request.headers:
        return Response(status_code=204, headers={"hx-redirect": url})
    return RedirectResponse(url, 303)


def _refusal(request: Request, status: int, message: str) -> Response:
    heading = "Nothing is here" if status == 404 else "That can't be done"
    return render(request, "refused.html", status=status, heading=heading, message=message)


def nowhere(request: Request, status: int) -> Response:
    """For a browser that asks for what is no page (404), or for what only a form leads to (405)."""
    told = {404: "This server has no page at this address.", 405: "A form leads here, and not a link."}
    return _with_headers(_refusal(request, status, told[status]))


def _with_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("cache-control", "no-store")
    return response


Handler = Callable[[Request], Awaitable[Response]]


def told(route: Route) -> Route:
    """The same route, whose refusals are pages, and whose answers have the headers above."""
    handler: Handler = route.endpoint

    async def answered(request: Request) -> Response:
        try:
            sessions.check_host(request)
            response = await handler(request)
        except environments.Elsewhere as elsewhere:
            response = RedirectResponse(elsewhere.url, 303)
        except SignedOut:
            response = go(request, sessions.sign_in_url(request))
        except Exception as error:
            refusal = error if isinstance(error, Refused) else refusal_of(request, error)
            if refusal is None:
                log.exception("the page %s failed", route.path)
                refusal = Refused(500, "The server has failed at this. Its log says how.")
            response = _refusal(request, refusal.status, refusal.message)
        return _with_headers(response)

    return Route(route.path, answered, methods=[*(route.methods or ())], include_in_schema=False)

"""The environments of this server: which there are, which one a browser looks at.

The one that is there from the start is the server's own: TORPOR_SECRET_KEY opens it, and its secret keys look after what
belongs to no environment, such as accounts. A page says in its address which environment it shows (`?environment=prod`, and
`?environment=shop/prod` of another project than the first), its forms in their token, and links from it are followed in the
same one. Only an address that is opened out of nowhere is answered with what the browser has looked at last.
"""

import time
from collections.abc import Mapping
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.requests import Request

from torpor import engine
from torpor.engine import read
from torpor.server import sessions
from torpor.server.errors import Refused
from torpor.server.hub import KEY_MEMORY_S, Hub, hub
from torpor.server.sessions import Session
from torpor.store.records import Environment

PARAMETER = "environment"


class Elsewhere(Exception):
    """A page was asked for by an address that doesn't say of which environment. `url` does."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


async def all_of(here: Hub) -> Mapping[str, Environment]:
    """By their addresses, the server's own first, each project's together; remembered for a few seconds."""
    remembered = here.environments
    if remembered and time.monotonic() - remembered[0] < KEY_MEMORY_S:
        return remembered[1]
    async with here.database.transaction() as tx:
        found = await read.environments(tx)
    found.sort(key=lambda each: (each.project != engine.PROJECT, each.project, not engine.is_own(each), each.slug))
    known = {address(each): each for each in found}
    here.environments = (time.monotonic(), known)
    return known


def address(environment: Environment) -> str:
    return engine.address(environment.project, environment.slug)


async def at(here: Hub, place: str) -> Environment | None:
    """The environment of that address, also if another server has just made it."""
    found = (await all_of(here)).get(place)
    if found is None:
        here.environments = None
        found = (await all_of(here)).get(place)
    return found


async def formerly(here: Hub, place: str) -> Environment | None:
    """The environment that had this address before it was renamed."""
    return next((each for each in (await all_of(here)).values() if place in each.former), None)


# -- of a browser -----------------------------------------------------------------------------------------------------


async def looked_at(request: Request, session: Session) -> Environment:
    """The environment that this request of a page is about.

    Raises:
        Elsewhere: the address of a page doesn't say it, and there are several; or it says a former name.
        Refused: it says one that there is not.
    """
    here = hub(request)
    known = await all_of(here)
    if not known:
        raise Refused(503, "this server has no environment")
    request.scope["environments"] = [*known.values()]
    if session.of is not None:  # a form, or a part of a page that is there: its token was checked
        return await _one(here, session.of)
    asked = request.query_params.get(PARAMETER)
    if asked is not None:
        found = await _one(here, asked)
        if _is_page(request) and address(found) != asked:
            raise Elsewhere(said(request, found))
        if _is_page(request) and found.id != session.last_id:
            async with here.database.transaction() as tx:
                await engine.look_at(tx, session.cookie_hash, found.id)
        return found
    found = (
        await _of_run(request, known)
        or known.get(_referred(request))
        or _last(session, known)
        or next(iter(known.values()))
    )
    if len(known) > 1 and _is_page(request):
        raise Elsewhere(said(request, found))
    return found


def said(request: Request, environment: Environment) -> str:
    """This address, saying that it is about this environment."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != PARAMETER]
    return f"{request.url.path}?{urlencode([*kept, (PARAMETER, '')])}{address(environment)}"


async def _one(here: Hub, place: str) -> Environment:
    found = await at(here, place) or await formerly(here, place)
    if found is None:
        raise Refused(404, f"this server has no environment {place[:80]}")
    return found


def _is_page(request: Request) -> bool:
    """Whether a whole page is asked for, which will stand under this address."""
    return (
        request.method == "GET"
        and "hx-request" not in request.headers
        and "text/html" in request.headers.get("accept", "")
    )


async def _of_run(request: Request, known: Mapping[str, Environment]) -> Environment | None:
    """A run's id says whose it is."""
    run_id = request.path_params.get("run_id")
    if run_id is None or len(known) < 2:
        return None
    async with hub(request).database.transaction() as tx:
        its = await read.environment_of_run(tx, run_id)
    return next((each for each in known.values() if each.id == its), None)


def _referred(request: Request) -> str:
    """What the page shows from which this one is asked for."""
    try:
        page = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        return ""
    if page.netloc not in sessions.own_hosts(request):
        return ""
    return parse_qs(page.query).get(PARAMETER, [""])[-1]


def _last(session: Session, known: Mapping[str, Environment]) -> Environment | None:
    return next((each for each in known.values() if each.id == session.last_id), None)

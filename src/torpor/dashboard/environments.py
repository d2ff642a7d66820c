"""Environments, by project: which there are and what is in them; made, with their first keys, renamed and deleted."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.dashboard.page import go, is_production, render
from torpor.engine import read
from torpor.server import auth, environments, projects, sessions
from torpor.server.errors import Refused
from torpor.server.hub import hub
from torpor.store.records import Environment


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of the page."""

    is_: Environment
    place: str
    is_own: bool
    is_shown: bool  # by the other pages of this browser
    workers: int
    runs: int

    @property
    def notes(self) -> list[str]:
        said = {
            "the server's own": self.is_own,
            "production": is_production(self.is_),
            "you look at it": self.is_shown,
        }
        return [each for each, is_so in said.items() if is_so]


async def show(request: Request) -> Response:
    return await _page(request)


async def _page(
    request: Request, refusal: Refused | None = None, made: Environment | None = None, text: str = ""
) -> Response:
    """With what is wrong and what was asked for, or with the environment that was made and the text of its key."""
    here = hub(request)
    known = await environments.all_of(here)
    async with here.database.transaction() as tx:
        counts = await read.environment_counts(tx, now=here.clock.now())
    request.scope["environments"] = [*known.values()]
    return render(
        request,
        "environments.html",
        status=refusal.status if refusal else 200,
        problem=refusal.message if refusal else None,
        fields=await sessions.form(request) if refusal and request.url.path == "/environments" else {},
        made=made,
        made_at=environments.address(made) if made else "",
        text=text,
        url=here.public_url,
        projects=_by_project(known, counts, auth.environment(request)),
        default=engine.PROJECT,
        shown=auth.environment(request).project,
    )


def _by_project(
    known: Mapping[str, Environment], counts: Mapping[str, tuple[int, int]], shown: Environment
) -> dict[str, list[Listed]]:
    found: dict[str, list[Listed]] = {}
    for place, each in known.items():
        if each.id in counts:  # else it has gone just now
            found.setdefault(each.project, []).append(
                Listed(each, place, engine.is_own(each), each.id == shown.id, *counts[each.id])
            )
    return found


async def rename(request: Request) -> Response:
    name = (await sessions.form(request)).get("name", "").strip()
    return await _changed(request, projects.rename(hub(request), request.path_params["environment_id"], name))


async def rename_project(request: Request) -> Response:
    name = (await sessions.form(request)).get("name", "").strip()
    return await _changed(request, projects.rename_project(hub(request), request.path_params["project"], name))


async def delete(request: Request) -> Response:
    return await _changed(request, projects.delete(hub(request), request.path_params["environment_id"]))


async def _changed(request: Request, change: Awaitable[object]) -> Response:
    """The page as it is then, of the environment that it was of, under the name that this has now. Of the server's own, if it
    was deleted."""
    try:
        await change
    except Refused as refusal:
        return await _page(request, refusal)
    caller, known = auth.caller(request), await environments.all_of(hub(request))
    shown = next((each for each in known.values() if each.id == caller.environment.id), next(iter(known.values())))
    request.scope["environments"], request.scope["caller"] = [*known.values()], replace(caller, environment=shown)
    return go(request, "/environments")


async def create(request: Request) -> Response:
    """Another one, or the first one of a project. The only answer that has the text of its key."""
    fields = await sessions.form(request)
    begun = fields.get("begun")
    project = fields.get("project", engine.PROJECT) if begun is None else begun.strip()
    try:
        made, text = await projects.create(
            hub(request),
            project,
            fields.get("name", "").strip(),
            auth.caller(request).person,
            is_first=begun is not None,
        )
    except Refused as refusal:
        return await _page(request, refusal)
    return await _page(request, made=made, text=text)

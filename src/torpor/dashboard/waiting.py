"""All that waits: what is asked of people, answered here, and each run that waits, for what, since when and until when."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from torpor.dashboard.page import go, part, render
from torpor.dashboard.shared import shared
from torpor.engine import TokenView, read, read_waiting
from torpor.engine.pages import Listing, Page
from torpor.engine.read_waiting import MOST_COUNTED, WaitingRun
from torpor.engine.states import RunState
from torpor.server import approvals, auth, sessions
from torpor.server.errors import Refused, not_found
from torpor.server.hub import Hub, hub
from torpor.server.waitpoints import complete_with

PAGE_SIZE = 50


async def show(request: Request) -> Response:
    """The page; when it is refreshed, only what waits. `done` names a token that was answered here just now; what is asked has
    pages of its own, by `asked_after` and `asked_before`."""
    here, query, environment_id = hub(request), request.query_params, auth.environment(request).id
    page = Page(PAGE_SIZE, query.get("after") or None, query.get("before") or None)
    asked_page = Page(PAGE_SIZE, query.get("asked_after") or None, query.get("asked_before") or None)

    async def look() -> tuple[Listing[TokenView], Listing[WaitingRun], dict[RunState, int], dict[str, str]]:
        async with here.database.transaction() as tx:
            asked = await read_waiting.open_tokens(tx, environment_id, asked_page)
            waiting = await read_waiting.waiting_runs(tx, environment_id, page)
            counts = await read_waiting.count_waiting(tx, environment_id)
            blocked = [run_id for view in asked.items for run_id in view.run_ids]
            return asked, waiting, counts, await read_waiting.tasks_of(tx, blocked)

    asked, waiting, counts, tasks = await shared(here, ("waiting", environment_id, page, asked_page), look)
    async with here.database.transaction() as tx:
        done = await read.token(tx, environment_id, query["done"]) if query.get("done") else None
    values: dict[str, Any] = {
        "asked": asked,
        "tasks": tasks,
        "waiting": waiting,
        "in_memory": counts.get(RunState.WAITING, 0),
        "frozen": counts.get(RunState.SUSPENDED, 0),
        "most_counted": MOST_COUNTED,
        "done": _answer(done) if done else None,
    }
    return render(request, "waiting.html", block="waiting" if part(request) == "waiting" else None, **values)


def _answer(view: TokenView) -> dict[str, Any]:
    """What has become of a token: the first answer, whoever gave it."""
    token = view.token
    value = msgspec.json.decode(token.output) if token.output else None
    approved = value.get("approved") if isinstance(value, dict) and token.title is not None else None
    verb = "Completed" if approved is None else "Approved" if approved else "Rejected"
    return {
        "verb": verb,
        "by": token.completed_by,
        "what": token.title or token.id,
        "is_open": token.status == "pending",
    }


async def approve(request: Request) -> Response:
    return await _decide(request, approved=True)


async def reject(request: Request) -> Response:
    return await _decide(request, approved=False)


async def _decide(request: Request, *, approved: bool) -> Response:
    here, token_id, fields = hub(request), request.path_params["token_id"], await sessions.form(request)
    by, comment = auth.caller(request).person, fields.get("comment", "").strip() or None
    environment_id = auth.environment(request).id
    await approvals.answer(here, environment_id, token_id, approved=approved, by=by, comment=comment)
    return go(request, f"/waiting?done={token_id}")


async def complete(request: Request) -> Response:
    """A token of any kind, by the JSON that is its value."""
    here, token_id, fields = hub(request), request.path_params["token_id"], await sessions.form(request)
    await _known(here, auth.environment(request).id, token_id)
    data = fields.get("data", "").strip() or "null"
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refused(422, f"This is no JSON: {error}") from None
    await complete_with(here, token_id, data.encode())
    return go(request, f"/waiting?done={token_id}")


async def _known(here: Hub, environment_id: str, token_id: str) -> None:
    async with here.database.transaction() as tx:
        if await read.token(tx, environment_id, token_id) is None:
            raise not_found()

"""One's own account: the first one is made here, by whoever came with a link."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from torpor import engine
from torpor.dashboard.page import render, session
from torpor.dashboard.sign_in import end_of
from torpor.server import sessions
from torpor.server.accounts import create_account
from torpor.server.hub import hub


async def show(request: Request) -> Response:
    return await _page(request)


async def _page(request: Request, problem: str | None = None, name: str = "", status: int = 200) -> Response:
    async with hub(request).database.transaction() as tx:
        accounts = await engine.accounts(tx)
    return render(request, "account.html", status=status, accounts=accounts, problem=problem, name=name)


async def create(request: Request) -> Response:
    """Another account; who came by a link is signed in to it from then on."""
    here, fields = hub(request), await sessions.form(request)
    name = fields.get("name", "")
    made = await create_account(here, name, fields.get("password", ""))
    if isinstance(made, str):
        return await _page(request, made, name, 422)
    response = RedirectResponse("/account", 303)
    if session(request).account is None:
        cookie = sessions.new_cookie()
        async with here.database.transaction() as tx:
            await end_of(tx, request)
            await engine.sign_in(tx, made.id, sessions.hash_of(cookie), now=here.clock.now())
        sessions.give(response, here, cookie)
    return response

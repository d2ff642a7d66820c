"""In by a password or a one-time link, and out."""

import logging

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from torpor import engine
from torpor.dashboard.page import render
from torpor.engine import Unknown
from torpor.server import passwords, sessions
from torpor.server.errors import Refused
from torpor.server.hub import Hub, hub
from torpor.store.database import Transaction

log = logging.getLogger("torpor.server")

WRONG = "No account has this name and this password."
TOO_OFTEN = "Too many attempts. Wait a minute, or use a sign-in link."


async def show(request: Request) -> Response:
    """The form; whoever is signed in goes on."""
    try:
        await sessions.identified(request)
    except sessions.SignedOut:
        return await _form(request)
    return RedirectResponse(_next(request.query_params.get("next")), 303)


async def _form(request: Request, problem: str | None = None, name: str = "", status: int = 200) -> Response:
    async with hub(request).database.transaction() as tx:
        is_first = not await engine.accounts(tx)
    fields = request.query_params if request.method == "GET" else await sessions.form(request)
    wanted = _next(fields.get("next"))
    return render(request, "sign_in.html", status=status, problem=problem, name=name, wanted=wanted, is_first=is_first)


async def sign_in(request: Request) -> Response:
    """Attempts are counted before a password is looked at, for the account and for the address that they come from."""
    here = hub(request)
    sessions.check_origin(request)
    fields = await sessions.form(request)
    name, password = fields.get("name", "").strip(), fields.get("password", "")
    address = request.client.host if request.client else ""
    taken = [here.sign_ins.take(f"account {name.lower()}", is_token=False), here.sign_ins.take(address, is_token=True)]
    if any(each and each.wait_s for each in taken):
        return await _form(request, TOO_OFTEN, name, 429)
    async with here.database.transaction() as tx:
        account = await engine.account_by_name(tx, name) if name and "\0" not in name else None
    if not await passwords.matches(account.password_hash if account else None, password) or account is None:
        return await _form(request, WRONG, name, 403)
    cookie = sessions.new_cookie()
    async with here.database.transaction() as tx:
        await end_of(tx, request)
        await engine.sign_in(tx, account.id, sessions.hash_of(cookie), now=here.clock.now())
    return _in(here, cookie, _next(fields.get("next")))


async def by_link(request: Request) -> Response:
    """What a browser or a mail scanner fetches ahead of a click must not use the link up."""
    here, headers = hub(request), request.headers
    if request.method == "HEAD" or "prefetch" in headers.get("sec-purpose", headers.get("purpose", "")):
        return Response(status_code=204)
    cookie = sessions.new_cookie()
    async with here.database.transaction() as tx:
        token_hash = sessions.hash_of(request.path_params["link"])
        done = await engine.use_link(tx, token_hash, sessions.hash_of(cookie), now=here.clock.now())
        if not isinstance(done, Unknown):
            await end_of(tx, request)
    if isinstance(done, Unknown):
        if await _is_in(request):  # clicked again, in a browser that is in
            return RedirectResponse(_next(request.query_params.get("next")), 303)
        raise Refused(410, "This link was used already, or it has run out: `torpor accounts link` makes another one.")
    log.info("a browser signed in by a one-time link")
    return _in(here, cookie, _next(request.query_params.get("next")))


async def _is_in(request: Request) -> bool:
    try:
        await sessions.identified(request)
    except sessions.SignedOut:
        return False
    return True


async def sign_out(request: Request) -> Response:
    here = hub(request)
    async with here.database.transaction() as tx:
        await end_of(tx, request)
    response = RedirectResponse("/sign-in", 303)
    sessions.take_away(response, here)
    response.headers["clear-site-data"] = '"cache"'
    return response


async def end_of(tx: Transaction, request: Request) -> None:
    """The session that this browser had, if it had one."""
    if cookie := request.cookies.get(sessions.cookie_name(hub(request))):
        await engine.sign_out(tx, sessions.hash_of(cookie))


def _in(here: Hub, cookie: str, url: str) -> Response:
    response = RedirectResponse(url, 303)
    sessions.give(response, here, cookie)
    return response


def _next(wanted: str | None) -> str:
    """A page of this server, whatever the address says."""
    if (
        wanted
        and wanted.startswith("/")
        and not wanted.startswith("//")
        and "\\" not in wanted
        and wanted.isprintable()
    ):
        return wanted
    return "/"

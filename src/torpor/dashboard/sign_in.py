"""In by a password or a one-time link, and out."""

import logging

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from torpor import engine
from torpor.dashboard.page import render, session
from torpor.engine import Unknown
from torpor.server import attempts, passwords, sessions
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
        return await form(request)
    return RedirectResponse(next_page(request.query_params.get("next")), 303)


async def form(request: Request, problem: str | None = None, name: str = "", status: int = 200) -> Response:
    async with hub(request).database.transaction() as tx:
        is_first = not await engine.accounts(tx)
    fields = request.query_params if request.method == "GET" else await sessions.form(request)
    wanted = next_page(fields.get("next"))
    here = hub(request)
    told = {"openid": here.openid, "public_url": here.public_url, "settings": here.settings}
    return render(
        request, "sign_in.html", status=status, problem=problem, name=name, wanted=wanted, is_first=is_first, **told
    )


async def sign_in(request: Request) -> Response:
    here = hub(request)
    sessions.check_origin(request)
    if here.settings.oidc_only:
        raise Refused(403, "passwords open nothing here")
    fields = await sessions.form(request)
    name, password = fields.get("name", "").strip(), fields.get("password", "")
    async with here.database.transaction() as tx:
        account = await engine.account_by_name(tx, name) if name and "\0" not in name else None
    if attempts.is_too_many(request, account, name):
        return await form(request, TOO_OFTEN, name, 429)
    if not await passwords.matches(account.password_hash if account else None, password) or account is None:
        return await form(request, WRONG, name, 403)
    cookie, browser = sessions.new(request)
    async with here.database.transaction() as tx:
        if isinstance(await engine.sign_in(tx, account, browser, now=here.clock.now()), Unknown):
            return await form(request, WRONG, name, 403)
        await end_of(tx, request)
    response = _in(here, cookie, next_page(fields.get("next")))
    attempts.know(response, here, account)
    return response


async def link(request: Request) -> Response:
    """Who comes by himself, from a terminal or by the address bar, is let in at once. Else there is a button to press first: mail
    scanners and previews fetch links as well, and a page of somebody else's can send a browser to one."""
    headers = request.headers
    is_ahead = request.method == "HEAD" or "prefetch" in headers.get("sec-purpose", headers.get("purpose", ""))
    if is_ahead or (headers.get("sec-fetch-mode"), headers.get("sec-fetch-site")) != ("navigate", "none"):
        wanted = next_page(request.query_params.get("next"))
        return render(request, "link.html", wanted=wanted)
    return await _use_link(request, request.query_params.get("next"))


async def by_link(request: Request) -> Response:
    sessions.check_origin(request)
    return await _use_link(request, (await sessions.form(request)).get("next"))


async def _use_link(request: Request, wanted: str | None) -> Response:
    here = hub(request)
    cookie, browser = sessions.new(request)
    async with here.database.transaction() as tx:
        token_hash = sessions.hash_of(request.path_params["link"])
        done = await engine.use_link(tx, token_hash, browser, now=here.clock.now())
        if not isinstance(done, Unknown):
            await end_of(tx, request)
    if isinstance(done, Unknown):
        if await _is_in(request):  # clicked again, in a browser that is in
            return RedirectResponse(next_page(wanted), 303)
        raise Refused(410, "This link was used already, or it has run out: `torpor accounts link` makes another one.")
    log.info("a browser signed in by a one-time link")
    return _in(here, cookie, next_page(wanted))


async def _is_in(request: Request) -> bool:
    here = hub(request)
    cookie = request.cookies.get(sessions.cookie_name(here), "")
    async with here.database.transaction() as tx:
        return await engine.signed_in(tx, sessions.hash_of(cookie), now=here.clock.now()) is not None


async def sign_out(request: Request) -> Response:
    here = hub(request)
    async with here.database.transaction() as tx:
        await end_of(tx, request)
    response = RedirectResponse("/sign-in", 303)
    sessions.take_away(response, here)
    response.headers["clear-site-data"] = '"cache"'
    return response


async def sign_out_everywhere(request: Request) -> Response:
    account = session(request).account
    async with hub(request).database.transaction() as tx:
        await engine.end_sessions(tx, account.id if account else None)
    return await sign_out(request)


async def end_of(tx: Transaction, request: Request) -> None:
    """The session that this browser had, if it had one."""
    if cookie := request.cookies.get(sessions.cookie_name(hub(request))):
        await engine.sign_out(tx, sessions.hash_of(cookie))


def _in(here: Hub, cookie: str, url: str) -> Response:
    response = RedirectResponse(url, 303)
    sessions.give(response, here, cookie)
    return response


def next_page(wanted: str | None) -> str:
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

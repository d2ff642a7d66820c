"""In by an OpenID provider: there, and back."""

import logging

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from torpor import engine
from torpor.dashboard.sign_in import TOO_OFTEN, end_of, form, next_page
from torpor.engine import NameTaken, Unknown
from torpor.server import attempts, sessions
from torpor.server.errors import not_found
from torpor.server.hub import Hub, hub
from torpor.server.openid import BEGUN_S, SESSION_S, NotLetIn, OpenId

log = logging.getLogger("torpor.server")

MAX_PAGE = 1000
"""Longer addresses aren't gone on to: they would not fit into the cookie."""


async def begin(request: Request) -> Response:
    here, openid = hub(request), _openid(request)
    wanted = next_page(request.query_params.get("next"))
    try:
        url, cookie = await openid.begin(wanted if len(wanted) <= MAX_PAGE else "/", here.clock.now())
    except NotLetIn as why:
        return await form(request, str(why), status=502)
    response = RedirectResponse(url, 303)
    # Lax, not strict: the browser comes back by a page of the provider's.
    secure = sessions.is_secure(here)
    response.set_cookie(_cookie_name(here), cookie, BEGUN_S, path="/", secure=secure, httponly=True, samesite="lax")
    return response


async def callback(request: Request) -> Response:
    """Whatever comes of it, the cookie is good for no second time."""
    response = await _called_back(request, _openid(request))
    here = hub(request)
    secure = sessions.is_secure(here)
    response.delete_cookie(_cookie_name(here), path="/", secure=secure, httponly=True, samesite="lax")
    response.headers["referrer-policy"] = "no-referrer"  # the address has the provider's code
    return response


async def _called_back(request: Request, openid: OpenId) -> Response:
    here, now = hub(request), hub(request).clock.now()
    if attempts.is_too_many_from(request):
        return await form(request, TOO_OFTEN, status=429)
    try:
        person, wanted = await openid.finish(request.cookies.get(_cookie_name(here), ""), request.query_params, now)
    except NotLetIn as why:
        return await form(request, str(why), status=403)
    cookie, browser = sessions.new(request)
    async with here.database.transaction() as tx:
        account = await engine.enter(tx, openid.issuer, person.subject, person.email, now=now)
        if isinstance(account, NameTaken):
            taken = f"{person.email} is the name of another account here. `torpor accounts remove` takes that away."
            return await form(request, taken, status=403)
        if isinstance(await engine.sign_in(tx, account, browser, now=now, longest_s=SESSION_S), Unknown):
            return await form(request, "This account was removed just now.", status=403)
        await end_of(tx, request)
    log.info("a browser signed in by OpenID")
    response = RedirectResponse(next_page(wanted), 303)
    sessions.give(response, here, cookie)
    return response


def _openid(request: Request) -> OpenId:
    if (openid := hub(request).openid) is None:
        raise not_found()
    return openid


def _cookie_name(here: Hub) -> str:
    return f"{sessions.cookie_name(here)}_openid"

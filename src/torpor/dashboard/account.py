"""One's own account, and where one is signed in. The first account is made here, by whoever came with a link."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from torpor import engine
from torpor.dashboard.page import go, render, session
from torpor.dashboard.sign_in import TOO_OFTEN, end_of
from torpor.engine import Unknown
from torpor.server import attempts, passwords, sessions
from torpor.server.accounts import create_account
from torpor.server.errors import Refused
from torpor.server.hub import hub
from torpor.store.records import Session

BROWSERS = {"Edg/": "Edge", "OPR/": "Opera", "Firefox/": "Firefox", "Chrome/": "Chrome", "Safari/": "Safari"}
SYSTEMS = {
    "Android": "Android",
    "iPhone": "iOS",
    "iPad": "iPadOS",
    "Windows": "Windows",
    "Mac OS X": "macOS",
    "CrOS": "ChromeOS",
    "Linux": "Linux",
}
"""What a browser says of itself, and what people call that; the first that is in it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere one is signed in."""

    session: Session
    browser: str
    is_here: bool

    @property
    def id(self) -> str:
        """Its cookie can't be made of it."""
        return self.session.cookie_hash.hex()


async def show(request: Request) -> Response:
    return await _page(request)


async def _page(request: Request, status: int = 200, **told: str) -> Response:
    here, own = hub(request), session(request)
    async with here.database.transaction() as tx:
        accounts = await engine.accounts(tx)
        found = await engine.sessions_of(tx, own.account.id if own.account else None, now=here.clock.now())
    places = [Place(each, browser(each.agent), each.cookie_hash == own.cookie_hash) for each in found]
    told = {"problem": "", "password_problem": "", "name": ""} | told
    with_passwords = not here.settings.oidc_only
    return render(
        request, "account.html", status=status, accounts=accounts, places=places, with_passwords=with_passwords, **told
    )


def browser(agent: str) -> str:
    """What to call it."""
    name = next((name for sign, name in BROWSERS.items() if sign in agent), None)
    system = next((name for sign, name in SYSTEMS.items() if sign in agent), None)
    if name and system:
        return f"{name} on {system}"
    return agent.partition(" ")[0][:40] or "A browser"


async def create(request: Request) -> Response:
    """Another account; who came by a link is signed in to it from then on."""
    here, fields = hub(request), await sessions.form(request)
    name = fields.get("name", "")
    made = await create_account(here, name, fields.get("password", ""))
    if isinstance(made, str):
        return await _page(request, 422, problem=made, name=name)
    response = RedirectResponse("/account", 303)
    if session(request).account is None:
        cookie, browser = sessions.new(request)
        async with here.database.transaction() as tx:
            if isinstance(await engine.sign_in(tx, made, browser, now=here.clock.now()), Unknown):
                return go(request, "/account")
            await end_of(tx, request)
        sessions.give(response, here, cookie)
        attempts.know(response, here, made)
    return response


async def change_password(request: Request) -> Response:
    """Whoever else is signed in to the account is out, and this browser gets another cookie."""
    here, fields, account = hub(request), await sessions.form(request), session(request).account
    if account is None or account.password_hash is None:
        raise Refused(422, "this account has no password")
    if attempts.is_too_many(request, account, account.name):
        return await _page(request, 429, password_problem=TOO_OFTEN)
    if not await passwords.matches(account.password_hash, fields.get("old", "")):
        return await _page(request, 403, password_problem="The old password is another.")
    if problem := passwords.problem(fields.get("new", "")):
        return await _page(request, 422, password_problem=problem)
    password_hash = await passwords.hashed(fields.get("new", ""))
    cookie, browser = sessions.new(request)
    async with here.database.transaction() as tx:
        if isinstance(await engine.change_password(tx, account, password_hash), Unknown):
            raise Refused(409, "this password was changed in the meantime")
        changed = await engine.account_by_name(tx, account.name)
        assert changed is not None
        await engine.sign_in(tx, changed, browser, now=here.clock.now())
    response = RedirectResponse("/account", 303)
    sessions.give(response, here, cookie)
    attempts.know(response, here, changed)
    return response


async def end_session(request: Request) -> Response:
    """Of one's own. Another's isn't there."""
    here, account = hub(request), session(request).account
    try:
        cookie_hash = bytes.fromhex((await sessions.form(request)).get("session", ""))
    except ValueError:
        raise Refused(422, "session: an id of the list") from None
    async with here.database.transaction() as tx:
        await engine.end_session(tx, account.id if account else None, cookie_hash)
    return go(request, "/account")

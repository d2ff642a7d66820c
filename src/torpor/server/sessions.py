"""Browsers that are signed in: their cookie, and what shows that a request of theirs was meant.

A cookie comes along with whatever a page of anybody's makes a browser send. So it opens pages only, never the API; and what
changes anything must come from a page of ours (`Origin`, `Sec-Fetch-Site`) and carry a token that only such a page has.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import Response

from torpor import engine
from torpor.engine.accounts import IDLE_S, Browser
from torpor.server.bodies import read_body
from torpor.server.errors import Refused
from torpor.server.hub import Hub, hub
from torpor.store.records import Account

MAX_FIELDS = 1000
MAX_AGENT, MAX_ADDRESS = 300, 64
SAFE = ("GET", "HEAD")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
BY_LINK = "operator"
"""Who is signed in without an account, by a link: whoever holds a secret key."""


class SignedOut(Exception):
    """A page was asked for by a browser that isn't signed in."""


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is signed in, as long as one request is handled."""

    account: Account | None
    cookie_hash: bytes
    cookie: str = field(repr=False)
    last_id: str | None = None  # the environment that was looked at last
    of: str | None = None  # the name of the one that the page shows

    @property
    def name(self) -> str:
        return self.account.name if self.account else BY_LINK

    @property
    def csrf_token(self) -> str:
        """What the forms of this browser's pages carry. It says of which environment the page is."""
        assert self.of is not None
        return csrf_token(self.cookie, self.of)


def is_secure(here: Hub) -> bool:
    return here.public_url.startswith("https:")


def cookie_name(here: Hub) -> str:
    """With TLS a name that no other host and no plain connection can set. Without, servers on several ports of one machine share
    its cookies, so each has a name of its own."""
    return "__Host-torpor" if is_secure(here) else f"torpor_{here.settings.port}"


def hash_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def csrf_token(cookie: str, environment: str) -> str:
    """It says nothing of the cookie, and nobody else can make it, nor one for another environment."""
    made = hmac.new(cookie.encode(), f"forms of the dashboard {environment}".encode(), hashlib.sha256)
    return f"{environment}.{made.hexdigest()}"


def new(request: Request) -> tuple[str, Browser]:
    """A cookie, and the browser that it is for."""
    cookie = secrets.token_urlsafe(32)
    agent = "".join(each for each in request.headers.get("user-agent", "")[:MAX_AGENT] if each.isprintable())
    return cookie, Browser(hash_of(cookie), address(request), agent)


def address(request: Request) -> str:
    return request.client.host[:MAX_ADDRESS] if request.client else ""


def give(response: Response, here: Hub, cookie: str) -> None:
    """The browser keeps it as long as a session may last; the server's own count is what ends one."""
    response.set_cookie(
        cookie_name(here), cookie, max_age=int(IDLE_S), path="/", secure=is_secure(here), httponly=True, samesite="lax"
    )


def take_away(response: Response, here: Hub) -> None:
    response.delete_cookie(cookie_name(here), path="/", secure=is_secure(here), httponly=True, samesite="lax")


async def identified(request: Request) -> Session:
    """Who is signed in.

    Raises:
        SignedOut: nobody, or not any more.
        Refused: a page of somebody else's has sent this, or one of ours that is too old.
    """
    here = hub(request)
    if request.method not in SAFE:
        check_origin(request)
    cookie = request.cookies.get(cookie_name(here))
    if not cookie:
        raise SignedOut
    cookie_hash = hash_of(cookie)
    async with here.database.transaction() as tx:
        found = await engine.signed_in(tx, cookie_hash, now=here.clock.now())
    if found is None:
        raise SignedOut
    session = Session(found.account, cookie_hash, cookie, found.session.environment_id)
    given = request.headers.get("x-csrf-token")
    if request.method not in SAFE:
        given = given or (await form(request)).get("csrf", "")
    elif given is None:
        return session
    environment = given.partition(".")[0]
    if not hmac.compare_digest(given.encode(), csrf_token(cookie, environment).encode()):
        raise Refused(403, "this page is too old, or it is not one of this server's: load it again", code="csrf")
    return replace(session, of=environment)


def check_origin(request: Request) -> None:
    """403 for what another site's page has made a browser send. A browser says so by itself, and no page can say otherwise."""
    here = hub(request)
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    public, host = urlsplit(here.public_url), request.headers.get("host")
    own = {None, f"{public.scheme}://{public.netloc}", f"https://{host}"}
    if not is_secure(here):
        own.add(f"http://{host}")
    if origin not in own or site not in (None, "same-origin", "none"):
        raise Refused(403, "this was sent by a page of another site", code="origin")


def check_host(request: Request) -> None:
    """421 for a page that is asked for by somebody else's name, on a server of this machine alone. Who owns a name can have it
    lead here (DNS rebinding), and to the browser his page would be one of ours."""
    here = hub(request)
    if here.settings.host not in LOOPBACK:
        return
    name = _host(f"//{request.headers.get('host', '')}")
    if name not in ("localhost", _host(here.public_url)) and not name.endswith(".localhost") and not _is_address(name):
        raise Refused(421, f"this is {here.public_url}; TORPOR_PUBLIC_URL says by what other name it is reached")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


def own_hosts(request: Request) -> set[str]:
    """Under which this server is reached."""
    return {request.headers.get("host", ""), urlsplit(hub(request).public_url).netloc}


async def form(request: Request) -> ImmutableMultiDict[str, str]:
    """The fields of a form; read once, and bounded as any other body."""
    if "form" not in request.scope:
        try:
            text = (await read_body(request)).decode()
            fields = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError:
            raise Refused(400, "the form can't be read") from None
        request.scope["form"] = ImmutableMultiDict(fields)
    return request.scope["form"]


def sign_in_url(request: Request) -> str:
    """Where to sign in, and go on from there with what was asked for."""
    if request.method not in SAFE or request.url.path == "/":
        return "/sign-in"
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return f"/sign-in?next={quote(wanted)}"

"""How often passwords are tried: from one address, and for one account. Counted before a password is looked at.

Whoever tries many uses up what the account has, and its owner would wait with him. So a browser that was signed in to it before
is counted by itself: a cookie of its own says so, which takes this server's key and the account's present password to make.
"""

import hashlib
import hmac
import secrets

from starlette.requests import Request
from starlette.responses import Response

from torpor.server import sessions
from torpor.server.hub import Hub, hub
from torpor.server.rates import Taken
from torpor.store.records import Account

KNOWN_S = 365 * 24 * 3600
PURPOSE = "browsers that were signed in to an account"


def is_too_many(request: Request, account: Account | None, name: str) -> bool:
    """Count an attempt. Names that nobody has are counted as any: how an answer looks doesn't tell which there are."""
    counts = hub(request).sign_ins
    if account and (browser := _known(request, account)):
        return _is_over(counts.take(f"browser {browser}", is_token=False))
    if is_too_many_from(request):
        return True
    # By hash: a name that nobody has may be of any length.
    who = account.id if account else sessions.hash_of(name.lower())
    return _is_over(counts.take(who, is_token=False))


def is_too_many_from(request: Request) -> bool:
    """Count an attempt by its address alone."""
    return _is_over(hub(request).sign_ins.take(f"address {sessions.address(request)}", is_token=True))


def _is_over(taken: Taken | None) -> bool:
    return taken is not None and taken.wait_s > 0


def know(response: Response, here: Hub, account: Account) -> None:
    """This browser was signed in to this account."""
    nonce = secrets.token_urlsafe(12)
    made = f"{nonce}.{_proof(here.master_keys.derive(PURPOSE)[0], account, nonce)}"
    secure = sessions.is_secure(here)
    response.set_cookie(_name(here), made, KNOWN_S, path="/", secure=secure, httponly=True, samesite="lax")


def _known(request: Request, account: Account) -> str | None:
    here = hub(request)
    nonce, _, proof = request.cookies.get(_name(here), "").partition(".")
    proofs = [_proof(secret, account, nonce) for secret in here.master_keys.derive(PURPOSE)]
    return nonce if any(hmac.compare_digest(proof.encode(), each.encode()) for each in proofs) else None


def _name(here: Hub) -> str:
    return f"{sessions.cookie_name(here)}_known"


def _proof(secret: bytes, account: Account, nonce: str) -> str:
    return hmac.new(secret, f"{account.id} {account.password_hash} {nonce}".encode(), hashlib.sha256).hexdigest()

"""Signing in by an OpenID provider: the authorization code flow with PKCE.

    begin     -> the provider's address for this browser, and a cookie that shows it again when it comes back
    finish    code -> who it is, once every check holds: state, issuer, signature, audience, time, nonce, address, rule

Nothing is stored between the two. The cookie holds a random text, when it runs out and where to go on; state, nonce and the PKCE
verifier are derived from all of that with a key that servers share, so they are this browser's and nobody else can make them.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx2
import jwt
import msgspec

from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.server.master_keys import MasterKeys

log = logging.getLogger("torpor.server")

BEGUN_S = 600
"""How long somebody may take at the provider."""
SESSION_S = 24 * 3600.0
"""How long a session lasts at most: then the provider is asked again, which by then may not know somebody any more."""
SKEW_S = 60
"""How far the provider's clock may be off."""
KNOWN_S, ANEW_S = 3600.0, 60.0
"""How long the provider's keys and addresses are believed; and how soon again one is asked for keys, at an unknown one's."""
MAX_BYTES = 1 << 20
TIMEOUT_S = 10.0
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by a key that only the provider has. The client secret is no such key, and `none` no signature."""
PURPOSE = "signing in by OpenID"


class NotLetIn(Exception):
    """The provider, or what it says, is no reason to let this browser in; the message is for whoever sits before it."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who somebody is to the provider, for ever (`subject`), and now (`email`)."""

    subject: str
    email: str


@dataclass(frozen=True, slots=True)
class Provider:
    """What it says of itself."""

    authorize_url: str
    token_url: str
    keys_url: str
    person_url: str | None
    takes_basic: bool
    tells_issuer: bool


class OpenId:
    """This server as a client of the provider.

    Raises:
        ConfigError: a setting is missing, or can't be used.
    """

    def __init__(self, settings: Settings, masters: MasterKeys, public_url: str) -> None:
        if not settings.oidc_client_id:
            raise ConfigError(
                "TORPOR_OIDC_ISSUER is set, but not TORPOR_OIDC_CLIENT_ID: the provider has given you one"
            )
        if not settings.oidc_allow:
            raise ConfigError(
                "TORPOR_OIDC_ISSUER is set, but not TORPOR_OIDC_ALLOW: nobody could enter. "
                "Say who may: @example.com, ada@example.com, group:ops, or * for everybody whom the provider knows"
            )
        self._settings, self._masters = settings, masters
        self.issuer = settings.oidc_issuer or ""
        self.redirect_url = f"{public_url}/openid/callback"
        self.is_local = urlsplit(self.issuer).hostname in ("127.0.0.1", "localhost", "::1")
        if not self._is_safe(self.issuer):
            raise ConfigError(f"TORPOR_OIDC_ISSUER={self.issuer!r} can't be used: it should begin with https://")
        self._client_id = settings.oidc_client_id
        self._rules = [rule.strip() for rule in settings.oidc_allow.split(",") if rule.strip()]
        self._provider: tuple[float, Provider] | None = None
        self._keys: tuple[float, list[dict[str, Any]]] | None = None

    def _is_safe(self, url: Any) -> bool:
        return isinstance(url, str) and (url.startswith("https://") or (self.is_local and url.startswith("http://")))

    # -- there --------------------------------------------------------------------------------------------------------

    async def begin(self, then: str, now: datetime) -> tuple[str, str]:
        """The provider's address, and the cookie for the browser that is sent there."""
        provider = await self._known_provider()
        page = base64.urlsafe_b64encode(then.encode()).decode().rstrip("=")
        cookie = f"{secrets.token_urlsafe(32)}.{int(now.timestamp()) + BEGUN_S}.{page}"
        key = self._masters.derive(PURPOSE)[0]
        verifier = _derived(key, "verifier", cookie)
        asked = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self.redirect_url,
            "scope": self._settings.oidc_scopes,
            "state": _derived(key, "state", cookie),
            "nonce": _derived(key, "nonce", cookie),
            "code_challenge": _text(hashlib.sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
        }
        mark = "&" if "?" in provider.authorize_url else "?"
        return f"{provider.authorize_url}{mark}{urlencode(asked)}", cookie

    # -- and back -----------------------------------------------------------------------------------------------------

    async def finish(self, cookie: str, answer: Mapping[str, str], now: datetime) -> tuple[Person, str]:
        """Who has come back with this answer, and where to go on.

        Raises:
            NotLetIn: nobody who may enter.
        """
        key, then = self._begun(cookie, answer.get("state", ""), now)
        provider = await self._known_provider()
        issuer = answer.get("iss")
        if issuer != self.issuer and (issuer is not None or provider.tells_issuer):
            raise NotLetIn("The answer is from another provider.")
        if "error" in answer or "code" not in answer:
            log.info("the OpenID provider let nobody in: %.100r", answer.get("error"))
            raise NotLetIn("The provider did not sign you in.")
        given = await self._exchanged(provider, answer["code"], _derived(key, "verifier", cookie))
        claims = await self._verified(provider, given.get("id_token"), _derived(key, "nonce", cookie))
        return self._admitted(await self._told(provider, claims, given.get("access_token"))), then

    def _begun(self, cookie: str, state: str, now: datetime) -> tuple[bytes, str]:
        """The key that the state was made with, and the page to go on with."""
        _, _, rest = cookie.partition(".")
        expires, _, page = rest.partition(".")
        for key in self._masters.derive(PURPOSE):
            if hmac.compare_digest(_derived(key, "state", cookie).encode(), state.encode()):
                if int(expires) <= now.timestamp():
                    raise NotLetIn("That took too long.")
                return key, base64.urlsafe_b64decode(page + "=" * (-len(page) % 4)).decode()
        raise NotLetIn("That was not begun in this browser, or another try was begun since.")

    async def _exchanged(self, provider: Provider, code: str, verifier: str) -> dict[str, Any]:
        sent = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_url,
            "code_verifier": verifier,
        }
        headers, secret = {}, self._settings.oidc_client_secret
        if secret and provider.takes_basic:
            pair = f"{quote_plus(self._client_id)}:{quote_plus(secret)}"
            headers = {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        else:
            sent |= {"client_id": self._client_id} | ({"client_secret": secret} if secret else {})
        return await self._asked(provider.token_url, form=sent, headers=headers)

    async def _verified(self, provider: Provider, token: Any, nonce: str) -> dict[str, Any]:
        """What the provider's token says, if it is the provider's, for us, of now, and for this browser."""
        try:
            if not isinstance(token, str):
                raise jwt.InvalidTokenError("none came")
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if algorithm not in ALGORITHMS:
                raise jwt.InvalidAlgorithmError(f"signed by {algorithm!r}")
            # The library's clock is the machine's, as the provider's is the world's.
            claims: dict[str, Any] = jwt.decode(
                token,
                await self._key(provider, header.get("kid"), algorithm),
                algorithms=[algorithm],
                issuer=self.issuer,
                audience=self._client_id,
                leeway=SKEW_S,
                options={"require": ["exp", "iat", "sub", "iss", "aud", "nonce"]},
            )
            others = not isinstance(claims["aud"], str) and len(claims["aud"]) > 1
            if claims.get("azp", None if others else self._client_id) != self._client_id:
                raise jwt.InvalidAudienceError("it is for another client")
            if not isinstance(claims["nonce"], str) or not hmac.compare_digest(
                claims["nonce"].encode(), nonce.encode()
            ):
                raise jwt.InvalidTokenError("its nonce is another browser's")
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            log.warning("the OpenID provider's token is none: %.200s", error)
            raise NotLetIn("What the provider says can't be trusted; the server's log says why.") from None
        return claims

    async def _key(self, provider: Provider, key_id: Any, algorithm: str) -> jwt.PyJWK:
        """The provider's key of this id; it may have one only since a moment ago."""
        looked_at = self._keys[0] if self._keys else 0.0
        for longest_s in (KNOWN_S, ANEW_S):
            if self._keys is None or time.monotonic() - looked_at >= longest_s:
                found = (await self._asked(provider.keys_url)).get("keys")
                self._keys = time.monotonic(), [each for each in found or () if isinstance(each, dict)]
                looked_at = self._keys[0]
            fit = [
                each
                for each in self._keys[1]
                if each.get("use", "sig") == "sig"
                and each.get("alg", algorithm) == algorithm
                and (key_id is None or each.get("kid") == key_id)
            ]
            if len(fit) == 1 or (fit and key_id is not None):
                return jwt.PyJWK(fit[0], algorithm)
        raise jwt.InvalidKeyError("signed by a key that the provider doesn't show")

    async def _told(self, provider: Provider, claims: dict[str, Any], token: Any) -> dict[str, Any]:
        """With what it says of somebody when it is asked; some leave all but the subject out of the token."""
        if "email" in claims or provider.person_url is None or not isinstance(token, str):
            return claims
        told = await self._asked(provider.person_url, headers={"authorization": f"Bearer {token}"})
        if told.get("sub") != claims["sub"]:
            raise NotLetIn("The provider speaks of somebody else.")
        return told | claims

    def _admitted(self, claims: dict[str, Any]) -> Person:
        email = claims.get("email")
        if claims.get("email_verified") is not True:
            raise NotLetIn("The provider does not say that your e-mail address is yours (email_verified).")
        if not isinstance(email, str) or not email.isascii() or not email.isprintable() or email.count("@") != 1:
            raise NotLetIn("The provider says no e-mail address that can be read.")
        groups: Any = claims
        for part in self._settings.oidc_groups_claim.split("."):
            groups = groups.get(part) if isinstance(groups, dict) else None
        groups = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        email = email.lower()
        holds = {"*", email, email[email.index("@") :]}
        if not any(
            rule.removeprefix("group:").strip() in groups if rule.startswith("group:") else rule.lower() in holds
            for rule in self._rules
        ):
            raise NotLetIn(f"{email} may not enter here. Whoever runs this server says who may.")
        return Person(claims["sub"], email)

    # -- the provider -------------------------------------------------------------------------------------------------

    async def _known_provider(self) -> Provider:
        if self._provider and time.monotonic() - self._provider[0] < KNOWN_S:
            return self._provider[1]
        told = await self._asked(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if told.get("issuer") != self.issuer:
            log.error(
                "TORPOR_OIDC_ISSUER is %s, but the provider there says that it is %.200r",
                self.issuer,
                told.get("issuer"),
            )
            raise NotLetIn("The provider calls itself by another name than the server's settings do.")
        there: list[Any] = [told.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
        if not all(self._is_safe(url) for url in there):
            raise NotLetIn("The provider does not say where to sign in.")
        person_url = told.get("userinfo_endpoint")
        ways = told.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        provider = Provider(
            authorize_url=there[0],
            token_url=there[1],
            keys_url=there[2],
            person_url=person_url if self._is_safe(person_url) else None,
            takes_basic="client_secret_basic" in ways,
            tells_issuer=told.get("authorization_response_iss_parameter_supported") is True,
        )
        self._provider = time.monotonic(), provider
        return provider

    async def _asked(
        self, url: str, *, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The JSON object that is answered. What is sent and answered holds secrets: the log gets a failure's status alone."""
        body = bytearray()
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=not self.is_local) as http,
            ):
                sent = {"accept": "application/json", **(headers or {})}
                async with http.stream("GET" if form is None else "POST", url, data=form, headers=sent) as response:
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_BYTES:
                            break
            answer = msgspec.json.decode(bytes(body)) if response.status_code == 200 else None
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("the OpenID provider can't be asked at %s: %s", url, type(error).__name__)
            raise NotLetIn("The provider does not answer. Try again in a moment.") from None
        if not isinstance(answer, dict):
            log.warning("the OpenID provider answered %s at %s", response.status_code, url)
            raise NotLetIn("The provider did not take what it said before. Try again.")
        return answer


def _derived(key: bytes, what: str, cookie: str) -> str:
    return _text(hmac.new(key, f"{what} {cookie}".encode(), hashlib.sha256).digest())


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")

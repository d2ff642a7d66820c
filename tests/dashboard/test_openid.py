"""Who comes in by an OpenID provider: whom the rule names, and whose provider says so in a way that can be checked."""

import base64
import hmac
import json
import logging
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from time import time
from typing import Any, cast

import asyncpg
import httpx2
import pytest
from fake_worker import KEY
from playwright.async_api import Browser, Page, expect
from provider import CLIENT, SECRET, Liar, asked, real_provider
from served import serving

from scratch_postgres import create_database
from torpor.clock import SystemClock
from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.sdk.async_client import AsyncClient
from torpor.server.hub import Hub

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")]

PEOPLE: dict[str, Any] = {
    "ada": {"email": "ada@example.com", "email_verified": True},
    "grace": {"email": "grace@other.example", "email_verified": True, "groups": ["staff", "ops"]},
    "eve": {"email": "eve@other.example", "email_verified": True, "groups": ["staff"]},
    "mallory": {"email": "mallory@example.com", "email_verified": False},
    "taken": {"email": "taken@example.com", "email_verified": True},
}


def openid(issuer: str, **more: object) -> dict[str, Any]:
    rule = "@example.com, group:ops, Guest@third.example"
    client = {"oidc_client_id": CLIENT, "oidc_client_secret": SECRET}
    return {"oidc_issuer": issuer, "oidc_allow": rule, "oidc_button": "Sign in with Example", **client, **more}


async def test_whom_the_rule_names_comes_in_by_a_real_provider_and_nobody_else(
    postgres: str, browser: Browser, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("torpor.server.openid.TIMEOUT_S", 60.0)
    async with (
        real_provider(tmp_path, PEOPLE) as (issuer, begin),
        serving(await create_database(postgres, "openid"), tmp_path / "data", **openid(issuer)) as url,
        AsyncClient(url, KEY) as client,
    ):
        await begin(f"{url}/openid/callback")
        await client.create_account("Taken@example.com", "correct horse battery")

        async def comes(name: str, then: str) -> Page:
            page = await (await browser.new_context(base_url=url)).new_page()
            await page.goto(then)
            await page.get_by_role("link", name="Sign in with Example").click()
            await page.locator("[name=login]").fill(name)
            await page.locator("[name=password]").fill("any")
            await page.get_by_role("button", name="Sign-in").click()
            return page

        page = await comes("ada", "/waiting?x=1")
        await expect(page).to_have_url(f"{url}/waiting?x=1")
        await expect(page.get_by_title("Your account")).to_have_text("ada@example.com")
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_role("link", name="Sign in with Example").click()  # the provider knows this browser by now
        await expect(page.get_by_title("Your account")).to_have_text("ada@example.com")
        names = [each["name"] for each in await context_cookies(page)]
        assert not [name for name in names if "openid" in name]
        await page.goto("/account")
        await expect(page.get_by_label("Old password")).to_have_count(0)

        page = await comes("grace", "/")
        await expect(page.get_by_title("Your account")).to_have_text("grace@other.example")
        for name, told in {
            "eve": "eve@other.example may not enter here. Whoever runs this server says who may.",
            "mallory": "The provider does not say that your e-mail address is yours (email_verified).",
            "taken": "taken@example.com is the name of another account here. `torpor accounts remove` takes that away.",
        }.items():
            page = await comes(name, "/")
            await expect(page.get_by_role("alert")).to_have_text(told)
            await page.goto("/")
            await expect(page).to_have_title("Sign in · Torpor")

        page = await (await browser.new_context(base_url=url)).new_page()
        await page.goto("/sign-in")
        await page.get_by_role("link", name="Sign in with Example").click()
        await page.get_by_role("link", name="[ Cancel ]").click()
        await expect(page.get_by_role("alert")).to_have_text("The provider did not sign you in.")
        listed = [each["name"] for each in await client.accounts()]
        assert listed == ["ada@example.com", "grace@other.example", "Taken@example.com"]
    for context in browser.contexts:
        await context.close()
    assert SECRET not in caplog.text
    assert "eyJ" not in caplog.text, "no token is logged"
    assert "code=" not in caplog.text


async def context_cookies(page: Page) -> list[Any]:
    return list(await page.context.cookies())


@pytest.fixture(scope="module")
def liar() -> Any:
    liar = Liar()
    yield liar
    liar.close()


@pytest.fixture(scope="module")
async def database_url(postgres: str) -> str:
    return await create_database(postgres, "liar")


@pytest.fixture(scope="module")
async def url(database_url: str, liar: Liar, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with serving(database_url, tmp_path_factory.mktemp("liar"), **openid(liar.issuer)) as url:
        yield url


NUMBERS = count(1)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Visitor:
    """A browser without manners, each time from another address."""

    def __init__(self, url: str) -> None:
        self.http = httpx2.AsyncClient(base_url=url, timeout=60, headers={"x-forwarded-for": f"10.0.0.{next(NUMBERS)}"})
        self.sent: dict[str, str] = {}

    async def begins(self, then: str = "/waiting") -> "Visitor":
        response = await self.http.get("/openid", params={"next": then})
        assert response.status_code == 303
        cookie = response.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=lax", "Max-Age=600"} <= set(cookie.split("; "))
        self.sent = asked(response.headers["location"])
        return self

    async def comes_back(self, **changed: str) -> tuple[int, str]:
        query = {"code": "the code", "state": self.sent["state"]} | changed
        response = await self.http.get("/openid/callback", params=query)
        return response.status_code, response.headers.get("location") or response.text


async def test_what_can_not_be_trusted_lets_nobody_in(url: str, liar: Liar) -> None:
    def token(nonce: str, /, **changed: Any) -> str:
        claims = {name: value for name, value in (liar.claims(nonce) | changed).items() if value is not None}
        return liar.signed(claims)

    def made_up(nonce: str, algorithm: str, key: str) -> str:
        head = {"alg": algorithm, "kid": "one"}
        text = ".".join(encoded(json.dumps(each).encode()) for each in (head, liar.claims(nonce)))
        return f"{text}.{encoded(hmac.digest(key.encode(), text.encode(), 'sha256')) if key else ''}"

    other, now = Liar(), int(time())
    other.close()
    public = json.dumps(liar.says["/keys"]["keys"][0])
    told: dict[str, Any] = {
        "all is well": lambda nonce: token(nonce),
        "a clock that is a little behind": lambda nonce: token(nonce, exp=now - 30),
        "for others too, but of us": lambda nonce: token(nonce, aud=[CLIENT, "other"], azp=CLIENT),
        "another nonce": lambda nonce: token("x" + nonce),
        "no nonce": lambda nonce: token(nonce, nonce=None),
        "another issuer": lambda nonce: token(nonce, iss=liar.issuer + "/"),
        "another audience": lambda nonce: token(nonce, aud="other"),
        "another party": lambda nonce: token(nonce, azp="other"),
        "for others too": lambda nonce: token(nonce, aud=[CLIENT, "other"]),
        "over": lambda nonce: token(nonce, exp=now - 120),
        "without end": lambda nonce: token(nonce, exp=None),
        "not yet": lambda nonce: token(nonce, nbf=now + 300),
        "unsigned": lambda nonce: made_up(nonce, "none", ""),
        "signed by the client's secret": lambda nonce: made_up(nonce, "HS256", SECRET),
        "signed by what all can see": lambda nonce: made_up(nonce, "HS256", public),
        "signed by another": lambda nonce: liar.signed(liar.claims(nonce), other.key),
        "an unknown key": lambda nonce: liar.signed(liar.claims(nonce), other.key, kid="two"),
        "a key for something else": lambda nonce: liar.signed(liar.claims(nonce), kid="sealing"),
        "a text": lambda nonce: "eyJ.eyJ.x",
        "nothing": lambda nonce: None,
        "an unverified address": lambda nonce: token(nonce, email_verified=False),
        "one that is said to be verified": lambda nonce: token(nonce, email_verified="true"),
        "no word of it": lambda nonce: token(nonce, email_verified=None),
        "an address elsewhere": lambda nonce: token(nonce, email="ada@sub.example.com"),
        "two in one": lambda nonce: token(nonce, email="ada@other.example@example.com"),
        "one that looks alike": lambda nonce: token(nonce, email="ada@ex\u0430mple.com"),
        "a group by address": lambda nonce: token(nonce, email="group:ops@other.example", groups="staff"),
    }
    came = dict.fromkeys(told, False)
    for what, made in told.items():
        visitor = await Visitor(url).begins()
        liar.says["/token"] = {"id_token": made(visitor.sent["nonce"]), "access_token": "x"}
        status, page = await visitor.comes_back()
        came[what] = (status, page) == (303, "/waiting")
        assert came[what] or (status == 403 and 'role="alert"' in page), (what, status, page)
        assert (await visitor.http.get("/account")).status_code == (200 if came[what] else 303)
        assert liar.took_verifier_of(visitor.sent["code_challenge"])
        assert liar.came["redirect_uri"] == f"{url}/openid/callback"
        assert base64.b64decode(liar.came["authorization"][6:]) == b"torpor:the+client%27s+secret%3A+%26+%25"
        await visitor.http.aclose()
    assert [what for what, is_in in came.items() if is_in] == list(told)[:3]


async def test_what_was_not_begun_in_this_browser_lets_nobody_in(url: str, liar: Liar) -> None:
    visitor, victim, stranger = await Visitor(url).begins(), Visitor(url), Visitor(url)
    liar.says["/token"] = {"id_token": liar.signed(liar.claims(visitor.sent["nonce"]))}
    elsewhere, not_here = "from another provider", "not begun in this browser"
    for changed, why in (
        ({"state": visitor.sent["state"]}, not_here),  # to have it signed in as the visitor
        ({"state": ""}, not_here),
        ({"state": "\u0430"}, not_here),
        ({"iss": "https://evil.example"}, elsewhere),
        ({"error": "access_denied"}, "did not sign you in"),
    ):
        liar.came = {}
        status, page = await (await victim.begins()).comes_back(**changed)
        assert (status, why in page) == (403, True), page
        assert liar.came == {}, "nothing is sent to the provider for it"
    stranger.sent = visitor.sent
    assert not_here in (await stranger.comes_back())[1]
    assert await visitor.comes_back(iss=liar.issuer) == (303, "/waiting")
    assert (await visitor.comes_back())[0] == 403, "it was good for one time"
    await victim.begins("//evil.example")
    liar.says["/token"] = {"id_token": liar.signed(liar.claims(victim.sent["nonce"]))}
    assert await victim.comes_back() == (303, "/")


async def test_a_session_by_it_lasts_a_day_at_most_and_the_name_follows_the_person(
    url: str, liar: Liar, database_url: str
) -> None:
    database = await asyncpg.connect(database_url)
    visitor = Visitor(url)
    for email in ("byron@example.com", "lovelace@example.com"):
        await visitor.begins()
        claims = liar.claims(visitor.sent["nonce"]) | {"email": email, "sub": "8"}
        liar.says["/token"] = {"id_token": liar.signed(claims)}
        assert (await visitor.comes_back())[0] == 303
    told = await database.fetch("select name from accounts where subject = '8'")
    assert [each["name"] for each in told] == ["lovelace@example.com"]
    await database.execute("update sessions set seen_at = seen_at - interval '1 hour'")
    assert (await visitor.http.get("/account")).status_code == 200
    assert await database.fetchval("select max(expires_at) <= now() + interval '24 hours' from sessions")
    await database.close()


async def test_passwords_can_be_turned_off(postgres: str, liar: Liar, tmp_path: Path) -> None:
    fresh = await create_database(postgres, "openid_only")
    async with serving(fresh, tmp_path, **openid(liar.issuer, oidc_only=True)) as url, AsyncClient(url, KEY) as client:
        await client.create_account("Ada", "correct horse battery")
        async with httpx2.AsyncClient(base_url=url, timeout=60) as http:
            assert "password" not in (await http.get("/sign-in")).text
            told = await http.post("/sign-in", data={"name": "Ada", "password": "correct horse battery"})
            assert (told.status_code, "set-cookie" in told.headers) == (403, False)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"oidc_allow": None}, "TORPOR_OIDC_ALLOW: nobody could enter"),
        ({"oidc_client_id": None}, "not TORPOR_OIDC_CLIENT_ID"),
        ({"oidc_issuer": "http://login.example"}, "should begin with https://"),
        ({"oidc_issuer": None, "oidc_only": True}, "not TORPOR_OIDC_ISSUER"),
    ],
)
def test_half_of_the_settings_are_refused(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    settings = Settings(data_dir=tmp_path, **openid("https://login.example") | changed)
    with pytest.raises(ConfigError, match=told):
        _ = Hub(settings, cast(Any, None), SystemClock()).openid

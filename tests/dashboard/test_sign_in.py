"""Who may come in, and what a page of somebody else's can make a browser do: nothing."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from argon2 import PasswordHasher
from fake_worker import KEY
from history import Site
from playwright.async_api import Browser, Page, Route, expect
from served import serving

from scratch_postgres import create_database
from torpor.server import passwords

pytestmark = pytest.mark.anyio

ADA, PASSWORD = "ada@example.com", "correct horse battery"
BY_HAND = {"sec-fetch-mode": "navigate", "sec-fetch-site": "none"}


@pytest.fixture(scope="module")
async def account(site: Site) -> str:
    """The name of an account whose password is PASSWORD."""
    await site.client.create_account(ADA, PASSWORD)
    return ADA


@asynccontextmanager
async def visitor(site: Site) -> AsyncIterator[httpx2.AsyncClient]:
    """Somebody with a browser's memory, and without its manners."""
    async with httpx2.AsyncClient(base_url=site.url, timeout=60) as http:
        yield http


async def enter(http: httpx2.AsyncClient, site: Site) -> None:
    assert (await http.post(await site.link())).status_code == 303


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found[1]


async def test_a_page_sends_who_is_signed_out_to_the_door_and_back(site: Site, account: str, browser: Browser) -> None:
    context = await browser.new_context(base_url=site.url)
    page = await context.new_page()
    await page.goto("/waiting?x=1")
    await expect(page).to_have_title("Sign in · Torpor")
    await page.get_by_label("Name").fill(account)
    await page.get_by_label("Password").fill("not it, not it")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_have_text("No account has this name and this password.")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page).to_have_url(f"{site.url}/waiting?x=1")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page).to_have_url(f"{site.url}/sign-in")
    await page.goto("/")
    await expect(page).to_have_title("Sign in · Torpor")
    await context.close()


async def test_nothing_that_a_page_asks_for_leads_who_is_leaving_it_elsewhere(site: Site, page: Page) -> None:
    """Its reader signs out; a part of it is told so before the page is."""
    held: dict[str, asyncio.Future[Route]] = {
        name: asyncio.get_running_loop().create_future() for name in ("part", "form")
    }

    async def hold(route: Route) -> None:
        asks = "part" if "hx-request" in route.request.headers else "form" if route.request.method == "POST" else None
        if asks is None or held[asks].done():
            return await route.continue_()
        return held[asks].set_result(route)

    await page.goto("/waiting?x=1")
    token = await page.locator("input[name=csrf]").first.get_attribute("value")
    await page.route("**/*", hold)
    await page.evaluate("dispatchEvent(new Event('focus'))")  # somebody comes back to it: each part asks
    part = await held["part"]
    heard = "(event) => console.log('heard', event.detail.xhr.status)"
    await page.evaluate(f"document.addEventListener('htmx:afterRequest', {heard})")
    pressed = asyncio.create_task(page.get_by_role("button", name="Sign out").press("Enter"))
    form = await held["form"]
    assert (await page.request.post("/sign-out", form={"csrf": token or ""}, max_redirects=0)).status == 303
    async with page.expect_console_message(lambda said: said.text == "heard 204"):
        await part.continue_()
    answer = await part.request.response()
    assert answer
    assert answer.headers["hx-redirect"] == "/sign-in?next=/waiting%3Fx%3D1"
    await form.continue_()
    await expect(page).to_have_url(f"{site.url}/sign-in")
    await pressed


async def test_a_link_signs_in_once_and_not_by_looking_ahead(site: Site) -> None:
    link = await site.link()
    async with visitor(site) as http, visitor(site) as other:
        assert (await http.head(link, headers=BY_HAND)).status_code == 200
        assert (await http.get(link, headers=BY_HAND | {"sec-purpose": "prefetch;prerender"})).status_code == 200
        for looks in ({}, BY_HAND | {"sec-fetch-site": "cross-site"}, BY_HAND | {"sec-fetch-mode": "no-cors"}):
            response = await http.get(link, headers=looks)
            assert response.status_code == 200
            assert "set-cookie" not in response.headers
        assert (await http.post(link, headers={"origin": "https://evil.example"})).status_code == 403
        responses = await asyncio.gather(http.get(link, headers=BY_HAND), other.post(link))
        assert sorted(response.status_code for response in responses) == [303, 410]
        let_in, other = (http, other) if responses[0].status_code == 303 else (other, http)
        assert (await let_in.get(link, headers=BY_HAND)).headers["location"] == "/"  # clicked again
        assert (await let_in.post(link)).headers["location"] == "/"
        again = await other.post(link)
        assert again.status_code == 410
        assert "was used already" in again.text


async def test_a_link_runs_out(site: Site) -> None:
    link = await site.link()
    await site.database.execute("update sign_in_links set expires_at = now() - interval '1 second'")
    async with visitor(site) as http:
        assert (await http.post(link)).status_code == 410


async def test_a_cookie_is_out_of_reach_of_scripts_and_other_sites(site: Site) -> None:
    async with visitor(site) as http:
        cookie = (await http.post(await site.link())).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    name, value = cookie.partition(";")[0].split("=")
    assert name == f"torpor_{site.url.rpartition(':')[2]}", "servers on other ports of this machine have their own"
    kept = await site.database.fetchval("select count(*) from sessions where encode(cookie_hash, 'escape') = $1", value)
    assert kept == 0


async def test_with_tls_outside_it_is_for_tls_and_this_host_alone(postgres: str, tmp_path: Path) -> None:
    secure = await create_database(postgres, "secure")
    async with (
        serving(secure, tmp_path, public_url="https://torpor.example") as url,
        httpx2.AsyncClient(timeout=60) as http,
    ):
        made = await http.post(f"{url}/api/v1/sign-in-links", headers={"authorization": f"Bearer {KEY}"})
        link = made.json()["url"]
        assert link.startswith("https://torpor.example/sign-in/")
        response = await http.post(link.replace("https://torpor.example", url))
        link = (await http.post(f"{url}/api/v1/sign-in-links", headers={"authorization": f"Bearer {KEY}"})).json()[
            "url"
        ]
        other = {"origin": "http://torpor.example"}
        assert (await http.post(link.replace("https://torpor.example", url), headers=other)).status_code == 403
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("__Host-torpor=")
    assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))


@pytest.mark.parametrize(
    ("headers", "token", "told"),
    [
        ({}, "", 403),
        ({}, "0" * 64, 403),
        ({"origin": "https://evil.example"}, None, 403),
        ({"origin": "null"}, None, 403),
        ({"origin": "http://[evil"}, None, 403),
        ({"origin": ""}, None, 403),
        ({"origin": "https://evil.example", "x-forwarded-host": "evil.example"}, None, 403),
        ({"sec-fetch-site": "cross-site"}, None, 403),
        ({"sec-fetch-site": "same-site"}, None, 403),
        ({"sec-fetch-site": "same-origin"}, None, 303),
    ],
)
async def test_what_changes_anything_must_come_from_a_page_of_ours(
    site: Site, headers: dict[str, str], token: str | None, told: int
) -> None:
    async with visitor(site) as http:
        await enter(http, site)
        given = csrf((await http.get("/")).text) if token is None else token
        response = await http.post("/sign-out", data={"csrf": given}, headers=headers)
        assert response.status_code == told
        assert (await http.get("/account")).status_code == (303 if told == 303 else 200)


async def test_the_token_of_another_session_is_no_help(site: Site) -> None:
    async with visitor(site) as http, visitor(site) as other:
        await enter(http, site)
        await enter(other, site)
        token = csrf((await other.get("/")).text)
        assert (await http.post("/sign-out", data={"csrf": token})).status_code == 403


async def test_a_session_ends_after_two_weeks_without_use(site: Site) -> None:
    async with visitor(site) as http:
        await enter(http, site)
        cookie_hash = await site.database.fetchval("select cookie_hash from sessions order by created_at desc limit 1")
        week = timedelta(days=7)
        await site.database.execute(
            "update sessions set seen_at = seen_at - $2::interval, expires_at = expires_at - $2::interval where cookie_hash = $1",
            cookie_hash,
            week,
        )
        assert (await http.get("/account")).status_code == 200
        ends = await site.database.fetchval("select expires_at from sessions where cookie_hash = $1", cookie_hash)
        assert ends is not None
        assert ends - datetime.now(UTC) > timedelta(days=13.9)
        await site.database.execute("update sessions set expires_at = now() where cookie_hash = $1", cookie_hash)
        response = await http.get("/account")
        assert (response.status_code, response.headers["location"]) == (303, "/sign-in?next=/account")


async def test_who_is_removed_is_out(site: Site) -> None:
    made = await site.client.create_account("Eve", PASSWORD)
    async with visitor(site) as http:
        assert (await http.post("/sign-in", data={"name": "EVE", "password": PASSWORD})).status_code == 303
        assert (await http.get("/account")).status_code == 200
        await site.client.remove_account(made["id"])
        assert (await http.get("/account")).status_code == 303
        assert (await http.post("/sign-in", data={"name": "Eve", "password": PASSWORD})).status_code == 403


def test_a_name_that_nobody_has_costs_as_much_work_as_a_wrong_password() -> None:
    assert not PasswordHasher().check_needs_rehash(passwords.NOBODYS)


async def test_passwords_can_be_tried_a_few_times_only_and_the_owner_is_not_shut_out(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What each try costs is no matter here, and one more is let through each minute.
    monkeypatch.setattr(passwords, "_hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    await site.client.create_account("mallory's target", PASSWORD)
    right = {"name": "mallory's target", "password": PASSWORD}
    async with visitor(site) as owner, visitor(site) as http:

        async def tries(http: httpx2.AsyncClient) -> list[int]:
            data = {"name": "Mallory's Target", "password": "wrong"}
            return [(await http.post("/sign-in", data=data)).status_code for _ in range(11)]

        assert (await owner.post("/sign-in", data=right)).status_code == 303
        token = csrf((await owner.get("/account")).text)
        assert (await owner.post("/sign-out", data={"csrf": token})).status_code == 303
        assert await tries(http) == [403] * 9 + [429] * 2
        assert (await http.post("/sign-in", data=right)).status_code == 429, "else a guess would tell that it was right"
        assert (await owner.post("/sign-in", data=right)).status_code == 303, "it is a browser that was in before"
        assert await tries(owner) == [403] * 10 + [429], "and may try no oftener than any"


async def test_no_page_is_asked_for_by_the_name_of_another(site: Site) -> None:
    """Whose name leads to this machine is not therefore one of us."""
    port = site.url.rpartition(":")[2]
    async with visitor(site) as http:
        for host in (
            f"evil.example:{port}",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[",
            "",
        ):
            response = await http.get("/sign-in", headers={"host": host})
            assert (response.status_code, "Sign in" in response.text) == (421, False)
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
            assert (await http.get("/sign-in", headers={"host": host})).status_code == 200


async def test_a_password_is_changed_and_all_other_sessions_end(site: Site, browser: Browser) -> None:
    await site.client.create_account("Iris", PASSWORD)
    new = "another horse, another battery"
    context = await browser.new_context(base_url=site.url)
    page = await context.new_page()
    await page.goto("/sign-in?next=/account")
    await page.get_by_label("Name").fill("Iris")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page).to_have_url(f"{site.url}/account")
    async with visitor(site) as other:
        assert (await other.post("/sign-in", data={"name": "Iris", "password": PASSWORD})).status_code == 303
        await page.reload()
        await expect(page.get_by_text("this one")).to_have_count(1)
        await expect(page.get_by_role("button", name="End the session of python-httpx2")).to_have_count(1)
        before = {each.get("value") for each in await context.cookies()}
        for old, told in (("not it, not it", "The old password is another."), (PASSWORD, "")):
            await page.get_by_label("Old password").fill(old)
            await page.get_by_label("New password").fill(new)
            await page.get_by_role("button", name="Change password").click()
            await expect(page.get_by_role("alert")).to_have_text([told] if told else [])
        await expect(page.get_by_text("this one")).to_have_count(1)
        await expect(page.get_by_role("button", name="End the session")).to_have_count(0)
        assert before.isdisjoint({each.get("value") for each in await context.cookies()})
        assert (await other.get("/account")).status_code == 303
        assert (await other.post("/sign-in", data={"name": "Iris", "password": PASSWORD})).status_code == 403
        assert (await other.post("/sign-in", data={"name": "Iris", "password": new})).status_code == 303
    await context.close()


async def test_sessions_are_ended_one_by_one_and_all_at_once_and_what_they_show_live_with_them(site: Site) -> None:
    await site.client.create_account("Nora", PASSWORD)
    async with visitor(site) as here, visitor(site) as there, visitor(site) as stranger:
        for http in (here, there):
            assert (await http.post("/sign-in", data={"name": "Nora", "password": PASSWORD})).status_code == 303
        await enter(stranger, site)

        async def end_what_i_see(http: httpx2.AsyncClient, ids: list[str]) -> None:
            token = csrf((await http.get("/account")).text)
            for each in ids:
                await http.post("/account/sessions/end", data={"csrf": token, "session": each})

        (id_of_there,) = re.findall(r'name="session" value="(\w+)"', (await here.get("/account")).text)
        await end_what_i_see(stranger, [id_of_there])
        assert (await there.get("/account")).status_code == 200, "it is another's"
        async with there.stream("GET", "/live") as shown:
            lines = shown.aiter_lines()
            assert await anext(lines) == "retry: 2000"
            await end_what_i_see(here, [id_of_there])
            assert [line async for line in lines if line] in ([], ["event: changed", "data:"])
        assert (await there.get("/account")).status_code == 303
        assert (await there.post("/sign-in", data={"name": "Nora", "password": PASSWORD})).status_code == 303
        token = csrf((await here.get("/account")).text)
        assert (await here.post("/sign-out/everywhere", data={"csrf": token})).headers["location"] == "/sign-in"
        for http in (here, there):
            assert (await http.get("/account")).status_code == 303
        assert (await stranger.get("/account")).status_code == 200


async def test_the_door_leads_nowhere_else(site: Site, account: str) -> None:
    async with visitor(site) as http:
        for wanted in (
            *("https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example"),
            *("javascript:alert(1)", "/\r\nx: y", "/\u200b/evil.example", " //evil.example", "%2F%2Fevil.example", ""),
        ):
            response = await http.post(await site.link(), data={"next": wanted})
            assert (response.status_code, response.headers["location"]) == (303, "/")
            response = await http.get("/sign-in", params={"next": wanted})
            assert (response.status_code, response.headers["location"]) == (303, "/")


async def test_a_cookie_opens_nothing_of_the_api(site: Site) -> None:
    async with visitor(site) as http:
        await enter(http, site)
        assert (await http.get("/api/v1/runs")).status_code == 401


async def test_every_answer_says_what_may_be_done_with_it(site: Site) -> None:
    async with visitor(site) as http:
        await enter(http, site)
        run = await site.client.trigger("orders/process", "<script>alert(1)</script>")
        download = f"/runs/{run['id']}/packets/payload"
        assert (await http.get(download)).headers["content-disposition"].startswith("attachment")
        pages = ("/", "/waiting", "/account", "/sign-in/x", "/static/style.css", "/?state=novel", "/runs/x", download)
        for path in (*pages, "/nowhere", "/sign-out", "/api/v1/runs", "/static/nothing"):
            headers = (await http.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert ("no-store" in headers["cache-control"]) == (path != "/static/style.css"), path
            if path in pages:
                assert headers["referrer-policy"] == "same-origin"


async def test_the_first_account_is_made_behind_the_link_that_the_server_prints(
    postgres: str, browser: Browser, tmp_path: Path
) -> None:
    links: list[str] = []
    fresh = await create_database(postgres, "newborn")
    async with serving(fresh, tmp_path, newcomer=links.append) as url:
        context = await browser.new_context(base_url=url)
        page: Page = await context.new_page()
        await page.goto("/")
        await expect(page.get_by_role("heading")).to_have_text("Nobody has an account yet")
        (link,) = links
        await page.goto(link)
        await expect(page.get_by_role("heading", name="The first account")).to_be_visible()
        await page.get_by_label("Name").fill("grace@example.com")
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Create account").click()
        await expect(page.get_by_title("Your account")).to_have_text("grace@example.com")
        await page.goto("/")
        await expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
        await context.close()
    async with serving(fresh, tmp_path, newcomer=links.append):
        assert len(links) == 1

"""Addresses and forms that no page of ours makes: told as a page, never a fault of the server's, and never done by halves."""

import asyncio
import re
from collections.abc import AsyncIterator
from html import unescape

import httpx2
import pytest
from history import Site

from torpor.dashboard.app import routes
from torpor.server import sessions

pytestmark = pytest.mark.anyio

ODD = ("%00", "%ED%A0%80", "-1", "9" * 5000, "9999-12-31T23:59:59-14:00", "%25_%27;--[(*", "x" * 10_000, "a&{name}=b")
NAMED = {
    "/": ("state", "period", "from", "to"),
    "/errors": ("period",),
    "/logs": ("period", "after"),
    "/queues": ("page", "perPage"),
    "/schedules": ("page", "perPage"),
    "/batches": ("status",),
}
"""What an address can say wrongly; the refusal names it."""
FREE = {
    "/": ("q", "task", "tag", "version", "queue", "batch", "schedule", "bulk", "after", "before"),
    "/logs": ("q", "task", "run", "level"),
    "/errors": ("q", "task", "sort"),
    "/batches": ("after", "before"),
    "/waiting": ("after", "before", "done"),
    "/checkpoints": ("after", "before"),
    "/tasks": ("q",),
    "/test/mail/send": ("from",),
    "/workers": ("gone",),
    "/schedules/new": ("task",),
}


class Browser:
    """A browser without scripts, signed in."""

    def __init__(self, http: httpx2.AsyncClient, csrf: str) -> None:
        self.http, self.csrf = http, csrf

    async def post(self, path: str, **fields: str | list[str]) -> httpx2.Response:
        return await self.http.post(path, data={"csrf": self.csrf, **fields})


@pytest.fixture
async def browsers(site: Site) -> AsyncIterator[list[Browser]]:
    """Two of them."""
    found: list[Browser] = []
    for _ in range(2):
        http = httpx2.AsyncClient(base_url=site.url, timeout=60)
        await http.post(await site.link())
        found.append(Browser(http, sessions.csrf_token(next(iter(http.cookies.values())), "dev")))
    yield found
    for each in found:
        await each.http.aclose()


def told(response: httpx2.Response) -> str:
    """The message of a page that refuses."""
    assert response.headers["content-type"].startswith("text/html"), response.text[:200]
    alert = re.search(r'role="alert">(.*?)</p>', response.text, re.DOTALL)
    assert alert, response.text[:2000]
    return unescape(alert[1])


async def test_odd_addresses_are_told_by_name(browsers: list[Browser]) -> None:
    http = browsers[0].http

    async def ask(path: str, name: str, value: str, *, is_named: bool) -> None:
        response = await http.get(f"{path}?{name}={value.replace('{name}', name)}")
        assert response.status_code in (200, 400, 404, 422), (path, name, value[:40])
        if response.status_code != 200:
            said = told(response)
            assert len(said) < 400, said[:500]
            assert not is_named or said.startswith(f"{name}:"), said

    for value in ODD:
        jobs = [ask(path, name, value, is_named=True) for path, names in NAMED.items() for name in names]
        jobs += [ask(path, name, value, is_named=False) for path, names in FREE.items() for name in names]
        await asyncio.gather(*jobs)


POSTS = [route.path for route in routes if "POST" in (route.methods or ()) and not route.path.startswith("/sign-")]


async def test_odd_forms_are_told_and_change_nothing(site: Site, browsers: list[Browser]) -> None:
    mine, other = browsers
    run = await site.client.trigger("mail/send", delay="1h", idempotency_key="odd")
    rows = "select (select count(*) from runs), (select count(*) from schedules), (select count(*) from env_vars)"
    before = tuple(await site.database.fetchrow(rows) or ())
    for route in POSTS:
        path = re.sub(r"\{task_id:path\}", "mail/none", route).replace("{run_id}", run["id"])
        path = re.sub(r"\{\w+\}", "none", path)
        for fields in ({}, {"csrf": other.csrf}):
            response = await mine.http.post(path, data=fields)
            assert response.status_code == 403, (path, fields)
            assert "load it again" in told(response)
        if route in ("/runs/{run_id}/cancel", "/runs/{run_id}/replay"):
            continue  # they need nothing but their address
        for body in (
            f"csrf={mine.csrf}&action=%00&name=%00&value=%00&limit=%00&task=%00&cron=%00&answer=%00&payload=%00&run=%00&token=%00",
            f"csrf={mine.csrf}&"
            + "&".join(f"{name}={'9' * 5000}" for name in ("limit", "name", "task", "payload.", "checkpoint")),
            f"csrf={mine.csrf}&action=cancel&all=1&filters=state%3Dnovel&limit=-1&limit=1",
            f"csrf={mine.csrf}&" + "&".join(f"x{number}=" for number in range(1001)),
        ):
            response = await mine.http.post(
                path, content=body, headers={"content-type": "application/x-www-form-urlencoded"}
            )
            assert response.status_code in (303, 400, 403, 404, 422), (path, body[:60], response.text[:500])
            if response.status_code != 303:
                told(response)
        response = await mine.http.post(path, content=b"\xff", headers={"x-csrf-token": mine.csrf})
        assert response.status_code in (303, 400, 404, 422), (path, response.text[:500])
    assert tuple(await site.database.fetchrow(rows) or ()) == before
    await site.client.cancel(run["id"])


async def test_what_is_over_is_done_once(site: Site, browsers: list[Browser]) -> None:
    """Twice at once from two browsers, or once more afterwards: without a script, by forms alone."""
    mine, other = browsers

    async def both(path: str, **fields: str) -> list[int]:
        answers = await asyncio.gather(mine.post(path, **fields), other.post(path, **fields))
        assert all(answer.status_code in (303, 404, 409, 422) for answer in answers), answers[0].text[:500]
        return sorted(answer.status_code for answer in answers)

    token = await site.client.create_token(title="Both?")
    await both(f"/waiting/{token['id']}/approve", comment="yes")
    await both(f"/waiting/{token['id']}/reject", comment="no")
    assert (await site.client.approval(token["id"]))["status"] == "APPROVED"
    run = await site.client.trigger("mail/send", delay="1h")
    assert await both(f"/runs/{run['id']}/cancel") == [303, 303]
    assert await both(f"/runs/{run['id']}/cancel", at_once="1") == [303, 303]
    assert (await site.client.run(run["id"]))["status"] == "CANCELED"
    queue = await site.client.queue("mail/send")
    assert await both(f"/queues/{queue['id']}/resume") == [303, 303]
    made = await site.client.create_schedule("mail/send", "0 7 * * *", deduplication_key="twice")
    assert await both(f"/schedules/{made['id']}/delete") == [303, 404]
    assert await both("/variables/NEVER_SET/delete") == [303, 303]
    await site.database.execute("delete from events where run_id = $1", run["id"])
    await site.database.execute("delete from runs where id = $1", run["id"])
    for verb in ("replay", "fork", "cancel", "answer"):
        answer = await mine.post(f"/runs/{run['id']}/{verb}", payload="1")
        assert (answer.status_code, told(answer)) == (404, "There is no such run here. It may have been deleted since.")

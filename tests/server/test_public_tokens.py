"""Public tokens: what they open, what they don't, and what is no token at all."""

import asyncio
import base64
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import jwt
import pytest
from fake_worker import KEY, FakeWorker, Start, awake

from torpor import ids
from torpor.errors import ApiError, NotFound, Unauthorized, Unprocessable
from torpor.sdk.async_client import AsyncClient
from torpor.wire import http as wire

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")]


_numbers = itertools.count()


class Page:
    """A browser with a token: what it asks, and how it is answered."""

    def __init__(self, http: httpx2.AsyncClient, url: str, token: str) -> None:
        self._http = http
        self._url = url
        self._headers = {
            "authorization": f"Bearer {token}",
            "x-trigger-client": "browser",
            "origin": "https://shop.example",
        }

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"content-type": "application/json", **self._headers, **headers}
        return await self._http.request(method, self._url + path, content=content, headers=told)

    async def status(self, method: str, path: str, body: Any = None, **headers: str) -> int:
        return (await self.ask(method, path, body, **headers)).status_code

    async def trigger(self, task_id: str = "echo", **headers: str) -> httpx2.Response:
        return await self.ask("POST", f"/api/v1/tasks/{task_id}/trigger", {"payload": 1}, **headers)


class Pages:
    """Makes pages, and the tokens that an official client would sign."""

    def __init__(self, http: httpx2.AsyncClient, url: str, environment_id: str) -> None:
        self.http = http
        self.url = url
        self.claims = {
            "iss": "https://id.trigger.dev",
            "aud": "https://api.trigger.dev",
            "sub": environment_id,
            "pub": True,
        }

    def sign(self, scopes: list[str], *, secret: str = KEY, headers: dict[str, Any] | None = None, **more: Any) -> str:
        now = int(time.time())
        end = (
            now + 900 + next(_numbers)
        )  # those that say the same are the same token, also where it is good for one use
        claims = {**self.claims, "scopes": scopes, "iat": now, "exp": end} | more
        claims = {name: value for name, value in claims.items() if value is not ...}
        return jwt.encode(claims, secret, "HS256", headers={"typ": None, **(headers or {})})

    def page(self, token: str) -> Page:
        return Page(self.http, self.url, token)

    def with_scopes(self, *scopes: str, **claims: Any) -> Page:
        return self.page(self.sign([*scopes], **claims))


@pytest.fixture(scope="module")
async def url(lasting_url: str) -> str:
    """One server for all: a token is for what its test has made."""
    return lasting_url


@pytest.fixture
async def pages(url: str) -> AsyncIterator[Pages]:
    async with pages_of(url) as pages:
        yield pages


@asynccontextmanager
async def pages_of(url: str) -> AsyncIterator[Pages]:
    async with httpx2.AsyncClient() as http:
        response = await http.post(f"{url}/api/v1/auth/jwt/claims", headers={"authorization": f"Bearer {KEY}"})
        assert response.json().keys() == {"sub", "pub"}
        yield Pages(http, url, response.json()["sub"])


# -- whose it is ------------------------------------------------------------------------------------------------------


async def test_a_token_that_a_client_has_signed_with_any_valid_key_opens_what_it_says(
    client: AsyncClient, worker: FakeWorker, pages: Pages
) -> None:
    run_id = (await client.trigger("echo", 1))["id"]
    other = await client.create_key("other")
    for secret in (KEY, other["key"]):
        page = pages.with_scopes(f"read:runs:{run_id}", secret=secret)
        assert (await page.ask("GET", f"/api/v3/runs/{run_id}")).json()["payload"] == 1
    await client.revoke_key(other["id"])
    page = pages.with_scopes(f"read:runs:{run_id}", secret=other["key"])
    assert await page.status("GET", f"/api/v3/runs/{run_id}") == 401
    scoped = await client.create_key("nobody signs with this", scopes=["admin"])
    page = pages.with_scopes(f"read:runs:{run_id}", secret=scoped["key"])
    assert await page.status("GET", f"/api/v3/runs/{run_id}") == 401


async def test_a_token_ends_with_the_key_that_it_was_made_with(client: AsyncClient, pages: Pages) -> None:
    other = await client.create_key("other")
    async with AsyncClient(pages.url, other["key"]) as holder:
        page = pages.page(await holder.create_public_token(["read:runs"], expires="30d"))
    assert await page.status("GET", "/api/v1/runs") == 200
    await client.revoke_key(other["id"])
    assert await page.status("GET", "/api/v1/runs") == 401


NOW = int(time.time())
WRONG: dict[str, dict[str, Any]] = {
    "it is over": {"exp": NOW - 1},
    "it has no end": {"exp": ...},
    "its end is text": {"exp": "tomorrow"},
    "its end is no number of seconds": {"exp": 1e20},
    "its end is no whole number": {"exp": NOW + 86400.5},
    "its end is true": {"exp": True},
    "it begins later": {"nbf": NOW + 86400},
    "its beginning is text": {"nbf": "now"},
    "another issuer": {"iss": "https://id.example"},
    "no issuer": {"iss": ...},
    "another audience": {"aud": "https://api.example"},
    "no audience": {"aud": ...},
    "another environment": {"sub": "env_x"},
    "no environment": {"sub": ...},
    "an environment that can't be": {"sub": "env\0"},
    "not public": {"pub": False},
    "nearly public": {"pub": "true"},
    "scopes in one text": {"scopes": "read:runs"},
    "scopes that are no texts": {"scopes": [1]},
    "nearly one-time": {"otu": 1},
    "skipped columns that are none": {"realtime": {"skipColumns": 3}},
    "tasks that are none": {"tasks": "echo"},
}


async def test_a_token_that_is_not_exactly_right_is_401(pages: Pages) -> None:
    assert await pages.with_scopes("read:runs").status("GET", "/api/v1/runs") == 200
    for what, claims in WRONG.items():
        given: dict[str, Any] = {"scopes": ["read:runs"]} | claims
        page = pages.page(pages.sign(given.pop("scopes"), **given))
        assert await page.status("GET", "/api/v1/runs") == 401, what


async def test_a_header_that_is_not_exactly_right_is_401(client: AsyncClient, pages: Pages) -> None:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    good = pages.sign(["read:runs"])
    _, claims, signature = good.split(".")
    [key] = [each for each in await client.api_keys() if each["isConfigured"]]
    tokens = [
        f"{part({'alg': 'none'})}.{claims}.",
        f"{part({'alg': 'none'})}.{claims}.{signature}",
        f"{part({'alg': 'hs256'})}.{claims}.{signature}",
        f"{part({'alg': 'RS256'})}.{claims}.{signature}",
        f"{part(['HS256'])}.{claims}.{signature}",
        f"{part({'alg': 'HS256'})}.{part([])}.{signature}",
        f"{part({'alg': 'HS256'})}..{signature}",
        jwt.encode({**pages.claims, "scopes": ["read:runs"], "exp": NOW + 86400}, KEY, "HS384"),
        jwt.encode({**pages.claims, "scopes": ["read:runs"], "exp": NOW + 86400}, KEY, "HS512"),
        pages.sign(["read:runs"], headers={"crit": ["b64"], "b64": True}),
        pages.sign(["read:runs"], headers={"jku": "https://keys.example"}),
        pages.sign(["read:runs"], headers={"kid": "apikey_x"}),
        pages.sign(["read:runs"], headers={"kid": key["id"]}),  # a client can't sign in the server's name
        pages.sign(["read:runs"], secret=KEY + "x"),
        good[:-3] + ("AAA" if good[-3:] != "AAA" else "BBB"),
        good + "=",
        good.replace(".", "..", 1),
        good + "." + good,
    ]
    for token in tokens:
        assert await pages.page(token).status("GET", "/api/v1/runs") == 401, token
    assert await pages.page(good).status("GET", "/api/v1/runs") == 200


# -- what it may do ---------------------------------------------------------------------------------------------------


async def test_a_run_is_read_by_its_id_task_tag_or_batch_and_not_by_those_of_others(
    client: AsyncClient, worker: FakeWorker, pages: Pages
) -> None:
    run_id = (await client.trigger("echo", 1, tags=["shop:7"]))["id"]
    batch = await client.batch_trigger("echo", [1])
    for scope, target in [
        (f"read:runs:{run_id}", run_id),
        ("read:runs", run_id),
        ("read:all", run_id),
        ("*:runs", run_id),
        ("admin", run_id),
        ("read:tasks:echo", run_id),
        ("read:tags:shop:7", run_id),
        (f"read:batch:{batch['id']}", batch["runs"][0]),
    ]:
        assert await pages.with_scopes(scope).status("GET", f"/api/v3/runs/{target}") == 200, scope
    for scope in [
        "read:runs:run_x",
        "read",
        "read:",
        "write:runs",
        "read:tasks:mail/send",
        "read:tags:shop",
        "read:tags:shop:8",
        f"read:batch:{batch['id']}",
        f"trigger:runs:{run_id}",
        f"read:tags:{run_id}",
        "ADMIN",
        "admin:all",
        "",
    ]:
        response = await pages.with_scopes(scope).ask("GET", f"/api/v3/runs/{run_id}")
        assert (response.status_code, response.json()["code"], response.json()["param"]) == (
            403,
            "unauthorized",
            "access_token",
        ), scope
    unknown = [
        await pages.with_scopes("read:tasks:echo").status("GET", f"/api/v3/runs/{id}") for id in ("run_x", run_id)
    ]
    assert unknown == [403, 200], "whether there is a run that one may not see can't be asked"


async def test_runs_are_listed_by_all_or_by_tasks_that_are_all_granted(worker: FakeWorker, pages: Pages) -> None:
    one = pages.with_scopes("read:tasks:echo")
    both = pages.with_scopes("read:tasks:echo", "read:tasks:mail/send")
    path = "/api/v1/runs?filter[taskIdentifier]="
    assert [await page.status("GET", path + "echo") for page in (one, both)] == [200, 200]
    assert [await page.status("GET", path + "echo,mail/send") for page in (one, both)] == [403, 200]
    assert [await page.status("GET", "/api/v1/runs") for page in (one, both)] == [403, 403]
    assert await pages.with_scopes("read:tasks").status("GET", "/api/v1/runs") == 200
    assert await pages.with_scopes("read:runs:run_1").status("GET", "/api/v1/runs") == 403


async def test_a_task_is_triggered_and_the_answer_lets_its_run_be_seen(worker: FakeWorker, pages: Pages) -> None:
    page = pages.with_scopes("trigger:tasks:echo")
    response = await page.trigger()
    assert json.loads(response.headers["x-trigger-jwt-claims"]) == {"sub": pages.claims["sub"], "pub": True}
    run_id = response.json()["id"]
    seen = pages.page(response.headers["x-trigger-jwt"])
    assert await seen.status("GET", f"/api/v3/runs/{run_id}") == 200
    assert await page.status("GET", f"/api/v3/runs/{run_id}") == 403
    assert (await seen.trigger()).status_code == 403
    other = (await page.trigger()).json()["id"]
    assert await seen.status("GET", f"/api/v3/runs/{other}") == 403
    assert (await page.trigger("mail/send")).status_code == 403
    assert (await page.trigger("mail%2Fsend")).status_code == 403
    assert (await pages.with_scopes("trigger:tasks:mail/send").trigger("mail%2Fsend")).status_code == 422  # the payload
    assert (await pages.with_scopes("trigger:tasks:a/b").trigger("a%252Fb")).status_code == 403


async def test_headers_come_with_a_cached_answer_too_and_with_a_secret_key(
    client: AsyncClient, worker: FakeWorker, pages: Pages
) -> None:
    page = pages.page(KEY)
    body = {"payload": 1, "options": {"idempotencyKey": "k" * 64}}
    first, again = [await page.ask("POST", "/api/v1/tasks/echo/trigger", body) for _ in range(2)]
    assert again.json() == {"id": first.json()["id"], "isCached": True}
    for response in (first, again):
        seen = pages.page(response.headers["x-trigger-jwt"])
        assert await seen.status("GET", f"/api/v3/runs/{first.json()['id']}") == 200


async def test_a_run_is_canceled_with_a_scope_to_write_it(
    client: AsyncClient, worker: FakeWorker, pages: Pages
) -> None:
    run_id = (await client.trigger("echo"))["id"]
    path = f"/api/v2/runs/{run_id}/cancel"
    assert await pages.with_scopes(f"read:runs:{run_id}").status("POST", path) == 403
    assert await pages.with_scopes("write:tasks:echo").status("POST", path) == 200
    assert (await client.run(run_id))["status"] == "CANCELED"


# -- tokens by the server ---------------------------------------------------------------------------------------------


async def test_a_scoped_key_gives_away_what_it_has_and_no_more(client: AsyncClient, pages: Pages) -> None:
    made = await client.create_key("web", scopes=["read:runs", "trigger:tasks:echo"])
    async with AsyncClient(pages.url, made["key"]) as holder:
        page = pages.page(await holder.create_public_token(["read:runs:run_1", "trigger:tasks:echo"]))
        assert await page.status("GET", "/api/v3/runs/run_1") == 404
        for scopes in (["admin"], ["read:all"], ["*:runs"], ["trigger:tasks"], ["read:runs", "write:runs"]):
            with pytest.raises(ApiError) as caught:
                await holder.create_public_token(scopes)
            assert caught.value.status == 403


UNOBTAINABLE: list[dict[str, Any]] = [
    {},
    {"scopes": []},
    {"scopes": "read:runs"},
    {"scopes": [1]},
    {"scopes": ["read:runs", ""]},
    {"scopes": ["read:runs"], "expirationTime": "31d"},
    {"scopes": ["read:runs"], "expirationTime": "soon"},
    {"scopes": ["read:runs"], "expirationTime": 1},
    {"scopes": ["read:runs"], "expirationTime": -5},
    {"scopes": ["read:runs"], "expirationTime": True},
    {"scopes": ["read:runs"], "expirationTime": 1e300},
    {"scopes": ["read:runs"], "expirationTime": []},
    {"scopes": ["read:runs"], "oneTimeUse": "yes"},
    {"scopes": ["read:runs"], "realtime": []},
    {"scopes": ["read:runs"], "realtime": {"skipColumns": [1]}},
    {"scopes": ["read:runs"] * 501},
]


async def test_a_token_that_can_not_be_had_is_400(pages: Pages) -> None:
    for body in UNOBTAINABLE:
        response = await pages.page(KEY).ask("POST", "/api/v1/auth/public-tokens", body)
        assert (response.status_code, "error" in response.json()) == (400, True), body


async def test_the_older_spelling_gives_the_same(pages: Pages) -> None:
    body = {"claims": {"scopes": ["read:runs"]}, "expirationTime": "1h"}
    began = time.time()
    token = (await pages.page(KEY).ask("POST", "/api/v1/auth/jwt", body)).json()["token"]
    ended = time.time()
    assert await pages.page(token).status("GET", "/api/v1/runs") == 200
    claims = jwt.decode(token, options={"verify_signature": False})
    assert began + 3599 <= claims["exp"] <= ended + 3600


# -- one use ----------------------------------------------------------------------------------------------------------


async def test_a_one_time_token_triggers_once(client: AsyncClient, worker: FakeWorker, pages: Pages) -> None:
    before = [run["id"] async for run in client.runs()]
    page = pages.with_scopes("trigger:tasks:echo", otu=True)
    assert (await page.trigger("no-such-task")).status_code == 403
    responses = await asyncio.gather(*[page.trigger() for _ in range(10)])
    assert sorted(response.status_code for response in responses) == [200] + [422] * 9
    assert len([run async for run in client.runs()]) == len(before) + 1


async def test_what_is_refused_does_not_use_up_a_token(worker: FakeWorker, pages: Pages) -> None:
    page = pages.with_scopes("trigger:tasks:mail/send", otu=True)
    assert (await page.trigger("mail%2Fsend")).status_code == 422  # the payload doesn't fit
    body = {"payload": {"user": {"email": "a@b.c"}}}
    assert await page.status("POST", "/api/v1/tasks/mail%2Fsend/trigger", body) == 200
    response = await page.ask("POST", "/api/v1/tasks/mail%2Fsend/trigger", body)
    assert (response.status_code, response.json()["error"]) == (422, "this token was good for one use, and was used")


async def test_a_call_that_is_repeated_as_its_answer_was_lost_is_no_second_use(start: Start, database_url: str) -> None:
    url = await start(database_url)
    async with awake(url), pages_of(url) as pages:
        token = pages.sign(["trigger:tasks:echo"], otu=True)
        key = {"x-trigger-request-idempotency-key": "7cae668b-ddbb-4e94-ad70-fd9195667ba4"}
        first = await pages.page(token).trigger(**key)
        # To the other server of the fleet.
        again = await Page(pages.http, await start(database_url), token).trigger(**key)
        assert (again.status_code, again.json()) == (200, first.json())
        assert (await pages.page(token).trigger()).status_code == 422


async def test_another_spelling_of_a_token_is_the_same_token(worker: FakeWorker, pages: Pages) -> None:
    """The last of 43 letters says 4 bits and has room for 6: three more letters say the same."""
    token = pages.sign(["trigger:tasks:echo"], otu=True)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    place = letters.index(token[-1])
    spellings = [token[:-1] + letters[place // 4 * 4 + more] for more in range(4)]
    assert token in spellings
    statuses = [(await pages.page(each).trigger()).status_code for each in spellings]
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 401, 422}


async def test_a_stranger_that_repeats_anothers_request_key_does_not_get_his_run(
    worker: FakeWorker, pages: Pages
) -> None:
    key = {"x-trigger-request-idempotency-key": "guessed"}
    mine, yours = [pages.with_scopes("trigger:tasks:echo", jti=name) for name in ("mine", "yours")]
    assert (await mine.trigger(**key)).json() != (await yours.trigger(**key)).json()


# -- batches ----------------------------------------------------------------------------------------------------------

NDJSON = {"content-type": "application/x-ndjson"}


def item(index: int, task: str = "echo") -> bytes:
    return json.dumps({"index": index, "task": task, "payload": index}).encode() + b"\n"


async def test_a_batch_is_made_and_filled_from_a_browser(worker: FakeWorker, pages: Pages) -> None:
    page = pages.with_scopes("batchTrigger:tasks:echo", otu=True)
    body = {"runCount": 2, "taskIdentifiers": ["echo"]}
    made = await page.ask("POST", "/api/v3/batches", body)
    assert made.status_code == 202
    batch_id, theirs = made.json()["id"], pages.page(made.headers["x-trigger-jwt"])
    path = f"/api/v3/batches/{batch_id}/items"
    assert await theirs.status("POST", path, item(0, "mail/send"), **NDJSON) == 403
    assert await theirs.status("POST", path, item(0), **NDJSON) == 200
    # The token that has opened it may go on, but opens no other.
    assert (await page.ask("POST", path, item(1), **NDJSON)).json()["sealed"] is True
    assert await page.status("POST", "/api/v3/batches", body) == 422
    assert len((await theirs.ask("GET", f"/api/v2/batches/{batch_id}")).json()["runs"]) == 2


async def test_a_batch_of_tasks_that_are_not_granted_is_403(
    client: AsyncClient, worker: FakeWorker, pages: Pages
) -> None:
    page = pages.with_scopes("batchTrigger:tasks:echo")
    for tasks in (["mail/send"], ["echo", "mail/send"], []):
        assert await page.status("POST", "/api/v3/batches", {"runCount": 1, "taskIdentifiers": tasks}) == 403
    # What phase one was told is not believed in phase two.
    made = await page.ask("POST", "/api/v3/batches", {"runCount": 1, "taskIdentifiers": ["echo"]})
    path = f"/api/v3/batches/{made.json()['id']}/items"
    assert await page.status("POST", path, item(0, "mail/send"), **NDJSON) == 403
    assert await page.status("POST", path, item(0), **NDJSON) == 200
    trigger = pages.with_scopes("trigger:tasks")
    assert await trigger.status("POST", "/api/v3/batches", {"runCount": 1, "taskIdentifiers": ["echo"]}) == 403


async def test_a_client_before_4_5_does_not_say_which_tasks_a_batch_is_for(worker: FakeWorker, pages: Pages) -> None:
    """Then it may be for those that its token names, and so may the token that comes with the reply."""
    page = pages.with_scopes("batchTrigger:tasks:echo", otu=True)
    made = await page.ask("POST", "/api/v3/batches", {"runCount": 1})
    path = f"/api/v3/batches/{made.json()['id']}/items"
    for sender in (page, pages.page(made.headers["x-trigger-jwt"])):
        assert await sender.status("POST", path, item(0, "mail/send"), **NDJSON) == 403
    assert (await page.ask("POST", path, item(0), **NDJSON)).json()["sealed"] is True
    for scope in ("trigger:tasks:echo", "read:batch"):
        assert await pages.with_scopes(scope).status("POST", "/api/v3/batches", {"runCount": 1}) == 403


async def test_a_batch_is_not_sealed_by_who_may_not_write_it(pages: Pages, worker: FakeWorker) -> None:
    open_batch = (await pages.page(KEY).ask("POST", "/api/v3/batches", {})).json()["id"]
    path = f"/api/v3/batches/{open_batch}/items?seal=true"
    for page in (pages.with_scopes("read:batch"), pages.with_scopes("batchTrigger:tasks:echo")):
        assert await page.status("POST", path, b"", **NDJSON) == 403
    assert await pages.with_scopes(f"write:batch:{open_batch}").status("POST", path, b"", **NDJSON) == 200


# -- wait tokens, from a browser --------------------------------------------------------------------------------------


async def test_a_wait_token_is_completed_from_a_browser_with_the_token_that_came_with_it(
    client: AsyncClient, pages: Pages
) -> None:
    made, other = await client.create_token(), await client.create_token()
    page = pages.page(made["publicAccessToken"])
    path = f"/api/v1/waitpoints/tokens/{made['id']}"
    asked = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    preflight = await pages.http.options(pages.url + path + "/complete", headers=asked)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, "*")
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert await page.status("POST", path.replace(made["id"], other["id"]) + "/complete", {"data": 1}) == 403
    response = await page.ask("POST", path + "/complete", {"data": {"approved": True}})
    assert (response.json(), response.headers["access-control-allow-origin"]) == ({"success": True}, "*")
    assert json.loads((await client.token(made["id"]))["output"]) == {"approved": True}
    assert await page.status("GET", path) == 401


async def test_pages_can_read_refusals_and_nothing_of_what_is_not_theirs(pages: Pages) -> None:
    page = pages.page("x")
    refused = await page.ask("GET", "/api/v1/runs")
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
    assert "x-trigger-jwt" in refused.headers["access-control-expose-headers"]
    for path in ("/api/v1/keys", "/api/v1/schedules", "/api/v1/queues", "/healthz", "/api/v1/environment"):
        answered = await page.ask("GET", path)
        assert "access-control-allow-origin" not in answered.headers, path
        asked = {"origin": "https://shop.example", "access-control-request-method": "GET"}
        preflight = await pages.http.options(pages.url + path, headers=asked)
        assert (preflight.status_code, "access-control-allow-origin" in preflight.headers) == (405, False), path
    without_origin = await pages.http.get(f"{pages.url}/api/v1/timezones")
    assert "access-control-allow-origin" not in without_origin.headers


async def test_the_python_client_takes_a_public_token_for_a_key(client: AsyncClient, worker: FakeWorker) -> None:
    token = await client.create_public_token(["trigger:tasks:echo"], one_time=True)
    async with AsyncClient(client._target.url, token) as page:
        await page.trigger("echo")
        with pytest.raises(Unprocessable):
            await page.trigger("echo")
        with pytest.raises(Unauthorized):
            await page.tasks()
    with pytest.raises(NotFound):
        await client.run("run_x")


async def test_a_wait_token_that_a_run_makes_has_a_token_that_completes_it_and_nothing_else(
    start: Start, database_url: str
) -> None:
    url = await start(database_url)
    async with AsyncClient(url, KEY) as client, awake(url) as worker, pages_of(url) as pages:
        run = await client.trigger("echo")
        given = await worker.take_and_start()
        call = wire.TokenCall(ids.new("waitpoint"), given.lease)
        made = await worker.say(f"runs/{run['id']}/tokens", call, wire.TokenReply)
        again = await worker.say(f"runs/{run['id']}/tokens", call, wire.TokenReply)
        assert made.public_token is not None
        assert again.public_token is not None, "also when the answer was lost"
        other = (await client.create_token())["id"]
        [key] = await client.api_keys()
        new = (await client.rotate_key(key["id"], overlap=0))["key"]
        page = Page(pages.http, pages.url, made.public_token)
        complete = "/api/v1/waitpoints/tokens/{}/complete"
        assert await page.status("POST", complete.format(other), {"data": 1}) == 403
        assert await page.status("GET", f"/api/v3/runs/{run['id']}") == 403
        done = await page.status("POST", complete.format(made.waitpoint_id), {"data": {"by": "a page"}})
        assert done == 200, "though the key that was there is over"
        async with AsyncClient(pages.url, new) as later:
            assert (await later.token(made.waitpoint_id))["status"] == "COMPLETED"

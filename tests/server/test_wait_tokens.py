"""Wait tokens: completed once, by key or by URL, or out of time."""

import asyncio
import base64
import hmac

import httpx2
import msgspec
import pytest
from facts import PATIENCE_S
from fake_worker import KEY, FakeWorker, Start

from torpor.errors import NotFound, Unprocessable
from torpor.sdk.async_client import AsyncClient
from torpor.wire.runner import NewWait

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def url(lasting_url: str) -> str:
    """One server for all: each test has tokens of its own."""
    return lasting_url


async def test_a_token_shows_what_it_was_made_with_and_then_its_value(client: AsyncClient) -> None:
    made = await client.create_token("1h", tags=["doc"], title="Publish?", context={"id": 1})
    assert (set(made), made["isCached"]) == ({"id", "url", "isCached", "publicAccessToken"}, False)
    token = await client.token(made["id"])
    assert (token["status"], token["tags"], token["title"], token["context"]) == (
        "WAITING",
        ["doc"],
        "Publish?",
        {"id": 1},
    )
    assert "timeoutAt" in token
    assert not {"output", "completedAt"} & set(token)
    assert None not in token.values()
    assert await client.complete_token(made["id"], {"a": 1}) == {"success": True}
    token = await client.token(made["id"])
    assert (token["status"], token["outputType"], token["outputIsError"]) == ("COMPLETED", "application/json", False)
    assert msgspec.json.decode(token["output"]) == {"a": 1}


async def test_the_first_value_wins_and_the_second_is_answered_the_same(client: AsyncClient) -> None:
    made = await client.create_token()
    assert await client.approve(made["id"], True, by="ann") == {"success": True}
    assert await client.approve(made["id"], False, by="bob") == {"success": True}
    assert msgspec.json.decode((await client.token(made["id"]))["output"]) == {"approved": True, "by": "ann"}


async def test_an_unknown_token_is_404(client: AsyncClient) -> None:
    with pytest.raises(NotFound):
        await client.complete_token("waitpoint_unknown", 1)
    with pytest.raises(NotFound):
        await client.token("waitpoint_unknown")


async def test_the_callback_url_completes_without_a_key_and_only_with_its_hash(client: AsyncClient) -> None:
    made, other = await client.create_token(), await client.create_token()
    async with httpx2.AsyncClient() as http:
        stolen = made["url"].replace(made["id"], other["id"])
        for wrong in (stolen, made["url"][:-1] + ("0" if made["url"][-1] != "0" else "1"), made["url"] + "é"):
            response = await http.post(wrong, json={})
            assert (response.status_code, set(response.json())) == (401, {"error"})
        assert (await client.token(made["id"]))["status"] == "WAITING"
        response = await http.post(made["url"], json={"paid": True})
        assert (response.status_code, response.json()) == (200, {"success": True})
        await http.post(other["url"], content=b"<xml/>")
    assert msgspec.json.decode((await client.token(made["id"]))["output"]) == {"paid": True}
    assert msgspec.json.decode((await client.token(other["id"]))["output"]) == {}


async def test_callback_urls_outlive_a_new_secret_key_and_a_new_master_key(start: Start, database_url: str) -> None:
    def master(letter: bytes) -> str:
        return base64.b64encode(letter * 32).decode()

    async with AsyncClient(await start(database_url, encryption_keys=master(b"a")), KEY) as client:
        made = await client.create_token()
    another = "tr_dev_" + "n" * 24
    keys = f"{master(b'b')},{master(b'a')}"
    url = await start(database_url, secret_key=another, encryption_keys=keys)
    # As an older server made it, with the secret key alone.
    old = hmac.new(another.encode(), b"waitpoint callback " + made["id"].encode(), "sha256").hexdigest()
    async with httpx2.AsyncClient() as http:
        for given in (made["url"].rpartition("/")[2], old):
            path = f"/api/v1/waitpoints/tokens/{made['id']}/callback/{given}"
            assert (await http.post(url + path, json={"by": "a webhook"})).status_code == 200
    async with AsyncClient(url, another) as client:
        assert msgspec.json.decode((await client.token(made["id"]))["output"]) == {"by": "a webhook"}


async def test_a_token_out_of_time_says_so_and_can_not_be_completed_any_more(client: AsyncClient) -> None:
    made = await client.create_token(0.2)
    async with asyncio.timeout(PATIENCE_S):
        while (token := await client.token(made["id"]))["status"] == "WAITING":
            await asyncio.sleep(0.02)
    assert (token["status"], token["outputIsError"]) == ("TIMED_OUT", True)
    assert msgspec.json.decode(token["output"])["code"] == "TRIGGER_WAITPOINT_TIMEOUT"
    assert await client.complete_token(made["id"], 1) == {"success": True}
    assert (await client.token(made["id"]))["status"] == "TIMED_OUT"


async def test_the_same_idempotency_key_is_the_same_token_until_it_expires(client: AsyncClient) -> None:
    first = await client.create_token(idempotency_key="k", idempotency_key_ttl="1h")
    again = await client.create_token(idempotency_key="k")
    assert (again["id"], again["isCached"], again["url"]) == (first["id"], True, first["url"])
    token = await client.token(first["id"])
    assert token["idempotencyKey"] == "k"
    assert "idempotencyKeyExpiresAt" in token
    short = await client.create_token(idempotency_key="short", idempotency_key_ttl=0.05)
    await asyncio.sleep(0.1)
    assert (await client.create_token(idempotency_key="short"))["id"] != short["id"]


async def test_tokens_are_listed_by_status_tag_and_key_page_by_page(start: Start, database_url: str) -> None:
    async with AsyncClient(await start(database_url), KEY) as client:
        one = await client.create_token(tags=["a"], idempotency_key="k1")
        two = await client.create_token(tags=["b"])
        await client.complete_token(two["id"])
        assert [token["id"] async for token in client.tokens(page_size=1)] == [two["id"], one["id"]]
        assert [token["id"] async for token in client.tokens(status="WAITING")] == [one["id"]]
        assert [token["id"] async for token in client.tokens(status=["COMPLETED", "TIMED_OUT"])] == [two["id"]]
        assert [token["id"] async for token in client.tokens(tags=["b", "c"])] == [two["id"]]
        assert [token["id"] async for token in client.tokens(idempotency_key="k1")] == [one["id"]]


@pytest.mark.parametrize(
    ("field", "value"), [("timeout", "soon"), ("tags", ["x" * 200]), ("idempotency_key_ttl", "??")]
)
async def test_a_token_that_can_not_be_had_is_422(client: AsyncClient, field: str, value: object) -> None:
    with pytest.raises(Unprocessable):
        await client.create_token(**{field: value})  # pyright: ignore[reportArgumentType]


async def test_an_approval_shows_the_run_that_waits_for_it(client: AsyncClient, worker: FakeWorker) -> None:
    run = await client.trigger("echo")
    given = await worker.take_and_start()
    made = await client.create_token(title="Really?")
    await worker.block(given, NewWait("wait_1", "token", waitpoint_id=made["id"]))
    assert (await client.token(made["id"]))["runIds"] == [run["id"]]
    listed = [token async for token in client.tokens(status="WAITING")]
    assert [token["runIds"] for token in listed if token["id"] == made["id"]] == [[run["id"]]]

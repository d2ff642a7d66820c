"""Keys: several at once, with names and ends; rotated with an overlap, revoked at once; and what is kept of them."""

import base64
import logging
import time
from typing import Any

import asyncpg
import httpx2
import jwt
import pytest
from ahead import Ahead
from facts import eventually
from fake_worker import KEY, TOKEN, FakeWorker, Start

from torpor.errors import ApiError, Forbidden, NotFound, TorporError, Unauthorized, Unprocessable
from torpor.sdk.async_client import AsyncClient
from torpor.server.hub import Hub

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")]


async def opens(url: str, key: str) -> bool:
    async with AsyncClient(url, key) as client:
        try:
            await client.tasks()
        except Unauthorized:
            return False
    return True


async def test_the_configured_key_is_listed_and_known_by_its_hint_only(client: AsyncClient) -> None:
    [key] = await client.api_keys()
    assert (key["name"], key["hint"], key["isConfigured"], key["isYours"]) == ("TORPOR_SECRET_KEY", "…0000", True, True)
    assert {"scopes", "expiresAt", "revokedAt"}.isdisjoint(key)
    assert "lastUsedAt" in key, "it was used to ask"
    assert KEY not in str(key)


async def test_several_keys_hold_at_once_and_each_is_shown_once(client: AsyncClient, url: str) -> None:
    made = await client.create_key("the web shop")
    assert made["key"].startswith("tr_dev_")
    assert len(made["key"]) == len("tr_dev_") + 24
    assert await opens(url, made["key"])
    assert await opens(url, KEY)
    listed = {key["id"]: key for key in await client.api_keys()}
    assert listed[made["id"]]["name"] == "the web shop"
    assert listed[made["id"]]["hint"] == "tr_dev_…" + made["key"][-4:]
    assert "key" not in listed[made["id"]]


async def test_the_database_holds_no_key_that_can_be_read(client: AsyncClient, database_url: str) -> None:
    made = [await client.create_key("a"), await client.create_key("b", scopes=["read:runs"])]
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch("select * from api_keys")
    await connection.close()
    kept = " ".join(f"{value!r}" for row in rows for value in row.values())
    for text in (KEY, made[0]["key"], made[1]["key"]):
        assert text not in kept
    assert [row["sealed"] is None for row in rows if row["scopes"]] == [True], "of a scoped key there is only the hash"


async def test_a_rotated_key_holds_beside_the_new_one_until_the_overlap_is_over(
    client: AsyncClient, url: str, hubs: list[Hub]
) -> None:
    old = await client.create_key("shop")
    new = await client.rotate_key(old["id"], overlap="1h")
    assert (new["name"], new["replaces"]["id"]) == ("shop", old["id"])
    assert await opens(url, new["key"])
    assert await opens(url, old["key"])
    hubs[0].clock = Ahead(hours=1)
    assert not await opens(url, old["key"])
    assert await opens(url, new["key"])
    with pytest.raises(Unprocessable, match="is over"):
        await client.rotate_key(old["id"])


async def test_the_overlap_is_a_day_and_a_second_rotation_does_not_put_it_off(client: AsyncClient) -> None:
    old = await client.create_key("shop")
    first = (await client.rotate_key(old["id"]))["replaces"]["expiresAt"]
    assert (await client.rotate_key(old["id"], overlap="3d"))["replaces"]["expiresAt"] == first


async def test_a_key_is_revoked_at_once_on_every_server(by_word_alone: None, start: Start, database_url: str) -> None:
    """They are told, and don't only forget it."""
    one, two = await start(database_url), await start(database_url)
    async with AsyncClient(one, KEY) as client:
        made = await client.create_key("leaked")
        assert await opens(one, made["key"])
        assert await opens(two, made["key"])
        assert "revokedAt" in await client.revoke_key(made["id"])
        assert not await opens(one, made["key"])

        async def is_refused() -> bool:
            return not await opens(two, made["key"])

        await eventually(is_refused)


async def test_the_last_secret_key_can_not_be_revoked_but_rotated_without_an_overlap(
    client: AsyncClient, url: str
) -> None:
    await client.create_key("may not make others", scopes=["admin"])
    [last] = [key for key in await client.api_keys() if "scopes" not in key]
    with pytest.raises(Unprocessable, match="the only secret key"):
        await client.revoke_key(last["id"])
    new = await client.rotate_key(last["id"], overlap=0)
    assert not await opens(url, KEY)
    assert await opens(url, new["key"])


async def test_workers_work_on_when_the_configured_key_was_rotated(client: AsyncClient, worker: FakeWorker) -> None:
    [key] = await client.api_keys()
    made = await client.rotate_key(key["id"], overlap=0)
    run = await AsyncClient(str(client._target.url), made["key"]).trigger("echo")
    assert (await worker.take()).run_id == run["id"]


async def test_a_revoked_key_does_not_come_back_with_the_next_start(start: Start, database_url: str) -> None:
    url = await start(database_url)
    async with AsyncClient(url, KEY) as client:
        other = await client.create_key("other")
        [configured] = [key for key in await client.api_keys() if key["isConfigured"]]
        await client.revoke_key(configured["id"])
    again = await start(database_url)
    assert not await opens(again, KEY)
    assert await opens(again, other["key"])


async def test_another_setting_withdraws_the_key_before_it_and_no_other(start: Start, database_url: str) -> None:
    url = await start(database_url)
    async with AsyncClient(url, KEY) as client:
        made = await client.create_key("shop")
    other = "tr_dev_" + "n" * 24
    url = await start(database_url, secret_key=other)
    assert not await opens(url, KEY)
    assert await opens(url, other)
    assert await opens(url, made["key"])


async def test_a_rotated_setting_keeps_its_overlap_over_a_start_with_the_new_one(
    start: Start, database_url: str
) -> None:
    url = await start(database_url)
    async with AsyncClient(url, KEY) as client:
        [key] = await client.api_keys()
        new = (await client.rotate_key(key["id"]))["key"]
    url = await start(database_url, secret_key=new)
    assert await opens(url, KEY)
    async with AsyncClient(url, new) as client:
        assert [key["isYours"] for key in await client.api_keys() if key["isConfigured"]] == [True]


async def test_a_scoped_key_may_do_what_its_scopes_say_until_its_end(
    client: AsyncClient, worker: FakeWorker, hubs: list[Hub]
) -> None:
    url = client._target.url
    made = await client.create_key("mailer", scopes=["trigger:tasks:mail/send"], expires="1h")
    assert made["key"].startswith("tr_dev_sk_")
    assert len(made["key"]) == len("tr_dev_sk_") + 24
    async with AsyncClient(url, made["key"]) as scoped:
        run = await scoped.trigger("mail/send", {"user": {"email": "a@b.c"}})
        for refused in (scoped.trigger("echo"), scoped.run(run["id"]), scoped.create_token(), scoped.cancel(run["id"])):
            with pytest.raises(Forbidden) as caught:
                await refused
            assert caught.value.body["code"] == "unauthorized"
        with pytest.raises(Unauthorized, match="takes a secret key, not a scoped key"):
            await scoped.api_keys()
    short = await client.create_key("short", scopes=["admin"], expires="1h")
    assert await opens(url, short["key"])
    hubs[0].clock = Ahead(hours=1)
    assert not await opens(url, short["key"])


UNOBTAINABLE: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "x" * 129},
    {"name": "a", "scopes": []},
    {"name": "a", "scopes": ["runs"]},
    {"name": "a", "scopes": ["read"]},
    {"name": "a", "scopes": ["read:runs:"]},
    {"name": "a", "scopes": ["steal:runs"]},
    {"name": "a", "expires": "soon"},
    {"name": "a", "expires": 0},
]


async def test_a_key_that_can_not_be_had_is_refused(client: AsyncClient) -> None:
    for wanted in UNOBTAINABLE:
        with pytest.raises(ApiError) as caught:
            await client.create_key(**wanted)
        assert caught.value.status in (400, 422), wanted


async def test_unknown_keys_are_404(client: AsyncClient) -> None:
    with pytest.raises(NotFound):
        await client.rotate_key("apikey_x")
    with pytest.raises(NotFound):
        await client.revoke_key("apikey_x")


async def test_keys_are_sealed_anew_by_a_new_master_key(start: Start, database_url: str) -> None:
    def master(letter: bytes) -> str:
        return base64.b64encode(letter * 32).decode()

    url = await start(database_url, encryption_keys=master(b"a"))
    async with AsyncClient(url, KEY) as client:
        made = (await client.create_key("signs"))["key"]
        by_server = await client.create_public_token(["read:runs"])
    url = await start(database_url, encryption_keys=f"{master(b'b')},{master(b'a')}")
    async with httpx2.AsyncClient() as http:
        response = await http.post(f"{url}/api/v1/auth/jwt/claims", headers={"authorization": f"Bearer {KEY}"})
    claims = {"iss": "https://id.trigger.dev", "aud": "https://api.trigger.dev", "scopes": ["read:runs"]}
    by_client = jwt.encode(claims | response.json() | {"exp": int(time.time()) + 3600}, made)
    for token in (by_server, by_client):
        async with AsyncClient(url, token) as client:
            assert [run async for run in client.runs()] == []


async def test_nothing_secret_is_logged_or_told(
    client: AsyncClient, worker: FakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = client._target.url
    made = await client.create_key("a")
    token = await client.create_public_token(["read:runs"])
    wait_token = await client.create_token()
    told: list[str] = []
    for secret in (made["key"], token, token[:-2] + "xx", TOKEN, made["key"] + "x", "tr_dev_" + "z" * 24):
        async with AsyncClient(url, secret) as other:
            for call in (other.tasks(), other.run("run_x"), other.create_token(timeout="soon")):
                try:
                    await call
                except TorporError as error:
                    told.append(str(error))
    async with httpx2.AsyncClient() as http:
        told.append((await http.post(wait_token["url"] + "0")).text)
    assert len(told) > 10
    # What the client's own HTTP library says about the addresses that it asks is not the server's.
    kept = " ".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    for secret in (KEY, TOKEN, made["key"], token, token[-20:], wait_token["url"][-64:], "z" * 24):
        assert secret not in kept
        assert secret not in " ".join(told)

"""U5: tokens of persons: what they may do, and that what is done with one is said to be by whom."""

import json

import asyncpg
import pytest
from fake_worker import FakeWorker, Start

from torpor.errors import ConfigError, Unauthorized, Unprocessable
from torpor.sdk.async_client import AsyncClient
from torpor.wire.runner import QueueManifest

pytestmark = pytest.mark.anyio


async def of(client: AsyncClient, name: str) -> AsyncClient:
    """A client with the token of that person."""
    made = await client.create_key(name, personal=True)
    return AsyncClient(str(client._target.url), made["key"])


async def test_it_may_do_what_a_secret_key_may_but_for_keys(client: AsyncClient, worker: FakeWorker) -> None:
    async with await of(client, "Ada") as ada:
        run = await ada.trigger("echo", 1)
        assert (await ada.run(run["id"]))["payload"] == 1
        await ada.set_variable("ZONE", "eu")
        await ada.create_public_token(["read:runs"])
        for refused in (ada.create_key("other"), ada.api_keys(), ada.data_keys(), ada.rotate_data_key()):
            with pytest.raises(Unauthorized, match="takes a secret key, not a personal token"):
                await refused


async def test_it_says_whose_it_is(client: AsyncClient) -> None:
    async with await of(client, "Ada Lovelace") as ada:
        told = await ada.whoami()
    assert (told["kind"], told["person"], told["environment"]) == ("personal token", "Ada Lovelace", "dev")
    assert (told["key"]["name"], told["key"]["isPersonal"], told["key"]["isYours"]) == ("Ada Lovelace", True, True)
    ours = await client.whoami()
    assert (ours["kind"], ours["key"]["name"], ours.get("person")) == ("secret key", "TORPOR_SECRET_KEY", None)


async def test_only_its_hash_is_kept_and_it_is_rotated_and_revoked_as_a_key_is(
    client: AsyncClient, database_url: str
) -> None:
    old = await client.create_key("Ada", personal=True, expires="30d")
    assert (len(old["key"]), old["hint"]) == (len("tr_pat_") + 40, "tr_pat_…" + old["key"][-4:])
    new = await client.rotate_key(old["id"], overlap="1h")
    assert new["key"].startswith("tr_pat_")
    assert (new["name"], new["isPersonal"], new["expiresAt"]) == ("Ada", True, old["expiresAt"])
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch("select * from api_keys where is_personal")
    await connection.close()
    assert [(row["sealed"], row["scopes"]) for row in rows] == [(None, None)] * 2
    assert not [row for row in rows if old["key"] in str(row) or new["key"] in str(row)]
    await client.revoke_key(new["id"])
    async with AsyncClient(str(client._target.url), new["key"]) as ada:
        with pytest.raises(Unauthorized):
            await ada.whoami()
    with pytest.raises(Unprocessable, match="a personal token has none"):
        await client.create_key("Ada", personal=True, scopes=["read:runs"])


async def test_a_server_does_not_start_with_one_as_its_secret_key(start: Start, database_url: str) -> None:
    with pytest.raises(ConfigError, match="is a personal token"):
        await start(database_url, secret_key="tr_pat_" + "x" * 40)


async def test_what_is_done_with_it_is_by_its_person(client: AsyncClient, worker: FakeWorker) -> None:
    await worker.come_up(queues=[QueueManifest("emails", 5)])
    async with await of(client, "Ada") as ada:
        run = await ada.trigger("echo")
        await ada.cancel(run["id"])
        canceled = [event["data"] async for event in ada.story(run["id"]) if event["kind"] == "run.canceled"]
        assert canceled == [{"reason": "canceled by Ada"}]

        assert (await ada.limit_queue("emails", 2))["concurrency"]["overriddenBy"] == "Ada"
        assert (await ada.reset_queue("emails"))["concurrency"]["overriddenBy"] is None
        assert (await client.limit_queue("emails", 2))["concurrency"]["overriddenBy"] is None

        answers = []
        for by in (None, "Grace"):
            token = (await ada.create_token(title="Ship it?"))["id"]
            await ada.approve(token, by=by)
            answers.append(json.loads((await ada.token(token))["output"]))
        assert answers == [{"approved": True, "by": "Ada"}] * 2, "nobody answers in another's name"
        for title, value in [(None, {"approved": True}), ("Ship it?", {"any": 1})]:
            token = (await ada.create_token(title=title))["id"]
            await ada.complete_token(token, value)
            assert json.loads((await ada.token(token))["output"]) == value, "what is no approval stays as it was sent"

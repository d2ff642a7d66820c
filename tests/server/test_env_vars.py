"""A35: environment variables over HTTP: set, shown or hidden, refused with a reason for each, and sealed where they are kept."""

import base64
import logging
import os
from typing import Any

import asyncpg
import httpx2
import msgspec
import pytest
from fake_worker import KEY, FakeWorker, Start

from torpor.errors import ConfigError, NotFound
from torpor.sdk.async_client import AsyncClient
from torpor.server.env_vars import MAX_VALUE_BYTES, REDACTED
from torpor.wire import http as wire

pytestmark = pytest.mark.anyio

SECRET = "sk-live-0123456789abcdefghij"
BASE = "/api/v1/projects/proj_any/envvars/dev"


async def at_a_worker(worker: FakeWorker) -> dict[str, str]:
    reply = await worker.say("variables", wire.VariablesRequest(worker.worker_id), wire.VariablesReply)
    return reply.variables


async def ask(
    url: str, method: str, path: str = "", body: Any = None, *, key: str = KEY, base: str = BASE
) -> httpx2.Response:
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}) as http:
        return await http.request(method, url + base + path, content=b"" if body is None else msgspec.json.encode(body))


async def test_what_is_set_is_listed_and_told_to_workers_and_a_secret_only_to_them(
    client: AsyncClient, worker: FakeWorker
) -> None:
    await client.set_variable("ZONE", "eu=1 ✓\nsecond line")
    await client.set_variable("API_KEY", SECRET, secret=True)
    assert await client.variables() == [
        {"name": "API_KEY", "value": REDACTED, "isSecret": True},
        {"name": "ZONE", "value": "eu=1 ✓\nsecond line", "isSecret": False},
    ]
    assert await client.variable("API_KEY") == {"name": "API_KEY", "value": REDACTED, "isSecret": True}
    assert await at_a_worker(worker) == {"API_KEY": SECRET, "ZONE": "eu=1 ✓\nsecond line"}


async def test_one_is_changed_and_unset_by_its_name(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    await client.set_variable("API_KEY", "old", secret=True)
    assert (await ask(url, "PUT", "/API_KEY", {"value": SECRET})).json() == {"success": True}
    assert (await client.variable("API_KEY"))["isSecret"], "it stays one"
    assert await at_a_worker(worker) == {"API_KEY": SECRET}
    assert (await ask(url, "DELETE", "/API_KEY")).json() == {"success": True}
    assert await client.variables() == []
    for method, body in [("GET", None), ("PUT", {"value": "x"}), ("DELETE", None)]:
        gone = await ask(url, method, "/API_KEY", body)
        assert (gone.status_code, gone.json()["error"]) == (404, "there is no variable API_KEY")
    with pytest.raises(NotFound):
        await client.unset_variable("API_KEY")


async def test_an_import_sets_all_or_none(client: AsyncClient, url: str) -> None:
    await client.import_variables({"A": "1", "B": "2"})
    refused = await ask(url, "POST", "/import", {"variables": {"B": "3", "C": "4"}})
    assert refused.status_code == 400
    assert refused.json()["variableErrors"] == [{"key": "B", "error": "it is already set"}]
    assert [each["name"] for each in await client.variables()] == ["A", "B"]
    await client.import_variables({"B": "3", "C": "4"}, override=True, secret=True)
    told = [(each["name"], each["value"]) for each in await client.variables()]
    assert told == [("A", "1"), ("B", REDACTED), ("C", REDACTED)]


UNOBTAINABLE = {
    "1ST": "digit",
    "A-B": "letters",
    "": "letters",
    "A=B": "letters",
    "A B": "letters",
    "Ä": "letters",
    "A\n": "letters",
    "N" * 257: "at most 256",
    "TORPOR_API_URL": "TORPOR_",
    "TRIGGER_SECRET_KEY": "TRIGGER_",
    "LD_PRELOAD": "LD_",
    "PYTHONPATH": "PYTHON",
    "PYTHONHOME": "PYTHON",
    "GLIBC_TUNABLES": "programs start",
    "TMPDIR": "its own",
}


async def test_what_is_no_name_or_would_break_a_process_is_refused_and_says_which(
    client: AsyncClient, url: str
) -> None:
    everything = dict.fromkeys(UNOBTAINABLE, "x") | {
        "FINE": "x",
        "NUL": "a\0b",
        "LONG": "x" * (MAX_VALUE_BYTES + 1),
    }
    refused = await ask(url, "POST", "/import", {"variables": everything})
    assert refused.status_code == 400
    told = {each["key"]: each["error"] for each in refused.json()["variableErrors"]}
    assert told.keys() == {name[:256] for name in everything} - {"FINE"}
    for name, why in UNOBTAINABLE.items():
        assert why in told[name[:256]], name
        assert (await ask(url, "POST", "", {"name": name, "value": "x"})).status_code == 400, name
    assert f"at most {MAX_VALUE_BYTES} bytes, not {MAX_VALUE_BYTES + 1}" in told["LONG"]
    assert await client.variables() == []


async def test_there_are_only_so_many_and_so_many_bytes(start: Start, database_url: str) -> None:
    url = await start(database_url, max_variables=20)
    async with AsyncClient(url, KEY) as client:
        await client.import_variables({f"V{number}": "x" for number in range(20)})
        refused = await ask(url, "POST", "", {"name": "ONE_MORE", "value": "x"})
        assert (refused.status_code, refused.json()["limit"], refused.json()["value"]) == (422, 20, 21)
        large = {f"V{number}": "x" * MAX_VALUE_BYTES for number in range(20)}
        refused = await ask(url, "POST", "/import", {"variables": large, "override": True})
        assert (refused.status_code, refused.json()["limit"]) == (422, 1 << 20)
        assert {each["value"] for each in await client.variables()} == {"x"}


async def test_another_environment_and_a_body_that_is_none_are_refused(url: str) -> None:
    other = await ask(url, "GET", base=BASE.replace("dev", "prod"))
    assert (other.status_code, other.json()["error"]) == (404, "this key's environment is dev, not prod")
    for body in ({}, {"variables": {}}, {"variables": {"A": None}}, {"variables": []}, {"variables": {"A": 1}}):
        assert (await ask(url, "POST", "/import", body)).status_code == 400, body
    assert (await ask(url, "POST", "", {"name": "A"})).status_code == 400


async def test_a_scoped_key_needs_the_scope(client: AsyncClient, url: str) -> None:
    reads = (await client.create_key("reads", scopes=["read:envvars"]))["key"]
    assert (await ask(url, "GET", key=reads)).status_code == 200
    assert (await ask(url, "POST", "", {"name": "A", "value": "1"}, key=reads)).status_code == 403


async def test_neither_the_database_nor_a_log_nor_a_refusal_has_a_value(
    client: AsyncClient, worker: FakeWorker, url: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await client.set_variable("API_KEY", SECRET, secret=True)
    await at_a_worker(worker)
    told = [await ask(url, "POST", "", {"name": "LD_PRELOAD", "value": SECRET})]
    told.append(await ask(url, "POST", "/import", {"variables": {"API_KEY": SECRET}}))
    told.append(await ask(url, "POST", "/import", {"variables": {"API_KEY": [SECRET]}}))
    assert not [each for each in told if each.is_success or SECRET in each.text]
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch("select * from env_vars")
    await connection.close()
    assert [row["name"] for row in rows] == ["API_KEY"]
    assert SECRET.encode() not in rows[0]["sealed"]
    assert SECRET not in str(rows)
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]
    assert SECRET not in "\n".join(ours)


async def test_a_value_is_of_no_use_under_another_name(
    client: AsyncClient, worker: FakeWorker, database_url: str
) -> None:
    """Whoever can write to the database can't have a run told the value of one variable as that of another."""
    await client.import_variables({"SHOWN": "x", "HIDDEN": SECRET})
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "update env_vars set sealed = (select sealed from env_vars where name = 'HIDDEN') where name = 'SHOWN'"
    )
    await connection.close()
    response = await worker.post("variables", wire.VariablesRequest(worker.worker_id))
    assert response.status_code == 500
    assert SECRET not in response.text


async def test_values_are_sealed_anew_by_the_first_master_key_and_need_it(start: Start, database_url: str) -> None:
    old, new = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
    url = await start(database_url, encryption_keys=old)
    async with AsyncClient(url, KEY) as client:
        await client.set_variable("API_KEY", SECRET)
    with pytest.raises(ConfigError, match="variable API_KEY is wrapped by a master key"):
        await start(database_url, encryption_keys=new)
    await start(database_url, encryption_keys=f"{new},{old}")
    url = await start(database_url, encryption_keys=new)
    async with AsyncClient(url, KEY) as client:
        assert (await client.variable("API_KEY"))["value"] == SECRET

"""The official npm client, unchanged: keys and public tokens as a back end and a page use them, and large payloads."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from fake_worker import KEY, FakeWorker, awake, manifest
from hands import append, at_work
from npm_packages import node

from torpor.sdk.async_client import AsyncClient
from torpor.wire import http as wire
from torpor.wire.runner import Op

pytestmark = pytest.mark.anyio


@pytest.mark.timeout(400)
async def test_the_official_client_makes_and_uses_public_tokens(
    client: AsyncClient, worker: FakeWorker, node_modules: Path, tmp_path: Path
) -> None:
    scopes = ["trigger:tasks:echo", "read:runs"]
    scoped = await client.create_key("a service", scopes=scopes)
    url = client._target.url
    printed = await node(
        "tokens.mjs", node_modules, tmp_path, TRIGGER_API_URL=url, TRIGGER_SECRET_KEY=KEY, SCOPED_KEY=scoped["key"]
    )
    assert json.loads(printed) == {
        "read": {"n": 1},
        "readWithTheReplysToken": True,
        "readAnother": 403,
        "triggerWithIt": 403,
        "expired": 401,
        "triggered": {"from": "a page"},
        "triggeredTwice": 422,
        "triggeredAnother": 403,
        "triggeredOften": [200, 200],
        "batch": 2,
        "batchTwice": 422,
        "completeAnother": 403,
        "complete": {"success": True},
        "completed": {"approved": True},
        "scoped": {"by": "a scoped key"},
        "minted": True,
        "mintedTooMuch": 403,
        "mintedToTrigger": 200,
    }


@pytest.mark.timeout(400)
async def test_the_official_client_sets_environment_variables_with_a_personal_token(
    client: AsyncClient, node_modules: Path, tmp_path: Path
) -> None:
    url, token = client._target.url, (await client.create_key("Ada", personal=True))["key"]
    printed = await node("envvars.mjs", node_modules, tmp_path, TRIGGER_API_URL=url, TRIGGER_ACCESS_TOKEN=token)
    assert json.loads(printed) == {
        "created": {"success": True},
        "uploaded": {"success": True},
        "retrieved": {"name": "ZONE", "value": "eu=1 ✓", "isSecret": False},
        "listed": [["A", "1"], ["B", "2"], ["ZONE", "eu=1 ✓"]],
        "again": 400,
        "badName": 400,
        "deleted": {"success": True},
        "gone": 404,
        "elsewhere": 404,
    }


@pytest.mark.timeout(400)
async def test_the_official_client_uploads_what_is_large_and_asks(url: str, node_modules: Path, tmp_path: Path) -> None:
    async with at_work(url):
        printed = await node("packets.mjs", node_modules, tmp_path, TRIGGER_API_URL=url, TRIGGER_SECRET_KEY=KEY)
    large = len('{"text":"","when":"1970-01-01T00:00:00.000Z"}') + 100_000
    assert json.loads(printed) == {
        "uploads": ["PUT api/v2/packets", "PUT api/v1/objects", "POST api/v1/tasks"],
        "large": [large, large],
        "text": [200_002, 200_002],
        "veryLarge": [800_011, 800_011],
        "small": [12, 12],
        "batch": [[150_011, 150_011], [21, 21], [700_011, 700_011]],
        "current": ["v1", "DEPLOYED", "python", "3.12.1"],
        "deployments": ["v1"],
        "query": [{"status": "Completed", "n": 7}],
        "csv": "status,n\r\nCompleted,7\r\n",
        "badQuery": [400, "query: there is no function pg_sleep"],
    }


@pytest.mark.timeout(400)
async def test_the_official_client_reads_a_stream_whole_however_often_it_is_cut_off_and_sends_input(
    client: AsyncClient, url: str, node_modules: Path, tmp_path: Path
) -> None:
    async def work(worker: FakeWorker) -> None:
        given = await worker.take_and_start()
        path, after = f"runs/{given.run_id}", -1

        async def told(word: str) -> None:
            nonlocal after
            part = await worker.hear(given, "control", after)
            assert msgspec.json.decode(part.data) == word
            after = part.seq

        await told("go")
        for n in range(40):
            await append(worker, given, "numbers", msgspec.Raw(str(n).encode()))
            report = wire.MetadataReport(given.lease, n + 1, [Op("increment", "$.done.n", 1)], tags=["counts"])
            await worker.say(f"{path}/metadata", report, wire.MetadataReply)
        await told("stop")
        await worker.finish(given, 40)

    environment = {"TRIGGER_API_URL": url, "TRIGGER_SECRET_KEY": KEY}
    async with awake(url, [manifest("count")]) as worker, asyncio.TaskGroup() as both:
        both.create_task(work(worker))
        printed = await node("streams.mjs", node_modules, tmp_path, **environment)
    told = json.loads(printed)
    assert told.pop("cuts") >= 1, "how often more is a matter of how the parts come together on their way"
    assert told == {
        "appended": {"ok": True},
        "numbers": [*range(40)],
        "others": ["from outside"],
        "status": "COMPLETED",
        "metadata": {"done": {"n": 40}},
        "tags": ["counts"],
        "fromThirty": 11,
        "sentTooLate": 400,
    }

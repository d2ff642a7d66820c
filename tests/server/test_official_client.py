"""The official npm client, unchanged: keys and public tokens as a back end and a page use them."""

import json
from pathlib import Path

import pytest
from fake_worker import KEY, FakeWorker
from npm_packages import node

from torpor.sdk.client import AsyncClient

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
async def test_the_official_client_sets_environment_variables(
    client: AsyncClient, node_modules: Path, tmp_path: Path
) -> None:
    url = client._target.url
    printed = await node("envvars.mjs", node_modules, tmp_path, TRIGGER_API_URL=url, TRIGGER_SECRET_KEY=KEY)
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

"""Every function of the official npm client that a back end may call, in its newest version and in one a year older.

One program asks them all (`npm/every_function.mjs`), so that node starts once for each version.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_worker import KEY
from hands import at_work
from npm_packages import installed, node

pytestmark = pytest.mark.anyio

PAYLOAD = {"n": 1, "at": "1970-01-01T00:00:00.000Z"}
EXPECTED: dict[str, Any] = {
    "tasks.trigger": [True, "string"],
    "runs.poll": {
        "status": "COMPLETED",
        "output": PAYLOAD,
        "isCompleted": True,
        "isSuccess": True,
        "tags": ["a:b", "first"],
        "metadata": {"by": "node"},
        "payload": PAYLOAD,
    },
    "runs.retrieve": [True, "echo", 1, "v1", True],
    "task": True,
    "tasks.trigger with 200 kB": [200_000, 200_000],
    "idempotencyKeys.create": True,
    "idempotencyKeys.reset": True,
    "tasks.batchTrigger": [2, "string"],
    "batch.trigger": 2,
    "batch.triggerByTask": 1,
    "batch.retrieve": [True, 2, 2],
    "runs.reschedule": [True, "DELAYED", True],
    "runs.subscribeToRun": ["DELAYED", "COMPLETED", {"live": True}, {"a": 1}, ["live"]],
    "runs.subscribeToRunsWithTag": ["mail", "the one before"],
    "runs.subscribeToBatch": 2,
    "streams.read": ["one", {"two": 2}],
    "runs.fetchStream": ["one", {"two": 2}],
    "streams.define": [{"two": 2}],
    "streams.input": "sent",
    "runs.list": [[True, "dev"]],
    "runs.list of a project": [True],
    "runs.cancel": [True, "CANCELED"],
    "runs.replay": [True, True],
    "runs.bulk.cancel": ["COMPLETED", "CANCEL", "all of many", 2, "CANCELED"],
    "runs.bulk.replay": True,
    "runs.bulk.poll": {"total": 1, "success": 1, "failure": 0},
    "runs.bulk.retrieve": "REPLAY",
    "runs.bulk.list": 2,
    "runs.bulk.abort": True,
    "schedules.create": ["IMPERATIVE", True, "0 3 * * 1", "America/New_York", True],
    "schedules.retrieve": "user_1",
    "schedules.update": ["30 12 * * *", "Europe/Warsaw"],
    "schedules.deactivate": False,
    "schedules.activate": True,
    "schedules.list": 1,
    "schedules.del": True,
    "schedules.timezones": "UTC",
    "queues.list": True,
    "queues.retrieve": ["echo", "task", False, None],
    "queues.pause": True,
    "queues.resume": False,
    "queues.overrideConcurrencyLimit": 3,
    "queues.resetConcurrencyLimit": None,
    "envvars.create": {"success": True},
    "envvars.retrieve": "hello ✓",
    "envvars.upload": {"success": True},
    "envvars.update": "ReferenceError",  # of the client itself, outside of its own workers: it never asks
    "envvars.list": ["GREETING=good day", "OTHER=o"],
    "envvars.del": {"success": True},
    "wait.createToken": [True, False, "string", True],
    "wait.completeToken": {"success": True},
    "wait.retrieveToken": {"status": "COMPLETED", "output": {"approved": True, "at": 5}, "tags": ["doc-1"]},
    "wait.listTokens": [True],
    "auth.createPublicToken": True,
    "auth.withPublicToken": True,
    "auth.createTriggerPublicToken": True,
    "auth.createBatchTriggerPublicToken": 1,
    "TriggerClient": True,
    "deployments.retrieveCurrent": ["v1", "DEPLOYED", "python"],
    "deployments.list": 1,
    "query.execute": [{"n": 1}],
    "query.dashboards.list": {"dashboards": []},
}
REFUSED = {
    "tasks.trigger in a region": 422,
    "concurrencyLimits.list": 404,
    "prompts.list": 404,
    "sessions.list": 404,
}
NEWER = {
    name
    for name in EXPECTED | REFUSED
    if name.startswith(
        ("TriggerClient", "concurrencyLimits", "deployments", "prompts", "query", "runs.bulk", "sessions")
    )
} | {"idempotencyKeys.reset", "streams.input"}
"""What the client of a year ago doesn't have."""


@pytest.mark.parametrize("version", ["newest", "year_old"])
@pytest.mark.timeout(400)
async def test_every_function_of_the_official_client_gets_its_answer(url: str, version: str, tmp_path: Path) -> None:
    environment = {"TRIGGER_API_URL": url, "TRIGGER_SECRET_KEY": KEY}
    async with at_work(url):
        told = json.loads(await node("every_function.mjs", installed(version), tmp_path, **environment))
    absent = NEWER if version == "year_old" else set[str]()
    assert told == {name: answer for name, answer in (EXPECTED | REFUSED).items() if name not in absent}


def test_the_documentation_tells_of_each() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "from-trigger-dev.md").read_text(encoding="utf-8")
    served = page.partition("\n## What is served\n")[2].partition("\n## ")[0]
    told: set[str] = set()
    for first_cell in re.findall(r"^\| (`.+?`) \|", served, re.MULTILINE):
        told.update(name for name in re.findall(r"`([\w.]+)`", first_cell) if not name.startswith("use"))
    assert told == {name.partition(" ")[0] for name in EXPECTED}

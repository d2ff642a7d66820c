"""The official npm client, unchanged: everything that a back end does with runs and wait tokens."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_worker import KEY, FakeWorker, Start
from npm_packages import node

from torpor.sdk.async_client import AsyncClient
from torpor.wire import http as wire
from torpor.wire.runner import QueueManifest

pytestmark = pytest.mark.anyio

MACHINES = '{"abroad": {"cpu": 1, "memory_gb": 1, "labels": ["region=eu"]}}'
MAIL: dict[str, Any] = {"user": {"email": "ada@example.org"}}

QUEUED = ["QUEUED", False, False, 0, None]
RETRIEVED = {
    "completed": ["COMPLETED", True, False, 1, None],
    "failed": ["FAILED", True, True, 1, "no luck"],
    "parent": ["EXECUTING", False, False, 1, None],
    "canceled": ["CANCELED", True, False, 0, None],
    "delayed": ["DELAYED", False, False, 0, None],
}
"""Of each run: status, isCompleted, isFailed, attemptCount, and the error's message."""
EXPECTED = {
    "lists": {
        "status": ["canceled", "failed"],
        "taskIdentifier": ["mail"],
        "version": ["parent", "failed", "completed"],
        "tag": ["queued"],
        "queue": ["mail"],
        "queues": ["slow"],
        "machine": ["small"],
        "region": ["abroad"],
        "isTest": ["tested"],
        "batch": ["item"],
        "schedule": [],
        "from": ["another", "another", "another"],
        "until": [],
        "period": ["another", "another"],
        "several": ["queued"],
    },
    "unknownStatus": 400,
    "ends": [False, False, True],
    "related": [True, 1, "trigger"],
    "replayed": [{"changed": True}, ["again"], {"m": 1}, "DELAYED", "trigger"],
    "replayedAgain": True,
    "rescheduled": True,
    "rescheduleQueued": 400,
    "canceled": "CANCELED",
    "unknown": [404, 404],
    "bulk": ["CANCEL", "COMPLETED", {"total": 5, "success": 5, "failure": 0}, "pages", True],
    "bulkRuns": 5,
    "bulkReplay": {"total": 2, "success": 1, "failure": 1},
    "bulkList": True,
    "bulkAbort": True,
    "bulkRetrieve": "COMPLETED",
    "trace": ["echo", ["queued", "attempt 1"]],
    "span": True,
    "tracePage": 2,
    "events": True,
    "project": ["queued"],
    "result": '{"n":1}',
    "batch": 1,
    "sameToken": True,
    "token": ["WAITING", ["t1", "t2"], None, True, "k"],
    "completed": {"success": True},
    "completedAgain": {"success": True},
    "output": {"yes": 1},
    "callback": 200,
    "callbackOutput": {},
    "badCallback": 401,
    "timedOut": ["TIMED_OUT", "the wait token was not completed in time"],
    "tokens": {"status": 3, "tags": 1, "key": 1, "period": 0},
    "tooManyTags": 422,
    "unknownToken": [404, 404],
}


async def populate(client: AsyncClient, worker: FakeWorker) -> tuple[dict[str, str], str]:
    """A run of every kind, and a batch."""
    known: dict[str, str] = {}

    async def trigger(name: str, task_id: str = "echo", payload: Any = 1, **options: Any) -> str:
        known[name] = (await client.trigger(task_id, payload, **options))["id"]
        return known[name]

    await trigger("completed")
    await worker.finish(await worker.take_and_start(), {"n": 1})
    await trigger("failed", max_attempts=1)
    await worker.fail(await worker.take_and_start(), "no luck")
    await trigger("parent")
    given = await worker.take_and_start()
    known["child"] = "run_child"
    call = wire.TriggerCall("run_child", "echo", msgspec.Raw(b"1"), given.lease)
    await worker.say(f"runs/{known['parent']}/trigger", call, dict)
    await client.cancel(await trigger("canceled"))
    await trigger("delayed", delay="1h")
    await trigger("queued", tags=["a b"])
    await trigger("mail", "mail/send", MAIL)
    await trigger("slow", queue="slow")
    await trigger("small", machine="micro")
    await trigger("abroad", machine="abroad")
    await trigger("tested", is_test=True)
    batch = await client.batch_trigger("echo", [1])
    (known["item"],) = batch["runs"]
    return known, batch["id"]


@pytest.mark.timeout(400)
async def test_the_official_client_lists_replays_and_cancels_runs_and_completes_tokens(
    start: Start, database_url: str, node_modules: Path, tmp_path: Path
) -> None:
    """A10, A11, A12, A13, A30: each filter, both directions, every state, what is refused."""
    url = await start(database_url, machines=MACHINES)
    worker = FakeWorker(url)
    await worker.come_up(queues=[QueueManifest("slow")])
    async with AsyncClient(url, KEY) as client:
        known, batch_id = await populate(client, worker)
        pages = [(await client.trigger("echo", n, tags=["page"]))["id"] for n in range(5)][::-1]
    printed = await node(
        "runs.mjs",
        node_modules,
        tmp_path,
        TRIGGER_API_URL=url,
        TRIGGER_SECRET_KEY=KEY,
        RUNS=json.dumps(known),
        BATCH=batch_id,
    )
    await worker.close()
    told = json.loads(printed)
    assert told.pop("retrieved") == {name: RETRIEVED.get(name, QUEUED) for name in known}
    assert told.pop("all") == pages
    assert told.pop("pages") == [pages[:2], pages[2:4], pages[:2], pages[2:4], pages[4:]]
    assert told == EXPECTED

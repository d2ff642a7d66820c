"""Requests that the OpenAPI document allows, and such as it forbids, to a server where there is something of every kind.

No answer is a fault of the server or anything else that isn't told; what the document forbids is refused; and nothing hangs.
Schemathesis makes the requests: examples, values at every boundary, chance, and chains in which one answer's ids go into the next
request. It is the same every time. For longer, and with other chance:

    REQUESTS_PER_ROUTE=300 REQUESTS_SEED=7 bin/test tests/server/test_any_request.py -s
"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_worker import KEY, FakeWorker

from torpor.sdk.async_client import AsyncClient
from torpor.wire.runner import NewWait, QueueManifest

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

PER_ROUTE = os.environ.get("REQUESTS_PER_ROUTE", "3")
SEED = os.environ.get("REQUESTS_SEED")


async def something_of_every_kind(client: AsyncClient, worker: FakeWorker) -> dict[str, list[str]]:
    """Parameter -> values that mean something."""
    await worker.come_up(queues=[QueueManifest("emails", 5)])
    token, other = await client.create_token(title="Really?", tags=["a"]), await client.create_token()
    done, failed, frozen, new = [
        (await client.trigger("echo", payload, tags=["a"], metadata={"n": 1}, max_attempts=1))["id"]
        for payload in (1, "x" * 1000, None, {"a": [1]})
    ]
    given = {each.run_id: each for each in await worker.dequeue(5, 3)}
    for each in given.values():
        await worker.start(each)
    await worker.log(given[done], 0, "it works")
    await worker.finish(given[done], {"n": 1})
    await worker.fail(given[failed], "it doesn't")
    await worker.block(given[frozen], NewWait("wait_1", "token", waitpoint_id=token["id"]))
    await worker.suspend(given[frozen])
    delayed = (await client.trigger("echo", delay="1h", queue="emails", idempotency_key="once"))["id"]
    batch = await client.batch_trigger("echo", [1, 2])
    schedule = await client.create_schedule("echo", "0 7 * * *", deduplication_key="mornings", external_id="ada")
    key = await client.create_key("one more")
    await client.set_variable("ZONE", "eu")
    bulk = await client.bulk_replay([done])
    deployment = await client.deployment()
    [checkpoint] = await client.checkpoints(frozen)
    runs = [done, failed, frozen, new, delayed, *batch["runs"]]
    return {
        "path.run_id": runs,
        "path.task_id": ["echo", "mail/send"],
        "path.batch_id": [batch["id"]],
        "path.token_id": [token["id"], other["id"]],
        "path.schedule_id": [schedule["id"]],
        "path.key_id": [key["id"]],
        "path.bulk_id": [bulk["id"]],
        "path.deployment_id": [deployment["id"]],
        "path.checkpoint_id": [checkpoint["id"]],
        "path.worker_id": [worker.worker_id],
        "path.name": ["emails", "echo", "ZONE"],
        "path.slug": ["dev"],
        "path.field": ["payload", "output"],
        "path.target": ["self", "parent", "root"],
        "path.key": ["once"],
        "body.runIds[*]": runs,
        "body.task": ["echo", "mail/send"],
        "body.taskIdentifier": ["echo"],
        "body.cron": ["0 7 * * *", "*/5 * * * MON-FRI"],
        "query.filter[batch]": [batch["id"]],
        "query.filter[search]": ["echo", done[:8]],
        "query.page[after]": runs,
        "query.page[before]": runs,
    }


def configured(directory: Path, values: dict[str, list[str]]) -> Path:
    """The configuration file: every other value is one of those."""
    lists = "\n".join(f"v{n} = {{values = {json.dumps(each)}}}" for n, each in enumerate(values.values()))
    bound = "\n".join(f'"{name}" = {{dictionary = "v{n}", probability = 0.6}}' for n, name in enumerate(values))
    file = directory / "schemathesis.toml"
    file.write_text(f"""
        seed = {SEED or 0}
        request-timeout = 20
        continue-on-failure = true
        suppress-health-check = ["all"]  # they are about how requests are made
        hooks = "sent_by_schemathesis"
        headers = {{Authorization = "Bearer {KEY}"}}
        [generation]
        deterministic = {json.dumps(SEED is None)}
        max-examples = {PER_ROUTE}
        no-shrink = true
        [checks.positive_data_acceptance]
        enabled = false  # that an id is there, or a payload fits its task, no document can say
        [dictionaries]
        {lists}
        [parameters]
        {bound}
    """)
    return file


async def test_no_request_is_answered_otherwise_than_told(
    client: AsyncClient, worker: FakeWorker, url: str, tmp_path: Path
) -> None:
    file = configured(tmp_path, await something_of_every_kind(client, worker))
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(file)]
    process = await asyncio.create_subprocess_exec(
        *(*command, "run", f"{url}/api/openapi.json", "--warnings", "off"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()

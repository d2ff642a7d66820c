"""The server as a process: it starts, stops, and lives through the death of its database."""

import asyncio
import os
import signal
import subprocess
import sys

import httpx2
import pytest
from facts import PATIENCE_S, asking_for_work, until
from fake_worker import KEY, TOKEN, FakeWorker, Start

from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.sdk.async_client import AsyncClient
from torpor.server.hub import Hub
from torpor.server.serve import serve
from torpor.store.embedded import EmbeddedPostgres

pytestmark = pytest.mark.anyio

PROGRAM = """
import logging, sys
from torpor.config import Settings
from torpor.server import runs, serve, wakeups
from torpor.server.workers import worker

async def wait(ear, *given, wait=wakeups.Ear.wait):
    print("holds", ear.topic[0], flush=True)
    return await wait(ear, *given)

wakeups.Ear.wait = wait
worker.LONGEST_HOLD_S = runs.LONGEST_POLL_S = serve.DRAIN_S = 3600  # nothing that is held ends by itself
logging.basicConfig(level=logging.DEBUG)
serve.run_server(Settings.from_environment(), sys.argv[1], ready=lambda url: print(url, flush=True))
"""
"""A server in a process of its own, started as the command line starts it. It says who is held."""


async def test_without_its_database_every_call_is_503_and_with_it_all_goes_on(
    start: Start, own_postgres: EmbeddedPostgres
) -> None:
    url = await start(await own_postgres.start())
    worker = FakeWorker(url)
    await worker.come_up()
    async with AsyncClient(url, KEY) as client, httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
        run_id = (await client.trigger("echo", 1))["id"]
        given = await worker.take_and_start()
        held = asyncio.create_task(worker.dequeue(wait_s=PATIENCE_S))
        assert (await http.get(f"{url}/healthz")).status_code == 200
        await own_postgres.stop()
        calls = [http.get(f"{url}/healthz"), http.get(f"{url}/api/v3/runs/{run_id}")]
        calls += [http.post(f"{url}/api/v1/tasks/echo/trigger", json={"payload": 1})]
        for response in await asyncio.gather(*calls):
            assert (response.status_code, set(response.json())) == (503, {"error"})
        with pytest.raises(AssertionError, match="dequeue: 503"):
            await held
        await own_postgres.start()
        assert await worker.finish(given, "kept") == "ok"
        assert await client.result(run_id) == "kept"
        # Announcements come again, too: a held dequeue is woken by a trigger.
        held = asyncio.create_task(worker.dequeue(wait_s=PATIENCE_S))
        await client.trigger("echo", 2)
        assert len(await held) == 1
    await worker.close()


async def test_health_needs_no_key(url: str) -> None:
    async with httpx2.AsyncClient() as http:
        response = await http.get(f"{url}/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_sigterm_ends_it_at_once_although_requests_are_held(database_url: str) -> None:
    """In a process of its own, started as the command line starts it. Nothing secret is in what it says."""
    environment = {**os.environ, "TORPOR_PORT": "0", "TORPOR_SECRET_KEY": KEY, "TORPOR_WORKER_TOKEN": TOKEN}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, database_url),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    lines = process.stdout
    assert lines

    async def said(beginning: str) -> str:
        async with asyncio.timeout(PATIENCE_S):
            while not (line := (await lines.readline()).decode()).startswith(beginning):
                assert line, "it has ended"
            return line.strip()

    url = await said("http")
    worker = FakeWorker(url)
    await worker.come_up()
    await worker.listen()
    async with AsyncClient(url, KEY) as client:
        token = await client.create_token()
        run_id = (await client.trigger("echo"))["id"]
        await worker.take_and_start()
        async with httpx2.AsyncClient(timeout=90) as http:
            assert (await http.post(token["url"], json={})).status_code == 200
            held = asyncio.create_task(worker.dequeue(wait_s=3600))
            await said("holds work")
            *_, last = [event async for event in client.story(run_id)]
            path, bearer = f"{url}/api/v1/runs/{run_id}/story", {"authorization": f"Bearer {KEY}"}
            asked = http.get(path, params={"after": last["id"], "wait_s": 3600}, headers=bearer)
            following = asyncio.create_task(asked)
            await said("holds run")
            process.send_signal(signal.SIGTERM)
            assert await held == []
            assert (await following).json() == {"data": [], "ended": False}
        _, log = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0, log.decode()
    for secret in (KEY, TOKEN, token["url"].rpartition("/")[2]):
        assert secret not in log.decode()
    assert "Traceback" not in log.decode()
    await worker.close()


async def test_a_port_that_is_taken_is_said_so(url: str, database_url: str) -> None:
    settings = Settings(port=int(url.rpartition(":")[2]), secret_key=KEY)
    with pytest.raises(ConfigError, match="TORPOR_PORT"):
        await serve(settings, database_url)


async def test_a_server_without_a_key_is_not_started(database_url: str) -> None:
    with pytest.raises(ConfigError, match="TORPOR_SECRET_KEY"):
        await serve(Settings(), database_url)


async def test_two_servers_on_one_database_serve_each_others_waiters(
    by_word_alone: None, start: Start, database_url: str, url: str, worker: FakeWorker, hubs: list[Hub]
) -> None:
    second = await start(database_url)
    held = asyncio.create_task(worker.dequeue(wait_s=3600))
    await until(lambda: asking_for_work(hubs[0]) == 1)
    async with AsyncClient(second, KEY) as client:
        made = await client.trigger("echo")
        (given,) = await asyncio.wait_for(held, PATIENCE_S)
        assert given.run_id == made["id"]

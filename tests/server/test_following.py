"""Looking at runs: one, many, and as they happen; and ending one."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from facts import PATIENCE_S, until
from fake_worker import KEY, FakeWorker

from torpor.errors import NotFound, RunFailed
from torpor.sdk.async_client import AsyncClient
from torpor.server.hub import Hub

pytestmark = pytest.mark.anyio


async def get(url: str, path: str, **query: Any) -> Any:
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
        response = await http.get(url + path, params=query)
        assert response.status_code == 200, response.text
        return response.json()


async def test_a_run_that_completed_shows_its_output(client: AsyncClient, worker: FakeWorker) -> None:
    made = await client.trigger("echo", {"n": 1})
    given = await worker.take_and_start()
    assert (await client.run(made["id"]))["status"] == "EXECUTING"
    assert await worker.finish(given, {"echo": [1, None]}) == "ok"
    run = await client.run(made["id"])
    assert (run["status"], run["isCompleted"], run["isSuccess"]) == ("COMPLETED", True, True)
    assert (run["output"], run["attemptCount"], run["version"]) == ({"echo": [1, None]}, 1, "v1")
    assert "error" not in run
    assert await client.result(made["id"]) == {"echo": [1, None]}


async def test_a_run_that_failed_shows_its_own_error(url: str, client: AsyncClient, worker: FakeWorker) -> None:
    made = await client.trigger("echo")
    await worker.fail(await worker.take_and_start(), "no such user", retryable=False)
    run = await client.run(made["id"])
    assert (run["status"], run["isCompleted"], run["isFailed"], run["isSuccess"]) == ("FAILED", True, True, False)
    assert run["error"]["name"] == "ValueError"
    assert run["error"]["message"] == "no such user"
    assert run["error"]["stackTrace"] == "Traceback …"
    assert run["error"]["causes"] == [{"name": "KeyError", "message": "'a'"}]
    with pytest.raises(RunFailed, match="ValueError: no such user"):
        await client.result(made["id"])
    told = await get(url, f"/api/v1/runs/{made['id']}/result")
    assert (told["ok"], told["error"]["type"]) == (False, "BUILT_IN_ERROR")


async def test_the_result_of_a_run_that_goes_on_is_404(url: str, client: AsyncClient, worker: FakeWorker) -> None:
    made = await client.trigger("echo")
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
        assert (await http.get(f"{url}/api/v1/runs/{made['id']}/result")).status_code == 404
        await worker.finish(await worker.take_and_start(), "x")
        told = (await http.get(f"{url}/api/v1/runs/{made['id']}/result")).json()
    expected = {
        "ok": True,
        "id": made["id"],
        "taskIdentifier": "echo",
        "output": '"x"',
        "outputType": "application/json",
    }
    assert told == expected


async def test_cancel_ends_a_run_and_may_be_said_again(client: AsyncClient, worker: FakeWorker) -> None:
    made = await client.trigger("echo")
    assert await client.cancel(made["id"]) == made
    assert await client.cancel(made["id"]) == made
    run = await client.run(made["id"])
    assert (run["status"], run["isCancelled"], run["isCompleted"], run["isFailed"]) == ("CANCELED", True, True, False)
    assert await worker.dequeue() == []
    with pytest.raises(NotFound):
        await client.cancel("run_unknown")


async def test_pages_lead_on_and_back(url: str, client: AsyncClient, worker: FakeWorker) -> None:
    """Newest first; and after turning round, with both cursors sent as the official client does, on again."""
    made = [(await client.trigger("echo", n))["id"] for n in range(5)][::-1]

    async def page(**cursors: str) -> tuple[list[str], dict[str, str]]:
        query = {"page[size]": "2"} | {f"page[{name}]": cursor for name, cursor in cursors.items()}
        answer = await get(url, "/api/v1/runs", **query)
        return [run["id"] for run in answer["data"]], answer["pagination"]

    first, to = await page()
    assert (first, set(to)) == (made[:2], {"next"})
    second, to_second = await page(after=to["next"])
    assert (second, set(to_second)) == (made[2:4], {"next", "previous"})
    third, to_third = await page(after=to_second["next"])
    assert (third, set(to_third)) == (made[4:], {"previous"})
    back, to_back = await page(after=to_second["next"], before=to_third["previous"])
    assert (back, set(to_back)) == (made[2:4], {"next", "previous"})
    again, _ = await page(after=to_back["next"], before=to_third["previous"])
    assert again == made[4:]
    home, to_home = await page(before=to_back["previous"])
    assert (home, set(to_home)) == (made[:2], {"next"})
    assert [run["id"] async for run in client.runs(page_size=2)] == made


async def test_filters_choose_runs(client: AsyncClient, worker: FakeWorker) -> None:
    async def ids(**filters: Any) -> list[str]:
        return [run["id"] async for run in client.runs(**filters)]

    one = (await client.trigger("echo", 1, tags=["a", "b"]))["id"]
    two = (await client.trigger("mail/send", {"user": {"email": "x"}}, tags="c", is_test=True))["id"]
    await client.cancel(two)
    assert await ids() == [two, one]
    assert await ids(status="QUEUED") == [one]
    assert await ids(status=["QUEUED", "CANCELED"]) == [two, one]
    assert await ids(task="mail/send") == [two]
    assert await ids(tag=["b", "nothing"]) == [one]
    assert await ids(is_test=True) == [two]
    assert await ids(is_test=False) == [one]
    assert await ids(version="v9") == []
    now = datetime.now(UTC)
    assert await ids(since=now - timedelta(minutes=1), until=now + timedelta(minutes=1)) == [two, one]
    assert await ids(since=str(int(now.timestamp() * 1000) + 60_000)) == []
    assert await ids(period="1h") == [two, one]


async def test_a_follower_hears_of_each_step_at_once_and_of_the_end(
    by_word_alone: None, client: AsyncClient, worker: FakeWorker, hubs: list[Hub]
) -> None:
    made = await client.trigger("echo", 1)
    heard: list[str] = []

    async def follow() -> None:
        async for event in client.story(made["id"], follow=True):
            heard.append(event["kind"])

    async def is_told(kind: str) -> None:
        """And the follower is back, and waits."""
        await until(lambda: heard[-1:] == [kind] and hubs[0].wakeups.listening("run", made["id"]) == 1)

    following = asyncio.create_task(follow())
    await is_told("run.triggered")
    given = await worker.take()
    await is_told("run.dequeued")
    await worker.start(given)
    await is_told("run.started")
    await worker.finish(given, 1)
    await asyncio.wait_for(following, PATIENCE_S)
    assert heard == ["run.triggered", "run.dequeued", "run.started", "run.completed"]


async def test_logs_are_followed_without_repeating_a_line(client: AsyncClient, worker: FakeWorker) -> None:
    made = await client.trigger("echo", 1)
    given = await worker.take_and_start()
    await worker.log(given, 0, "one", "two")
    await worker.log(given, 0, "one", "two")
    assert [line["message"] async for line in client.logs(made["id"])] == ["one", "two"]
    following = asyncio.create_task(_messages(client, made["id"]))
    await worker.log(given, 8, "three")
    await worker.finish(given, 1)
    assert await asyncio.wait_for(following, PATIENCE_S) == ["one", "two", "three"]


async def _messages(client: AsyncClient, run_id: str) -> list[str]:
    return [line["message"] async for line in client.logs(run_id, follow=True)]


async def test_tasks_and_workers_are_listed(client: AsyncClient, worker: FakeWorker) -> None:
    assert sorted(task["id"] for task in await client.tasks()) == ["echo", "mail/send"]
    (shown,) = await client.workers()
    assert (shown["id"], shown["isAlive"], shown["canFreeze"]) == (worker.worker_id, True, True)
    assert (shown["running"], shown["held"]) == (0, 0)


async def test_a_worker_is_shown_with_how_many_runs_it_has(client: AsyncClient, worker: FakeWorker) -> None:
    await client.trigger("echo", 1)
    await worker.take_and_start()
    shown = await client.worker(worker.worker_id)
    assert (shown["running"], shown["held"]) == (1, 0)
    with pytest.raises(NotFound):
        await client.worker("worker_unknown")

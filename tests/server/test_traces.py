"""A run's story as a trace: what took time, where, and for how long."""

from datetime import UTC, datetime
from typing import Any

import httpx2
import msgspec
import pytest
from fake_worker import KEY, FakeWorker

from torpor.sdk.async_client import AsyncClient
from torpor.server import traces
from torpor.wire import http as wire
from torpor.wire.runner import NewWait

pytestmark = pytest.mark.anyio


async def get(url: str, path: str, **query: str) -> Any:
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        response = await http.get(f"/api/v1/runs/{path}", params=query)
        assert response.status_code == 200, response.text
        return response.json()


def outline(node: dict[str, Any]) -> Any:
    """Its message, and those of its children."""
    message, children = node["data"]["message"], [outline(child) for child in node["children"]]
    return (message, children) if children else message


async def eventful(client: AsyncClient, worker: FakeWorker) -> str:
    """A run that fails, is tried again, triggers a child, waits, is frozen and restored, and completes."""
    run_id = (await client.trigger("echo"))["id"]
    given = await worker.take_and_start()
    line = wire.LogLine(datetime.now(UTC).isoformat(), "info", "first words")
    await worker.say(f"runs/{run_id}/logs", wire.LogReport(given.lease, 0, [line]), dict)
    await worker.fail(given, "no")
    given = await worker.take_and_start()
    call = wire.TriggerCall("run_child", "echo", msgspec.Raw(b"1"), given.lease)
    await worker.say(f"runs/{run_id}/trigger", call, dict)
    token = await client.create_token()
    await worker.block(given, NewWait("wait_1", "token", waitpoint_id=token["id"]))
    await worker.suspend(given)
    await client.complete_token(token["id"], 1)
    (given,) = await worker.dequeue(5, free=1)  # what is to be restored goes before what is to be started
    await worker.start(given, [answer.wait_id for answer in given.answers])
    await worker.finish(given, "done")
    return run_id


async def test_a_trace_tells_attempts_waits_freezes_and_children(
    client: AsyncClient, worker: FakeWorker, url: str
) -> None:
    """A11: in the shape that the official client reads."""
    run_id = await eventful(client, worker)
    trace = (await get(url, f"{run_id}/trace"))["trace"]
    root = trace["rootSpan"]
    assert outline(root) == (
        "echo",
        [
            "queued",
            ("attempt 1", ["started"]),
            "queued",
            ("attempt 2", ["started", "echo", "waits for a token", "frozen", "queued", "restored"]),
        ],
    )
    assert root["runId"] == run_id
    data = root["data"]
    assert (data["taskSlug"], data["queueName"], data["isPartial"], data["isError"]) == (
        "echo",
        "task/echo",
        False,
        False,
    )
    first, second = (span for span in root["children"] if span["data"]["message"].startswith("attempt"))
    assert (first["data"]["isError"], second["data"]["isError"]) == (True, False)
    (said,) = [event for event in first["data"]["events"] if event["name"] == "log"]
    assert (said["properties"]["message"], said["properties"]["level"]) == ("first words", "info")
    child = second["children"][1]
    assert (child["runId"], child["data"]["isPartial"]) == ("run_child", True)
    again = (await get(url, f"{run_id}/trace"))["trace"]
    assert again["rootSpan"]["children"][1] == first, "ids are made of what they stand for"
    of_child = (await get(url, "run_child/trace"))["trace"]
    assert (of_child["traceId"], of_child["rootSpan"]["id"]) == (trace["traceId"], child["id"])


async def test_spans_are_served_in_pages_and_one_by_one(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    run_id = await eventful(client, worker)
    pages: list[dict[str, Any]] = []
    following: dict[str, str] = {}
    while True:
        page = await get(url, f"{run_id}/trace", **{"page[size]": "4"}, **following)
        pages += page["data"]
        assert page["attemptFailures"] == [] or page["attemptFailures"][0]["attemptNumber"] == 1
        if "next" not in page["pagination"]:
            break
        following = {"page[after]": page["pagination"]["next"]}
    assert len({span["id"] for span in pages}) == len(pages) == 12
    seen: set[str] = set()
    for span in pages:
        assert "parentId" not in span or span["parentId"] in seen
        seen.add(span["id"])
    (second,) = [span for span in pages if span["message"] == "attempt 2"]
    async with AsyncClient(url, KEY) as client:
        whole = await client.span(run_id, second["id"])
    assert (whole["spanId"], whole["parentId"], whole["properties"]["version"]) == (second["id"], pages[0]["id"], "v1")
    assert [one["runId"] for one in whole["triggeredRuns"]] == ["run_child"]
    told = await get(url, f"{run_id}/events")
    assert [event["name"] for event in told["events"]].count("log") == 1
    assert told["events"] == sorted(told["events"], key=lambda event: event["time"])
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}) as http:
        for path, status in (
            (f"{run_id}/spans/nothing", 404),
            ("run_unknown/trace", 404),
            ("run_unknown/events", 404),
            (f"{run_id}/trace?page[size]=0", 400),
            (f"{run_id}/trace?page[after]=x", 400),
        ):
            assert (await http.get(f"/api/v1/runs/{path}")).status_code == status, path


async def test_a_long_run_is_cut_and_says_so(
    client: AsyncClient, worker: FakeWorker, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "MAX_LINES", 2)
    run_id = (await client.trigger("echo"))["id"]
    given = await worker.take_and_start()
    await worker.log(given, 0, "one", "two", "three")
    trace = (await get(url, f"{run_id}/trace"))["trace"]
    assert trace["rootSpan"]["data"]["properties"]["truncated"] is True
    assert trace["rootSpan"]["data"]["isPartial"] is True
    assert (await get(url, f"{run_id}/trace", **{"page[size]": "1"}))["pagination"] == {"next": "1", "truncated": True}
    told = await get(url, f"{run_id}/events")
    assert ([event["properties"]["message"] for event in told["events"]], told["truncated"]) == (["one", "two"], True)


async def test_a_run_that_never_started_has_a_trace_too(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    run_id = (await client.trigger("echo"))["id"]
    await client.cancel(run_id)
    root = (await get(url, f"{run_id}/trace"))["trace"]["rootSpan"]
    assert outline(root) == ("echo", ["queued"])
    data = root["data"]
    assert (data["isCancelled"], data["isError"], data["isPartial"]) == (True, False, False)
    assert root["children"][0]["data"]["isPartial"] is False

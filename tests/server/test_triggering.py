"""A request becomes a run, or is refused in a way that says what to change."""

import asyncio
import threading
from typing import Any

import httpx2
import msgspec
import pytest
from facts import PATIENCE_S
from fake_worker import KEY, VERSION, FakeWorker

from torpor.engine import payload as payloads
from torpor.errors import ApiError, NotFound, Unauthorized, Unprocessable
from torpor.sdk.async_client import AsyncClient
from torpor.sdk.client import Client

pytestmark = pytest.mark.anyio


SUPER_JSON = {"payloadType": "application/super+json"}


@pytest.fixture(scope="module")
async def url(lasting_url: str) -> str:
    """One server for all, but for who looks at what workers are given."""
    return lasting_url


async def count(client: AsyncClient) -> int:
    return len([run async for run in client.runs()])


async def post(url: str, task: str, body: Any, **headers: str) -> httpx2.Response:
    """As a client that isn't ours would."""
    async with httpx2.AsyncClient() as http:
        return await http.post(
            f"{url}/api/v1/tasks/{task}/trigger",
            content=body if isinstance(body, bytes) else msgspec.json.encode(body),
            headers={"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers},
        )


async def test_a_triggered_run_is_queued_with_what_it_was_given(client: AsyncClient, worker: FakeWorker) -> None:
    made = await client.trigger(
        "echo", {"n": 1}, tags=["b", "a"], metadata={"who": "Zoë"}, is_test=True, max_attempts=2
    )
    assert set(made) == {"id"}
    run = await client.run(made["id"])
    assert (run["status"], run["isQueued"], run["isCompleted"]) == ("QUEUED", True, False)
    assert (run["payload"], run["tags"], run["metadata"], run["isTest"]) == ({"n": 1}, ["a", "b"], {"who": "Zoë"}, True)
    assert run["relatedRuns"] == {"children": []}
    assert None not in run.values()
    [given] = [each for each in await worker.dequeue(free=100) if each.run_id == made["id"]]
    assert given.context.max_attempts == 2


async def test_a_blocking_client_triggers_too(url: str, worker: FakeWorker) -> None:
    def trigger() -> str:
        with Client(url, KEY) as client:
            return client.run(client.trigger("echo", 1)["id"])["status"]

    assert await asyncio.to_thread(trigger) == "QUEUED"


@pytest.mark.parametrize("key", ["tr_dev_wrong", "the-worker-token"])
async def test_a_wrong_key_is_401(url: str, key: str) -> None:
    async with AsyncClient(url, key) as client:
        for call in (client.trigger("echo"), client.run("run_1"), client.tasks(), client.create_token()):
            with pytest.raises(Unauthorized) as caught:
                await call
            assert set(caught.value.body) == {"error"}


async def test_no_key_is_401_and_the_secret_key_is_no_worker_token(url: str) -> None:
    assert (await post(url, "echo", {}, authorization="")).status_code == 401
    worker = FakeWorker(url, token=KEY)
    assert (await worker.post("dequeue", {})).status_code == 401
    await worker.close()


async def test_an_unknown_task_is_404_with_the_names_that_are_near(client: AsyncClient, worker: FakeWorker) -> None:
    before = await count(client)
    with pytest.raises(NotFound, match=r'Task not found: "ecoh"; did you mean echo\?') as caught:
        await client.trigger("ecoh", 1)
    assert caught.value.body["near"] == ["echo"]
    assert await count(client) == before


async def test_a_payload_that_does_not_fit_is_422_with_the_path_and_makes_no_run(
    client: AsyncClient, worker: FakeWorker
) -> None:
    before = await count(client)
    with pytest.raises(Unprocessable, match="mail/send") as caught:
        await client.trigger("mail/send", {"user": {"email": 7}})
    (problem,) = caught.value.body["problems"]
    assert problem["path"] == "user.email"
    assert "text" in problem["message"]
    assert await count(client) == before


async def test_a_retried_trigger_makes_one_run(url: str, client: AsyncClient, worker: FakeWorker) -> None:
    """The same request idempotency key is the same call, for the same task."""
    before = await count(client)
    header = {"x-trigger-request-idempotency-key": "7cae668b-ddbb-4e94-ad70-fd9195667ba4"}
    first, second = [(await post(url, "echo", {"payload": 1}, **header)).json() for _ in range(2)]
    assert first == second == {"id": first["id"]}
    other = await post(url, "mail%2Fsend", {"payload": {"user": {"email": "a"}}}, **header)
    assert other.json()["id"] != first["id"]
    assert await count(client) == before + 2


async def test_the_same_idempotency_key_is_the_same_run(client: AsyncClient, worker: FakeWorker) -> None:
    first = await client.trigger(
        "echo", 1, idempotency_key="same", idempotencyKeyOptions={"key": "mine", "scope": "global"}
    )
    assert await client.trigger("echo", 2, idempotency_key="same") == {"id": first["id"], "isCached": True}
    assert (await client.run(first["id"]))["idempotencyKey"] == "mine"


PACKETS: list[tuple[dict[str, Any], Any]] = [
    ({"payload": "just text", "options": {"payloadType": "text/plain", "payloadSize": 9}}, "just text"),
    ({"payload": '{"json":{"x":1}}', "options": SUPER_JSON}, {"x": 1}),
    (
        {
            "payload": '{"json":null,"meta":{"values":["undefined"]}}',
            "options": {"payloadType": "application/super+json"},
        },
        None,
    ),
    ({"payload": "text", "options": {"queue": {"name": "task/echo"}, "ttl": None}}, "text"),
    ({"payload": [1, {"a": None}]}, [1, {"a": None}]),
]


async def test_every_payload_packet_becomes_plain_json(url: str, client: AsyncClient, worker: FakeWorker) -> None:
    for body, payload in PACKETS:
        made = (await post(url, "echo", body)).json()
        assert (await client.run(made["id"])).get("payload") == payload


REFUSED_OPTIONS: list[tuple[dict[str, Any], int, str]] = [
    ({"machine": "tiny"}, 422, 'options.machine: there is no machine "tiny"; there are small-1x, micro, small-2x'),
    ({"machine": 1}, 422, "options.machine"),
    ({"region": "eu"}, 422, "options.region is not supported yet"),
    ({"ttl": "soon"}, 422, "options.ttl"),
    ({"priority": -1}, 422, "options.priority"),
    ({"priority": 31_536_001}, 422, "options.priority"),
    ({"debounce": {"key": "k", "delay": "0.5s"}}, 422, "options.debounce.delay"),
    ({"debounce": {"key": "k"}}, 422, "options.debounce"),
    ({"debounce": {"key": "k", "delay": "5s", "maxDelay": "1s"}}, 422, "options.debounce.maxDelay"),
    ({"debounce": {"key": "k", "delay": "5s", "mode": "last"}}, 422, "options.debounce.mode"),
    ({"debounce": {"key": "k", "delay": "5s"}, "delay": "1s"}, 422, "options.delay"),
    ({"queue": "other"}, 422, 'options.queue: no queue "other" is declared'),
    ({"concurrencyKey": []}, 422, "options.concurrencyKey"),
    ({"lockToVersion": "v9"}, 422, 'options.lockToVersion: no worker has reported a version "v9"'),
    ({"maxDuration": 1}, 422, "options.maxDuration"),
    ({"inheritTags": "yes"}, 422, "options.inheritTags"),
    ({"maxAtempts": 1}, 422, "did you mean maxAttempts"),
    ({"delay": "soon"}, 422, "options.delay: 'soon'"),
    ({"max_attempts": 0}, 422, "options.maxAttempts"),
    ({"tags": ["t" * 129]}, 422, "options.tags"),
    ({"tags": [str(n) for n in range(11)]}, 422, "at most 10"),
    ({"tags": [1]}, 422, "options.tags"),
    ({"metadata": [1]}, 422, "options.metadata"),
    ({"metadata": {"a": "x" * 300_000}}, 413, "262144"),
    ({"tags": ["a\0"]}, 422, "can't be stored"),
    ({"test": "yes"}, 422, "options.test"),
    ({"idempotency_key": 7}, 422, "options.idempotencyKey"),
    ({"idempotency_key": "k", "idempotency_key_ttl": "x"}, 422, "options.idempotencyKeyTTL"),
    ({"payloadType": "application/xml"}, 400, "application/xml"),
    ({"payloadType": "application/store"}, 400, "application/store"),
]


async def test_an_option_that_can_not_be_had_is_refused_by_name(client: AsyncClient, worker: FakeWorker) -> None:
    """G12: tags and metadata have limits; no option is ignored."""
    before = await count(client)
    for options, status, names in REFUSED_OPTIONS:
        with pytest.raises(ApiError) as caught:
            await client.trigger("echo", 1, **options)
        assert caught.value.status == status, options
        assert names in caught.value.message
    assert await count(client) == before


UNREADABLE: list[tuple[bytes, int]] = [
    (b"{", 400),
    (b"[]", 400),
    (b'{"options": 7}', 400),
    (b'{"payload": "\xff"}', 400),
    (b'{"payload": "' + b"x" * (3 * 1024 * 1024) + b'"}', 413),
    (b"[" * 100_000, 400),
]


async def test_a_body_that_can_not_be_read_is_the_callers_mistake(
    url: str, client: AsyncClient, worker: FakeWorker
) -> None:
    before = await count(client)
    for body, status in UNREADABLE:
        response = await post(url, "echo", body)
        assert response.status_code == status, (body[:20], response.text)
        assert set(response.json()) == ({"error", "limit", "value"} if status == 413 else {"error"})
    assert await count(client) == before


async def test_a_body_may_be_absent_under_a_json_content_type(
    url: str, client: AsyncClient, worker: FakeWorker
) -> None:
    made = (await post(url, "echo", b"")).json()
    assert (await client.cancel(made["id"])) == made


async def test_a_delayed_run_waits_for_its_time(client: AsyncClient, worker: FakeWorker) -> None:
    await worker.dequeue(free=100)  # what others have left
    made = await client.trigger("echo", 1, delay="1h")
    run = await client.run(made["id"])
    assert (run["status"], run["isQueued"]) == ("DELAYED", True)
    assert "delayedUntil" in run
    assert await worker.dequeue() == []
    await client.reschedule(made["id"], 0.2)
    assert (await worker.take()).run_id == made["id"]


async def test_what_is_not_there_is_404_or_405_in_the_one_shape(url: str) -> None:
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
        for method, path, status in [
            ("GET", "/nothing", 404),
            ("GET", "/api/v3/runs/run_nothing", 404),
            ("GET", "/api/v3/runs/%00", 404),
            ("POST", "/api/v2/runs/run_nothing/cancel", 404),
            ("GET", "/api/v1/tasks/echo/trigger", 405),
            ("DELETE", "/api/v1/runs", 405),
            ("GET", "/api/v1/runs?page[size]=0", 400),
            ("GET", "/api/v1/runs?filter[status]=DONE", 400),
            ("GET", "/api/v1/runs?filter[regions]=b", 422),
            ("GET", "/api/v1/runs/run_nothing/story?after=x", 400),
        ]:
            response = await http.request(method, url + path)
            assert response.status_code in (status, 422) if "%00" in path else response.status_code == status, path
            assert isinstance(response.json()["error"], str)


async def test_every_option_of_a_trigger_is_carried_out(client: AsyncClient, worker: FakeWorker) -> None:
    """G8, G11, G13, BB18: and shown on the run."""
    options = {
        "ttl": "1h",
        "queue": "echo",
        "concurrencyKey": 7,
        "priority": 5,
        "maxDuration": 60,
        "maxAttempts": 2,
        "lockToVersion": VERSION,
        "inheritTags": True,
    }
    run = await client.run((await client.trigger("echo", 1, **options))["id"])
    assert {
        name: run[name] for name in ("ttl", "queue", "concurrencyKey", "priority", "maxDuration", "maxAttempts")
    } == {
        "ttl": "3600s",
        "queue": {"name": "task/echo"},
        "concurrencyKey": "7",
        "priority": 5.0,
        "maxDuration": 60.0,
        "maxAttempts": 2,
    }
    assert run["lockedToVersion"] == VERSION


async def test_a_debounced_trigger_gives_the_run_that_is_there(client: AsyncClient, worker: FakeWorker) -> None:
    """G10: by the API."""
    asked = {"debounce": {"key": "k", "delay": "1h", "mode": "trailing"}}
    first = await client.trigger("echo", 1, **asked)
    assert await client.trigger("echo", 2, **asked) == {"id": first["id"], "isCached": True}
    run = await client.run(first["id"])
    assert (run["status"], run["payload"]) == ("DELAYED", 2)


async def test_a_delayed_run_is_rescheduled(client: AsyncClient, worker: FakeWorker) -> None:
    """G7: only while it is delayed."""
    made = await client.trigger("echo", 1, delay="1h")
    before = await client.run(made["id"])
    after = await client.reschedule(made["id"], "2h")
    assert after["delayedUntil"] > before["delayedUntil"]
    await client.reschedule(made["id"], 0)
    for run_id, status in ((made["id"], 400), ("run_unknown", 404)):
        async with asyncio.timeout(PATIENCE_S):
            while (await client.run(made["id"]))["status"] == "DELAYED":
                await asyncio.sleep(0.01)
        with pytest.raises(ApiError) as caught:
            await client.reschedule(run_id, "1h")
        assert caught.value.status == status
    with pytest.raises(ApiError, match="delay"):
        await client.reschedule(made["id"], "soon")


async def test_a_run_is_replayed(client: AsyncClient, worker: FakeWorker) -> None:
    """G19: as it was, or with what is to differ."""
    first = await client.trigger("echo", {"n": 1}, tags=["a"], idempotency_key="replayed")
    again = await client.run((await client.replay(first["id"]))["id"])
    assert (again["payload"], again["tags"], again["replayedFrom"]) == ({"n": 1}, ["a"], first["id"])
    assert "idempotencyKey" not in again
    other = await client.run((await client.replay(first["id"], payload=2, tags=["b"], is_test=True))["id"])
    assert (other["payload"], other["tags"], other["isTest"]) == (2, ["b"], True)
    for run_id, changes, status in (
        ("run_unknown", {}, 404),
        (first["id"], {"queue": "other"}, 422),
        (first["id"], {"debounce": {"key": "k", "delay": "1s"}}, 400),
        (first["id"], {"payloads": 1}, 400),
        (first["id"], {"region": "eu"}, 422),
    ):
        with pytest.raises(ApiError) as caught:
            await client.replay(run_id, **changes)
        assert caught.value.status == status


async def test_an_idempotency_key_is_reset(client: AsyncClient, worker: FakeWorker) -> None:
    """G9: the next trigger with it makes a new run."""
    first = await client.trigger("echo", 1, idempotency_key="reset")
    await client.reset_idempotency_key("echo", "reset")
    assert (await client.trigger("echo", 1, idempotency_key="reset"))["id"] != first["id"]
    with pytest.raises(NotFound):
        await client.reset_idempotency_key("echo", "other")


async def test_others_are_heard_while_a_large_payload_is_checked(
    client: AsyncClient, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_go_on = threading.Event(), threading.Event()
    check = payloads.fit

    def slowly(*args: Any) -> Any:
        begun.set()
        assert may_go_on.wait(PATIENCE_S), "nobody else was heard"
        return check(*args)

    monkeypatch.setattr(payloads, "fit", slowly)
    monkeypatch.setattr(payloads, "LARGE_CHARS", 1000)
    triggering = asyncio.create_task(client.trigger("echo", {"text": "x" * 2000}))
    await asyncio.to_thread(begun.wait, PATIENCE_S)
    assert [each["id"] for each in await client.tasks()] == ["echo", "mail/send"]
    may_go_on.set()
    assert (await client.run((await triggering)["id"]))["payload"] == {"text": "x" * 2000}

"""What the client sends, what it makes of answers, and when it asks again. The answers are scripted; the tests in
`tests/server` go through the same client to a real server."""

import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from hashlib import sha256
from typing import Any

import httpx2
import msgspec
import pytest

from torpor import Debounce
from torpor.errors import (
    ApiError,
    ConfigError,
    ConnectionFailed,
    Forbidden,
    NotFound,
    RunFailed,
    ServerError,
    Unauthorized,
    Unprocessable,
)
from torpor.sdk.async_client import AsyncClient
from torpor.sdk.calls import sending
from torpor.sdk.client import Client

pytestmark = pytest.mark.anyio

Answer = httpx2.Response | Exception


class Script:
    """A transport that answers from a list and keeps what it was sent."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.requests: list[httpx2.Request] = []
        self.transport = httpx2.MockTransport(self._answer)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self) -> Client:
        return Client("http://torpor.test/", "tr_dev_test", transport=self.transport)


def json(value: Any, status: int = 200, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, content=msgspec.json.encode(value), headers=headers)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "FIRST_PAUSE_S", 0.0)


def test_importing_the_client_loads_no_http_library() -> None:
    check = "import sys, torpor.sdk.client; assert not {'httpx2', 'pydantic', 'fastapi'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_a_trigger_sends_payload_and_options_in_the_words_of_the_api() -> None:
    script = Script(json({"id": "run_1"}))
    options = {"tags": ["a"], "delay": timedelta(hours=1), "idempotency_key": "k", "max_attempts": 2, "queue": "q"}
    assert script.client().trigger("mail/send", {"to": "a"}, **options) == {"id": "run_1"}
    (request,) = script.requests
    assert request.url.raw_path == b"/api/v1/tasks/mail%2Fsend/trigger"
    assert request.headers["authorization"] == "Bearer tr_dev_test"
    assert msgspec.json.decode(request.content) == {
        "payload": {"to": "a"},
        "options": {
            "tags": ["a"],
            "delay": "3600s",
            "idempotencyKey": sha256(b"k").hexdigest(),
            "idempotencyKeyOptions": {"key": "k", "scope": "global"},
            "maxAttempts": 2,
            "queue": {"name": "q"},
        },
    }


@pytest.mark.parametrize(
    "trouble", [json({}, 503), json({}, 429), json({}, 408), httpx2.ConnectError("refused"), httpx2.ReadError("reset")]
)
def test_what_may_pass_is_tried_again_as_the_same_call(trouble: Answer) -> None:
    script = Script(trouble, json({"id": "run_1"}))
    assert script.client().trigger("t")["id"] == "run_1"
    first, second = script.requests
    name = "x-trigger-request-idempotency-key"
    assert first.headers[name] == second.headers[name]


def test_two_calls_are_not_taken_for_one() -> None:
    script = Script(json({"id": "run_1"}), json({"id": "run_2"}))
    client = script.client()
    client.trigger("t")
    client.trigger("t")
    assert len({request.headers["x-trigger-request-idempotency-key"] for request in script.requests}) == 2


def test_after_five_attempts_the_trouble_is_told() -> None:
    script = Script(*[json({"error": "down"}, 503)] * 5)
    with pytest.raises(ServerError, match="503: down"):
        script.client().run("run_1")
    script = Script(*[httpx2.ConnectError("refused")] * 5)
    with pytest.raises(ConnectionFailed, match=r"http://torpor\.test \(refused\)"):
        script.client().run("run_1")
    assert len(script.requests) == 5


def test_the_server_may_say_whether_to_try_again() -> None:
    script = Script(json({"error": "full"}, 503, **{"x-should-retry": "false"}))
    with pytest.raises(ServerError):
        script.client().run("run_1")
    script = Script(json({"error": "not yet"}, 404, **{"x-should-retry": "true"}), json({"id": "run_1"}))
    assert script.client().run("run_1") == {"id": "run_1"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, ApiError), (401, Unauthorized), (403, Forbidden), (404, NotFound), (422, Unprocessable), (413, ApiError)],
)
def test_a_refusal_is_an_exception_of_its_kind_and_not_tried_again(status: int, kind: type[ApiError]) -> None:
    script = Script(json({"error": "no", "problems": [1]}, status))
    with pytest.raises(kind) as caught:
        script.client().run("run_1")
    assert (caught.value.status, caught.value.message, caught.value.body["problems"]) == (status, "no", [1])


def test_an_answer_that_is_not_ours_is_still_told() -> None:
    script = Script(httpx2.Response(404, content=b"<html>nginx</html>"))
    with pytest.raises(NotFound, match="404: Not Found"):
        script.client().run("run_1")


def test_a_listing_goes_through_all_pages() -> None:
    script = Script(
        json({"data": [{"id": "run_3"}, {"id": "run_2"}], "pagination": {"next": "c1"}}),
        json({"data": [{"id": "run_1"}], "pagination": {}}),
    )
    runs = script.client().runs(status=["FAILED", "DELAYED"], is_test=False, page_size=2)
    assert [run["id"] for run in runs] == ["run_3", "run_2", "run_1"]
    first, second = (dict(request.url.params) for request in script.requests)
    assert first == {"filter[status]": "FAILED,DELAYED", "filter[isTest]": "false", "page[size]": "2"}
    assert second == {**first, "page[after]": "c1"}


def test_an_unknown_filter_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(TypeError, match="unknown filter 'state'"):
        Script().client().runs(state="FAILED")


def test_a_follower_asks_for_what_came_after_until_the_run_has_ended() -> None:
    script = Script(
        json({"data": [{"id": 4, "kind": "run.triggered"}], "ended": False}),
        json({"data": [], "ended": False}),
        json({"data": [{"id": 9, "kind": "run.completed"}], "ended": True}),
    )
    assert [event["id"] for event in script.client().story("run_1", follow=True)] == [4, 9]
    assert [request.url.params["after"] for request in script.requests] == ["0", "4", "4"]
    assert all(request.url.params["wait_s"] == "25.0" for request in script.requests)


def test_a_story_that_is_not_followed_ends_where_it_stands() -> None:
    script = Script(json({"data": [{"id": 4}], "ended": False}), json({"data": [], "ended": False}))
    assert [event["id"] for event in script.client().story("run_1")] == [4]


def test_a_result_is_the_output_or_the_runs_own_error() -> None:
    ended = {"data": [], "ended": True}
    script = Script(json(ended), json({"id": "run_1", "status": "COMPLETED", "output": [1]}))
    assert script.client().result("run_1") == [1]
    error = {"name": "ValueError", "message": "bad", "stackTrace": "…"}
    script = Script(json(ended), json({"id": "run_1", "status": "FAILED", "error": error}))
    with pytest.raises(RunFailed, match=r"run run_1 ended FAILED \(ValueError: bad") as caught:
        script.client().result("run_1")
    assert caught.value.error == error
    script = Script(json(ended), json({"id": "run_1", "status": "CANCELED"}))
    with pytest.raises(RunFailed, match="no error was recorded"):
        script.client().result("run_1")


def test_a_result_is_not_waited_for_beyond_the_timeout() -> None:
    script = Script(*[json({"data": [], "ended": False})] * 3)
    with pytest.raises(TimeoutError, match="run_1"):
        script.client().result("run_1", timeout_s=0)
    assert len(script.requests) == 1


def test_a_result_that_is_there_comes_without_any_time_to_wait() -> None:
    script = Script(json({"data": [], "ended": True}), json({"id": "run_1", "status": "COMPLETED", "output": 7}))
    assert script.client().result("run_1", timeout_s=0) == 7


def test_key_and_url_come_from_arguments_then_from_ours_then_from_triggers_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sent(*arguments: str) -> tuple[str, str]:
        script = Script(json({}))
        Client(*arguments, transport=script.transport).run("run_1")
        request = script.requests[0]
        return request.url.host, request.headers["authorization"].removeprefix("Bearer ")

    for name in ("TORPOR_API_URL", "TORPOR_SECRET_KEY", "TRIGGER_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRIGGER_SECRET_KEY", "tr_theirs")
    assert sent() == ("127.0.0.1", "tr_theirs")
    monkeypatch.setenv("TRIGGER_API_URL", "http://theirs/")
    assert sent() == ("theirs", "tr_theirs")
    monkeypatch.setenv("TORPOR_API_URL", "http://ours")
    monkeypatch.setenv("TORPOR_SECRET_KEY", "tr_ours")
    assert sent() == ("ours", "tr_ours")
    assert sent("http://argument", "tr_argument") == ("argument", "tr_argument")
    monkeypatch.delenv("TORPOR_SECRET_KEY")
    monkeypatch.delenv("TRIGGER_SECRET_KEY")
    with pytest.raises(ConfigError, match="TORPOR_SECRET_KEY"):
        Client()


async def test_the_awaited_client_asks_again_and_pages_like_the_blocking_one() -> None:
    script = Script(
        json({}, 503),
        json({"data": [{"id": "run_2"}], "pagination": {"next": "c1"}}),
        json({"data": [{"id": "run_1"}], "pagination": {}}),
    )
    async with AsyncClient("http://torpor.test", "tr_dev_test", transport=script.transport) as client:
        assert [run["id"] async for run in client.runs(tag="a")] == ["run_2", "run_1"]


def public(kind: type[Any]) -> dict[str, Callable[..., Any]]:
    return {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}


def test_both_clients_have_the_same_calls_with_the_same_parameters() -> None:
    def parameters(kind: type[Any]) -> dict[str, list[tuple[str, Any, Any]]]:
        return {
            name: [(each.name, each.kind, each.default) for each in inspect.signature(call).parameters.values()]
            for name, call in public(kind).items()
        }

    assert parameters(Client) == parameters(AsyncClient)


def test_what_a_call_does_is_told_once() -> None:
    for name, call in public(AsyncClient).items():
        told = inspect.getdoc(call) or ""
        assert told.startswith(f"As `Client.{name}`") or told == inspect.getdoc(getattr(Client, name)) != "", name


def test_a_call_shows_itself_as_what_it_is_in_each_client() -> None:
    """To `help`, to editors, and to `create_autospec`, which asks what is to be awaited."""
    assert str(inspect.signature(Client.run)) == "(self, run_id: str) -> dict[str, typing.Any]"
    assert not inspect.iscoroutinefunction(Client.run)
    assert inspect.iscoroutinefunction(AsyncClient.run)
    assert inspect.signature(AsyncClient.runs).return_annotation == AsyncIterator[dict[str, Any]]


@pytest.mark.parametrize(
    "call", [lambda c: c.token("t"), lambda c: c.approve("t", False, by="me"), lambda c: c.tasks()]
)
def test_every_call_carries_the_key(call: Callable[[Client], Any]) -> None:
    script = Script(json({"data": []}))
    call(script.client())
    assert script.requests[0].headers["authorization"] == "Bearer tr_dev_test"


def test_each_option_is_sent_in_the_words_of_the_api() -> None:
    """G7, G8, G10, G11, G13, BB18: by our names."""
    script = Script(json({"id": "run_1"}))
    options: dict[str, Any] = {
        "ttl": 90,
        "debounce": Debounce("d", "10s", "trailing", timedelta(minutes=1)),
        "concurrency_key": "org",
        "priority": 5,
        "version": "v1",
        "inherit_tags": True,
        "max_duration": "1m",
        "queue": "q",
    }
    script.client().trigger("t", **options)
    assert msgspec.json.decode(script.requests[0].content)["options"] == {
        "ttl": "90s",
        "debounce": {"key": "d", "delay": "10s", "mode": "trailing", "maxDelay": "60s"},
        "concurrencyKey": "org",
        "priority": 5,
        "lockToVersion": "v1",
        "inheritTags": True,
        "maxDuration": 60.0,
        "queue": {"name": "q"},
    }


def test_replays_reschedules_and_resets_are_sent() -> None:
    """G7, G9, G19."""
    script = Script(json({"id": "run_2"}), json({"id": "run_1"}), json({"id": "k"}))
    with script.client() as client:
        client.replay("run_1", payload=None, queue="q", is_test=True)
        client.reschedule("run_1", timedelta(minutes=2))
        client.reset_idempotency_key("t", "k")
    bodies = [(request.url.path, msgspec.json.decode(request.content)) for request in script.requests]
    assert bodies == [
        ("/api/v1/runs/run_1/replay", {"payload": None, "queue": "q", "test": True}),
        ("/api/v1/runs/run_1/reschedule", {"delay": "120s"}),
        (f"/api/v1/idempotencyKeys/{sha256(b'k').hexdigest()}/reset", {"taskIdentifier": "t"}),
    ]

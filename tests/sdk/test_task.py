"""What `@task` makes of a function."""

import asyncio
import copy
import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from torpor import Retry, current, task, wait
from torpor.errors import BlockingInLoop, ConfigError, NotInRun, PayloadError
from torpor.sdk.async_client import AsyncClient
from torpor.sdk.client import Client
from torpor.sdk.task import AsyncTask, SyncTask, Task, registry


@task(retry=Retry(max_attempts=5))
async def area(width: float, height: float = 1.0) -> float:
    """Width times height."""
    return width * height


@task
def shout(text: str) -> str:
    return text.upper()


def test_calling_a_task_is_a_plain_call() -> None:
    assert asyncio.run(area(2, 3)) == 6
    assert shout("a") == "A"
    assert isinstance(area, AsyncTask)
    assert isinstance(shout, SyncTask)


def test_a_task_looks_like_its_function_and_travels_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (area.__name__, area.__doc__) == ("area", "Width times height.")
    assert copy.deepcopy(area) is area
    monkeypatch.setitem(sys.modules, area.__module__, sys.modules.get(area.__module__) or _this_module())
    assert pickle.loads(pickle.dumps(area)) is area


def _this_module() -> Any:
    import types

    module = types.ModuleType(area.__module__)
    module.__dict__.update(globals())
    return module


def test_the_manifest_tells_what_the_platform_needs() -> None:
    manifest = area.manifest()
    assert (manifest.id, manifest.is_async, manifest.parameters, manifest.doc) == (
        "area",
        True,
        "named",
        "Width times height.",
    )
    assert Path(manifest.file).name == "test_task.py"
    assert manifest.retry.max_attempts == 5
    assert manifest.payload_schema["required"] == ["width"]
    assert (shout.manifest().parameters, shout.manifest().payload_schema["type"]) == ("one", "string")


def test_two_tasks_with_one_id_are_refused_with_both_places() -> None:
    @task(id="same")
    def one() -> None: ...

    with pytest.raises(ConfigError, match=r"'same': .*test_task\.py:\d+ and .*test_task\.py:\d+"):

        @task(id="same")
        def two() -> None: ...

    assert registry() == {"same": one}


def test_a_function_that_is_defined_again_takes_its_place() -> None:
    def define() -> Task[..., Any]:
        @task
        def again() -> None: ...

        return again

    define()
    assert registry()["again"] is define() or len(registry()) == 1


def test_a_machine_is_named_on_the_task_on_a_trigger_and_for_an_oom_kill() -> None:
    @task(machine="small-2x", retry=Retry(on_oom="large-1x"))
    def heavy() -> None: ...

    assert (heavy.manifest().machine, heavy.manifest().retry.on_oom) == ("small-2x", "large-1x")
    assert heavy.options(machine="micro")._options == {"machine": "micro"}
    assert area.manifest().machine is None


def test_a_task_says_what_its_runs_reach() -> None:
    @task(network="none")
    def closed() -> None: ...

    @task
    def open_to_what_others_say() -> None: ...

    assert closed.manifest().network == "none"
    assert open_to_what_others_say.manifest().network is None
    with pytest.raises(ValueError, match="'host' or 'private' or 'none'"):
        task(network="internet")  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_an_unknown_option_is_refused_with_near_names() -> None:
    with pytest.raises(TypeError, match=r"no option 'dely': did you mean delay"):
        area.options(dely="1h")  # type: ignore
    with pytest.raises(TypeError, match=r"no option 'retries': did you mean retry"):
        task(retries=3)  # type: ignore
    with pytest.raises(TypeError, match=r"@task\(machine=1\): the name of a size"):
        task(machine=1)  # type: ignore


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"delay": "soon"}, ValueError),
        ({"delay": -1}, ValueError),
        ({"delay": datetime(2026, 1, 1)}, ValueError),
        ({"max_attempts": 0}, ValueError),
        ({"tags": [1]}, TypeError),
        ({"metadata": [1]}, TypeError),
        ({"metadata": {"a": object()}}, TypeError),
        ({"idempotency_key": ""}, TypeError),
        ({"ttl": -1}, ValueError),
        ({"debounce": "k"}, TypeError),
        ({"queue": 1}, TypeError),
        ({"concurrency_key": ""}, TypeError),
        ({"priority": -1}, ValueError),
        ({"priority": 31_536_001}, ValueError),
        ({"inherit_tags": 1}, TypeError),
        ({"max_duration": 4}, ValueError),
        ({"version": ""}, TypeError),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        area.options(**options)


def test_outside_of_a_run_a_trigger_goes_to_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def blocking(self: Client, task_id: str, payload: Any = None, **options: Any) -> dict[str, Any]:
        sent.append((task_id, payload if payload is None else bytes(payload), options))
        return {"id": "run_1", "isCached": True}

    async def awaited(self: AsyncClient, *args: Any, **options: Any) -> dict[str, Any]:
        return blocking(self, *args, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setenv("TORPOR_SECRET_KEY", "tr_dev_x")
    monkeypatch.setattr(Client, "trigger", blocking)
    monkeypatch.setattr(AsyncClient, "trigger", awaited)
    options = {
        "delay": timedelta(minutes=1),
        "tags": "a",
        "idempotency_key": "k",
        "metadata": {"at": datetime(2026, 1, 1, tzinfo=UTC)},
    }
    run = shout.options(max_attempts=1).options(**options).sync.trigger("x")
    assert (run.id, run.task_id, run.is_cached) == ("run_1", "shout", True)
    assert asyncio.run(area.trigger(1, height=2)).id == "run_1"
    api = {
        "maxAttempts": 1,
        "delay": "60s",
        "tags": ["a"],
        "idempotencyKey": sha256(b"k").hexdigest(),
        "idempotencyKeyOptions": {"key": "k", "scope": "global"},
        "metadata": {"at": "2026-01-01T00:00:00Z"},
    }
    assert sent == [("shout", b'"x"', api), ("area", b'{"width":1.0,"height":2.0}', {})]


def test_nothing_is_sent_when_the_arguments_do_not_fit() -> None:
    with pytest.raises(PayloadError, match="width"):
        asyncio.run(area.trigger("wide"))  # type: ignore
    with pytest.raises(PayloadError, match="missing"):
        asyncio.run(area.trigger())  # type: ignore


def test_waiting_outside_of_a_run_says_what_to_do() -> None:
    for waiting in (area.trigger_and_wait(1), wait.for_("1h"), wait.for_token("t"), wait.for_approval("ok?")):
        with pytest.raises(NotInRun, match="Trigger the task"):
            asyncio.run(waiting)
    with pytest.raises(NotInRun):
        shout.sync.trigger_and_wait("a")
    with pytest.raises(NotInRun, match=r"torpor\.current\.run_id"):
        _ = current.run_id


def test_blocking_in_a_running_loop_is_refused() -> None:
    async def wrong() -> None:
        shout.sync.trigger("a")

    with pytest.raises(BlockingInLoop, match="await"):
        asyncio.run(wrong())


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: wait.for_(), TypeError),
        (lambda: wait.for_("1h", hours=1), TypeError),
        (lambda: wait.for_(-1), ValueError),
        (lambda: wait.for_(hours=-1), ValueError),
        (lambda: wait.for_("soon"), ValueError),
        (lambda: wait.for_(days=1e6), ValueError),
        (lambda: wait.until(datetime(2026, 1, 1)), ValueError),
        (lambda: wait.until("2026-01-01"), TypeError),  # pyright: ignore[reportArgumentType]
        (lambda: wait.for_token(3), TypeError),  # pyright: ignore[reportArgumentType]
    ],
)
def test_a_wait_that_makes_no_sense_is_refused(call: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(call())


def test_importing_the_sdk_stays_light() -> None:
    """Where tasks are only defined and triggered, nothing of the server, of HTTP or of validation is loaded."""
    script = (
        "import sys, torpor; a = set(sys.modules); torpor.task; torpor.wait; torpor.Retry; torpor.current;"
        "heavy = {'pydantic', 'httpx2', 'asyncio', 'fastapi', 'uvicorn', 'asyncpg', 'jsonschema'};"
        "print(sorted(heavy & set(sys.modules)), 'msgspec' in a)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[] False\n"


def test_every_public_name_is_there_and_documented() -> None:
    import torpor

    for name in torpor.__all__:
        assert getattr(torpor, name).__doc__, name
    with pytest.raises(AttributeError):
        _ = torpor.nothing

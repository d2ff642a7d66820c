"""Sizes of machine as the operator declares them, and as the API takes and shows them."""

import asyncio
from pathlib import Path

import httpx2
import msgspec
import pytest
from facts import PATIENCE_S, asking_for_work, until
from fake_worker import KEY, TASKS, VERSION, FakeWorker, manifest

from torpor.config import Settings
from torpor.errors import ConfigError
from torpor.sdk.async_client import AsyncClient
from torpor.server.hub import Hub
from torpor.server.machines import presets
from torpor.wire import http as wire
from torpor.wire.presets import BUILT_IN, GB, Preset

pytestmark = pytest.mark.anyio

# -- TORPOR_MACHINES ----------------------------------------------------------------------------------------------------


def test_own_machines_are_added_to_the_built_in_ones_and_change_them() -> None:
    """N1: the list can be overridden."""
    own = '{"gpu-1x": {"cpu": 8, "memory_gb": 32, "labels": ["gpu", "zone=eu"]}, "micro": {"cpu": 1, "memory_gb": 0.5}}'
    known, default = presets(Settings(machines=own, default_machine="gpu-1x"))
    by_name = {preset.name: preset for preset in known}
    assert by_name["gpu-1x"] == Preset("gpu-1x", 8, 32 * GB, 16 * GB, 4096, {"gpu": "", "zone": "eu"})
    assert by_name["micro"] == Preset("micro", 1, GB // 2, GB // 4, 512)
    assert by_name["large-1x"] == BUILT_IN["large-1x"]
    assert default == "gpu-1x"


def test_they_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "machines.json"
    file.write_text('{"big": {"cpu": 2, "memory_gb": 3, "disk_gb": 9, "pids": 99}}')
    known, _ = presets(Settings(machines=str(file)))
    assert known[-1] == Preset("big", 2, 3 * GB, 9 * GB, 99)


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ("/nowhere.json", "(/nowhere.json) can't be read"),
        ("{", "is not JSON"),
        ('{"a": 1}', "a should be an object"),
        ('{"A!": {}}', "A!: a name is of small letters"),
        ('{"a": {"cpu": 1}}', "a.memory_gb is missing"),
        ('{"a": {"cpu": 0, "memory_gb": 1}}', "a.cpu is 0: it should be a number more than 0"),
        ('{"a": {"cpu": 1, "memory_gb": "1"}}', "a.memory_gb is '1'"),
        ('{"a": {"cpu": 1, "memory": 1}}', "a.memory: there is no such field; did you mean memory_gb?"),
        ('{"a": {"cpu": 1, "memory_gb": 1, "pids": 1}}', "a.pids is 1"),
        ('{"a": {"cpu": 1, "memory_gb": 1, "disk_gb": -1}}', "a.disk_gb is -1"),
        ('{"a": {"cpu": 1, "memory_gb": 1, "labels": "gpu"}}', "a.labels is 'gpu'"),
    ],
)
def test_one_that_can_not_be_used_is_named_with_its_field(own: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        presets(Settings(machines=own))
    assert "TORPOR_MACHINES" in str(refused.value)
    assert told in str(refused.value)


def test_a_default_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"TORPOR_DEFAULT_MACHINE='huge' can't be used: there are micro"):
        presets(Settings(default_machine="huge"))


# -- the API ------------------------------------------------------------------------------------------------------------


async def test_a_machine_is_triggered_shown_filtered_and_replayed(client: AsyncClient, worker: FakeWorker) -> None:
    """T6, N1: on a trigger and a replay; a run says what it has."""
    run = await client.trigger("echo", 1, machine="large-1x")
    other = await client.trigger("echo", 1)
    assert [(await client.run(each["id"]))["machine"] for each in (run, other)] == ["large-1x", "small-1x"]
    again = await client.replay(run["id"])
    smaller = await client.replay(run["id"], machine="micro")
    assert [(await client.run(each["id"]))["machine"] for each in (again, smaller)] == ["large-1x", "micro"]


async def test_runs_are_listed_by_machine(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    run = await client.trigger("echo", 1, machine="micro")
    await client.trigger("echo", 1)
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as http:
        found = (await http.get(f"{url}/api/v1/runs?filter[machine]=micro,large-2x")).json()["data"]
    assert [each["id"] for each in found] == [run["id"]]


async def test_an_item_of_a_batch_has_its_own(client: AsyncClient, worker: FakeWorker) -> None:
    made = await client.batch_trigger("echo", [1], machine="medium-1x")
    batch = await client.batch(made["id"])
    assert (await client.run(batch["runs"][0]))["machine"] == "medium-1x"
    refused = await client.batch_trigger("echo", [1], machine="huge")
    assert 'options.machine: there is no machine "huge"' in refused["errors"][0]["error"]


async def test_a_version_that_names_an_unknown_machine_is_refused_with_the_names(worker: FakeWorker) -> None:
    """What the worker logs, and nothing is imported by it."""
    task = msgspec.structs.replace(manifest("echo"), machine="huge")
    refused = await worker.post("versions", wire.VersionReport(worker.worker_id, "v2", [task]))
    assert refused.status_code == 422
    assert refused.json()["error"].startswith('task echo: there is no machine "huge"; there are small-1x, micro, ')


async def test_what_a_run_has_used_is_shown(client: AsyncClient, worker: FakeWorker) -> None:
    await client.trigger("echo", 1)
    given = await worker.take_and_start()
    report = wire.FinishReport(given.lease, "completed", usage=wire.Usage(1234.4, 5_000_000))
    await worker.say(f"runs/{given.run_id}/finish", report, wire.LeaseReply)
    found = await client.run(given.run_id)
    assert found["usage"] == {"cpuMs": 1234, "peakMemoryBytes": 5_000_000, "frozenMs": 0}


async def test_a_worker_that_is_full_gets_work_as_soon_as_a_run_of_its_own_ends(
    by_word_alone: None, client: AsyncClient, worker: FakeWorker, hubs: list[Hub]
) -> None:
    """The request that is held open hears of it: nothing has to be asked again."""
    intro = wire.Introduction(worker.worker_id, worker.instance_id, "host", 10, True, {}, cpu=0.5, memory_bytes=GB)
    await worker.say("hello", intro, wire.Welcome)
    await worker.say("versions", wire.VersionReport(worker.worker_id, VERSION, TASKS), wire.VersionAccepted)
    await client.trigger("echo", 1)
    second = await client.trigger("echo", 2)
    first = await worker.take_and_start()
    held = asyncio.create_task(worker.dequeue(wait_s=3600))
    await until(lambda: asking_for_work(hubs[0]) == 1)
    await worker.finish(first)
    assert [given.run_id for given in await asyncio.wait_for(held, PATIENCE_S)] == [second["id"]]

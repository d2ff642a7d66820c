"""`torpor runs cancel` and `replay` for many runs, as a person types them."""

import asyncio

import pytest
from fake_worker import KEY, FakeWorker
from typer.testing import CliRunner, Result

from torpor.cli.main import app
from torpor.sdk.async_client import AsyncClient

pytestmark = pytest.mark.anyio


async def torpor(url: str, *words: str, typed: str = "") -> Result:
    """What the command says; in a thread, since it blocks and the server is ours."""
    environment = {"TORPOR_API_URL": url, "TORPOR_SECRET_KEY": KEY}
    return await asyncio.to_thread(CliRunner().invoke, app, ["runs", *words], input=typed, env=environment)


async def test_many_are_counted_confirmed_and_canceled(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    """G19: nothing is done before the count is confirmed."""
    run_ids = [(await client.trigger("echo", tags=["old"]))["id"] for _ in range(2)]
    other = (await client.trigger("echo"))["id"]
    asked = await torpor(url, "cancel", "--tag", "old", "--status", "queued", typed="n\n")
    assert (asked.exit_code, "Cancel 2 runs?" in asked.output) == (1, True)
    assert (await client.run(run_ids[0]))["status"] == "QUEUED"
    done = await torpor(url, "cancel", "--tag", "old", "--since", "1h", typed="y\n")
    assert (done.exit_code, "2 of 2 canceled" in done.output) == (0, True)
    assert [(await client.run(run_id))["status"] for run_id in (*run_ids, other)] == ["CANCELED", "CANCELED", "QUEUED"]
    over = await torpor(url, "cancel", "--tag", "old", "--yes")
    assert (over.exit_code, "0 of 2 canceled" in over.output) == (1, True)
    assert f"{run_ids[0]}: it had ended: canceled" in over.output
    none = await torpor(url, "cancel", "--task", "unknown", "--yes")
    assert (none.exit_code, none.output) == (0, "No run fits.\n")


async def test_many_are_replayed(client: AsyncClient, worker: FakeWorker, url: str) -> None:
    await client.trigger("echo")
    done = await torpor(url, "replay", "--task", "echo", "--yes")
    assert (done.exit_code, "1 of 1 replayed" in done.output) == (0, True)
    assert len([run async for run in client.runs(task="echo")]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["cancel"],
        ["replay"],
        ["cancel", "run_1", "--tag", "a"],
        ["cancel", "--tag", "a", "--now"],
        ["replay", "--tag", "a", "--payload", "1"],
    ],
)
async def test_one_run_or_filters_and_not_both(words: list[str]) -> None:
    said = await torpor("http://127.0.0.1:9", *words)
    assert said.exit_code == 2

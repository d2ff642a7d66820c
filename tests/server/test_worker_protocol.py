"""A run's life as a worker drives it, and what a worker with an old lease is told."""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from ahead import Ahead
from facts import PATIENCE_S, asking_for_work, until
from fake_worker import KEY, FakeWorker, Start

from torpor import ids
from torpor.sdk.async_client import AsyncClient
from torpor.server.hub import Hub
from torpor.wire import http as wire
from torpor.wire.runner import NewWait

pytestmark = pytest.mark.anyio


async def kinds(client: AsyncClient, run_id: str) -> list[str]:
    return [event["kind"] async for event in client.story(run_id)]


async def test_a_run_waits_leaves_memory_comes_back_and_completes(
    client: AsyncClient, worker: FakeWorker, hubs: list[Hub]
) -> None:
    """Twice: what works once may have left something behind."""
    run_id = (await client.trigger("echo", {"n": 1}))["id"]
    given = await worker.take_and_start()
    assert (given.task_id, given.context.attempt, msgspec.json.decode(given.payload)) == ("echo", 1, {"n": 1})
    for number in (1, 2):
        blocked = await worker.block(given, NewWait(f"wait_{number}", "time", duration_s=600))
        assert (blocked.status, blocked.answers) == ("ok", [])
        assert [wait.wait_id for wait in blocked.open] == [f"wait_{number}"]
        assert (await client.run(run_id))["isWaiting"]
        assert await worker.suspend(given) == "suspended"
        run = await client.run(run_id)
        assert (run["status"], run["isWaiting"], run["isCompleted"]) == ("WAITING", True, False)
        assert len(await client.checkpoints(run_id)) == number
        hubs[0].clock = Ahead(minutes=10 * number)
        hubs[0].wakeups.hear("reconnected", {})  # whoever sleeps looks again
        restored = await worker.take()
        assert restored.checkpoint is not None
        assert restored.due_at
        assert restored.context.attempt == 1
        assert [answer.wait_id for answer in restored.answers] == [f"wait_{number}"]
        assert await worker.start(restored, [f"wait_{number}"]) == "ok"
        given = restored
    assert await worker.finish(given, "done") == "ok"
    assert await client.result(run_id) == "done"
    story = await kinds(client, run_id)
    assert story.count("run.suspended") == story.count("run.resumed") == 2


async def test_a_wait_that_is_due_wakes_the_run_at_its_time_and_not_at_a_look_now_and_then(
    by_word_alone: None, client: AsyncClient, worker: FakeWorker
) -> None:
    await client.trigger("echo")
    given = await worker.take_and_start()
    news = await worker.listen()
    for number in range(5):
        wait_id = f"wait_{number}"
        asked_at = datetime.now(UTC)
        await worker.block(given, NewWait(wait_id, "time", duration_s=0.15))
        assert await asyncio.wait_for(news.get(), PATIENCE_S) == wire.News("answered", given.run_id, given.lease)
        assert datetime.now(UTC) - asked_at >= timedelta(seconds=0.15)
        (answer,) = (await worker.collect(given, wait_id)).answers
        assert (answer.wait_id, answer.status) == (wait_id, "completed")


async def test_a_short_wait_entered_during_a_long_one_is_not_late(
    by_word_alone: None, client: AsyncClient, worker: FakeWorker
) -> None:
    """The timer duty sleeps until the next due time; an earlier one must wake it."""
    await client.create_token("1h")
    await client.trigger("echo")
    given = await worker.take_and_start()
    news = await worker.listen()
    await worker.block(given, NewWait("wait_long", "time", duration_s=3600))
    await worker.block(given, NewWait("wait_short", "time", duration_s=0.05))
    assert (await asyncio.wait_for(news.get(), PATIENCE_S)).kind == "answered"


async def test_a_worker_that_has_hung_up_is_given_nothing(
    by_word_alone: None, url: str, client: AsyncClient, worker: FakeWorker, hubs: list[Hub]
) -> None:
    """Its request is still held here when the run comes; the run is for the next in line."""
    gone = FakeWorker(url)
    await gone.come_up()
    held = asyncio.create_task(gone.dequeue(wait_s=3600))
    await until(lambda: asking_for_work(hubs[0]) == 1)
    held.cancel()
    await asyncio.wait({held})
    await gone.close()
    waiting = asyncio.create_task(worker.dequeue(wait_s=3600))
    await until(lambda: asking_for_work(hubs[0]) == 2)
    made = await client.trigger("echo")
    (given,) = await asyncio.wait_for(waiting, PATIENCE_S)
    assert given.run_id == made["id"]


async def test_a_held_dequeue_wakes_when_a_run_is_triggered(
    by_word_alone: None, client: AsyncClient, worker: FakeWorker, hubs: list[Hub]
) -> None:
    held = asyncio.create_task(worker.dequeue(wait_s=3600))
    await until(lambda: asking_for_work(hubs[0]) == 1)
    made = await client.trigger("echo")
    (given,) = await asyncio.wait_for(held, PATIENCE_S)
    assert given.run_id == made["id"]


async def test_each_run_goes_to_one_of_the_workers_that_ask(
    by_word_alone: None, url: str, client: AsyncClient, worker: FakeWorker, hubs: list[Hub]
) -> None:
    """Also when one of those asking can't take it: the wake-up is passed on."""
    others = [FakeWorker(url) for _ in range(3)]
    for other in others:
        await other.come_up()
    useless = FakeWorker(url)
    intro = wire.Introduction(useless.worker_id, useless.instance_id, "host", 1, False, {})
    await useless.say("hello", intro, wire.Welcome)
    asked = wire.DequeueRequest(useless.worker_id, useless.instance_id, 1, ["v0"], False, 3600)
    in_vain = asyncio.create_task(useless.say("dequeue", asked, wire.DequeueReply))
    await until(lambda: asking_for_work(hubs[0]) == 1)
    held = [asyncio.create_task(other.dequeue(wait_s=3600, free=1)) for other in (worker, *others)]
    await until(lambda: asking_for_work(hubs[0]) == 5)
    made = {(await client.trigger("echo", n))["id"] for n in range(4)}
    taken = [given.run_id for reply in await asyncio.wait_for(asyncio.gather(*held), PATIENCE_S) for given in reply]
    assert (set(taken), len(taken)) == (made, 4)
    assert not in_vain.done()
    in_vain.cancel()
    for one in (*others, useless):
        await one.close()


async def test_a_stale_lease_is_told_so_and_changes_nothing(client: AsyncClient, worker: FakeWorker) -> None:
    run_id = (await client.trigger("echo"))["id"]
    given = await worker.take_and_start()
    news = await worker.listen()
    await client.cancel(run_id, at_once=True)
    assert await asyncio.wait_for(news.get(), PATIENCE_S) == wire.News("stale", run_id, given.lease)
    assert (await worker.heartbeat(given)).news == [wire.News("stale", run_id, given.lease)]
    before = await client.run(run_id), await kinds(client, run_id)
    assert await worker.start(given) == "stale"
    assert (await worker.block(given, NewWait("wait_1", "time", duration_s=1))).status == "stale"
    assert (await worker.collect(given, "wait_1")).status == "stale"
    assert await worker.suspend(given) == "stale"
    assert await worker.finish(given, 1) == "stale"
    assert await worker.fail(given, "late") == "stale"
    for path, message in [
        ("refuse", wire.Refusal(given.lease, "late")),
        ("events", wire.EventReport(given.lease, [wire.StoryEvent("run.held", "2026-03-01T07:00:00Z")])),
    ]:
        assert (await worker.say(f"runs/{run_id}/{path}", message, wire.LeaseReply)).status == "stale"
    call = wire.TriggerCall(ids.new("run"), "echo", msgspec.Raw(b"1"), given.lease)
    assert (await worker.post(f"runs/{run_id}/trigger", call)).status_code == 410
    token = wire.TokenCall(ids.new("waitpoint"), given.lease)
    assert (await worker.post(f"runs/{run_id}/tokens", token)).status_code == 410
    open_token = (await client.create_token())["id"]
    done = wire.CompleteTokenCall(open_token, msgspec.Raw(b"1"), given.lease)
    assert (await worker.post(f"runs/{run_id}/tokens/complete", done)).status_code == 410
    assert (await client.token(open_token))["status"] == "WAITING"
    assert (await client.run(run_id), await kinds(client, run_id)) == before
    assert len([run async for run in client.runs()]) == 1


async def test_a_run_triggers_a_child_once_and_gets_its_output(client: AsyncClient, worker: FakeWorker) -> None:
    parent_id = (await client.trigger("echo"))["id"]
    given = await worker.take_and_start()
    child_id = ids.new("run")
    options = {"tags": ["child"], "resumeParentOnCompletion": True}
    call = wire.TriggerCall(child_id, "echo", msgspec.Raw(b"[1]"), given.lease, options)
    for _ in range(2):
        assert await worker.say(f"runs/{parent_id}/trigger", call, wire.TriggerReply)
    await worker.block(given, NewWait("wait_1", "run", run_id=child_id))
    child = await worker.take_and_start()
    assert child.run_id == child_id
    await worker.finish(child, [1, 2])
    (answer,) = (await worker.collect(given, "wait_1")).answers
    assert (answer.run_id, msgspec.json.decode(answer.output)) == (child_id, [1, 2])
    shown = await client.run(child_id)
    assert (shown["triggerFunction"], shown["depth"], shown["tags"]) == ("triggerAndWait", 1, ["child"])
    assert shown["relatedRuns"]["parent"]["id"] == shown["relatedRuns"]["root"]["id"] == parent_id
    assert [run["id"] for run in (await client.run(parent_id))["relatedRuns"]["children"]] == [child_id]


async def test_a_child_that_can_not_be_is_refused_like_any_other(client: AsyncClient, worker: FakeWorker) -> None:
    parent_id = (await client.trigger("echo"))["id"]
    given = await worker.take_and_start()
    for task, payload, status in [("eco", b"1", 404), ("mail/send", b"{}", 422)]:
        call = wire.TriggerCall(ids.new("run"), task, msgspec.Raw(payload), given.lease)
        response = await worker.post(f"runs/{parent_id}/trigger", call)
        assert response.status_code == status
        assert response.json()["error"]


async def test_a_token_made_in_a_run_answers_its_wait(client: AsyncClient, worker: FakeWorker) -> None:
    run_id = (await client.trigger("echo"))["id"]
    given = await worker.take_and_start()
    call = wire.TokenCall(
        ids.new("waitpoint"), given.lease, timeout_s=3600, approval={"title": "Publish?", "context": {"pages": 3}}
    )
    made = await worker.say(f"runs/{run_id}/tokens", call, wire.TokenReply)
    assert made.waitpoint_id == call.waitpoint_id
    assert made.url == (await client.token(made.waitpoint_id))["url"]
    await worker.block(given, NewWait("wait_1", "token", waitpoint_id=made.waitpoint_id))
    assert await worker.suspend(given) == "suspended"
    await client.approve(made.waitpoint_id, True, by="ann", comment="fine")
    restored = await worker.take()
    (answer,) = restored.answers
    assert msgspec.json.decode(answer.output) == {"approved": True, "by": "ann", "comment": "fine"}


async def test_a_run_completes_a_token(client: AsyncClient, worker: FakeWorker) -> None:
    run_id = (await client.trigger("echo"))["id"]
    given = await worker.take_and_start()
    token = await client.create_token()
    call = wire.CompleteTokenCall(token["id"], msgspec.Raw(b'{"a":1}'), given.lease)
    assert await worker.say(f"runs/{run_id}/tokens/complete", call, dict) == {"success": True}
    assert (await client.token(token["id"]))["output"] == '{"a":1}'


async def test_a_run_whose_worker_fell_silent_is_given_to_another(start: Start, database_url: str) -> None:
    url = await start(database_url, lease_s=0.3)
    silent, other = FakeWorker(url), FakeWorker(url)
    await silent.come_up()
    await other.come_up()
    async with AsyncClient(url, KEY) as client:
        run_id = (await client.trigger("echo"))["id"]
        lost = await silent.take_and_start()
        again = await other.take()
        assert again.run_id == run_id
        assert again.lease > lost.lease
        assert await silent.finish(lost, "late") == "stale"
    await silent.close()
    await other.close()


async def test_a_lost_reply_costs_its_runs_no_lease(client: AsyncClient, worker: FakeWorker) -> None:
    run_id = (await client.trigger("echo"))["id"]
    assert [given.run_id for given in await worker.dequeue(number=1, holding=[])] == [run_id]  # and never arrives
    (given,) = await worker.dequeue(number=2, holding=[])
    assert given.run_id == run_id
    assert await worker.dequeue(number=3, holding=[given]) == []
    assert await worker.start(given) == "ok"


async def test_a_worker_that_starts_anew_gives_back_what_it_held(client: AsyncClient, worker: FakeWorker) -> None:
    run_id = (await client.trigger("echo"))["id"]
    await worker.take_and_start()
    worker.instance_id = ids.new("instance")
    assert (await worker.come_up()).rescued == 1
    assert (await worker.take()).run_id == run_id


async def test_a_census_names_the_images_that_are_still_needed(client: AsyncClient, worker: FakeWorker) -> None:
    await client.trigger("echo")
    given = await worker.take_and_start()
    await worker.block(given, NewWait("wait_1", "time", duration_s=3600))
    await worker.suspend(given)
    (kept,) = await client.checkpoints(given.run_id)
    census = wire.CheckpointCensus(worker.worker_id, [kept["id"], "checkpoint_unknown"])
    assert (await worker.say("checkpoints", census, wire.CheckpointCensus)).ids == [kept["id"]]


async def test_what_a_worker_says_wrongly_is_400(worker: FakeWorker) -> None:
    response = await worker.post("runs/run_1/start", {"lease": "one"})
    assert response.status_code == 400
    assert "lease" in response.json()["error"]

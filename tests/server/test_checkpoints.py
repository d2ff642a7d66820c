"""Save points, moves, forks, keys and garbage, as workers and clients see them."""

import base64
from typing import Any

import msgspec
import pytest
from fake_worker import KEY, FakeWorker, Start

from torpor import ids
from torpor.errors import ConfigError, NotFound, Unprocessable
from torpor.sdk.async_client import AsyncClient
from torpor.wire import http as wire
from torpor.wire.runner import NewWait

pytestmark = pytest.mark.anyio

HERE = [{"task": "main", "file": "tasks.py", "line": 7, "source": "await checkpoint('half')"}]


def stored(
    kind: Any = "wait", *, id: str | None = None, packs: tuple[str, ...] = (), **more: Any
) -> wire.StoredCheckpoint:
    id = id or ids.new("checkpoint")
    return wire.StoredCheckpoint(
        id,
        1000,
        kind=kind,
        store_id="store_1",
        digest=f"digest of {id}",
        key_id="key_1",
        packs=[wire.Pack(pack, 10) for pack in packs],
        new_bytes=100,
        shared_bytes=900,
        **more,
    )


@pytest.fixture
async def shared(worker: FakeWorker) -> FakeWorker:
    """A worker with an object store."""
    intro = wire.Introduction(worker.worker_id, worker.instance_id, "host", 10, True, {}, "store_1", "fit_1")
    await worker.say("hello", intro, wire.Welcome)
    return worker


async def tell(worker: FakeWorker, what: str, given: wire.Assignment, message: Any) -> wire.LeaseReply:
    return await worker.say(f"runs/{given.run_id}/{what}", message, wire.LeaseReply)


async def frozen_on(worker: FakeWorker, client: AsyncClient, *tokens: str) -> wire.Assignment:
    await client.trigger("echo", "x")
    given = await worker.take_and_start()
    await worker.block(given, *[NewWait(f"wait_{token}", "token", waitpoint_id=token) for token in tokens])
    reply = await tell(worker, "suspend", given, wire.SuspendReport(given.lease, stored(), HERE))
    assert reply.status == "suspended"
    return given


async def test_a_saved_run_is_shown_with_where_it_stood(shared: FakeWorker, client: AsyncClient):
    await client.trigger("echo", "x")
    given = await shared.take_and_start()
    report = wire.SaveReport(given.lease, stored("named", name="half"), [], HERE)
    assert (await tell(shared, "save", given, report)).status == "ok"
    (one,) = await client.checkpoints(given.run_id)
    assert (one["name"], one["kind"], one["state"], one["waitingAt"]) == ("half", "named", "usable", HERE)
    assert (one["newBytes"], one["sharedBytes"], one["number"]) == (100, 900, 1)
    found = await client.checkpoint(one["id"])
    assert found["waits"] == []
    assert [each["id"] async for each in client.all_checkpoints()] == [one["id"]]
    with pytest.raises(NotFound):
        await client.checkpoint("checkpoint_unknown")


async def test_a_moved_run_is_taken_again(shared: FakeWorker, client: AsyncClient):
    await client.trigger("echo", "x")
    given = await shared.take_and_start()
    reply = await tell(shared, "move", given, wire.MoveReport(given.lease, stored("move"), [], reason="draining"))
    assert reply.status == "suspended"
    again = await shared.take()
    assert again.checkpoint is not None
    assert (again.checkpoint.kind, again.checkpoint.digest[:9]) == ("move", "digest of")
    assert (await tell(shared, "save", given, wire.SaveReport(given.lease, stored("auto"), []))).status == "stale"


async def test_a_fork_goes_on_with_another_answer(shared: FakeWorker, client: AsyncClient):
    token = (await client.create_token())["id"]
    given = await frozen_on(shared, client, token)
    made = await client.fork(given.run_id, answer={"approved": False})
    assert made["status"] == "QUEUED"
    twin = await shared.take()
    assert twin.run_id == made["id"]
    (answer,) = twin.answers
    assert msgspec.json.decode(answer.output) == {"approved": False}
    run = await client.run(made["id"])
    (checkpoint,) = await client.checkpoints(given.run_id)
    assert (run["forkedFrom"], run["forkedCheckpointId"]) == (given.run_id, checkpoint["id"])
    waiting = await client.fork(given.run_id, checkpoint["id"])
    assert waiting["status"] == "WAITING"


async def test_a_fork_that_can_not_be_says_why(shared: FakeWorker, client: AsyncClient):
    tokens = [(await client.create_token())["id"] for _ in range(2)]
    given = await frozen_on(shared, client, *tokens)
    with pytest.raises(Unprocessable, match=rf"several waits.*wait_{tokens[0]} \(for a token\)"):
        await client.fork(given.run_id, answer=1)
    with pytest.raises(Unprocessable, match="in no wait wait_x"):
        await client.fork(given.run_id, answer=1, wait_id="wait_x")
    with pytest.raises(Unprocessable, match="answer is missing"):
        await client.fork(given.run_id, wait_id=f"wait_{tokens[0]}")
    with pytest.raises(Unprocessable, match="has no checkpoint checkpoint_x"):
        await client.fork(given.run_id, "checkpoint_x")
    with pytest.raises(NotFound):
        await client.fork("run_unknown")


async def test_workers_get_the_keys_and_are_told_of_a_new_one(shared: FakeWorker, client: AsyncClient):
    asked = wire.KeysRequest(shared.worker_id)
    first = await shared.say("keys", asked, wire.KeysReply)
    assert [key.id for key in first.keys] == [first.current]
    assert len(base64.b64decode(first.keys[0].key)) == 32
    assert (await shared.heartbeat()).current_key == first.current
    rotated = await client.rotate_data_key()
    assert (await shared.heartbeat()).current_key == rotated["id"]
    both = await shared.say("keys", asked, wire.KeysReply)
    assert {key.id: key.key for key in both.keys}[first.current] == first.keys[0].key
    assert both.current == rotated["id"]
    assert [key["id"] for key in await client.data_keys() if "retiredAt" not in key] == [rotated["id"]]


async def test_nobody_else_gets_the_keys(shared: FakeWorker, url: str):
    other = FakeWorker(url, token=KEY)
    response = await other.post("keys", wire.KeysRequest(shared.worker_id))
    assert response.status_code == 401
    await other.close()


def key_of(letter: bytes) -> str:
    return base64.b64encode(letter * 32).decode()


async def test_a_new_master_key_in_front_opens_what_the_old_one_has_wrapped(start: Start, database_url: str):
    keys: list[wire.KeysReply] = []
    for given in (key_of(b"a"), f"{key_of(b'b')},{key_of(b'a')}", key_of(b"b")):
        worker = FakeWorker(await start(database_url, encryption_keys=given))
        keys.append(await worker.say("keys", wire.KeysRequest("w"), wire.KeysReply))
        await worker.close()
    assert keys[0] == keys[1] == keys[2], "wrapped anew at the second start, so the third needs the old one no more"
    with pytest.raises(ConfigError, match="TORPOR_ENCRYPTION_KEYS"):
        await start(database_url, encryption_keys=key_of(b"c"))
    with pytest.raises(ConfigError, match="32 bytes"):
        await start(database_url, encryption_keys="too short")


async def test_what_nothing_refers_to_is_told_deleted_and_done_with(start: Start, database_url: str):
    url = await start(database_url, checkpoint_retention_s=0.0, checkpoint_grace_s=0.0)
    worker = FakeWorker(url)
    await worker.come_up()
    intro = wire.Introduction(worker.worker_id, worker.instance_id, "host", 10, True, {}, "store_1", "fit_1")
    await worker.say("hello", intro, wire.Welcome)
    async with AsyncClient(url, KEY) as client:
        await client.trigger("echo", "x")
        given = await worker.take_and_start()
        image = stored("auto", id="checkpoint_1", packs=("pack_1",))
        await tell(worker, "save", given, wire.SaveReport(given.lease, image, []))
        live = await worker.say("images", wire.ImagesRequest(worker.worker_id), wire.ImagesReply)
        assert live.images == [wire.LiveImage("checkpoint_1", "digest of checkpoint_1")]
        asked = wire.GarbageRequest(worker.worker_id, strays=["packs/pack_1", "packs/nobodys"])
        assert (await worker.say("garbage", asked, wire.GarbageReply)).condemned == ["packs/nobodys"]
        await worker.finish(given)
        names = (await worker.say("garbage", wire.GarbageRequest(worker.worker_id), wire.GarbageReply)).condemned
        assert names == ["images/checkpoint_1", "packs/pack_1"]
        done = wire.GarbageRequest(worker.worker_id, deleted=["packs/nobodys", *names])
        assert (await worker.say("garbage", done, wire.GarbageReply)).condemned == []
        again = await client.trigger("echo", "y")
        given = await worker.take_and_start()
        assert given.run_id == again["id"]
        reply = await tell(
            worker, "save", given, wire.SaveReport(given.lease, stored("auto", packs=("pack_1", "pack_2")), [])
        )
        assert (reply.status, reply.gone) == ("gone", ["pack_1"])
    await worker.close()


async def test_a_warm_image_is_found_by_who_can_use_it(shared: FakeWorker):
    report = wire.WarmReport(shared.worker_id, "v1", stored("warm", id="checkpoint_warm"))
    assert (await shared.say("warm", report, wire.LeaseReply)).status == "ok"
    asked = wire.WarmRequest(shared.worker_id, "v1")
    found = (await shared.say("warm/find", asked, wire.WarmFound)).checkpoint
    assert found is not None
    assert (found.id, found.kind, found.digest) == ("checkpoint_warm", "warm", "digest of checkpoint_warm")
    refusal = wire.WarmRefusal(shared.worker_id, "checkpoint_warm", "no avx2")
    await shared.say("warm/refuse", refusal, wire.LeaseReply)
    assert (await shared.say("warm/find", asked, wire.WarmFound)).checkpoint is None

"""A worker token of one environment lets its workers in, and is worth nothing for what is another's."""

from typing import Any

import msgspec
import pytest
from fake_worker import FakeWorker, manifest

from torpor import ids
from torpor.errors import Unprocessable
from torpor.sdk.async_client import AsyncClient
from torpor.server.access import ROUTES
from torpor.server.auth import Kind
from torpor.wire import http as wire

pytestmark = pytest.mark.anyio


async def test_a_worker_of_one_environment_can_do_nothing_to_another(
    client: AsyncClient, worker: FakeWorker, url: str
) -> None:
    """`worker` has the server's token, and serves dev; the stranger's token is for prod."""
    made = await client.create_environment("prod")
    async with AsyncClient(url, made["key"]) as prod:
        token = await prod.create_key("workers of prod", worker=True)
        assert (token["isWorker"], token["key"][:7]) == (True, "tr_wrk_")
        stranger = FakeWorker(url, token["key"], "prod")
        await stranger.come_up([manifest("echo")])
        ours = await prod.trigger("echo", 1)
        assert await stranger.finish(await stranger.take_and_start(), "done") == "ok", "it is a worker as any other"
        assert (await prod.run(ours["id"]))["output"] == "done"

        await worker.come_up([manifest("echo")])
        await client.set_variable("KEY", "of dev", secret=True)
        run = (await client.trigger("echo", "of dev"))["id"]
        given = await worker.take_and_start()
        assert await stranger.dequeue() == []

        # As itself it is told nothing of dev.
        asked = wire.VariablesRequest(stranger.worker_id)
        assert (await stranger.say("variables", asked, wire.VariablesReply)).variables == {}
        held = wire.HeartbeatRequest(stranger.worker_id, stranger.instance_id, [wire.HeldLease(run, given.lease)])
        assert [each.kind for each in (await stranger.say("heartbeat", held, wire.HeartbeatReply)).news] == ["stale"]

        # Nobody takes it for the worker of dev, or lets it at a run of dev, whatever it says.
        routes = {name.partition("/worker/v1/")[2] for name, line in ROUTES.items() if line.takes == (Kind.WORKER,)}
        me = {"worker_id": worker.worker_id, "instance_id": worker.instance_id}
        for path in sorted(routes - {"news", "keys", "variables"}):
            said = msgspec.json.encode(stated(path, me, given))
            answer = await stranger._http.post(path.replace("{run_id}", run), content=said)
            assert (answer.status_code, "is for another environment" in answer.text) == (403, True), path
        assert (await stranger._http.get("news", params=me)).status_code == 403
        for path in ("keys", "variables"):
            assert (await stranger.post(path, {"worker_id": worker.worker_id})).status_code == 403
        elsewhere = FakeWorker(url, token["key"])
        answer = await elsewhere.post("hello", {})
        assert (answer.status_code, "is for the environment prod" in answer.text) == (401, True)
        assert await worker.finish(given, "kept") == "ok"
        assert (await client.run(run))["output"] == "kept"

        # It opens nothing of the API, and is no key that could make others.
        async with AsyncClient(url, token["key"]) as nobody:
            with pytest.raises(Exception, match="not a worker token"):
                await nobody.whoami()
        [secret] = [key for key in await prod.api_keys() if not key.get("isWorker")]
        with pytest.raises(Unprocessable, match="the only secret key"):
            await prod.revoke_key(secret["id"])
        await prod.revoke_key(token["id"])
        assert (await stranger.post("keys", wire.KeysRequest(stranger.worker_id))).status_code == 401
    for each in (stranger, elsewhere):
        await each.close()


def stated(path: str, me: dict[str, str], given: wire.Assignment) -> Any:
    """A message that can be read, as of the worker of dev."""
    match path:
        case "hello":
            return wire.Introduction(me["worker_id"], ids.new("instance"), "host", 1, True, {})
        case "versions":
            return wire.VersionReport(me["worker_id"], "v2", [manifest("echo")], [])
        case "dequeue":
            return wire.DequeueRequest(me["worker_id"], me["instance_id"], 1, ["v1"], True, 0)
        case "heartbeat":
            return wire.HeartbeatRequest(
                me["worker_id"], me["instance_id"], [wire.HeldLease(given.run_id, given.lease)]
            )
        case "checkpoints":
            return wire.CheckpointCensus(me["worker_id"], [])
        case "garbage":
            return wire.GarbageRequest(me["worker_id"], [], [])
        case "images":
            return wire.ImagesRequest(me["worker_id"])
        case "warm":
            return wire.WarmReport(
                me["worker_id"], "v1", wire.StoredCheckpoint(ids.new("checkpoint"), 1000, dump_ms=5.0)
            )
        case "warm/find":
            return wire.WarmRequest(me["worker_id"], "v1")
        case "warm/refuse":
            return wire.WarmRefusal(me["worker_id"], "checkpoint_1", "no")
        case _:
            return {"lease": given.lease}

"""G14: payloads that are uploaded before they are triggered, and large ones that are fetched by a presigned URL."""

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec
import pytest
from ahead import Ahead
from fake_worker import KEY, FakeWorker, Start
from hypothesis import given as any_of
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from torpor import ids
from torpor.clock import SystemClock
from torpor.config import Settings
from torpor.sdk.async_client import AsyncClient
from torpor.server import batch_items, batches, offload, presigned
from torpor.server.hub import Hub
from torpor.server.presigned import GOOD_FOR_S, PURPOSE, Grant
from torpor.store.database import Database
from torpor.wire import http as wire

pytestmark = pytest.mark.anyio

LARGE = {"text": "x" * 2000}
LIMIT = 20_000
FILENAME = "trigger/packet_1/payload.json"
BEARER = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def url(start: Start, database_url: str, data_dir: Path) -> str:
    return await start(database_url, data_dir=data_dir, offload_bytes=1000, max_request_bytes=LIMIT)


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Without a key: what needs one says so."""
    async with httpx2.AsyncClient(base_url=url) as http:
        yield http


@pytest.fixture
async def hub(url: str, database_url: str, data_dir: Path) -> AsyncIterator[Hub]:
    database = await Database.connect(database_url)
    yield Hub(Settings(data_dir=data_dir, offload_bytes=1000), database, SystemClock())
    await database.close()


def objects(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "objects").glob("*/*"))


async def presign(http: httpx2.AsyncClient, filename: str = FILENAME) -> dict[str, str]:
    response = await http.put("/api/v2/packets/" + quote(filename, safe=""), headers=BEARER)
    assert response.status_code == 200, response.text
    return response.json()


async def upload(http: httpx2.AsyncClient, text: str | bytes, data_type: str = "application/json") -> str:
    """The path of what was uploaded."""
    made = await presign(http)
    response = await http.put(made["presignedUrl"], content=text, headers={"content-type": data_type})
    assert response.status_code == 200, response.text
    return made["storagePath"]


async def trigger(http: httpx2.AsyncClient, path: Any, task_id: str = "echo") -> httpx2.Response:
    body = {"payload": path, "options": {"payloadType": "application/store"}}
    return await http.post(f"/api/v1/tasks/{quote(task_id, safe='')}/trigger", json=body, headers=BEARER)


async def test_what_was_uploaded_is_the_payload(http: httpx2.AsyncClient, worker: FakeWorker) -> None:
    date = '{"json":{"at":"2026-01-01T00:00:00Z"},"meta":{"values":{"at":["Date"]}}}'
    for text, data_type, value in (
        (date, "application/super+json", {"at": "2026-01-01T00:00:00Z"}),
        ("a text, not JSON: ü", "text/plain", "a text, not JSON: ü"),
        (msgspec.json.encode(LARGE), "application/json", LARGE),
    ):
        assert (await trigger(http, await upload(http, text, data_type))).status_code == 200
        given = await worker.take_and_start()
        got = given.payload
        if given.payload_is_large:
            got = (await worker.post(f"runs/{given.run_id}/payload", wire.PayloadCall(given.lease))).content
        assert msgspec.json.decode(got) == value


async def test_the_items_of_a_batch_may_be_uploads(http: httpx2.AsyncClient, worker: FakeWorker) -> None:
    path = await upload(http, msgspec.json.encode(LARGE))
    made = (await http.post("/api/v3/batches", json={"runCount": 3}, headers=BEARER)).json()
    stored = {"payloadType": "application/store"}
    lines = [
        {"index": 0, "task": "echo", "payload": path, "options": stored},
        {"index": 1, "task": "echo", "payload": 1},
        {"index": 2, "task": "echo", "payload": "nowhere", "options": stored},
    ]
    sent = await http.post(
        f"/api/v3/batches/{made['id']}/items?runs=true",
        content=b"\n".join(msgspec.json.encode(line) for line in lines),
        headers={"content-type": "application/x-ndjson", **BEARER},
    )
    first, second, third = sent.json()["items"]
    assert "id" in first
    assert "id" in second
    assert third["error"].startswith("payload: nothing was uploaded to 'nowhere' in this environment")


async def test_the_items_of_a_batch_that_comes_whole_are_stored_some_at_a_time(
    http: httpx2.AsyncClient, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body of some kilobytes may name one large upload five hundred times: a gigabyte, were all in memory at once."""
    sizes: list[int] = []
    add = batch_items.add

    async def noted(here: Any, environment_id: str, batch_id: str, chunk: Any, **more: Any) -> Any:
        sizes.append(sum(len(item.request.payload) for item in chunk))
        return await add(here, environment_id, batch_id, chunk, **more)

    monkeypatch.setattr(batches, "add", noted)
    monkeypatch.setattr(batch_items, "CHUNK_BYTES", 1000)
    path = await upload(http, '"' + "x" * 600 + '"')
    item = {"task": "echo", "payload": path, "options": {"payloadType": "application/store"}}
    made = await http.post("/api/v2/tasks/batch", json={"items": [item] * 5}, headers=BEARER)
    assert (made.status_code, sizes) == (202, [1204, 1204, 602])


async def test_an_upload_is_checked_as_any_other_payload(http: httpx2.AsyncClient, worker: FakeWorker) -> None:
    response = await trigger(http, await upload(http, '{"user": {}}'), "mail/send")
    assert (response.status_code, response.json()["problems"][0]["path"]) == (422, "user.email")


async def test_a_path_that_leads_to_nothing_of_this_environment_is_422(
    http: httpx2.AsyncClient, worker: FakeWorker, client: AsyncClient, hub: Hub, data_dir: Path
) -> None:
    other = ids.new("upload")
    await hub.objects.put(f"env_other/{other}", b'"of another environment"')
    run_id = (await client.trigger("echo", LARGE))["id"]
    kept = objects(data_dir)[0]
    environment_id = (await http.post("/api/v1/auth/jwt/claims", headers=BEARER)).json()["sub"]
    for path in ("", 7, None, ["a"]):
        assert (await trigger(http, path)).status_code == 400, "a path is a text"
    never = (await presign(http))["storagePath"]
    for path in (
        never,
        f"{other}/payload.json",
        f"env_other/{other}/payload.json",
        f"../env_other/{other}/payload.json",
        f"{environment_id}/{kept.name}",
        f"{kept.name}/payload.json",
        f"runs/{run_id}/payload",
        FILENAME,
        "/etc/passwd",
        "\0",
    ):
        response = await trigger(http, path)
        assert response.status_code == 422, path
        assert response.json()["error"].startswith("payload: nothing was uploaded"), path


async def test_names_that_lead_elsewhere_are_refused(http: httpx2.AsyncClient) -> None:
    for filename in ("..", "a/../b", "/etc/passwd", "a//b", "a/", "", ".", "./a", "x" * 513):
        raw = quote(filename, safe="").replace(".", "%2E")  # else the client itself walks up
        response = await http.put("/api/v2/packets/" + raw, headers=BEARER)
        assert response.status_code == 400, response.text


async def test_an_upload_has_a_size_and_a_type(http: httpx2.AsyncClient, data_dir: Path) -> None:
    url = (await presign(http))["presignedUrl"]

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(LIMIT // 1000 + 1):
            yield b"1" * 1000

    for body in (b'"' + b"x" * LIMIT + b'"', chunks()):
        response = await http.put(url, content=body, headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["limit"]) == (413, LIMIT)
    for body, kind in (
        (b"{", "application/json"),
        (b'{"a": 1}', "application/super+json"),
        (b'{"json": \xff}', "application/super+json"),
        (b"\xff", "text/plain"),
        (b"1", "image/png"),
        (b"1", ""),
    ):
        response = await http.put(url, content=body, headers={"content-type": kind} if kind else {})
        assert response.status_code == 400, (body, kind, response.text)
    assert objects(data_dir) == []


async def test_what_is_uploaded_after_the_trigger_changes_nothing(
    http: httpx2.AsyncClient, client: AsyncClient, worker: FakeWorker
) -> None:
    made = await presign(http)
    json = {"content-type": "application/json"}
    await http.put(made["presignedUrl"], content=msgspec.json.encode(LARGE), headers=json)
    run_id = (await trigger(http, made["storagePath"])).json()["id"]
    await http.put(made["presignedUrl"], content=b'"something else"', headers=json)
    assert (await client.run(run_id))["payload"] == LARGE


async def test_an_upload_is_deleted_after_a_day_and_its_runs_payload_is_not(
    http: httpx2.AsyncClient, client: AsyncClient, worker: FakeWorker, hub: Hub, data_dir: Path
) -> None:
    never, used = await upload(http, '"never triggered"'), await upload(http, msgspec.json.encode(LARGE))
    run_id = (await trigger(http, used)).json()["id"]
    assert await offload.sweep(hub) == 0, "a trigger may be on its way"
    hub.clock = Ahead(days=1, hours=1)
    assert await offload.sweep(hub) == 2
    assert [file.name.startswith(f"{run_id}-payload-") for file in objects(data_dir)] == [True]
    assert (await trigger(http, never)).status_code == 422
    assert (await client.run(run_id))["payload"] == LARGE


# -- reading back -----------------------------------------------------------------------------------------------------


async def test_a_run_shows_what_is_large_by_url_and_what_is_small_as_it_is(
    http: httpx2.AsyncClient, client: AsyncClient, worker: FakeWorker
) -> None:
    run_id = (await client.trigger("echo", LARGE))["id"]
    await worker.finish(await worker.take_and_start(), "small")
    run = (await http.get(f"/api/v3/runs/{run_id}", headers=BEARER)).json()
    assert (run["output"], "payload" in run, "outputPresignedUrl" in run) == ("small", False, False)
    got = await http.get(run["payloadPresignedUrl"])
    assert (got.json(), got.headers["content-type"]) == (LARGE, "application/json")
    whole = await client.run(run_id)
    assert (whole["payload"], "payloadPresignedUrl" in whole) == (LARGE, False), "ours asks for all at once"
    delayed = (await client.trigger("echo", LARGE, delay="1h"))["id"]
    assert (await client.reschedule(delayed, "2h"))["payload"] == LARGE


async def test_who_may_read_a_run_gets_the_urls_of_its_packets(
    http: httpx2.AsyncClient, client: AsyncClient, worker: FakeWorker
) -> None:
    run_id = (await client.trigger("echo", LARGE))["id"]
    other_id = (await client.trigger("echo", 1))["id"]
    run = await client.run(run_id)
    shown = offload.packet(_run(id=run_id, payload=None, payload_object="env_x/a"), "payload")
    assert shown is not None
    assert shown == offload.Packet(f"runs/{run_id}/payload", "application/store")
    reader = {"authorization": "Bearer " + await client.create_public_token([f"read:runs:{run_id}"])}
    page = {"origin": "https://app.example.com"}
    for path in (f"/api/v1/runs/{run_id}/packets/payload", "/api/v1/packets/" + quote(shown.data, safe="")):
        told = await http.get(path, headers={**reader, **page})
        assert told.headers["access-control-allow-origin"] == "*"
        got = await http.get(told.json()["presignedUrl"], headers=page)
        assert got.json() == run["payload"]
        assert got.headers["access-control-allow-origin"] == "*"
        assert (await http.get(path.replace(run_id, other_id), headers=reader)).status_code == 403
        assert (await http.get(path.replace(run_id, other_id), headers=BEARER)).status_code == 404, "it is small"
        assert (await http.get(path.replace("payload", "output"), headers=BEARER)).status_code == 404, "there is none"


def _run(**fields: Any) -> Any:
    return msgspec.defstruct("Run", list(fields))(**fields)


async def test_an_upload_can_be_read_back(http: httpx2.AsyncClient) -> None:
    path = await upload(http, '"up"')
    told = await http.get("/api/v1/packets/" + quote(path, safe=""), headers=BEARER)
    assert (await http.get(told.json()["presignedUrl"])).json() == "up"
    assert (await http.get("/api/v1/packets/a%2Fb", headers=BEARER)).status_code == 404
    never = (await presign(http))["storagePath"]
    told = await http.get("/api/v1/packets/" + quote(never, safe=""), headers=BEARER)
    assert (await http.get(told.json()["presignedUrl"])).status_code == 404


# -- the URL's own permission -------------------------------------------------------------------------------------------


async def test_a_url_with_one_byte_changed_opens_nothing(http: httpx2.AsyncClient, data_dir: Path, url: str) -> None:
    whole = (await presign(http))["presignedUrl"]
    signed = whole.removeprefix(url)
    assert signed != whole
    json = {"content-type": "application/json"}
    for place, byte in [*enumerate(signed)][1:]:
        flipped = byte.swapcase() if byte.swapcase() != byte else chr(ord(byte) ^ 1)
        for other in {flipped, "0" if byte != "0" else "9", "", byte * 2} - {"/", "#", ".."}:
            changed = signed[:place] + other + signed[place + 1 :]
            response = await http.put(changed, content=b"1", headers=json)
            assert response.status_code in (401, 404), (changed, response.status_code)
    assert objects(data_dir) == []
    assert (await http.get(signed)).status_code == 401, "it is for another method"
    assert (await http.put(signed, content=b"1", headers=json)).status_code == 200, "it had been good all the time"


_parts = st.lists(st.text(max_size=12), min_size=4, max_size=4)


@any_of(_parts, _parts)
@hypothesis_settings(max_examples=300, deadline=None)
def test_no_two_grants_share_a_signature(one: list[str], other: list[str]) -> None:
    secret = b"s" * 32
    assert (Grant(*one).signature(secret) == Grant(*other).signature(secret)) == (one == other)
    moved = [one[0], one[1] + one[2], "", one[3]]  # one part runs over into another
    assert (Grant(*one).signature(secret) == Grant(*moved).signature(secret)) == (one == moved)


async def test_a_url_runs_out_and_is_good_at_servers_that_share_a_master_key(hub: Hub, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    grant = Grant("PUT", "env_x", "upload_x", f"until={int(now.timestamp()) + GOOD_FOR_S}&bytes=100")
    signature = grant.signature(hub.master_keys.derive(PURPOSE)[0])
    assert presigned.permits(hub, grant, signature, now)
    assert not presigned.permits(hub, grant, signature, now + timedelta(seconds=GOOD_FOR_S + 1))
    stranger = Hub(Settings(data_dir=tmp_path / "other"), hub.database, hub.clock)
    assert not presigned.permits(stranger, grant, signature, now)
    twin = Hub(Settings(data_dir=hub.settings.data_dir), hub.database, hub.clock)
    assert presigned.permits(twin, grant, signature, now)


async def test_no_log_holds_a_presigned_url(
    http: httpx2.AsyncClient, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = await presign(http)
    signature = made["presignedUrl"].partition("?")[0].rpartition("/")[2]
    caplog.set_level(logging.DEBUG)
    json = {"content-type": "application/json"}
    (data_dir / "objects").write_text("no directory")  # makes every write fail, which is logged
    assert (await http.put(made["presignedUrl"], content=b"1", headers=json)).status_code == 503
    (data_dir / "objects").unlink()
    await http.put(made["presignedUrl"], content=b"{", headers=json)
    await http.put(made["presignedUrl"], content=b"1", headers=json)
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert any("object store" in record.getMessage() for record in ours)
    assert not any(signature in record.getMessage() for record in ours)

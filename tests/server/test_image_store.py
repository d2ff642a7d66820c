"""`torpor checkpoints export, scrub` and `gc`, on a real object store and a real server."""

import base64
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fake_worker import KEY, TOKEN, FakeWorker, Start

from torpor import ids
from torpor.cli import checkpoints as commands
from torpor.errors import ConfigError
from torpor.images import Images, Keyring, Workspace
from torpor.objects import identity, open_objects
from torpor.sdk.async_client import AsyncClient
from torpor.wire import http as wire

pytestmark = pytest.mark.anyio


class Machine:
    """A worker's machine: its data directory, its store, and what it has said to the server."""

    def __init__(self, url: str, data: Path, client: AsyncClient) -> None:
        self.worker = FakeWorker(url)
        self.client = client
        self.store = data / "worker" / "store"
        (data / "worker").mkdir(parents=True)
        (data / "worker" / "id").write_text(self.worker.worker_id)
        self._data = data

    async def come_up(self) -> None:
        await self.worker.come_up()
        self.objects = open_objects(None, self.store)
        self.store_id = await identity(self.objects)
        here = self.worker
        intro = wire.Introduction(here.worker_id, here.instance_id, "host", 10, True, {}, self.store_id, "fit_1")
        await here.say("hello", intro, wire.Welcome)
        keys = await here.say("keys", wire.KeysRequest(here.worker_id), wire.KeysReply)
        secrets = {key.id: base64.b64decode(key.key) for key in keys.keys}
        self.images = Images(self.objects, Keyring(secrets, keys.current), Workspace(self._data / "work"))

    async def save(self, memory: bytes) -> tuple[wire.Assignment, str]:
        """A run with a save point of this memory."""
        await self.client.trigger("echo", "x")
        given = await self.worker.take_and_start()
        image_id = ids.new("checkpoint")
        draft = self.images.begin(image_id, expected_bytes=len(memory))
        (draft.criu / "core-1.img").write_bytes(memory)
        draft.dumped()
        done = await self.images.publish(draft, {"criu": "4.2"}, base=None)
        self.images.discard(draft)
        stored = wire.StoredCheckpoint(
            image_id,
            done.size_bytes,
            kind="auto",
            store_id=self.store_id,
            digest=done.digest,
            key_id=done.key_id,
            packs=done.packs,
            new_bytes=done.new_bytes,
        )
        reply = await self.worker.say(
            f"runs/{given.run_id}/save", wire.SaveReport(given.lease, stored, []), wire.LeaseReply
        )
        assert reply.status == "ok"
        return given, image_id

    def names(self) -> set[str]:
        return {
            str(file.relative_to(self.store)) for kind in ("images", "packs") for file in (self.store / kind).glob("*")
        }


@pytest.fixture
async def machine(start: Start, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    url = await start(database_url, checkpoint_retention_s=0.0, checkpoint_grace_s=0.0)
    data = tmp_path / "machine"
    for name, value in {
        "TORPOR_API_URL": url,
        "TORPOR_WORKER_TOKEN": TOKEN,
        "TORPOR_DATA_DIR": str(data),
        "TORPOR_CHECKPOINT_GRACE_S": "0",
    }.items():
        monkeypatch.setenv(name, value)
    async with AsyncClient(url, KEY) as client:
        made = Machine(url, data, client)
        await made.come_up()
        yield made
    await made.worker.close()


async def test_gc_deletes_what_nothing_needs_and_proves_it_first(machine: Machine, capsys: pytest.CaptureFixture[str]):
    """BB16: of two runs one is over."""
    over, _ = await machine.save(b"memory of the first")
    _, kept = await machine.save(b"memory of the second")
    await machine.worker.finish(over)
    before = machine.names()
    assert await commands._gc(prove=True) == 0
    told = capsys.readouterr().out
    assert "none of 1 images needs any of" in told
    left = machine.names()
    assert f"images/{kept}" in left
    assert len(before - left) >= 2
    laid = await machine.images.fetch(wire.StoredCheckpoint(kept, 1))
    assert (laid.criu / "core-1.img").read_bytes() == b"memory of the second"
    assert await commands._gc(prove=False) == 0
    assert machine.names() == left


async def test_gc_finds_what_a_crash_has_left(machine: Machine):
    await machine.objects.put("packs/nobodys", b"x")
    assert await commands._gc(prove=True) == 0
    assert "packs/nobodys" not in machine.names()


async def test_scrub_says_what_is_damaged(machine: Machine, capsys: pytest.CaptureFixture[str]):
    _, image_id = await machine.save(b"memory" * 1000)
    assert await commands._scrub() == 0
    assert "1 of 1 images are whole" in capsys.readouterr().out
    (machine.store / "images" / image_id).write_bytes(b"something else")
    assert await commands._scrub() == 1
    assert f"{image_id} can't be restored" in capsys.readouterr().out


async def test_an_export_holds_the_image_as_criu_wrote_it(machine: Machine, tmp_path: Path):
    given, image_id = await machine.save(b"memory")
    (found,) = await machine.client.checkpoints(given.run_id)
    file = tmp_path / "out.tar"
    await commands._export(found, file)
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as tar:
        memory, about = tar.extractfile("criu/core-1.img"), tar.extractfile("checkpoint.json")
        assert memory is not None
        assert about is not None
        assert memory.read() == b"memory"
        told = json.load(about)
        assert (told["id"], told["facts"]) == (image_id, {"criu": "4.2"})


async def test_where_no_worker_lives_it_is_said(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TORPOR_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigError, match="no worker has lived in"):
        await commands._scrub()

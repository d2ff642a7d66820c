"""Images in S3, on two servers that have nothing in common; and what is said when a store or a disk is in trouble."""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made import fetched, images, memory, publish, write_memory

from torpor.errors import ImageDamaged, ImageMissing
from torpor.images import Images, Workspace, scrub
from torpor.images.pages import PAGE
from torpor.images.workspace import available_memory, is_tmpfs
from torpor.objects import Bucket, Directory, ObjectMissing, ObjectsDown, identity, open_objects
from torpor.wire.http import StoredCheckpoint

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["moto", "rclone"])
def bucket(request: pytest.FixtureRequest, account: None, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TORPOR_STORE_AWS_ENDPOINT", request.getfixturevalue(request.param))
    return f"s3://bucket/{os.urandom(6).hex()}"


async def test_objects_in_s3(bucket: str):
    objects = open_objects(bucket, Path())
    assert isinstance(objects, Bucket)
    data = os.urandom(12 << 20)
    await objects.put_all([("packs/one", data), ("packs/two", b"2"), ("images/one", b"1")])
    assert await objects.get("packs/one") == data
    assert await objects.get_range("packs/one", 5_000_000, 1000) == data[5_000_000:5_001_000]
    assert await objects.get("images/one") == b"1"
    with pytest.raises(ObjectMissing):
        await objects.get("packs/three")
    with pytest.raises(ObjectMissing):
        await objects.get_range("packs/three", 0, 10)
    await objects.delete(["packs/one", "packs/three", "images/one"])
    with pytest.raises(ObjectMissing):
        await objects.get("packs/one")
    assert await objects.get("packs/two") == b"2"


async def test_a_store_tells_everybody_the_same_id(bucket: str, tmp_path: Path):
    first = await identity(open_objects(bucket, Path()))
    assert first == await identity(open_objects(bucket, Path()))
    assert first != await identity(open_objects(bucket + "-other", Path()))
    here = await identity(Directory(tmp_path))
    assert here == await identity(Directory(tmp_path))
    assert here != first


async def test_of_two_that_put_at_once_one_was_first(
    tmp_path: Path, moto: str, account: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORPOR_STORE_AWS_ENDPOINT", moto)
    for objects in (Directory(tmp_path), open_objects(f"s3://bucket/{os.urandom(6).hex()}", Path())):
        assert await objects.put_new("store/id", b"first")
        assert not await objects.put_new("store/id", b"second")
        assert await objects.get("store/id") == b"first"


async def test_two_workers_share_and_read_each_others_images_in_s3(bucket: str, tmp_path: Path):
    one = images(tmp_path, open_objects(bucket, Path()))
    other = images(tmp_path, open_objects(bucket, Path()), name="other")
    _, warm, _ = await publish(one, "checkpoint_warm", memory(400), shelve=True)
    await other.fetch(warm)
    pages = memory(400) | {at: os.urandom(PAGE) for at in memory(6000, at=0x1_0000_0000)}
    first, stored, content = await publish(other, "checkpoint_1", pages, os.urandom(100_000), base="checkpoint_warm")
    assert first.shared_bytes >= 400 * PAGE
    assert await fetched(one, stored) == content
    second, again, content = await publish(other, "checkpoint_2", pages, base="checkpoint_warm")
    assert second.new_bytes < 50_000
    assert await fetched(one, again) == content
    assert not (await scrub(one)).damaged
    names = [f"packs/{pack.id}" for pack in first.packs]
    assert await one.delete([*names, "images/checkpoint_1"]) == [*names, "images/checkpoint_1"]
    with pytest.raises(ImageMissing):
        await one.fetch(stored)


async def test_what_was_changed_in_s3_is_found(bucket: str, tmp_path: Path):
    objects = open_objects(bucket, Path())
    one = images(tmp_path, objects)
    published, stored, content = await publish(one, "checkpoint_1", memory(20))
    for name in ("images/checkpoint_1", f"packs/{published.packs[0].id}"):
        whole = await objects.get(name)
        for at in (0, len(whole) // 2, len(whole) - 1):
            await objects.put(name, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(ImageDamaged):
                await one.fetch(stored)
        await objects.put(name, whole)
    assert await fetched(one, stored) == content


async def test_wrong_credentials_are_told_as_the_store_not_answering(
    rclone: str, monkeypatch: pytest.MonkeyPatch, account: None
):
    monkeypatch.setenv("TORPOR_STORE_AWS_ENDPOINT", rclone)
    monkeypatch.setenv("TORPOR_STORE_AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ObjectsDown, match="does not answer"):
        await open_objects("s3://bucket/x", Path()).put("packs/one", b"1")


async def test_a_server_that_is_gone_is_said_to_be_down_and_the_draft_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: None
):
    monkeypatch.setenv("TORPOR_STORE_AWS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("torpor.objects._PATIENCE", {"max_retries": 1})
    one = images(tmp_path, open_objects("s3://bucket/x", Path()))
    draft = one.begin("checkpoint_1", expected_bytes=1)
    write_memory(draft.criu, memory(10))
    with pytest.raises(ObjectsDown):
        await one.publish(draft, {}, base=None)
    assert (draft.criu / "pages-1.img").exists()
    one.discard(draft)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for half a megabyte."""
    place = tmp_path / "tiny"
    place.mkdir()
    if (
        os.getuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place], check=False).returncode
    ):
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


async def test_a_store_whose_disk_is_full_keeps_no_half_image(tmp_path: Path, full_disk: Path):
    one = images(tmp_path, Directory(full_disk / "store"))
    _, stored, content = await publish(one, "checkpoint_1", memory(10))
    with pytest.raises(ObjectsDown, match="No space left"):
        await publish(one, "checkpoint_2", {at: os.urandom(PAGE) for at in memory(300)})
    assert [path.name for path in (full_disk / "store" / "images").iterdir()] == ["checkpoint_1"]
    assert not list((full_disk / "store").rglob("*.draft"))
    assert await fetched(one, stored) == content
    _, stored, content = await publish(one, "checkpoint_3", memory(20))
    assert await fetched(one, stored) == content


async def test_a_workspace_without_room_is_an_error_of_the_disk_and_nothing_is_left(tmp_path: Path, full_disk: Path):
    one = images(tmp_path)
    _, stored, _ = await publish(one, "checkpoint_1", {at: os.urandom(PAGE) for at in memory(300)})
    cramped = Images(one.objects, one.keys, Workspace(full_disk / "work"))
    with pytest.raises(OSError, match="No space left"):
        await cramped.fetch(stored)
    assert not list((full_disk / "work").iterdir())


PUBLISHER = """
import asyncio, itertools, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from made import images, memory, publish
from torpor.images.pages import PAGE

async def main():
    one = images(Path(sys.argv[1]))
    await publish(one, f"checkpoint_warm_{os.getpid()}", memory(500), shelve=True)
    for n in itertools.count():
        new = {at: os.urandom(PAGE) for at in memory(200 * (n % 20), at=0x1_0000_0000)}
        await publish(one, f"checkpoint_{os.getpid()}_{n}", memory(500) | new, base=f"checkpoint_warm_{os.getpid()}")
        print(n, flush=True)

asyncio.run(main())
"""


async def test_a_worker_that_is_killed_while_it_publishes_leaves_whole_images_and_strays(tmp_path: Path):
    """Killed anywhere: a manifest that is there has all its packs, and what is left over is named as such."""
    some = random.Random(int(os.environ.get("TORPOR_TEST_SEED", "4")))
    for _ in range(6):
        program = [sys.executable, "-c", PUBLISHER, str(tmp_path), str(Path(__file__).parent)]
        process = subprocess.Popen(program, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        await asyncio.sleep(some.random() * 0.3)
        process.kill()
        process.wait()
        process.stdout.close()
    one = images(tmp_path)
    found = await scrub(one)
    assert len(found.images) >= 12
    assert not found.damaged
    for image_id in found.images:
        laid = await one.fetch(StoredCheckpoint(image_id, 0))
        one.release(laid)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    named = {name async for names in one.strays(soon) for name in names}
    assert {f"packs/{pack_id}" for pack_id in found.unreferenced} <= named
    assert await one.delete(sorted(named))
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_images_are_in_memory_only_where_there_is_room(tmp_path: Path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory_directory:
        assert is_tmpfs(Path(memory_directory))
        workspace = Workspace(tmp_path, Path(memory_directory))
        small = workspace.begin("small", 1000)
        assert small.in_memory
        large = workspace.begin("large", available_memory())
        assert not large.in_memory
        assert large.path.parent == tmp_path
        promised = workspace.begin("promised", int(available_memory() * 0.4))
        assert promised.in_memory
        assert not workspace.begin("more", int(available_memory() * 0.4)).in_memory
        workspace.end(promised)
        assert workspace.begin("again", int(available_memory() * 0.4)).in_memory
        workspace.sweep()
        assert not list(tmp_path.iterdir())


def test_a_directory_on_a_disk_is_no_memory(tmp_path: Path):
    if is_tmpfs(tmp_path):
        pytest.skip("temporary files are in memory here")
    assert Workspace(tmp_path / "disk", tmp_path / "memory").memory is None

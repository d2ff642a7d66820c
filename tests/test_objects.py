"""Objects, in a directory and in a bucket: what is put can be had, and what is gone is said to be."""

import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from torpor.errors import ConfigError
from torpor.objects import Bucket, Directory, ObjectMissing, Objects, ObjectsDown, new_name, open_objects

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["a directory", "a bucket"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Objects]:
    """A bucket is one in memory, by the library that talks to S3; set TORPOR_TEST_OBJECT_STORE to try a real one."""
    if request.param == "a directory":
        yield Directory(tmp_path / "objects")
    else:
        yield Bucket(os.environ.get("TORPOR_TEST_OBJECT_STORE", "memory:///"))


async def old(objects: Objects, owner: str, before: datetime) -> list[str]:
    return [name async for names in objects.old(owner, before) for name in names]


async def test_what_was_put_can_be_had_until_it_is_deleted(objects: Objects):
    """G14: payloads and outputs that are too large for a row."""
    name = new_name("env_1", "run_1", "output", 5)
    await objects.put(name, b"hello")
    assert await objects.get(name) == b"hello"
    await objects.delete([name, new_name("env_1", "run_1", "output", 5)])
    with pytest.raises(ObjectMissing, match=name):
        await objects.get(name)
    await objects.delete([name])


async def test_large_ones_are_kept_whole(objects: Objects):
    name, data = new_name("env_1", "run_1", "payload", 0), os.urandom(12 << 20)
    await objects.put(name, data)
    assert await objects.get(name) == data
    await objects.delete([name])


async def test_old_ones_are_named_owner_by_owner(objects: Objects):
    mine, other = new_name("env_1", "run_1", "output", 1), new_name("env_12", "run_1", "output", 1)
    for name in (mine, other):
        await objects.put(name, b"1")
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert await old(objects, "env_1", soon) == [mine]
    assert await old(objects, "env_1", soon - timedelta(hours=1)) == []
    assert await old(objects, "env_unknown", soon) == []
    await objects.delete([mine, other])


def test_names_differ_and_tell_the_size():
    names = {new_name("env_1", "run_1", "output", 77) for _ in range(100)}
    assert len(names) == 100
    assert {name.split("-")[3] for name in names} == {"77"}


async def test_a_disk_that_fails_is_told_as_the_store_being_down(tmp_path: Path):
    (tmp_path / "objects").write_text("not a directory")
    with pytest.raises(ObjectsDown, match="objects fails"):
        await Directory(tmp_path / "objects").put("env_1/run_1-output-x-1", b"1")


async def test_a_draft_that_a_crash_has_left_is_swept(tmp_path: Path):
    objects = Directory(tmp_path)
    (tmp_path / "env_1").mkdir()
    draft = tmp_path / "env_1" / "run_1-output-x-1.draft"
    draft.write_text("half")
    os.utime(draft, (time.time() - 9000, time.time() - 9000))
    (name,) = await old(objects, "env_1", datetime.now(UTC) - timedelta(hours=1))
    await objects.delete([name])
    assert list((tmp_path / "env_1").iterdir()) == []


def test_a_url_of_nothing_says_how_one_looks():
    with pytest.raises(ConfigError, match="s3://bucket/prefix"):
        open_objects("what://ever", Path("."))


def test_without_a_url_it_is_a_directory(tmp_path: Path):
    assert isinstance(open_objects(None, tmp_path), Directory)
    assert isinstance(open_objects(f"file://{tmp_path}", tmp_path), Directory)

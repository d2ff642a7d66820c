"""What is published comes back byte for byte, and what others have is not stored again."""

import os
from pathlib import Path

import pytest
from made import fetched, images, memory, publish

from torpor.images.pages import PAGE

pytestmark = pytest.mark.anyio


async def test_what_is_published_is_fetched_byte_for_byte(tmp_path: Path):
    one, other = images(tmp_path), images(tmp_path, name="other")
    _, stored, content = await publish(one, "checkpoint_1", memory(300), files=os.urandom(200_000))
    assert await fetched(one, stored) == content
    assert await fetched(other, stored) == content
    assert not [*(tmp_path / "disk-one").iterdir(), *(tmp_path / "disk-other").iterdir()]


async def test_pages_as_in_the_base_are_not_stored_again(tmp_path: Path):
    one, other = images(tmp_path), images(tmp_path, name="other")
    base, warm, _ = await publish(one, "checkpoint_warm", memory(3000), shelve=True)
    changed = memory(3000) | {at: os.urandom(PAGE) for at in list(memory(3000))[100:3000:100]}
    published, stored, content = await publish(one, "checkpoint_1", changed, base="checkpoint_warm")
    assert published.new_bytes < 29 * PAGE + 2000
    assert published.shared_bytes >= (3000 - 29) * PAGE
    assert {pack.id for pack in base.packs} < {pack.id for pack in published.packs}
    assert await fetched(one, stored) == content
    assert await fetched(other, stored) == content
    await other.fetch(warm)
    assert await fetched(other, stored) == content


async def test_a_worker_that_has_not_seen_the_base_fetches_it_to_compare(tmp_path: Path):
    one, other = images(tmp_path), images(tmp_path, name="other")
    await publish(one, "checkpoint_warm", memory(1000), shelve=True)
    published, stored, content = await publish(other, "checkpoint_1", memory(1000), base="checkpoint_warm")
    assert published.shared_bytes >= 1000 * PAGE
    assert await fetched(one, stored) == content

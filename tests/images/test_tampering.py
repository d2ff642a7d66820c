"""Whatever is done to what is stored: an image is laid exactly as it was published, or not at all."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made import fetched, images, keyring, memory, publish

from torpor.errors import ImageDamaged, ImageMissing
from torpor.images import Images, Keyring, scrub
from torpor.images.pages import PAGE
from torpor.wire.http import StoredCheckpoint

pytestmark = pytest.mark.anyio

SEED = int(os.environ.get("TORPOR_TEST_SEED", "4"))


async def a_base_and_its_image(tmp_path: Path) -> tuple[Images, StoredCheckpoint, dict[str, bytes]]:
    """An image that consists of a base's packs and its own, with pages, zeros, a tar and small files."""
    one = images(tmp_path)
    await publish(one, "checkpoint_warm", memory(40), shelve=True)
    changed = memory(40) | {at: os.urandom(PAGE) for at in list(memory(40))[3:6]}
    changed |= dict(list(memory(20, at=0x5000_0000, seed=7).items())) | {0x6000_0000: bytes(PAGE)}
    _, stored, content = await publish(one, "checkpoint_1", changed, os.urandom(5000), base="checkpoint_warm")
    return images(tmp_path, name="other"), stored, content


def objects(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "store").rglob("*") if path.is_file())


async def refused(at: Images, stored: StoredCheckpoint, reason: str | None = None) -> None:
    """Nothing is laid, and nothing is left of what was begun."""
    with pytest.raises(ImageDamaged, match=reason):
        await at.fetch(stored)
    assert not [left for left in at.workspace.disk.iterdir() if left.name.startswith("laid")]


def bits(size: int, some: random.Random) -> Iterator[int]:
    """Of the ends of an object every bit of a byte, and some anywhere."""
    yield from (0, 7, size * 8 - 1, size * 8 - 8)
    yield from (some.randrange(size * 8) for _ in range(60))


async def test_any_bit_that_is_flipped_anywhere_is_found(tmp_path: Path):
    """Of every object that the image consists of, the manifest as well."""
    other, stored, content = await a_base_and_its_image(tmp_path)
    some = random.Random(SEED)
    part_of_it = {stored.id, *(pack.id for pack in stored.packs)}
    assert len(part_of_it) == 3
    for path in objects(tmp_path):
        whole = path.read_bytes()
        for bit in bits(len(whole), some):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            if path.name in part_of_it:
                await refused(other, stored)
            else:  # the base's manifest: all that was needed of it is in the image's own
                assert await fetched(other, stored) == content
        path.write_bytes(whole)
    assert await fetched(other, stored) == content


async def test_every_bit_of_a_small_image_matters(tmp_path: Path):
    """No sample here: all bits of both objects."""
    one = images(tmp_path)
    _, stored, content = await publish(one, "checkpoint_1", {})
    for path in objects(tmp_path):
        whole = path.read_bytes()
        for bit in range(len(whole) * 8):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            await refused(one, stored)
        path.write_bytes(whole)
    assert await fetched(one, stored) == content


async def test_without_a_digest_the_seal_still_finds_every_flipped_bit_of_a_manifest(tmp_path: Path):
    """A base's manifest is read by its id alone."""
    one = images(tmp_path)
    await publish(one, "checkpoint_1", {})
    path = tmp_path / "store" / "images" / "checkpoint_1"
    whole = path.read_bytes()
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(ImageDamaged):
            await one.manifest("checkpoint_1")


@pytest.mark.parametrize("keep", [0, 1, 20, -1])
async def test_what_is_cut_short_is_found(tmp_path: Path, keep: int):
    other, stored, _ = await a_base_and_its_image(tmp_path)
    for name in (f"images/{stored.id}", *(f"packs/{pack.id}" for pack in stored.packs)):
        path = tmp_path / "store" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:keep])
        await refused(other, stored)
        path.write_bytes(whole)


async def test_what_is_missing_is_said_to_be(tmp_path: Path):
    other, stored, _ = await a_base_and_its_image(tmp_path)
    for name in (f"images/{stored.id}", *(f"packs/{pack.id}" for pack in stored.packs)):
        path = tmp_path / "store" / name
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(ImageMissing, match="is not in the object store"):
            await other.fetch(stored)
        path.write_bytes(whole)


def swap(a: Path, b: Path) -> None:
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)


async def test_packs_that_are_swapped_are_found(tmp_path: Path):
    one = images(tmp_path)
    _, first, _ = await publish(one, "checkpoint_1", memory(20, seed=1))
    _, second, _ = await publish(one, "checkpoint_2", memory(20, seed=2))
    swap(*(tmp_path / "store" / "packs" / stored.packs[0].id for stored in (first, second)))
    await refused(one, first, "swapped")
    await refused(one, second, "swapped")


async def test_another_images_manifest_is_refused(tmp_path: Path):
    """With the digest of the row, and with the seal alone."""
    one = images(tmp_path)
    _, first, _ = await publish(one, "checkpoint_1", memory(20, seed=1))
    _, second, _ = await publish(one, "checkpoint_2", memory(20, seed=2))
    swap(tmp_path / "store" / "images" / "checkpoint_1", tmp_path / "store" / "images" / "checkpoint_2")
    await refused(one, first, "not the one that was published")
    with pytest.raises(ImageDamaged, match="another image's"):
        await one.manifest("checkpoint_2")
    await refused(one, StoredCheckpoint(first.id, 0, digest=second.digest), "another image's")


async def test_an_older_manifest_of_the_same_image_is_refused(tmp_path: Path):
    """It was published twice, since packs that it referred to were being deleted: the first manifest is no longer it."""
    one = images(tmp_path)
    _, old, _ = await publish(one, "checkpoint_1", memory(20, seed=1))
    path = tmp_path / "store" / "images" / "checkpoint_1"
    replayed = path.read_bytes()
    _, new, content = await publish(one, "checkpoint_1", memory(20, seed=2))
    assert await fetched(one, new) == content
    await refused(one, old)
    path.write_bytes(replayed)
    await refused(one, new, "not the one that was published")


@pytest.mark.parametrize(
    "other_key", [lambda: Keyring({"key_1": bytes(32)}, "key_1"), lambda: Keyring({"key_2": bytes(32)}, "key_2")]
)
async def test_another_key_opens_nothing(tmp_path: Path, other_key: Callable[[], Keyring]):
    one = images(tmp_path)
    _, stored, _ = await publish(one, "checkpoint_1", memory(20))
    await refused(images(tmp_path, keys=other_key(), name="other"), stored, "key")


async def test_a_forger_with_another_key_of_the_same_id_gets_nothing_laid(tmp_path: Path):
    """Whoever can write to the store, and knows all that the rows say, can't make an image that we take."""
    forger = images(tmp_path, keys=Keyring({"key_1": os.urandom(32)}, "key_1"), name="forger")
    _, forged, _ = await publish(forger, "checkpoint_1", memory(20))
    await refused(images(tmp_path, keys=keyring()), forged, "another key")


async def test_nothing_of_the_content_is_in_the_store_in_clear(tmp_path: Path):
    one = images(tmp_path)
    secret = os.urandom(PAGE)
    await publish(one, "checkpoint_1", {0x1000: secret}, b"the password is hunter2" + secret)
    stored = b"".join(path.read_bytes() for path in objects(tmp_path))
    assert secret[:32] not in stored
    assert b"hunter2" not in stored
    assert b"pages-1.img" not in stored


async def test_a_scrub_names_each_damaged_image_and_no_other(tmp_path: Path):
    one = images(tmp_path)
    stored = [(await publish(one, f"checkpoint_{n}", memory(20, seed=n)))[1] for n in range(5)]
    assert not (await scrub(one)).damaged
    store = tmp_path / "store"
    pack = store / "packs" / stored[1].packs[0].id
    pack.write_bytes(pack.read_bytes()[:-1] + b"\0")
    (store / "packs" / stored[2].packs[0].id).unlink()
    (store / "images" / "checkpoint_3").write_bytes(b"nonsense")
    found = await scrub(one)
    assert sorted(found.images) == [f"checkpoint_{n}" for n in range(5)]
    assert sorted(found.damaged) == ["checkpoint_1", "checkpoint_2", "checkpoint_3"]
    assert found.unreferenced == [stored[3].packs[0].id]
    assert (await scrub(one, {"checkpoint_0": stored[1].digest})).damaged
    assert not (await scrub(one, {"checkpoint_0": stored[0].digest})).damaged
    assert (await scrub(one, {"checkpoint_9": ""})).damaged == {
        "checkpoint_9": ["image checkpoint_9 is not in the object store"]
    }


async def test_what_shares_with_a_damaged_image_is_stored_anew(tmp_path: Path):
    """One bad pack spoils the images that refer to it. Those that come after it was found must not be among them."""
    one = images(tmp_path)
    base, _, _ = await publish(one, "checkpoint_warm", memory(600), shelve=True)
    first, damaged, _ = await publish(one, "checkpoint_1", memory(600) | memory(400, at=0x10000, seed=1))
    for pack in {pack.id for pack in first.packs}:
        path = tmp_path / "store" / "packs" / pack
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    other = images(tmp_path, name="other")
    for at in (one, other):
        await refused(at, damaged)
    again, stored, content = await publish(
        one, "checkpoint_2", memory(600) | memory(400, at=0x10000, seed=1), base="checkpoint_warm"
    )
    assert not {pack.id for pack in again.packs} & (
        {pack.id for pack in first.packs} | {pack.id for pack in base.packs}
    )
    assert await fetched(other, stored) == content

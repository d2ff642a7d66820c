"""Images are published whole, and one wrong byte makes them unusable."""

from pathlib import Path

import pytest

from torpor.errors import ImageDamaged
from torpor.worker.images import Images


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "checkpoints")


def published(images: Images, checkpoint_id: str = "checkpoint_1") -> Path:
    place = images.begin(checkpoint_id)
    (place / "criu" / "core-1.img").write_bytes(b"registers")
    (place / "criu" / "pages-1.img").write_bytes(bytes(range(256)) * 64)
    (place / "criu" / "empty.img").write_bytes(b"")
    (place / "files.tar").write_bytes(b"tar")
    images.publish(checkpoint_id, {"criu": "4.2.1"})
    return images.directory / checkpoint_id


def test_a_whole_image_verifies_and_tells_its_facts(images: Images) -> None:
    place = published(images)
    assert images.verify("checkpoint_1") == place
    assert images.facts("checkpoint_1") == {"criu": "4.2.1"}
    assert images.ids() == ["checkpoint_1"]


def test_a_flipped_bit_is_found(images: Images) -> None:
    pages = published(images) / "criu" / "pages-1.img"
    data = bytearray(pages.read_bytes())
    data[5000] ^= 1
    pages.write_bytes(data)
    with pytest.raises(ImageDamaged, match=r"pages-1\.img was changed"):
        images.verify("checkpoint_1")


def test_a_truncated_file_is_found(images: Images) -> None:
    pages = published(images) / "criu" / "pages-1.img"
    pages.write_bytes(pages.read_bytes()[:-1])
    with pytest.raises(ImageDamaged, match=r"pages-1\.img has 16383 bytes instead of 16384"):
        images.verify("checkpoint_1")


def test_a_missing_or_added_file_is_found(images: Images) -> None:
    place = published(images)
    (place / "criu" / "odd.img").touch()
    with pytest.raises(ImageDamaged, match=r"criu/odd\.img is not part of it"):
        images.verify("checkpoint_1")
    (place / "criu" / "odd.img").unlink()
    (place / "criu" / "empty.img").unlink()
    with pytest.raises(ImageDamaged, match=r"criu/empty\.img is missing"):
        images.verify("checkpoint_1")


def test_an_image_of_another_worker_is_refused(images: Images, tmp_path: Path) -> None:
    place = published(Images(tmp_path / "elsewhere"))
    place.rename(images.directory / "checkpoint_1")
    with pytest.raises(ImageDamaged, match="not written by this worker"):
        images.verify("checkpoint_1")


def test_an_image_under_another_images_name_is_refused(images: Images) -> None:
    published(images).rename(images.directory / "checkpoint_2")
    with pytest.raises(ImageDamaged, match="belongs to checkpoint_1"):
        images.verify("checkpoint_2")


def test_a_garbled_manifest_and_an_absent_image_are_damage_not_crashes(images: Images) -> None:
    (published(images) / "manifest.json").write_text("[]")
    with pytest.raises(ImageDamaged, match="manifest can't be read"):
        images.verify("checkpoint_1")
    with pytest.raises(ImageDamaged, match="is not on this machine"):
        images.verify("checkpoint_9")


def test_a_half_written_image_is_not_an_image_and_is_swept(images: Images) -> None:
    (images.begin("checkpoint_1") / "criu" / "core-1.img").write_bytes(b"half")
    assert images.ids() == []
    images.sweep()
    assert [path.name for path in images.directory.iterdir()] == ["key"]


def test_a_worker_keeps_its_key(images: Images) -> None:
    published(images)
    assert Images(images.directory).verify("checkpoint_1")
    assert (images.directory / "key").stat().st_mode & 0o777 == 0o600

"""Memory that isn't laid is read later, and is verified no less."""

import asyncio
from pathlib import Path

import pytest
from made import images, memory, publish

from torpor.errors import ImageDamaged, ImageMissing
from torpor.images import Later, later
from torpor.images.pages import PAGE
from torpor.objects import Directory, ObjectsDown

pytestmark = pytest.mark.anyio

LAZY_FROM = 0x7F0000000000
PAGES = 3000
CONTENT = {0x1000 * PAGE: b"code".ljust(PAGE), **memory(PAGES, at=LAZY_FROM)}


async def whole(found: Later, *, hurry: bool = False) -> bytes:
    """Read block by block, as a worker does."""
    step = 1 << 20

    def read() -> bytes:
        blocks = range(0, found.size, step)
        return b"".join(found.read(at, min(step, found.size - at), hurry=hurry) for at in blocks)

    return await asyncio.to_thread(read)


@pytest.mark.parametrize("hurry", [False, True])
async def test_what_criu_can_do_without_is_not_laid_and_can_be_read(tmp_path: Path, hurry: bool):
    one = images(tmp_path)
    _, stored, content = await publish(one, "checkpoint_1", CONTENT, files=b"tar", lazy_from=LAZY_FROM)
    laid = await one.fetch(stored, lazy_bytes=1 << 20)
    pages = laid.criu / "pages-1.img"
    assert pages.stat().st_size == len(content["pages-1.img"])
    assert pages.read_bytes() == content["pages-1.img"][:PAGE] + bytes(PAGES * PAGE)
    for name in ("core-1.img", "pagemap-1.img"):
        assert (laid.criu / name).read_bytes() == content[name]
    assert laid.files.read_bytes() == b"tar"
    (found,) = laid.later
    assert found.pid == 1
    assert found.runs == [(LAZY_FROM, PAGE, PAGES * PAGE)]
    assert await whole(found, hurry=hurry) == content["pages-1.img"]
    one.release(laid)


async def test_a_small_image_and_a_warm_one_are_laid_as_a_whole(tmp_path: Path):
    one = images(tmp_path)
    _, stored, _ = await publish(one, "checkpoint_1", CONTENT, lazy_from=LAZY_FROM)
    _, warm, _ = await publish(one, "checkpoint_2", CONTENT, lazy_from=LAZY_FROM, shelve=True)
    for image, lazy_bytes in ((stored, 1 << 30), (stored, 0), (warm, 1 << 20)):
        laid = await one.fetch(image, lazy_bytes=lazy_bytes)
        assert not laid.later
        assert (laid.criu / "pages-1.img").read_bytes().count(b"0 2999") == PAGE // 64
        one.release(laid)


async def test_what_the_base_has_at_hand_comes_from_there(tmp_path: Path):
    one, other = images(tmp_path), images(tmp_path, name="other")
    await publish(one, "checkpoint_warm", CONTENT, lazy_from=LAZY_FROM, shelve=True)
    changed = CONTENT | {LAZY_FROM + 7 * PAGE: b"changed".ljust(PAGE)}
    _, stored, content = await publish(
        one, "checkpoint_1", changed, lazy_from=LAZY_FROM, base="checkpoint_warm", shelve=False
    )
    for reader in (one, other):
        laid = await reader.fetch(stored, lazy_bytes=1 << 20)
        assert await whole(laid.later[0]) == content["pages-1.img"]
        reader.release(laid)


@pytest.mark.parametrize("hurry", [False, True])
async def test_what_was_changed_since_is_not_given_to_anybody(tmp_path: Path, hurry: bool):
    one = images(tmp_path)
    published, stored, _ = await publish(one, "checkpoint_1", CONTENT, lazy_from=LAZY_FROM)
    laid = await one.fetch(stored, lazy_bytes=1 << 20)
    (pack,) = [tmp_path / "store" / "packs" / each.id for each in published.packs]
    body = bytearray(pack.read_bytes())
    body[len(body) // 2] ^= 1
    pack.write_bytes(body)
    with pytest.raises(ImageDamaged):
        await whole(laid.later[0], hurry=hurry)
    pack.unlink()
    laid.later[0].stored._opened.clear()  # pyright: ignore[reportPrivateUsage]
    laid.later[0].stored._fetched.clear()  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ImageMissing):
        await whole(laid.later[0], hurry=hurry)


class Unsteady(Directory):
    """A store that is down for some calls."""

    down = 0

    async def get_range(self, name: str, start: int, size: int) -> bytes:
        if self.down:
            self.down -= 1
            raise ObjectsDown("out for lunch")
        return await super().get_range(name, start, size)


async def test_a_store_that_is_down_is_asked_again_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = Unsteady(tmp_path / "store")
    one = images(tmp_path, store)
    _, stored, content = await publish(one, "checkpoint_1", CONTENT, lazy_from=LAZY_FROM)
    laid = await one.fetch(stored, lazy_bytes=1 << 20)
    store.down = 2
    assert await whole(laid.later[0]) == content["pages-1.img"]
    again = await one.fetch(stored, lazy_bytes=1 << 20)
    monkeypatch.setattr(later, "PATIENCE_S", 0.2)
    store.down = 1000
    with pytest.raises(ObjectsDown):
        await whole(again.later[0])

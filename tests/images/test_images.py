"""What is published comes back byte for byte, and what others have is not stored again."""

import asyncio
import io
import os
import random
import tarfile
import tempfile
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import fetched, images, keyring, memory, publish, write_memory

from torpor.errors import ImageMissing
from torpor.images import Images, Keyring, delta, needed_by, packing, packs, prints, scrub
from torpor.images.delta import MOST_PACKS, WORTH_A_PACK
from torpor.images.pages import PAGE, parse
from torpor.images.tars import large_members
from torpor.objects import Directory, ObjectsDown
from torpor.wire.http import StoredCheckpoint

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


RUN = st.tuples(st.integers(0, 150), st.integers(1, 40), st.sampled_from(["base", "new", "zero", "same", "peer"]))


def made_of(runs: list[tuple[int, int, str]], seed: int) -> dict[int, bytes]:
    """Memory at up to 200 addresses: as in the base, new, zeros, one page many times, or as in another image."""
    some = random.Random(seed)
    found: dict[int, bytes] = {}
    for start, count, kind in runs:
        for number in range(start, start + count):
            address = 0x7F00_0000_0000 + number * PAGE
            if kind == "new":
                found[address] = some.randbytes(PAGE)
            elif kind == "zero":
                found[address] = bytes(PAGE)
            else:
                found[address] = memory(1, at=address, seed={"base": number, "peer": -number, "same": -1}[kind])[
                    address
                ]
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(RUN, max_size=8), st.lists(st.lists(RUN, max_size=8), min_size=1, max_size=3), st.integers(0, 2**32))
def test_any_memory_comes_back_whatever_it_shares_with_base_and_others(
    base: list[tuple[int, int, str]], several: list[list[tuple[int, int, str]]], seed: int
):
    """A base, then images one after the other; each is fetched by the worker that made it and by one that never saw any."""

    async def round_trips(directory: Path) -> None:
        one = images(directory)
        await publish(one, "checkpoint_warm", made_of(base, seed), shelve=True)
        made = [
            await publish(
                one, f"checkpoint_{n}", made_of(each, seed + n % 2), os.urandom(n * 1000), base="checkpoint_warm"
            )
            for n, each in enumerate(several)
        ]
        for at in (one, images(directory, name="other")):
            for _, stored, content in made:
                assert await fetched(at, stored) == content

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(round_trips(Path(directory)))


async def test_large_memory_goes_into_several_packs(tmp_path: Path):
    one, other = images(tmp_path), images(tmp_path, name="other")
    large = memory(10_000) | {at: os.urandom(PAGE) for at in memory(9_000, at=0x1_0000_0000)}
    published, stored, content = await publish(one, "checkpoint_1", large, os.urandom(3 << 20))
    assert len(published.packs) >= 4
    assert await fetched(other, stored) == content
    again, stored, content = await publish(one, "checkpoint_2", large)
    assert again.new_bytes < 100_000
    assert await fetched(other, stored) == content


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of the real ones."""
    monkeypatch.setattr(packs, "PACK_BYTES", 2 << 20)


@pytest.mark.usefixtures("small_packs")
async def test_an_image_of_many_packs_is_shared_as_a_whole(tmp_path: Path):
    one = images(tmp_path)
    pages = [os.urandom(PAGE) for _ in range(14_000)]
    large = {0x10000 + n * PAGE: page for n, page in enumerate(pages)}
    first, _, _ = await publish(one, "checkpoint_1", large)
    assert len(first.packs) > MOST_PACKS
    again, _, _ = await publish(one, "checkpoint_2", large)
    assert again.new_bytes < 2_000_000


async def test_processes_of_one_tree_share_what_they_have_in_common(tmp_path: Path):
    """A pool's children were forked from the run."""
    one = images(tmp_path)
    random_pages = {at: os.urandom(PAGE) for at in memory(100)}
    draft = one.begin("checkpoint_1", expected_bytes=1)
    for pid in (1, 2, 3):
        write_memory(draft.criu, random_pages, pid=pid)
    draft.dumped()
    published = await one.publish(draft, {}, base=None)
    assert published.new_bytes < 110 * PAGE
    one.discard(draft)


async def test_images_share_with_each_other_what_is_worth_it(tmp_path: Path):
    one, other = images(tmp_path), images(tmp_path, name="other")
    pages = {at: os.urandom(PAGE) for at in memory(100)}
    await publish(one, "checkpoint_1", pages)
    some = len(pages) - WORTH_A_PACK // PAGE
    moved = {at + 99 * PAGE: page for at, page in list(pages.items())[some:]} | memory(30, at=0x1000)
    published, stored, content = await publish(one, "checkpoint_2", moved)
    assert published.shared_bytes >= WORTH_A_PACK
    assert len(published.packs) == 2
    assert await fetched(other, stored) == content
    published, stored, content = await publish(one, "checkpoint_3", dict(list(pages.items())[:5]))
    assert published.shared_bytes == 0, "for five pages nobody keeps a pack of another image alive"
    assert await fetched(other, stored) == content


async def test_packs_that_are_being_deleted_are_not_referred_to(tmp_path: Path):
    """The engine says which: the image is published again without them, and without another dump."""
    one = images(tmp_path)
    base, _, _ = await publish(one, "checkpoint_warm", memory(100), shelve=True)
    draft = one.begin("checkpoint_1", expected_bytes=1)
    write_memory(draft.criu, memory(100))
    draft.dumped()
    first = await one.publish(draft, {"about": "checkpoint_1"}, base="checkpoint_warm")
    gone = [pack.id for pack in base.packs]
    assert set(gone) <= {pack.id for pack in first.packs}
    again = await one.publish(draft, {"about": "checkpoint_1"}, base="checkpoint_warm", without=gone)
    assert not set(gone) & {pack.id for pack in again.packs}
    content = {path.name: path.read_bytes() for path in draft.criu.iterdir()}
    one.discard(draft)
    await one.delete(["images/checkpoint_warm", *(f"packs/{pack_id}" for pack_id in gone)])
    stored = StoredCheckpoint("checkpoint_1", 0, digest=again.digest)
    assert await fetched(images(tmp_path, name="other"), stored) == content
    with pytest.raises(ImageMissing):
        await images(tmp_path, name="other").fetch(StoredCheckpoint("checkpoint_warm", 0))


async def test_what_nobody_has_a_row_of_is_not_referred_to(tmp_path: Path):
    """The engine would say of each next image that its packs are gone, or about to be."""
    one = images(tmp_path)
    contents = memory(100)
    draft = one.begin("checkpoint_1", expected_bytes=1)
    write_memory(draft.criu, contents)
    draft.dumped()
    lost = await one.publish(draft, {"about": "checkpoint_1"}, base=None)
    one.discard(draft)  # the run was answered meanwhile
    published, _, _ = await publish(one, "checkpoint_2", contents)
    assert not {pack.id for pack in lost.packs} & {pack.id for pack in published.packs}
    again, _, _ = await publish(one, "checkpoint_3", contents)
    assert {pack.id for pack in published.packs} & {pack.id for pack in again.packs}


async def test_after_a_rotation_new_images_stand_on_their_own_and_old_ones_are_read(tmp_path: Path):
    """Packs of an image are sealed with its own key, or a key could never be forgotten."""
    asked = 0

    async def ask() -> tuple[dict[str, bytes], str]:
        nonlocal asked
        asked += 1
        return {"key_1": bytes(range(32)), "key_2": bytes(32)}, "key_2"

    one = images(tmp_path)
    pages = {at: os.urandom(PAGE) for at in memory(50)}
    _, old, old_content = await publish(one, "checkpoint_warm", pages, shelve=True)
    one.keys.update({"key_2": bytes(32)}, "key_2")
    new, stored, content = await publish(one, "checkpoint_1", pages, base="checkpoint_warm")
    assert new.key_id == "key_2"
    assert new.shared_bytes == 0
    assert new.new_bytes > 50 * PAGE
    behind = images(tmp_path, keys=Keyring({"key_1": bytes(range(32))}, "key_1", ask), name="behind")
    assert await fetched(behind, stored) == content
    assert await fetched(behind, old) == old_content
    assert asked == 1
    only_new = images(tmp_path, keys=Keyring({"key_2": bytes(32)}, "key_2"), name="new")
    assert await fetched(only_new, stored) == content


async def test_what_no_live_image_needs_is_told_from_the_images_themselves(tmp_path: Path):
    one = images(tmp_path)
    base, _, _ = await publish(one, "checkpoint_warm", memory(100), shelve=True)
    other, _, _ = await publish(one, "checkpoint_1", {at: os.urandom(PAGE) for at in memory(9)}, base="checkpoint_warm")
    await publish(one, "checkpoint_2", memory(100), base="checkpoint_warm")
    own = [pack.id for pack in other.packs]
    assert (
        await needed_by(one, ["checkpoint_2"], ["images/checkpoint_1", *(f"packs/{pack_id}" for pack_id in own)]) == []
    )
    shared = f"packs/{base.packs[0].id}"
    assert await needed_by(one, ["checkpoint_2"], [shared]) == [f"image checkpoint_2 needs pack {base.packs[0].id}"]
    assert await needed_by(one, ["checkpoint_2"], ["images/checkpoint_2"]) == ["image checkpoint_2 is kept itself"]
    (tmp_path / "store" / "images" / "checkpoint_2").unlink()
    assert "can't be known" in (await needed_by(one, ["checkpoint_2"], [shared]))[0]


async def test_objects_that_a_crash_has_left_are_named_once_they_are_old(tmp_path: Path):
    one = images(tmp_path)
    published, _, _ = await publish(one, "checkpoint_1", memory(10))
    now = datetime.now(UTC)
    names = {name async for some in one.strays(now + timedelta(minutes=1)) for name in some}
    assert names == {"images/checkpoint_1", f"packs/{published.packs[0].id}"}
    assert not [some async for some in one.strays(now - timedelta(hours=1))]
    assert sorted(await one.delete(sorted(names))) == sorted(names)
    assert (await scrub(one)).images == {}


class Failing(Directory):
    """A store that takes so many puts and then is down."""

    def __init__(self, root: Path, puts: int) -> None:
        super().__init__(root)
        self.puts = puts

    async def put(self, name: str, data: bytes) -> None:
        self.puts -= 1
        if self.puts < 0:
            raise ObjectsDown("the store is down")
        await super().put(name, data)

    async def put_all(self, objects: object) -> None:
        raise ObjectsDown("the store is down")


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("puts", [0, 1, 2, 5])
async def test_a_store_that_is_down_in_the_middle_leaves_no_image_and_the_draft_may_be_tried_again(
    tmp_path: Path, puts: int
):
    failing = images(tmp_path, Failing(tmp_path / "store", puts))
    draft = failing.begin("checkpoint_1", expected_bytes=100 << 20)
    write_memory(draft.criu, {at: os.urandom(PAGE) for at in memory(2_200)})
    draft.dumped()
    with pytest.raises(ObjectsDown, match="down"):
        await failing.publish(draft, {"about": "checkpoint_1"}, base=None)
    assert not list((tmp_path / "store").rglob("*.draft"))
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    failing.objects = Directory(tmp_path / "store")
    published = await failing.publish(draft, {"about": "checkpoint_1"}, base=None)
    assert published.shared_bytes == 0, "what was not stored in the end was taken for stored"
    failing.discard(draft)
    assert not (await scrub(failing)).damaged


async def test_an_index_never_names_what_failed_to_be_stored(tmp_path: Path):
    failing = images(tmp_path, Failing(tmp_path / "store", 0))
    with pytest.raises(ObjectsDown):
        await publish(failing, "checkpoint_1", memory(300))
    failing.objects = Directory(tmp_path / "store")
    _, stored, content = await publish(failing, "checkpoint_2", memory(300))
    assert await fetched(images(tmp_path, name="other"), stored) == content


async def test_several_images_at_once(tmp_path: Path):
    one = images(tmp_path)
    await publish(one, "checkpoint_warm", memory(500), shelve=True)
    several = [
        publish(one, f"checkpoint_{n}", memory(500) | memory(100, at=0x1000 * PAGE, seed=n), base="checkpoint_warm")
        for n in range(10)
    ]
    made = await asyncio.gather(*several)
    laid = await asyncio.gather(*(fetched(one, stored) for _, stored, _ in made))
    assert laid == [content for _, _, content in made]


def test_a_page_map_says_where_pages_were_and_one_that_is_not_understood_says_nothing(tmp_path: Path):
    write_memory(tmp_path, memory(3))
    whole = (tmp_path / "pagemap-1.img").read_bytes()
    assert parse("pagemap-1.img", whole).runs == [(0x7F0000000000, 0, 3 * PAGE)]
    for content in (whole[:-1], whole[:20], b"", whole + b"\x05", b"x" * 100):
        with pytest.raises(ValueError, match=r"cut short|no page map|another type"):
            parse("pagemap-1.img", content)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(RUN, max_size=8), st.lists(RUN, max_size=8), st.lists(st.integers(0, 300), max_size=6), st.integers(0, 99)
)
def test_an_image_that_is_packed_while_it_is_written_is_the_same(
    base: list[tuple[int, int, str]], runs: list[tuple[int, int, str]], stops: list[int], seed: int
):
    """The pages file is looked at at any size that it has on the way, and a second process's file comes later."""

    async def round_trip(directory: Path) -> None:
        one = images(directory)
        await publish(one, "checkpoint_warm", made_of(base, seed), shelve=True)
        pages = made_of(runs, seed)
        draft = one.begin("checkpoint_1", expected_bytes=1)
        one.follow(draft, base="checkpoint_warm")
        written = draft.place.path / "written"
        written.mkdir()
        for pid in (1, 2):
            write_memory(written, pages, pid=pid)
            whole = (written / f"pages-{pid}.img").read_bytes()
            with (draft.criu / f"pages-{pid}.img").open("wb", buffering=0) as file:
                for start, end in pairwise([0, *sorted(min(stop * 2000, len(whole)) for stop in stops), len(whole)]):
                    file.write(whole[start:end])
                    await asyncio.sleep(0.003)
            (draft.criu / f"pagemap-{pid}.img").write_bytes((written / f"pagemap-{pid}.img").read_bytes())
        draft.dumped()
        draft.files.write_bytes(b"late")
        content = {path.name: path.read_bytes() for path in [*draft.criu.iterdir(), draft.files]}
        published = await one.publish(draft, {"about": "checkpoint_1"}, base="checkpoint_warm")
        one.discard(draft)
        stored = StoredCheckpoint("checkpoint_1", 0, digest=published.digest)
        assert await fetched(images(directory, name="other"), stored) == content

    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_WORTH_A_LOOK", PAGE)
        patch.setattr(packing, "_LOOK_INTERVAL_S", 0.0005)
        patch.setattr(delta, "WINDOW", 40 * PAGE)
        asyncio.run(round_trip(Path(directory)))


async def test_of_an_image_that_is_not_wanted_after_all_nothing_stays_in_the_store(tmp_path: Path):
    """The dump failed, or the run was answered: packs that were full had been put already."""
    one = images(tmp_path)
    draft = one.begin("checkpoint_1", expected_bytes=1)
    one.follow(draft, base=None)
    write_memory(draft.criu, {at: os.urandom(PAGE) for at in memory(10_000)})
    while not list((tmp_path / "store").rglob("pack_*")):
        await asyncio.sleep(0.01)
    await asyncio.to_thread(one.discard, draft)
    while list((tmp_path / "store").rglob("pack_*")):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert not list((tmp_path / "store").rglob("pack_*"))
    _, stored, content = await publish(one, "checkpoint_1", memory(10))
    assert await fetched(one, stored) == content


async def test_what_was_packed_for_another_base_is_packed_again(tmp_path: Path):
    one = images(tmp_path)
    base, _, _ = await publish(one, "checkpoint_warm", memory(200), shelve=True)
    draft = one.begin("checkpoint_1", expected_bytes=1)
    one.follow(draft, base=None)
    write_memory(draft.criu, memory(200))
    draft.dumped()
    published = await one.publish(draft, {}, base="checkpoint_warm")
    assert {pack.id for pack in base.packs} <= {pack.id for pack in published.packs}
    again = await one.publish(draft, {}, base="checkpoint_warm", without=[pack.id for pack in base.packs])
    assert not {pack.id for pack in base.packs} & {pack.id for pack in again.packs}
    one.discard(draft)


async def test_memory_that_has_moved_is_found_again(tmp_path: Path):
    """Three pages more in front of it, and another address: as after an import, or a list that grew."""
    one = images(tmp_path)
    pages = [os.urandom(PAGE) for _ in range(6000)]
    await publish(one, "checkpoint_1", {0x10000 + n * PAGE: page for n, page in enumerate(pages)})
    moved = {0x7000000 + n * PAGE: page for n, page in enumerate([os.urandom(PAGE) for _ in range(3)] + pages)}
    published, _, _ = await publish(one, "checkpoint_2", moved)
    assert published.new_bytes < 60 * PAGE


async def test_a_worker_that_has_fetched_an_image_knows_what_is_stored_of_it(tmp_path: Path):
    """The run goes on there, and its next image has most of its memory in common with this one."""
    one, other = images(tmp_path), images(tmp_path, name="other")
    pages = {at: os.urandom(PAGE) for at in memory(500)}
    _, stored, _ = await publish(one, "checkpoint_1", pages)
    assert await fetched(other, stored)
    published, stored, content = await publish(other, "checkpoint_2", pages | memory(3, at=0x1000))
    assert published.new_bytes < 3 * prints.MOST_PAGES * PAGE, "only blocks at the edges are stored again"
    assert await fetched(one, stored) == content


async def test_large_files_are_found_again_behind_one_that_grew(tmp_path: Path):
    """A run's own files travel as a tar."""
    one = images(tmp_path)
    large = [os.urandom(300_000) for _ in range(3)]

    def tar(log: bytes) -> bytes:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as into:
            for name, content in (("log", log), *((f"data-{n}", each) for n, each in enumerate(large))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                member.pax_headers = {"mtime": "1.5"}
                into.addfile(member, io.BytesIO(content))
        return made.getvalue()

    await publish(one, "checkpoint_1", files=tar(b"one line"))
    published, stored, content = await publish(one, "checkpoint_2", files=tar(b"one line" * 1000))
    assert published.new_bytes < 50_000
    assert await fetched(images(tmp_path, name="other"), stored) == content


@pytest.mark.parametrize("content", [b"", b"x" * 1000, bytes(1000), b"\xff" * 2000])
def test_what_is_no_tar_has_no_members(content: bytes):
    assert large_members(memoryview(content)) == []


async def test_a_pages_file_without_its_map_comes_back_too(tmp_path: Path):
    one: Images = images(tmp_path, keys=keyring())
    draft = one.begin("checkpoint_1", expected_bytes=1)
    write_memory(draft.criu, memory(40))
    (draft.criu / "pagemap-1.img").write_bytes(b"of a newer CRIU")
    draft.dumped()
    content = {path.name: path.read_bytes() for path in draft.criu.iterdir()}
    published = await one.publish(draft, {"about": "checkpoint_1"}, base=None)
    one.discard(draft)
    assert await fetched(one, StoredCheckpoint("checkpoint_1", 0, digest=published.digest)) == content


async def test_what_was_read_lately_is_not_read_again(tmp_path: Path):
    one, two = images(tmp_path), images(tmp_path, name="two", lately_bytes=1 << 20)
    published, stored, content = await publish(one, "checkpoint_1", memory(64))
    await fetched(two, stored)
    for pack in (tmp_path / "store" / "packs").iterdir():
        pack.unlink()
    assert await fetched(two, stored) == content
    await two.delete([f"packs/{pack.id}" for pack in published.packs])
    with pytest.raises(ImageMissing):
        await two.fetch(stored)


async def test_of_what_was_read_lately_only_so_much_is_kept(tmp_path: Path):
    one, two = images(tmp_path), images(tmp_path, name="two", lately_bytes=PAGE)
    _, stored, _ = await publish(one, "checkpoint_1", memory(64))
    await fetched(two, stored)
    for pack in (tmp_path / "store" / "packs").iterdir():
        pack.unlink()
    with pytest.raises(ImageMissing):
        await two.fetch(stored)


async def test_names_of_deleted_packs_lead_nowhere(tmp_path: Path):
    one = images(tmp_path)
    first, _, _ = await publish(one, "checkpoint_1", memory(64))
    await one.delete([f"packs/{pack.id}" for pack in first.packs])
    second, stored, content = await publish(one, "checkpoint_2", memory(64))
    assert not {pack.id for pack in first.packs} & {pack.id for pack in second.packs}
    assert await fetched(one, stored) == content

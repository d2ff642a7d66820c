"""Images of frozen processes in an object store: published whole or not at all, verified before use, deleted.

    packs/<pack id>       pages and blocks, compressed and sealed; of one image, and referred to by any number
    images/<image id>     a sealed manifest: the files, where each of their bytes is, and facts

Packs are durable before their manifest is visible, and `publish` returns after that; whoever keeps a row of the image
writes it then. A crash in between leaves objects that no row knows: `strays` finds them.

All packs of an image are sealed with its own data key: a key that no image names any longer can be forgotten.
"""

import asyncio
import contextlib
import hmac
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from blake3 import blake3

from torpor.errors import ImageDamaged, ImageMissing
from torpor.images import manifest as manifests
from torpor.images.index import Index, Named
from torpor.images.lately import MOST_BYTES, OF_IMAGES_BELOW, Lately
from torpor.images.later import Later, Stored, put_off
from torpor.images.lay import lay
from torpor.images.manifest import Content, Manifest
from torpor.images.packing import FILES, Draft, Packing
from torpor.images.pages import PageMap, parse
from torpor.images.seal import Key, Keyring, key_id_of
from torpor.images.shelf import Base, Shelf
from torpor.images.workspace import Place, Workspace
from torpor.objects import ObjectMissing, Objects, ObjectsDown
from torpor.wire.http import Pack, StoredCheckpoint


@dataclass(frozen=True)
class Published:
    """What was stored."""

    image_id: str
    digest: str
    """blake3 of the manifest object, in hex: who has it knows that what is fetched is what was published"""
    key_id: str
    size_bytes: int
    """all that is stored of it, what it shares with others included"""
    new_bytes: int
    """stored for this image alone"""
    shared_bytes: int
    """of its content (not compressed), what others had stored already"""
    packs: list[Pack]
    """all that it refers to"""


@dataclass
class Laid:
    """A verified image as files."""

    image_id: str
    place: Place
    facts: dict[str, Any]
    later: list[Later] = field(default_factory=list)
    """the memory that was not laid, process by process; none if all was"""

    @property
    def criu(self) -> Path:
        """CRIU's images."""
        return self.place.path / "criu"

    @property
    def files(self) -> Path:
        """The run's own files; there is no such file if none were packed."""
        return self.place.path / FILES


class Images:
    """The images in one object store, for one worker.

    Example:
        >>> import tempfile
        >>> from torpor.objects import Directory
        >>> folder = tempfile.TemporaryDirectory()
        >>> async def once_around() -> bytes:
        ...     keys = Keyring({"key_1": bytes(32)}, "key_1")
        ...     images = Images(Directory(Path(folder.name, "store")), keys, Workspace(Path(folder.name, "work")))
        ...     draft = images.begin("checkpoint_1", expected_bytes=6)
        ...     _ = (draft.criu / "core-1.img").write_bytes(b"memory")
        ...     draft.dumped()
        ...     stored = await images.publish(draft, {}, base=None)
        ...     images.discard(draft)
        ...     laid = await images.fetch(StoredCheckpoint("checkpoint_1", stored.size_bytes, digest=stored.digest))
        ...     return (laid.criu / "core-1.img").read_bytes()
        >>> asyncio.run(once_around())
        b'memory'
    """

    def __init__(
        self, objects: Objects, keys: Keyring, workspace: Workspace, *, lately_bytes: int = MOST_BYTES
    ) -> None:
        """`lately_bytes`: how much of what it has read and verified may stay in memory for the images to come. With 0 it
        also fetches no base for them."""
        self.objects = objects
        self.keys = keys
        self.workspace = workspace
        cores = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(cores, thread_name_prefix="images")  # compresses, seals, opens
        self._cutters = ThreadPoolExecutor(
            16, thread_name_prefix="cutter"
        )  # one for each image; they wait for the pool
        self._index = Index()
        self._unaccepted: dict[str, list[Named]] = {}
        self._shelf = Shelf(workspace)
        self._lately = Lately(lately_bytes)
        self._wanted: dict[str, asyncio.Task[None]] = {}
        self._shelving = asyncio.Lock()
        self._laid = 0
        self._leaving: set[asyncio.Task[None]] = set()

    # ---- Publishing ---------------------------------------------------------------------------------------------

    def begin(self, image_id: str, *, expected_bytes: int) -> Draft:
        """An empty place for an image: in memory if there is room for about twice the bytes, else on disk."""
        draft = Draft(image_id, self.workspace.begin(f"draft-{image_id}", expected_bytes))
        draft.criu.mkdir()
        return draft

    def follow(self, draft: Draft, *, base: str | None) -> None:
        """Begin to pack while CRIU writes. Call it before the dump, then `draft.dumped()`, `publish` or `discard`."""
        draft.packing, draft.base = asyncio.get_running_loop().create_task(self._pack(draft, base, ())), base

    def discard(self, draft: Draft) -> None:
        """Remove the files: after they are published, or instead. What was published of them stays."""
        self._unaccepted.pop(draft.image_id, None)
        followed, draft.packing = draft.packing, None
        if followed is not None:
            followed.get_loop().call_soon_threadsafe(self._leave, followed)
        self.workspace.end(draft.place)

    async def publish(
        self,
        draft: Draft,
        facts: dict[str, Any],
        *,
        base: str | None,
        without: Collection[str] = (),
        shelve: bool = False,
    ) -> Published:
        """Store the image, durably. The draft stays as it is: it may be published again, under the same id.

        Args:
            facts: what is recorded beside it; `fetch` gives them back.
            base: the image whose memory this process began with; what it shares with it isn't stored again.
            without: packs that must not be referred to, since they are being deleted.
            shelve: it is a base itself: keep its memory at hand for comparing others with.

        Raises:
            ObjectsDown: the store doesn't take it now.
            ImageDamaged: there is no key to seal it with.
            OSError: the draft can't be read.
        """
        draft.is_dumped.set()
        draft.is_complete.set()
        self._index.forget(set(without))
        packing = await self._followed(draft, base, without) or await self._pack(draft, base, without)
        try:
            files, last = await packing.packed()
            known_base = base if packing.base is not None else None
            blocks = packing.cutter.blocks()
            made = Manifest(draft.image_id, packing.key.id, known_base, facts, files, time.time(), blocks)
            sealed = packing.key.seal_manifest(draft.image_id, await self._in_thread(manifests.encode, made))
            await self.objects.put_all([*last, (f"images/{draft.image_id}", sealed)])
        except BaseException:
            await packing.undo()
            raise
        self._unaccepted[draft.image_id] = packing.cutter.named()
        if shelve:
            async with self._shelving:
                await self._shelve(made, draft.criu)
        return _published(made, sealed, {pack.id for pack in packing.packer.packs})

    def accepted(self, draft: Draft) -> None:
        """There is a row that keeps the image: from now on others may refer to what it has stored.

        Not before: nobody would know the packs, and images that refer to them would be refused one after the other.
        """
        self._index.add(self._unaccepted.pop(draft.image_id, []))

    async def _pack(self, draft: Draft, base: str | None, without: Collection[str]) -> Packing:
        key = await self.keys.current()
        at_hand = await self._base(base, key) if base is not None else None
        packing = Packing(draft, self.objects, key, self._index, self._pool, base=at_hand, without=without)
        packing.start(self._cutters)
        return packing

    async def _followed(self, draft: Draft, base: str | None, without: Collection[str]) -> Packing | None:
        """What has been made of the draft while CRIU wrote, if it is what is asked for now."""
        followed, draft.packing = draft.packing, None
        if followed is None:
            return None
        packing = await followed
        if draft.base == base and not without and packing.key is await self.keys.current():
            return packing
        self._leave(followed)
        return None

    def _leave(self, followed: asyncio.Task[Packing]) -> None:
        """It is not wanted any longer."""

        async def undo() -> None:
            with contextlib.suppress(Exception):
                await (await followed).undo()

        leaving = asyncio.get_running_loop().create_task(undo())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    # ---- Fetching -----------------------------------------------------------------------------------------------

    async def fetch(self, stored: StoredCheckpoint, *, lazy_bytes: int = 0) -> Laid:
        """Lay the image as files, every byte of them verified. One of kind `warm` is kept at hand as a base as well.

        Args:
            lazy_bytes: of an image with more memory than that, lay only what CRIU needs; the rest is read `later`, and
                verified then. 0 lays everything.

        Raises:
            ImageDamaged: it was changed, isn't ours, isn't the one meant, or (ImageMissing) isn't there.
            ObjectsDown: it can't be read now.
            OSError: there is no room for it.
        """
        image_id = stored.image_id or stored.id
        made, key = await self.manifest(image_id, stored.digest)
        base = self._shelf.get(made.base if made.base is not None else image_id)
        if base is None and made.base is not None and self._lately.most_bytes:
            self._want_base(made.base)
        self._laid += 1
        memory = sum(content.size for name, content in made.files.items() if name.startswith("pages-"))
        is_lazy = stored.kind != "warm" and 0 < lazy_bytes < memory
        size = made.size - memory if is_lazy else made.size
        place = self.workspace.begin(f"laid-{image_id}-{self._laid}", size)
        laid = Laid(image_id, place, made.facts)
        try:
            laid.criu.mkdir()
            where = {name: (laid.files if name == FILES else laid.criu / name) for name in made.files}
            files = dict(made.files)
            if is_lazy:
                first = {name: files.pop(name) for name in made.files if name.startswith("pagemap-")}
                await lay(self.objects, key, self._pool, {where[name]: each for name, each in first.items()}, base)
                stored_memory = Stored(self.objects, key, base)
                for map in _maps_of_processes(laid.criu, files):
                    later, files[map.pages] = put_off(map, files[map.pages], stored_memory)
                    laid.later.append(later)
            lately = self._lately if size < OF_IMAGES_BELOW else None
            await lay(self.objects, key, self._pool, {where[name]: each for name, each in files.items()}, base, lately)
            if stored.kind == "warm":
                async with self._shelving:
                    if self._shelf.get(image_id) is None:
                        await self._shelve(made, laid.criu)
        except ImageDamaged:
            self.workspace.end(place)
            self._distrust(made)
            raise
        except BaseException:
            self.workspace.end(place)
            raise
        self._index.add(made.blocks)
        return laid

    def _distrust(self, made: Manifest) -> None:
        """One of its packs is damaged. Other images may share it; no further one is to, so what it holds is stored again."""
        packs = set(made.packs())
        self._index.forget(packs)
        self._shelf.distrust(packs)

    def release(self, laid: Laid) -> None:
        """The files are no longer needed."""
        self.workspace.end(laid.place)

    async def manifest(self, image_id: str, digest: str = "") -> tuple[Manifest, Key]:
        """An image's manifest, opened, and the key that it was sealed with.

        Args:
            digest: what `publish` said. Without it any manifest is taken that was sealed for an image of this id.

        Raises:
            ImageDamaged, ObjectsDown: as `fetch`.
        """
        try:
            sealed = await self.objects.get(f"images/{image_id}")
        except ObjectMissing:
            raise ImageMissing(f"image {image_id} is not in the object store") from None
        if digest and not hmac.compare_digest(blake3(sealed).hexdigest(), digest):
            raise ImageDamaged(f"image {image_id}: its manifest is not the one that was published")
        key_id = key_id_of(image_id, sealed)
        try:
            key = await self.keys.find(key_id)
        except ImageDamaged as error:
            raise ImageDamaged(f"image {image_id}: {error}") from None
        opened = key.open_manifest(image_id, sealed)
        return await self._in_thread(manifests.decode, image_id, key_id, opened), key

    # ---- Deleting -----------------------------------------------------------------------------------------------

    async def delete(self, names: Sequence[str]) -> list[str]:
        """Delete these objects (`packs/…`, `images/…`); which of them are gone now.

        Raises:
            ObjectsDown: the store doesn't answer, and nothing was deleted.
        """
        packs = {name.removeprefix("packs/") for name in names}
        self._index.forget(packs)
        self._lately.forget(packs)
        gone: list[str] = []
        for first in range(0, len(names), 100):
            some = names[first : first + 100]
            try:
                await self.objects.delete(some)
            except ObjectsDown:
                if not gone:
                    raise
                break
            gone += some
        for name in gone:
            self._shelf.forget(name.removeprefix("images/"))
        return gone

    async def strays(self, before: datetime) -> AsyncIterator[list[str]]:
        """Objects that were put before that instant, some at a time: whether a row knows them is for others to say."""
        for kind in ("images", "packs"):
            async for names in self.objects.old(kind, before):
                yield names

    # ---- Bases --------------------------------------------------------------------------------------------------

    async def _base(self, image_id: str, key: Key) -> Base | None:
        """The base, if it can be had and is sealed with the same key; without it an image is larger, no more."""
        async with self._shelving:
            found = self._shelf.get(image_id)
            if found is None:
                with contextlib.suppress(ImageDamaged, ObjectsDown, OSError):
                    found = await self._fetch_base(image_id)
        return found if found is not None and found.key_id == key.id else None

    def _want_base(self, image_id: str) -> None:
        """Have it at hand for the images to come: this one must not wait for all of it."""
        if image_id not in self._wanted:

            async def bring() -> None:
                with contextlib.suppress(ImageDamaged, ObjectsDown, OSError):  # it is no more than a help
                    await self._base(image_id, await self.keys.current())
                del self._wanted[image_id]

            self._wanted[image_id] = asyncio.get_running_loop().create_task(bring())

    async def _fetch_base(self, image_id: str) -> Base:
        made, key = await self.manifest(image_id)
        wanted = {name: each for name, each in made.files.items() if name.startswith(("pagemap-", "pages-"))}
        place = self.workspace.begin(f"base-{image_id}", sum(each.size for each in wanted.values()))
        try:
            await lay(self.objects, key, self._pool, {place.path / name: each for name, each in wanted.items()}, None)
            base = await self._in_thread(Base, made, place)
        except BaseException:
            self.workspace.end(place)
            raise
        self._shelf.put(base)
        self._index.add(made.blocks)
        return base

    async def _shelve(self, made: Manifest, criu: Path) -> None:
        """Keep the memory of this image at hand. The files are the same ones where that is possible."""
        place = self.workspace.begin(f"base-{made.image_id}", made.size)
        try:
            for name in made.files:
                if name.startswith(("pagemap-", "pages-")):
                    await self._in_thread(_link_or_copy, criu / name, place.path / name)
            self._shelf.put(await self._in_thread(Base, made, place))
        except OSError:
            self.workspace.end(place)  # No room: it is fetched when it is wanted.

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._cutters, function, *args)


def _maps_of_processes(criu: Path, files: dict[str, Content]) -> list[PageMap]:
    """Not those of shared memory: CRIU reads that itself. None at all if there is one that we don't understand."""
    try:
        found = [parse(path.name, path.read_bytes()) for path in criu.glob("pagemap-[0-9]*.img")]
    except ValueError:
        return []
    return found if all(map.pages in files and files[map.pages].size == map.size for map in found) else []


def _published(made: Manifest, sealed: bytes, new: set[str]) -> Published:
    frames = made.frames().values()
    extents = [extent for content in made.files.values() for extent in content.extents]
    packs = made.packs()
    return Published(
        image_id=made.image_id,
        digest=blake3(sealed).hexdigest(),
        key_id=made.key_id,
        size_bytes=sum(frame.stored for frame in frames) + len(sealed),
        new_bytes=sum(pack.size_bytes for pack in packs.values() if pack.id in new) + len(sealed),
        shared_bytes=sum(length for frame, _, length in extents if frame is not None and frame.pack.id not in new),
        packs=[Pack(pack.id, pack.size_bytes, is_new=pack.id in new) for pack in packs.values()],
    )


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())

"""Read and verify everything; and prove, by what the images themselves say, that a deletion takes nothing from them.

The engine counts references in its tables. Here the manifests are read instead, so neither trusts the other.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from torpor.errors import ImageDamaged, ImageMissing
from torpor.images import packs
from torpor.images.images import Images
from torpor.images.manifest import Frame
from torpor.images.seal import Key
from torpor.objects import ObjectMissing, Objects

_AT_ONCE = 4


@dataclass
class Scrubbed:
    """What a scrub found."""

    images: dict[str, list[str]] = field(default_factory=dict)
    """every image that was looked at, and what is wrong with it: nothing, if all is well"""
    packs: int = 0
    """that were read"""
    bytes: int = 0
    """that were read, as stored"""
    unreferenced: list[str] = field(default_factory=list)
    """packs that no image refers to: on their way in or out, or left by a crash (of a scrub of all images only)"""

    @property
    def damaged(self) -> dict[str, list[str]]:
        """The images that can't be restored, and why."""
        return {image_id: problems for image_id, problems in self.images.items() if problems}


@dataclass
class _Pack:
    frames: dict[int, tuple[Frame, Key]] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)


async def scrub(images: Images, digests: Mapping[str, str] | None = None) -> Scrubbed:
    """Open every manifest and every frame that it refers to.

    Args:
        digests: the images that must be there, and the digests that were published with them (\"\": any). Without it all that
            the store has are looked at.

    Raises:
        ObjectsDown: the store can't be read now.
    """
    found = Scrubbed()
    wanted: dict[str, _Pack] = {}
    is_all = digests is None
    if digests is None:
        ids = [name.removeprefix("images/") async for name in _names(images.objects, "images")]
        digests = dict.fromkeys(ids, "")
        stored = {name.removeprefix("packs/") async for name in _names(images.objects, "packs")}
    else:
        stored = set[str]()
    for image_id, digest in digests.items():
        found.images[image_id] = []
        try:
            made, key = await images.manifest(image_id, digest)
        except ImageMissing as error:
            if is_all:
                del found.images[image_id]  # It has just been deleted, or was never whole: a crash has left a draft.
            else:
                found.images[image_id].append(str(error))
            continue
        except ImageDamaged as error:
            found.images[image_id].append(str(error))
            continue
        for frame in made.frames().values():
            pack = wanted.setdefault(frame.pack.id, _Pack())
            pack.frames[frame.number] = (frame, key)
            if image_id not in pack.images[-1:]:
                pack.images.append(image_id)
    found.unreferenced = sorted(stored - wanted.keys())

    room = asyncio.Semaphore(_AT_ONCE)

    async def look(pack_id: str, pack: _Pack) -> None:
        async with room:
            try:
                body = await images.objects.get(f"packs/{pack_id}")
            except ObjectMissing:
                problem: str | None = f"pack {pack_id} is not in the object store"
            else:
                found.packs += 1
                found.bytes += len(body)
                problem = await asyncio.to_thread(_problem, pack_id, pack, memoryview(body))
        if problem is not None:
            for image_id in pack.images:
                found.images[image_id].append(problem)

    await asyncio.gather(*(look(pack_id, pack) for pack_id, pack in wanted.items()))
    return found


async def needed_by(images: Images, live: Iterable[str], names: Collection[str]) -> list[str]:
    """Why these objects (`packs/…`, `images/…`) can't be deleted while those images are to be kept; empty: they can be.

    Raises:
        ObjectsDown: the store can't be read now.
    """
    reasons: list[str] = []
    condemned = set(names)
    for image_id in live:
        if f"images/{image_id}" in condemned:
            reasons.append(f"image {image_id} is kept itself")
        try:
            made, _ = await images.manifest(image_id)
        except ImageDamaged as error:
            reasons.append(f"what it needs can't be known: {error}")
            continue
        needed = sorted(pack_id for pack_id in made.packs() if f"packs/{pack_id}" in condemned)
        reasons += [f"image {image_id} needs pack {pack_id}" for pack_id in needed]
    return reasons


def _problem(pack_id: str, pack: _Pack, body: memoryview) -> str | None:
    frames = [pack.frames[number] for number in sorted(pack.frames)]
    if len(body) != frames[0][0].pack.size_bytes:
        return f"pack {pack_id} has {len(body)} bytes instead of {frames[0][0].pack.size_bytes}"
    try:
        for frame, key in frames:
            packs.opened(key, frame, body[frame.offset : frame.offset + frame.stored])
    except (ImageDamaged, ValueError) as error:
        return str(error)
    return None


async def _names(objects: Objects, kind: str) -> AsyncIterator[str]:
    async for names in objects.old(kind, datetime.now(UTC) + timedelta(days=1)):
        for name in names:
            yield name

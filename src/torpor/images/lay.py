"""An image becomes files again: fetch what is needed of each pack, open it, and only then write it where it belongs."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torpor.errors import ImageDamaged, ImageMissing
from torpor.images import packs
from torpor.images.lately import Lately
from torpor.images.manifest import Content, Frame
from torpor.images.seal import Key
from torpor.images.shelf import Base
from torpor.objects import ObjectMissing, Objects

_WHOLE_BYTES = 1 << 20
"""A pack that is smaller, or of which half is needed, is fetched as a whole: a request costs as much as that."""

_GAP_BYTES = 128 << 10
_AT_ONCE = 6
_COPIERS = 2


@dataclass
class Wanted:
    """A frame, and where parts of its content go: descriptor, offset there, offset in the frame, bytes."""

    frame: Frame
    parts: list[tuple[int, int, int, int]] = field(default_factory=list)


async def lay(
    objects: Objects,
    key: Key,
    pool: Executor,
    files: Mapping[Path, Content],
    base: Base | None,
    lately: Lately | None = None,
) -> None:
    """Write these files. What a base has in memory, or was opened `lately`, is copied from there.

    Raises:
        ImageDamaged: a part was changed, cut short or swapped, or (ImageMissing) isn't there.
        ObjectsDown: a part can't be read now.
        OSError: there is no room for it.
    """
    room = asyncio.Semaphore(_AT_ONCE)
    submitted: list[Future[None]] = []

    async def in_pool(function: Callable[..., None], *args: Any) -> None:
        submitted.append(pool.submit(function, *args))
        await asyncio.wrap_future(submitted[-1])

    async def fetch(pack_id: str, start: int, size: int, wanted: Sequence[Wanted]) -> None:
        async with room:
            try:
                name, whole = f"packs/{pack_id}", size == wanted[0].frame.pack.size_bytes
                body = memoryview(await (objects.get(name) if whole else objects.get_range(name, start, size)))
            except ObjectMissing:
                raise ImageMissing(f"pack {pack_id} is not in the object store") from None
            await asyncio.gather(*(in_pool(_write, key, body, start, some, lately) for some in _shares(wanted)))

    with contextlib.ExitStack() as stack:
        opened = {path: stack.enter_context(open(path, "wb", buffering=0)) for path in files}
        for path, content in files.items():
            os.truncate(opened[path].fileno(), content.size)
        by_descriptor = {opened[path].fileno(): content for path, content in files.items()}
        wanted, copies = await asyncio.to_thread(_sorted, by_descriptor, base, lately)
        tasks = [asyncio.ensure_future(in_pool(_copy, copies[first::_COPIERS])) for first in range(_COPIERS)]
        tasks += [asyncio.ensure_future(fetch(*each)) for each in ranges(wanted)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for each in [*tasks, *submitted]:
                each.cancel()
            # A thread at work can't be canceled, and must not write to a descriptor that is closed, or another file's by
            # then. There is at most one for each core, and each has a few megabytes to write.
            wait(submitted)


def _sorted(
    files: Mapping[int, Content], base: Base | None, lately: Lately | None
) -> tuple[dict[tuple[str, int], Wanted], list[tuple[int, int, Any]]]:
    """What has to be fetched, by frame; and what can be copied."""
    wanted: dict[tuple[str, int], Wanted] = {}
    copies: list[tuple[int, int, Any]] = []
    at_hand: Any
    for descriptor, content in files.items():
        at = 0
        for frame, offset, length in content.extents:
            if frame is not None:
                at_hand = base.content(frame, offset, length) if base is not None else None
                if at_hand is None and lately is not None and (content_of := lately.get(frame)) is not None:
                    at_hand = content_of[offset : offset + length]
                if at_hand is not None:
                    copies.append((descriptor, at, at_hand))
                else:
                    name = (frame.pack.id, frame.number)
                    each = wanted.get(name) or wanted.setdefault(name, Wanted(frame))
                    each.parts.append((descriptor, at, offset, length))
            at += length
    return wanted, copies


def ranges(wanted: Mapping[tuple[str, int], Wanted]) -> Iterator[tuple[str, int, int, list[Wanted]]]:
    """Which parts of which packs to fetch: pack, offset, bytes, and what is in there."""
    by_pack: dict[str, list[Wanted]] = {}
    for (pack_id, _), each in sorted(wanted.items()):
        by_pack.setdefault(pack_id, []).append(each)
    for pack_id, all_of_it in by_pack.items():
        size = all_of_it[0].frame.pack.size_bytes
        needed = sum(each.frame.stored for each in all_of_it)
        if size <= _WHOLE_BYTES or needed * 2 >= size:
            yield pack_id, 0, size, all_of_it
            continue
        start, some = all_of_it[0].frame.offset, all_of_it[:1]
        for each in all_of_it[1:]:
            end = some[-1].frame.offset + some[-1].frame.stored
            if each.frame.offset - end > _GAP_BYTES:
                yield pack_id, start, end - start, some
                start, some = each.frame.offset, []
            some.append(each)
        yield pack_id, start, some[-1].frame.offset + some[-1].frame.stored - start, some


def _shares(wanted: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    """Small helpings, so that all cores get some."""
    for first in range(0, len(wanted), 4):
        yield wanted[first : first + 4]


def _write(key: Key, body: Any, start: int, wanted: Sequence[Wanted], lately: Lately | None) -> None:
    for each in wanted:
        content = opened(key, each.frame, body, start)
        if lately is not None:
            lately.put(each.frame, content)
        for descriptor, to, offset, length in each.parts:
            _write_all(descriptor, to, content[offset : offset + length])


def opened(key: Key, frame: Frame, body: Any, start: int) -> Any:
    """The content of a frame, which is in this part of its pack.

    Raises:
        ImageDamaged: it was changed, cut short or swapped.
    """
    at = frame.offset - start
    try:
        return memoryview(packs.opened(key, frame, body[at : at + frame.stored]))
    except ValueError as error:
        raise ImageDamaged(f"pack {frame.pack.id} can't be read ({error})") from None


def _copy(copies: Sequence[tuple[int, int, Any]]) -> None:
    for descriptor, to, content in copies:
        _write_all(descriptor, to, content)


def _write_all(descriptor: int, at: int, content: Any) -> None:
    while content:
        done = os.pwrite(descriptor, content, at)
        content, at = content[done:], at + done

"""Images made up: page maps and pages as CRIU would write them, and two looks at one store."""

import os
import struct
import tempfile
from pathlib import Path

from torpor.images.images import Images, Published
from torpor.images.pages import PAGE
from torpor.images.seal import Keyring
from torpor.images.workspace import Workspace
from torpor.objects import Directory, Objects
from torpor.wire.http import StoredCheckpoint

MAGICS = struct.pack("<II", 0x54564319, 0x56084025)
LAZY, PRESENT = 2, 4


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(**fields: int) -> bytes:
    """A protobuf message of numbers, behind its length: `f1=…` is field 1."""
    body = b"".join(varint(int(name[1:]) << 3) + varint(value) for name, value in fields.items())
    return struct.pack("<I", len(body)) + body


def page_map(pages_id: int, runs: list[tuple[int, int]], *, lazy_from: int | None = None) -> bytes:
    """Runs are address and number of pages; those from an address on are lazy."""
    flags = {at: PRESENT | LAZY if lazy_from is not None and at >= lazy_from else PRESENT for at, _ in runs}
    return MAGICS + message(f1=pages_id) + b"".join(message(f1=at, f2=count, f4=flags[at]) for at, count in runs)


def write_memory(criu: Path, memory: dict[int, bytes], *, pid: int = 1, lazy_from: int | None = None) -> None:
    """What CRIU writes of a process that has these pages at these addresses."""
    runs: list[tuple[int, int]] = []
    for address in sorted(memory):
        if runs and runs[-1][0] + runs[-1][1] * PAGE == address:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((address, 1))
    (criu / f"pagemap-{pid}.img").write_bytes(page_map(pid, runs, lazy_from=lazy_from))
    (criu / f"pages-{pid}.img").write_bytes(b"".join(memory[address] for address in sorted(memory)))


def memory(pages: int, *, at: int = 0x7F0000000000, seed: int = 0) -> dict[int, bytes]:
    """Pages unlike each other, and well compressible."""
    return {at + n * PAGE: (b"%d %d " % (seed, n)).ljust(64, b".") * (PAGE // 64) for n in range(pages)}


def keyring() -> Keyring:
    return Keyring({"key_1": bytes(range(32))}, "key_1")


IN_MEMORY = Path("/dev/shm") / f"torpor-test-images-{os.getpid()}"
"""Where images of these tests are in memory; removed after them."""


def images(
    directory: Path,
    objects: Objects | None = None,
    keys: Keyring | None = None,
    name: str = "one",
    lately_bytes: int = 0,
) -> Images:
    """One worker's look at the store in this directory: it remembers nothing of what it has read, or tampering with the
    store would not show.
    """
    store = objects or Directory(directory / "store")
    memory = Path(tempfile.mkdtemp(dir=IN_MEMORY)) if IN_MEMORY.exists() else None
    workspace = Workspace(directory / f"disk-{name}", memory)
    return Images(store, keys or keyring(), workspace, lately_bytes=lately_bytes)


async def publish(
    into: Images,
    image_id: str,
    memory: dict[int, bytes] | None = None,
    files: bytes | None = None,
    *,
    lazy_from: int | None = None,
    **options: object,
) -> tuple[Published, StoredCheckpoint, dict[str, bytes]]:
    """Publish an image of this memory; what it consists of comes back too."""
    draft = into.begin(image_id, expected_bytes=1 << 20)
    write_memory(draft.criu, memory if memory is not None else {}, lazy_from=lazy_from)
    (draft.criu / "core-1.img").write_bytes(b"registers of " + image_id.encode() + os.urandom(100))
    if files is not None:
        draft.files.write_bytes(files)
    draft.dumped()
    content = {path.name: path.read_bytes() for path in [*draft.criu.iterdir(), draft.files] if path.exists()}
    try:
        published = await into.publish(draft, {"about": image_id}, **{"base": None, **options})  # pyright: ignore
        into.accepted(draft)
    finally:
        into.discard(draft)
    kind = "warm" if options.get("shelve") else "wait"
    stored = StoredCheckpoint(image_id, published.size_bytes, digest=published.digest, kind=kind, packs=published.packs)
    return published, stored, content


async def fetched(from_: Images, stored: StoredCheckpoint) -> dict[str, bytes]:
    """What is laid for CRIU."""
    laid = await from_.fetch(stored)
    try:
        assert laid.facts == {"about": stored.id}
        return {path.name: path.read_bytes() for path in [*laid.criu.iterdir(), laid.files] if path.exists()}
    finally:
        from_.release(laid)

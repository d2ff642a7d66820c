"""Checkpoints as worker and engine know them, and what is stored of them."""

from typing import Any, Literal

import msgspec


class Pack(msgspec.Struct, frozen=True):
    """An object that holds pages and blocks of images."""

    id: str
    size_bytes: int  # as stored
    key_id: str = ""  # the data key that it is sealed with; "": its image's
    is_new: bool = True  # made for this image; false: the engine has it from an earlier one, or it is of no use


class StoredCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint as worker and engine know it.

    `kind` tells how its process wakes. wait, named: it sleeps until it is signaled. auto, move: it was frozen wherever it
    was, and works on at once. warm: the process of a version that has no run yet.
    """

    id: str
    size_bytes: int  # all that is stored of it, what it shares with others included
    files_bytes: int = 0  # the run's working directory, packed
    dump_ms: float = 0.0  # CRIU alone
    durable_ms: float = 0.0  # from the wait entered to everything fsynced
    rss_bytes: int = 0  # of the process tree before the dump
    facts: dict[str, Any] = {}  # criu, kernel, arch, python
    image_id: str = ""  # what is stored of it; "": the same as `id`. A fork's checkpoint has its origin's image
    kind: Literal["wait", "named", "auto", "move", "warm"] = "wait"
    name: str | None = None  # of a named save point
    store_id: str = ""  # where it is; "": on the disk of the worker that made it
    digest: str = ""  # blake3, in hex, of the manifest object: what this id stands for, and nothing else
    key_id: str = ""  # the data key that it is sealed with
    base: str | None = None  # image id of the warm image that it shares pages with
    packs: list[Pack] = []  # all that it refers to, its base's included; left out of assignments
    new_bytes: int = 0  # stored for this image alone: packs that are new, and its manifest
    shared_bytes: int = 0  # how much of its content others had stored already, uncompressed


class CheckpointCensus(msgspec.Struct):
    worker_id: str
    ids: list[str]


class GarbageRequest(msgspec.Struct):
    """What a worker has deleted of its store, and has found there. Names are `images/<id>` and `packs/<id>`."""

    worker_id: str
    deleted: list[str] = []  # condemned by an earlier reply, and gone now
    strays: list[str] = []  # older than the grace period: perhaps nothing the engine knows of


class GarbageReply(msgspec.Struct):
    condemned: list[str]  # nothing refers to these, and nothing will: delete them, then say so
    more: bool = False  # there are others: ask again when these are gone


class ImagesRequest(msgspec.Struct):
    """Which images must be in my store? For a scrub, and for proving that a deletion takes nothing from them."""

    worker_id: str
    after: str = ""  # those behind this id


class LiveImage(msgspec.Struct, frozen=True):
    id: str
    digest: str


class ImagesReply(msgspec.Struct):
    images: list[LiveImage]
    next: str | None = None  # `after` of the next page; None: that was all


class WarmReport(msgspec.Struct):
    """The image of a version's warmed process, which has no run yet, is durable."""

    worker_id: str
    version: str
    checkpoint: StoredCheckpoint  # of kind warm


class WarmRequest(msgspec.Struct):
    """Is there a warmed process of this version in my store that I can thaw?"""

    worker_id: str
    version: str


class WarmFound(msgspec.Struct):
    checkpoint: StoredCheckpoint | None = None  # the newest that nobody of this worker's fitness has refused


class WarmRefusal(msgspec.Struct):
    """This worker can't thaw that warm image."""

    worker_id: str
    image_id: str
    reason: str
    damaged: bool = False  # nobody can: it is not to be used any more, by anyone

"""An object store, and what a worker does with it: publish images, fetch them, find and delete garbage (worker/garbage.py)."""

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torpor import engine, ids
from torpor.engine import Lease
from torpor.wire.http import Pack, StoredCheckpoint

from .net import Message, Violation

if TYPE_CHECKING:
    from .worker import Worker


@dataclass
class Image:
    """A manifest: a process, and the packs that its memory is in."""

    process: Any
    packs: list[str]
    digest: str


@dataclass
class Store:
    """Objects by name, and when each was put."""

    id: str
    images: dict[str, Image] = field(default_factory=dict)
    packs: set[str] = field(default_factory=set)
    put_at: dict[str, float] = field(default_factory=dict)

    def old(self, before: float) -> list[str]:
        return [name for name, at in self.put_at.items() if at <= before]

    def delete(self, name: str) -> None:
        kind, _, id = name.partition("/")
        self.put_at.pop(name, None)
        if kind == "images":
            self.images.pop(id, None)
        else:
            self.packs.discard(id)


class Shelf:
    """One worker's way to its store. It remembers packs, also those that are gone by now."""

    def __init__(self, worker: "Worker", store: Store) -> None:
        self.worker = worker
        self.world = worker.world
        self.store = store
        self.known: list[str] = []
        self._deleted: list[str] = []

    async def publish(
        self, process: Any, kind: str, *, id: str | None = None, name: str | None = None
    ) -> StoredCheckpoint:
        """Packs, then the manifest. Some packs are those of earlier images, if this worker remembers any."""
        rng = self.world.rng
        image_id, new = id or ids.new("checkpoint"), ids.new("pack")
        shared = rng.sample(self.known, min(len(self.known), rng.choice([0, 1, 1, 3])))
        await self._put(f"packs/{new}")
        self.store.packs.add(new)
        digest = ids.new("digest")
        await self._put(f"images/{image_id}")
        self.store.images[image_id] = Image(copy.deepcopy(process), [*shared, new], digest)
        self.world.net.note(self.worker.id, f"has stored {image_id} of {new} and {shared}")
        self.known.append(new)
        return StoredCheckpoint(
            image_id,
            1000,
            kind=kind,  # pyright: ignore[reportArgumentType]
            name=name,
            store_id=self.store.id,
            digest=digest,
            key_id="key_1",
            packs=[*(Pack(pack, 10, is_new=False) for pack in shared), Pack(new, 10)],
        )

    async def _put(self, name: str) -> None:
        await self.world.stage.sleep(self.world.rng.choice([0.001, 0.05]))
        self.store.put_at[name] = self.world.stage.time

    def forget(self, packs: list[str]) -> None:
        """They are being deleted: no image is to refer to them any more."""
        self.known = [pack for pack in self.known if pack not in packs]

    async def fetch(self, stored: StoredCheckpoint, lease: Lease) -> Any | None:
        """The process; None if it isn't needed any more. Whatever else is missing was taken from a run that needs it."""
        image = self.store.images.get(stored.image_id)
        missing = sorted({*image.packs} - self.store.packs) if image is not None else []
        if image is not None and image.digest == stored.digest and not missing:
            self.known += [pack for pack in image.packs if pack not in self.known]
            return copy.deepcopy(image.process)
        # The grace period is so short here that the run may be over by now, and its image deleted.
        present = await self.world.store.connection.fetchval("select lease from runs where id = $1", lease.run_id)
        if present != lease.number:
            return None
        what = "not there" if image is None else f"without its packs {missing}" if missing else "another one"
        raise Violation(f"garbage: {lease.run_id} needs the image {stored.image_id}, which is {what}")

    async def tidy(self) -> None:
        """Say what was deleted and what is old, and delete what nobody needs."""
        world, rng, environment_id = self.world, self.world.rng, self.world.environment_id
        store_id, deleted = self.store.id, self._deleted
        strays = self.store.old(world.stage.time - world.grace_s) if rng.random() < 0.5 else []
        steps: list[tuple[str, Any]] = [
            ("confirm", lambda tx, now: engine.confirm_deleted(tx, environment_id, store_id, deleted, now=now)),
            ("strays", lambda tx, now: engine.note_strays(tx, environment_id, store_id, strays, now=now)),
        ]
        for what, act in steps:
            reply, _ = await world.net.send(Message(self.worker.id, what, act), is_cut=self.worker.is_cut, once=True)
            if reply is None:
                return
        self._deleted = []
        names, _ = await world.net.send(
            Message(
                self.worker.id,
                "garbage",
                lambda tx, now: engine.condemned(tx, environment_id, store_id, limit=20, now=now),
            ),
            is_cut=self.worker.is_cut,
            once=True,
        )
        for name in names or []:
            await world.stage.sleep(rng.choice([0.0, 0.01, 2.0]))
            self.store.delete(name)
            self.forget([name.removeprefix("packs/")])
            self._deleted.append(name)

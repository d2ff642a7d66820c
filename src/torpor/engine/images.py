"""References to images and their packs, which keep them from being deleted. Not verbs: parts of what accepts a checkpoint.

A reference is only ever added under a share of the row that it refers to, by who has seen there that it isn't condemned,
and in the transaction that writes the reference. garbage.py says why that is enough.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from torpor.engine.outcomes import ImageRejected
from torpor.store.database import Transaction
from torpor.wire.http import Pack, StoredCheckpoint


@dataclass(frozen=True, slots=True)
class Gone:
    """These packs are being deleted, or aren't known: publish the image again without them. Nothing has changed."""

    packs: list[str]


async def refer(
    tx: Transaction,
    environment_id: str,
    checkpoint: StoredCheckpoint,
    image_id: str,
    store_id: str,
    *,
    now: datetime,
) -> Gone | ImageRejected | None:
    """Enter a published image and its references to packs. The caller writes what refers to the image, and holds its row
    until then. An image on a worker's own disk is not entered: its worker takes a census."""
    if not checkpoint.store_id:
        return None
    savepoint = tx.savepoint()
    await savepoint.start()
    refused = await _enter_image(tx, environment_id, checkpoint, image_id, store_id, now)
    refused = refused or await _refer_to_packs(tx, environment_id, checkpoint, image_id, store_id, now)
    await (savepoint.rollback() if refused else savepoint.commit())
    return refused


async def _enter_image(
    tx: Transaction, environment_id: str, checkpoint: StoredCheckpoint, image_id: str, store_id: str, now: datetime
) -> ImageRejected | None:
    is_new = await tx.fetchval(
        """insert into images (id, environment_id, store_id, digest, key_id, size_bytes, created_at)
           values ($1, $2, $3, $4, $5, $6, $7) on conflict (id) do nothing returning true""",
        image_id,
        environment_id,
        store_id,
        checkpoint.digest,
        checkpoint.key_id,
        checkpoint.size_bytes,
        now,
    )
    if is_new:
        return None
    # Nobody had reported it for so long that it was taken for garbage; or it isn't what was stored under this name.
    row = await tx.fetchrow("select * from images where id = $1 for share", image_id)
    is_it = row is not None and (row["environment_id"], row["store_id"], row["digest"], row["condemned_at"]) == (
        environment_id,
        store_id,
        checkpoint.digest,
        None,
    )
    return None if is_it else ImageRejected()


async def _refer_to_packs(
    tx: Transaction, environment_id: str, checkpoint: StoredCheckpoint, image_id: str, store_id: str, now: datetime
) -> Gone | None:
    packs: dict[str, Pack] = {pack.id: pack for pack in sorted(checkpoint.packs, key=lambda pack: pack.id)}
    fresh = [pack for pack in packs.values() if pack.is_new]
    # All that are entered come before any share is taken, both in order: so two that do this never wait in a circle.
    await tx.execute(
        """insert into packs (id, environment_id, store_id, key_id, size_bytes, created_at)
           select id, $4, $5, key_id, size_bytes, $6
           from unnest($1::text[], $2::text[], $3::bigint[]) as given (id, key_id, size_bytes) order by id
           on conflict (id) do nothing""",
        [pack.id for pack in fresh],
        [pack.key_id or checkpoint.key_id for pack in fresh],
        [pack.size_bytes for pack in fresh],
        environment_id,
        store_id,
        now,
    )
    rows = await tx.fetch(
        "select id, environment_id, store_id, condemned_at from packs where id = any($1::text[]) order by id for share",
        list(packs),
    )
    good = {
        row["id"]
        for row in rows
        if row["condemned_at"] is None and (row["environment_id"], row["store_id"]) == (environment_id, store_id)
    }
    if gone := sorted(packs.keys() - good):
        return Gone(gone)
    await tx.execute(
        """insert into image_packs (image_id, pack_id) select $1, unnest($2::text[]) on conflict do nothing""",
        image_id,
        list(packs),
    )
    return None


async def share_image(tx: Transaction, image_id: str) -> bool:
    """Whether another reference to this image may be written now: a share of its row is held from here on if so."""
    row = await tx.fetchrow("select condemned_at from images where id = $1 for share", image_id)
    return row is not None and row["condemned_at"] is None


async def let_go(tx: Transaction, image_ids: Collection[str], *, now: datetime) -> None:
    """One reference less to each of these. Locks nothing."""
    if image_ids:
        await tx.execute("insert into let_go (image_id, at) select unnest($1::text[]), $2", list(image_ids), now)

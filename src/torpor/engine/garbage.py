"""What of an object store may be deleted: condemned here, deleted by workers, confirmed here.

**Why nothing live is ever deleted.** A worker deletes only what it was told is condemned, so this is about the rows:

1. An image is *live* while a checkpoint that is usable or kept, or a warm image, refers to it; a pack while an image that
   isn't condemned does. Condemning is final: no statement sets `condemned_at` back to null.
2. Whoever adds a reference (suspend, save, move, fork, warm) first takes a share of the row that it refers to, sees that it
   isn't condemned, and writes the reference in the same transaction: the share is held until the reference is there
   (images.py). Nothing becomes live by another way: dropped and unusable checkpoints stay what they are.
3. Whoever condemns takes the row's lock *for update*, and only then looks for references, with a statement of its own,
   which sees all that was committed before (read committed).
4. For update and share exclude each other. If the referrer came first, the one who condemns waits, then sees the
   reference. If the one who condemns came first, the referrer waits, then sees that it is condemned, and answers `gone`.
5. A name is never used twice: a pack that is published again has a fresh id, and an image a fresh checkpoint's. So a
   deletion that comes late, or twice, finds nothing, or the very thing that was condemned.
6. What the engine has not been told of (published, then its worker died) isn't live, but may become so: a report may be on
   its way. A stray is entered as condemned under the same unique name: if the report comes first, the stray is known and
   left alone; else the report waits for that row, finds it condemned, and is told so.
7. Rows of deleted objects stay for a day (`TOMBSTONE_S`): a report that is so late still finds them condemned. A day is
   longer than a lease can live unheard. A worker that refers to a pack from its own memory says so (`is_new` false), and
   an unknown one of those is `gone` as well.

8. Of a deleted environment no row is left (remove.py), and nobody refers to what was its: these are strays to whoever else
   reads the store.

Nothing is condemned before it was without references for a grace period. That isn't needed for the above: it spares
workers from publishing again, and lets those that are reading an image when its run is canceled come to their end.

Locks: images by id, then packs by id. Whoever lets a checkpoint go locks no image: it leaves a note (`let_go`).
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from torpor.store.database import Transaction

GRACE_S = 600.0
TOMBSTONE_S = 24 * 3600.0
TOLD_AGAIN_S = 60.0
"""A worker that was told to delete something has that long for it; then the next one is told."""
IMAGES = 100
"""The most images that one step looks into."""
NAMES = 1000
"""The most names that a worker is told at once."""


@dataclass(frozen=True, slots=True)
class Condemned:
    """What nobody will ever read again. `looked`: how many images were looked at; none means that this was all."""

    images: list[str] = field(default_factory=list)
    packs: list[str] = field(default_factory=list)
    looked: int = 0


async def condemn(tx: Transaction, *, grace_s: float = GRACE_S, limit: int = IMAGES, now: datetime) -> Condemned:
    """Look at images that lost a reference a grace period ago; those that have none left are condemned, with the packs
    that only such images refer to. For a worker's request for garbage, and a slow duty. Call it until none are looked at.
    """
    before = now - timedelta(seconds=grace_s)
    noted = await tx.fetch("select id, image_id from let_go where at <= $1 order by at, id limit $2", before, limit)
    if not noted:
        return Condemned()
    locked = await tx.fetch(
        "select id from images where id = any($1::text[]) and condemned_at is null order by id for update",
        [row["image_id"] for row in noted],
    )
    # A look of its own, now that nobody can add a reference.
    doomed = [
        row["id"]
        for row in await tx.fetch(
            """select id from images where id = any($1::text[])
                 and not exists (select from checkpoints where checkpoints.image_id = images.id
                                 and checkpoints.state in ('usable', 'kept'))
                 and not exists (select from warm_images where warm_images.image_id = images.id)
                 and not exists (select from let_go where let_go.image_id = images.id and let_go.at > $2)
               order by id""",
            [row["id"] for row in locked],
            before,
        )
    ]
    await tx.execute("update images set condemned_at = $2 where id = any($1::text[])", doomed, now)
    packs = await _condemn_packs(tx, doomed, now)
    # Those with a later note are looked at again by that.
    await tx.execute("delete from let_go where id = any($1::bigint[])", [row["id"] for row in noted])
    await tx.execute("delete from refusals where image_id = any($1::text[])", doomed)
    return Condemned(doomed, packs, len(noted))


async def _condemn_packs(tx: Transaction, image_ids: list[str], now: datetime) -> list[str]:
    """Of the packs of these images, just condemned, those that no other image refers to.

    All images of such a pack are condemned, each of them after its own grace period: so it had one too.
    """
    await tx.execute(
        """select from packs where id in (select pack_id from image_packs where image_id = any($1::text[]))
           order by id for update""",
        image_ids,
    )
    rows = await tx.fetch(
        """update packs set condemned_at = $2
           where id in (select pack_id from image_packs where image_id = any($1::text[])) and condemned_at is null
             and not exists (select from image_packs join images on images.id = image_packs.image_id
                             where image_packs.pack_id = packs.id and images.condemned_at is null)
           returning id""",
        image_ids,
        now,
    )
    return sorted(row["id"] for row in rows)


async def note_strays(
    tx: Transaction, environment_id: str, store_id: str, names: list[str], *, now: datetime
) -> list[str]:
    """Objects that a worker found in its store, older than the grace period. Those that the engine doesn't know are entered
    as condemned; returns their names.
    """
    images, packs = _split(names)
    strays: list[str] = []
    for table, prefix, ids in (("images", "images", images), ("packs", "packs", packs)):
        digest = "digest, " if table == "images" else ""
        empty = "'', " if table == "images" else ""
        rows = await tx.fetch(
            f"""insert into {table} (id, environment_id, store_id, {digest}key_id, size_bytes, created_at, condemned_at)
                select id, $2, $3, {empty}'', 0, $4, $4 from unnest($1::text[]) as id order by id
                on conflict (id) do nothing returning id""",
            sorted(set(ids)),
            environment_id,
            store_id,
            now,
        )
        strays += [f"{prefix}/{row['id']}" for row in rows]
    return strays


async def condemned(
    tx: Transaction, environment_id: str, store_id: str, *, limit: int = NAMES, now: datetime
) -> list[str]:
    """Names of what is to be deleted from that store, for a worker that reads it. Told again to the next one that asks
    after a minute, unless it was confirmed.

    Images first: what is left of a deletion that was broken off is then never an image whose packs are gone.
    """
    again = now - timedelta(seconds=TOLD_AGAIN_S)
    names: list[str] = []
    for table in ("images", "packs"):
        if len(names) >= limit:
            break
        rows = await tx.fetch(
            f"""update {table} set told_at = $3 where id in (
                    select id from {table} where store_id = $1 and environment_id = $2 and condemned_at is not null
                        and deleted_at is null and (told_at is null or told_at <= $4)
                    order by condemned_at, id limit $5 for update skip locked)
                returning id""",
            store_id,
            environment_id,
            now,
            again,
            limit - len(names),
        )
        names += sorted(f"{table}/{row['id']}" for row in rows)
    return names


async def confirm_deleted(
    tx: Transaction, environment_id: str, store_id: str, names: list[str], *, now: datetime
) -> int:
    """These objects are gone from that store. Only what was condemned in this environment counts; how many. Again: none."""
    images, packs = _split(names)
    count = 0
    for table, ids in (("images", images), ("packs", packs)):
        rows = await tx.fetch(
            f"""update {table} set deleted_at = $3 where id in (
                    select id from {table} where id = any($1::text[]) and store_id = $2 and environment_id = $4
                        and condemned_at is not null and deleted_at is null order by id for update)
                returning id""",
            ids,
            store_id,
            now,
            environment_id,
        )
        count += len(rows)
    return count


async def forget_deleted(tx: Transaction, *, limit: int = 1000, now: datetime) -> int:
    """Rows of what was deleted a day ago: no report is so late. For a slow duty; how many. Call it until none are left."""
    before = now - timedelta(seconds=TOMBSTONE_S)
    images = await tx.fetch(
        """delete from images where id in (
               select id from images where condemned_at is not null and deleted_at <= $1
               order by id limit $2 for update skip locked)
           returning id""",
        before,
        limit,
    )
    # A pack goes after the last image that spoke of it.
    packs = await tx.fetch(
        """delete from packs where id in (
               select id from packs where condemned_at is not null and deleted_at <= $1
                 and not exists (select from image_packs where pack_id = packs.id)
               order by id limit $2 for update skip locked)
           returning id""",
        before,
        limit,
    )
    return len(images) + len(packs)


async def notice(tx: Transaction, *, place: str = "", limit: int = 500, now: datetime) -> str | None:
    """Let go of images that nothing refers to and nobody has let go: of deleted runs, or by a fault of ours. One page of
    those that aren't condemned; returns where the next begins. For a slow duty. Locks nothing, as `condemn` looks again.
    """
    rows = await tx.fetch(
        "select id from images where condemned_at is null and id > $1 order by id limit $2", place, limit
    )
    page = [row["id"] for row in rows]
    await tx.execute(
        """insert into let_go (image_id, at)
           select id, $2 from images where id = any($1::text[]) and condemned_at is null
             and not exists (select from checkpoints where checkpoints.image_id = images.id
                             and checkpoints.state in ('usable', 'kept'))
             and not exists (select from warm_images where warm_images.image_id = images.id)
             and not exists (select from let_go where let_go.image_id = images.id)""",
        page,
        now,
    )
    return page[-1] if len(page) == limit else None


def _split(names: list[str]) -> tuple[list[str], list[str]]:
    """Ids of images, and of packs; other names are none of ours."""
    ids: dict[str, list[str]] = {"images": [], "packs": []}
    for name in names:
        kind, _, id = name.partition("/")
        if kind in ids and id:
            ids[kind].append(id)
    return ids["images"], ids["packs"]

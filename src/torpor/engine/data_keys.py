"""The keys that images are sealed with: one to seal with per environment, older ones for reading as long as something is
sealed with them. Here they are wrapped; only servers have the master key that opens them (server/master_keys.py).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from torpor.store.database import Transaction
from torpor.store.records import DataKey

RETIRED_FOR_S = 24 * 3600.0
"""A retired key that nothing is sealed with is kept for so long all the same: a report may still be on its way."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A data key, wrapped, and the fingerprint of the master key that it is wrapped with."""

    id: str
    wrapped: bytes
    master: str


async def data_keys(tx: Transaction, environment_id: str) -> list[DataKey]:
    """All that some image may be sealed with; the one to seal with is not retired, and comes last."""
    rows = await tx.fetch(
        "select * from data_keys where environment_id = $1 order by retired_at nulls last, created_at, id",
        environment_id,
    )
    return [DataKey.of(row) for row in rows]


async def current_key(tx: Transaction, environment_id: str) -> str | None:
    """The id of the one to seal with."""
    return await tx.fetchval(
        "select id from data_keys where environment_id = $1 and retired_at is null", environment_id
    )


async def make_key(tx: Transaction, environment_id: str, key: NewKey, *, now: datetime) -> bool:
    """The first key of an environment. False: it has one, perhaps since a moment ago; then this one is forgotten."""
    made = await tx.fetchval(
        """insert into data_keys (id, environment_id, wrapped, master, created_at) values ($1, $2, $3, $4, $5)
           on conflict (environment_id) where retired_at is null do nothing returning true""",
        key.id,
        environment_id,
        key.wrapped,
        key.master,
        now,
    )
    return bool(made)


async def rotate_data_key(tx: Transaction, environment_id: str, key: NewKey, *, now: datetime) -> None:
    """From now on workers seal with this key; what is sealed with the one before stays readable. For `torpor data-keys rotate`.

    Heartbeats name the new one, so every worker has it within seconds.
    """
    await tx.execute(
        "update data_keys set retired_at = $2 where environment_id = $1 and retired_at is null", environment_id, now
    )
    await tx.execute(
        "insert into data_keys (id, environment_id, wrapped, master, created_at) values ($1, $2, $3, $4, $5)",
        key.id,
        environment_id,
        key.wrapped,
        key.master,
        now,
    )


async def keys_to_rewrap(tx: Transaction, master: str) -> list[DataKey]:
    """Those that another master key wraps, locked. For server start-up, when there is a new one in front."""
    rows = await tx.fetch("select * from data_keys where master <> $1 order by id for update", master)
    return [DataKey.of(row) for row in rows]


async def rewrap(tx: Transaction, key: NewKey) -> None:
    """The same key, wrapped by another master key. The caller has locked it."""
    await tx.execute("update data_keys set wrapped = $2, master = $3 where id = $1", key.id, key.wrapped, key.master)


async def drop_keys(tx: Transaction, *, now: datetime) -> list[str]:
    """Forget retired keys that nothing is sealed with any more. For a slow duty; which."""
    rows = await tx.fetch(
        """delete from data_keys where retired_at <= $1
             and not exists (select from images where images.key_id = data_keys.id and condemned_at is null)
             and not exists (select from packs where packs.key_id = data_keys.id and condemned_at is null)
           returning id""",
        now - timedelta(seconds=RETIRED_FOR_S),
    )
    return sorted(row["id"] for row in rows)

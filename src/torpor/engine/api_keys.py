"""The keys with which the API is asked: secret keys, which may do everything, scoped ones, and tokens of persons. And tokens
that workers of the environment come with.

A key is found by its hash. Secret keys are kept as well, sealed (server/master_keys.py has what opens them), since clients
sign public tokens with them. What is over stays for a month, so that nobody wonders where it went, and so that a key that
was revoked doesn't come back with the next start of a server whose setting still names it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from torpor.engine.outcomes import Unknown
from torpor.store.database import Transaction
from torpor.store.records import ApiKey, Environment

FORGOTTEN_S = 30 * 24 * 3600.0
"""A key that is over is listed for so long."""
USED_WITHIN_S = 3600.0
"""How coarse the last use of a key is kept: no row is written more often than that."""


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key that was made: what is kept of it."""

    id: str
    key_hash: bytes
    name: str = ""
    hint: str = ""
    scopes: list[str] | None = None
    sealed: bytes | None = None
    master: str | None = None
    expires_at: datetime | None = None
    is_personal: bool = False
    created_by: str | None = None  # the person, where one is known
    is_worker: bool = False


@dataclass(frozen=True, slots=True)
class KeyMade:
    """The new key; with `rotate_key` also the one that it replaces, as it is now."""

    key: ApiKey
    replaced: ApiKey | None = None


@dataclass(frozen=True, slots=True)
class KeyRevoked:
    """It is worth nothing from now on (or had been before)."""

    key: ApiKey


@dataclass(frozen=True, slots=True)
class KeyIsOver:
    """It was revoked or has run out: there is nothing to rotate."""


@dataclass(frozen=True, slots=True)
class LastKey:
    """Without this one nobody could make another."""


def is_valid(key: ApiKey, now: datetime) -> bool:
    """Whether it opens anything."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


def is_secret_key(key: ApiKey) -> bool:
    """Whether it may do everything."""
    return key.scopes is None and not key.is_personal and not key.is_worker


async def configure_key(tx: Transaction, environment_id: str, new: NewApiKey, *, now: datetime) -> ApiKey:
    """The key that the server's setting names, from now on. For server start-up, and safe to repeat.

    Whoever starts a server with another key wants the one before to be worth nothing: it is deleted, unless it was rotated
    and its overlap is still on. A key that was made by `create_key` or `rotate_key` may become the configured one. One that
    was revoked or has run out stays so: the caller looks.
    """
    await tx.execute(
        """delete from api_keys where environment_id = $1 and key_hash <> $2 and is_configured
             and expires_at is null and revoked_at is null""",
        environment_id,
        new.key_hash,
    )
    await tx.execute(
        "update api_keys set is_configured = false where environment_id = $1 and key_hash <> $2 and is_configured",
        environment_id,
        new.key_hash,
    )
    row = await tx.fetchrow(
        """insert into api_keys (key_hash, environment_id, created_at, id, name, hint, sealed, master, is_configured)
           values ($1, $2, $3, $4, $5, $6, $7, $8, true)
           on conflict (key_hash) do update set is_configured = true,
             hint = case when api_keys.hint = '' then excluded.hint else api_keys.hint end,
             sealed = case when api_keys.scopes is null then excluded.sealed end,
             master = case when api_keys.scopes is null then excluded.master end
           returning *""",
        new.key_hash,
        environment_id,
        now,
        new.id,
        new.name,
        new.hint,
        new.sealed,
        new.master,
    )
    await tx.notify("keys")
    return ApiKey.of(row)


async def create_key(tx: Transaction, environment_id: str, new: NewApiKey, *, now: datetime) -> KeyMade:
    """One more key. For the API."""
    key = await _insert(tx, environment_id, new, now)
    await tx.notify("keys")
    return KeyMade(key)


async def rotate_key(
    tx: Transaction,
    environment_id: str,
    key_id: str,
    make: Callable[[ApiKey], NewApiKey],
    *,
    overlap_s: float,
    now: datetime,
) -> KeyMade | KeyIsOver | Unknown:
    """Another key instead of this one, which holds for so long beside it. For the API.

    Args:
        make: given the old key, makes one of its kind.
    """
    keys = await _lock_all(tx, environment_id)
    old = keys.get(key_id)
    if old is None:
        return Unknown()
    if not is_valid(old, now):
        return KeyIsOver()
    new = await _insert(tx, environment_id, make(old), now)
    row = await tx.fetchrow(
        # An end that it had anyway, or that an earlier rotation has set, is not put off.
        "update api_keys set expires_at = least(expires_at, $2) where id = $1 returning *",
        key_id,
        now + timedelta(seconds=overlap_s),
    )
    await tx.notify("keys")
    return KeyMade(new, ApiKey.of(row))


async def revoke_key(
    tx: Transaction, environment_id: str, key_id: str, *, now: datetime
) -> KeyRevoked | LastKey | Unknown:
    """This key is worth nothing from now on, and neither is what was signed with it. For the API."""
    keys = await _lock_all(tx, environment_id)
    key = keys.get(key_id)
    if key is None:
        return Unknown()
    others = (other for other in keys.values() if other.id != key_id and is_secret_key(other))
    if is_secret_key(key) and is_valid(key, now) and not any(is_valid(other, now) for other in others):
        return LastKey()
    row = await tx.fetchrow(
        "update api_keys set revoked_at = coalesce(revoked_at, $2) where id = $1 returning *", key_id, now
    )
    await tx.notify("keys")
    return KeyRevoked(ApiKey.of(row))


async def api_keys(tx: Transaction, environment_id: str) -> list[ApiKey]:
    """All that there are, also those that are over, oldest first."""
    rows = await tx.fetch("select * from api_keys where environment_id = $1 order by created_at, id", environment_id)
    return [ApiKey.of(row) for row in rows]


async def key_by_hash(tx: Transaction, key_hash: bytes) -> tuple[ApiKey, Environment] | None:
    """The key with this sha256, valid or not, and its environment. Asked at public requests."""
    row = await tx.fetchrow("select * from api_keys where key_hash = $1", key_hash)
    if row is None:
        return None
    key = ApiKey.of(row)
    environment = await tx.fetchrow("select * from environments where id = $1", key.environment_id)
    return key, Environment.of(environment)


async def touch_key(tx: Transaction, key: ApiKey, *, now: datetime) -> None:
    """It is in use. Written once an hour; a key that is locked is touched by the next request."""
    if key.last_used_at is not None and (now - key.last_used_at).total_seconds() < USED_WITHIN_S:
        return
    await tx.execute(
        """update api_keys set last_used_at = $2
           where id = (select id from api_keys where id = $1 for no key update skip locked)""",
        key.id,
        now,
    )


async def api_keys_to_reseal(tx: Transaction, master: str) -> list[ApiKey]:
    """Those that another master key seals, locked. For server start-up, when there is a new one in front."""
    rows = await tx.fetch("select * from api_keys where master <> $1 order by id for update", master)
    return [ApiKey.of(row) for row in rows]


async def reseal(tx: Transaction, key_id: str, sealed: bytes, master: str) -> None:
    """The same key, sealed by another master key. The caller has locked it."""
    await tx.execute("update api_keys set sealed = $2, master = $3 where id = $1", key_id, sealed, master)


async def forget_keys(tx: Transaction, *, now: datetime) -> int:
    """Delete what has been over for a month; how many. What a setting names is kept, or it would come back."""
    return len(
        await tx.fetch(
            """delete from api_keys where least(expires_at, revoked_at) <= $1 and not is_configured returning id""",
            now - timedelta(seconds=FORGOTTEN_S),
        )
    )


async def _insert(tx: Transaction, environment_id: str, new: NewApiKey, now: datetime) -> ApiKey:
    row = await tx.fetchrow(
        """insert into api_keys (key_hash, environment_id, created_at, id, name, hint, scopes, sealed, master, expires_at,
                                 is_personal, created_by, is_worker)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) returning *""",
        new.key_hash,
        environment_id,
        now,
        new.id,
        new.name,
        new.hint,
        new.scopes,
        new.sealed,
        new.master,
        new.expires_at,
        new.is_personal,
        new.created_by,
        new.is_worker,
    )
    return ApiKey.of(row)


async def _lock_all(tx: Transaction, environment_id: str) -> dict[str, ApiKey]:
    """All keys, since what may become of one can depend on the others."""
    rows = await tx.fetch("select * from api_keys where environment_id = $1 order by id for update", environment_id)
    return {row["id"]: ApiKey.of(row) for row in rows}

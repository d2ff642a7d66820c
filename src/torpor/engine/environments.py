"""Environments beside the server's own: each with tasks, runs, keys and workers of its own, on the same servers."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from torpor.engine.accounts import NameTaken
from torpor.engine.api_keys import NewApiKey, create_key
from torpor.engine.deploy import ensure_environment
from torpor.store.database import Transaction
from torpor.store.records import ApiKey, Environment
from torpor.wire.presets import Preset


@dataclass(frozen=True, slots=True)
class EnvironmentCreated:
    """The new environment, and its first secret key."""

    environment: Environment
    key: ApiKey


async def create_environment(
    tx: Transaction,
    slug: str,
    key: NewApiKey,
    *,
    checkpoint_retention_s: float,
    presets: Collection[Preset],
    default_preset: str,
    now: datetime,
) -> EnvironmentCreated | NameTaken:
    """One more environment, empty, with a secret key. For the dashboard."""
    # Of two at once the slower finds the name taken: the row of the first is there when this lock is had.
    await tx.execute("lock table environments in share row exclusive mode")
    if await tx.fetchval("select true from environments where slug = $1", slug):
        return NameTaken()
    environment = await ensure_environment(
        tx,
        slug,
        key_hash=None,
        checkpoint_retention_s=checkpoint_retention_s,
        presets=presets,
        default_preset=default_preset,
        now=now,
    )
    made = await create_key(tx, environment.id, key, now=now)
    return EnvironmentCreated(environment, made.key)


async def look_at(tx: Transaction, cookie_hash: bytes, environment_id: str) -> None:
    """The browser with this cookie looks at this environment, also where an address doesn't say so."""
    await tx.execute("update sessions set environment_id = $2 where cookie_hash = $1", cookie_hash, environment_id)

"""Environments: each with tasks, runs, keys and workers of its own, on the same servers. And the projects that they are of.

One is there from the start, the server's own. A project is nothing but a name that environments have in common: it is there as
long as it has one.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from torpor import ids
from torpor.engine.accounts import NameTaken
from torpor.engine.api_keys import NewApiKey, configure_key, create_key
from torpor.engine.outcomes import Unknown
from torpor.store.database import Transaction
from torpor.store.records import ApiKey, Environment
from torpor.wire.presets import BUILT_IN, DEFAULT_PRESET, Preset

PROJECT, ENVIRONMENT = "default", "dev"
"""The server's own environment, and the project of all that name none."""


@dataclass(frozen=True, slots=True)
class EnvironmentCreated:
    """The new environment, and its first secret key."""

    environment: Environment
    key: ApiKey


def is_own(environment: Environment) -> bool:
    """Whether it is the server's own, which is there from the start."""
    return (environment.project, environment.slug) == (PROJECT, ENVIRONMENT)


def address(project: str, slug: str) -> str:
    """What tells an environment from all others.

    >>> address("default", "prod"), address("shop", "prod")
    ('prod', 'shop/prod')
    """
    return slug if project == PROJECT else f"{project}/{slug}"


async def ensure_environment(
    tx: Transaction,
    slug: str,
    *,
    key_hash: bytes | None,
    project: str = PROJECT,
    checkpoint_retention_s: float = 86400.0,
    presets: Collection[Preset] = tuple(BUILT_IN.values()),
    default_preset: str = DEFAULT_PRESET,
    now: datetime,
) -> Environment:
    """The environment of that name in that project, made if it is missing; with `key_hash`, that is its configured key. For
    server start-up.

    `checkpoint_retention_s` is for runs that end from now on; `presets` are those that runs can be triggered with from now
    on.
    """
    row = await tx.fetchrow(
        # The update makes `returning` give the row in either case, also to the slower of two.
        """insert into environments (id, slug, created_at, checkpoint_retention_s, project) values ($1, $2, $3, $4, $5)
           on conflict (project, slug) do update set checkpoint_retention_s = excluded.checkpoint_retention_s returning *""",
        ids.new("env"),
        slug,
        now,
        checkpoint_retention_s,
        project,
    )
    environment = Environment.of(row)
    await tx.execute("insert into turns (environment_id) values ($1) on conflict do nothing", environment.id)
    await _offer(tx, environment.id, presets, default_preset)
    if key_hash is not None:
        await configure_key(tx, environment.id, NewApiKey(ids.new("apikey"), key_hash), now=now)
    return environment


async def _offer(tx: Transaction, environment_id: str, presets: Collection[Preset], default: str) -> None:
    """These presets, and no others. Runs that have another one keep it, as it was."""
    await tx.execute(
        "update presets set is_offered = false, is_default = false where environment_id = $1", environment_id
    )
    await tx.executemany(
        """insert into presets (environment_id, name, cpu, memory_bytes, disk_bytes, pids, labels, is_default)
           values ($1, $2, $3, $4, $5, $6, $7, $8)
           on conflict (environment_id, name) do update set cpu = excluded.cpu, memory_bytes = excluded.memory_bytes,
               disk_bytes = excluded.disk_bytes, pids = excluded.pids, labels = excluded.labels,
               is_default = excluded.is_default, is_offered = true""",
        [
            (
                environment_id,
                one.name,
                one.cpu,
                one.memory_bytes,
                one.disk_bytes,
                one.pids,
                one.labels,
                one.name == default,
            )
            for one in presets
        ],
    )


async def create_environment(
    tx: Transaction,
    project: str,
    slug: str,
    key: NewApiKey,
    *,
    is_first: bool = False,
    checkpoint_retention_s: float,
    presets: Collection[Preset],
    default_preset: str,
    now: datetime,
) -> EnvironmentCreated | NameTaken | Unknown:
    """One more environment, empty, with a secret key. For the API and the dashboard.

    Args:
        is_first: it begins a project, whose name must be free (NameTaken). Else the project must be there (Unknown).
    """
    # Of two at once the slower finds the name taken: the row of the first is there when this lock is had.
    await tx.execute("lock table environments in share row exclusive mode")
    slugs = [row["slug"] for row in await tx.fetch("select slug from environments where project = $1", project)]
    if slugs if is_first else slug in slugs:
        return NameTaken()
    if not slugs and not is_first:
        return Unknown()
    environment = await ensure_environment(
        tx,
        slug,
        key_hash=None,
        project=project,
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

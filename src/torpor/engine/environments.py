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


@dataclass(frozen=True, slots=True)
class IsOwn:
    """It is the server's own, or its project: who names none means these."""


@dataclass(frozen=True, slots=True)
class StillCalledFor:
    """Workers that are at work still come by this name, which another environment had: they are to be started anew first."""


@dataclass(frozen=True, slots=True)
class InUse:
    """What in it isn't over yet, and who would come to it."""

    environment: Environment
    runs: int
    batches: int
    bulk_actions: int
    workers: int


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
           on conflict (project, slug) where deleted_at is null
           do update set checkpoint_retention_s = excluded.checkpoint_retention_s returning *""",
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
) -> EnvironmentCreated | NameTaken | StillCalledFor | Unknown:
    """One more environment, empty, with a secret key. For the API and the dashboard.

    Args:
        is_first: it begins a project, whose name must be free (NameTaken). Else the project must be there (Unknown).
    """
    slugs = await _locked_slugs(tx, project)
    if slugs if is_first else slug in slugs:
        return NameTaken()
    if not slugs and not is_first:
        return Unknown()
    if await _is_called_for(tx, address(project, slug), "", now):
        return StillCalledFor()
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


async def rename_environment(
    tx: Transaction, environment_id: str, slug: str, *, now: datetime
) -> Environment | NameTaken | StillCalledFor | IsOwn | Unknown:
    """Another name in the same project. Keys go on, and so do workers that are at work; one that starts says the new name. For
    the API and the dashboard."""
    environment = await _one(tx, environment_id)
    if environment is None:
        return Unknown()
    if is_own(environment):
        return IsOwn()
    slugs = await _locked_slugs(tx, environment.project)
    if slug == environment.slug:
        return environment
    if slug in slugs:
        return NameTaken()
    return await _move(tx, environment, environment.project, slug, now)


async def rename_project(
    tx: Transaction, project: str, name: str, *, now: datetime
) -> list[Environment] | NameTaken | StillCalledFor | IsOwn | Unknown:
    """The same for all environments of a project. With StillCalledFor the caller takes back what was done."""
    if project == PROJECT:
        return IsOwn()
    taken = await _locked_slugs(tx, name)
    found = await _of_project(tx, project)
    if not found:
        return Unknown()
    if name == project:
        return found
    if taken:
        return NameTaken()
    moved: list[Environment] = []
    for each in found:
        now_called = await _move(tx, each, name, each.slug, now)
        if isinstance(now_called, StillCalledFor):
            return now_called
        moved.append(now_called)
    return moved


async def delete_environment(
    tx: Transaction, environment_id: str, *, now: datetime
) -> Environment | InUse | IsOwn | Unknown:
    """Nobody comes in from now on, and its name is free; remove.py takes away what is in it. For the API and the dashboard.

    Only where all is over: InUse says what isn't. What is triggered in the same moment goes with the rest.
    """
    environment = await _one(tx, environment_id)
    if environment is None:
        return Unknown()
    if is_own(environment):
        return IsOwn()
    if (use := await _in_use(tx, environment, now)) is not None:
        return use
    # Whoever is triggering holds a share of the row, for the foreign key: his runs are seen after this.
    await tx.execute("select from environments where id = $1 for update", environment_id)
    if (use := await _in_use(tx, environment, now)) is not None:
        return use
    row = await tx.fetchrow(
        "update environments set deleted_at = $2, former = '{}' where id = $1 and deleted_at is null returning *",
        environment_id,
        now,
    )
    if row is None:
        return Unknown()
    await tx.execute("update sessions set environment_id = null where environment_id = $1", environment_id)
    await tx.execute("update schedules set is_active = false where environment_id = $1 and is_active", environment_id)
    await tx.execute("delete from api_keys where environment_id = $1", environment_id)
    await tx.notify("keys")
    return Environment.of(row)


async def delete_project(
    tx: Transaction, project: str, *, now: datetime
) -> list[Environment] | InUse | IsOwn | Unknown:
    """All environments of a project, and so the project. With InUse the caller takes back what was done."""
    if project == PROJECT:
        return IsOwn()
    deleted: list[Environment] = []
    for each in await _of_project(tx, project):
        match await delete_environment(tx, each.id, now=now):
            case Environment() as one:
                deleted.append(one)
            case InUse() as use:
                return use
            case IsOwn() | Unknown():
                pass  # another one has deleted it just now
    return deleted or Unknown()


async def look_at(tx: Transaction, cookie_hash: bytes, environment_id: str) -> None:
    """The browser with this cookie looks at this environment, also where an address doesn't say so."""
    await tx.execute("update sessions set environment_id = $2 where cookie_hash = $1", cookie_hash, environment_id)


async def _one(tx: Transaction, environment_id: str) -> Environment | None:
    row = await tx.fetchrow("select * from environments where id = $1 and deleted_at is null", environment_id)
    return Environment.of(row) if row else None


async def _of_project(tx: Transaction, project: str) -> list[Environment]:
    rows = await tx.fetch(
        "select * from environments where project = $1 and deleted_at is null order by created_at, id", project
    )
    return [Environment.of(row) for row in rows]


async def _locked_slugs(tx: Transaction, project: str) -> list[str]:
    """The names that are taken in this project. Of two who give names the slower waits here until he sees the other's."""
    await tx.execute("lock table environments in share row exclusive mode")
    return [each.slug for each in await _of_project(tx, project)]


async def _is_called_for(tx: Transaction, place: str, but_id: str, now: datetime) -> bool:
    """Whether a worker that is at work may come by this address and mean another environment, which was so called. Where none
    does, the address is that one's no more."""
    if await tx.fetchval(
        """select true from environments join workers on workers.environment_id = environments.id
           where $1 = any(former) and environments.id <> $2 and expires_at > $3 and hello_at <= renamed_at limit 1""",
        place,
        but_id,
        now,
    ):
        return True
    await tx.execute("update environments set former = array_remove(former, $1) where $1 = any(former)", place)
    return False


async def _move(
    tx: Transaction, environment: Environment, project: str, slug: str, now: datetime
) -> Environment | StillCalledFor:
    if await _is_called_for(tx, address(project, slug), environment.id, now):
        return StillCalledFor()
    row = await tx.fetchrow(
        """update environments set project = $2, slug = $3, former = array_append(former, $4), renamed_at = $5
           where id = $1 returning *""",
        environment.id,
        project,
        slug,
        address(environment.project, environment.slug),
        now,
    )
    await tx.notify("keys")  # what is remembered of keys has the environment's name in it
    return Environment.of(row)


async def _in_use(tx: Transaction, environment: Environment, now: datetime) -> InUse | None:
    row = await tx.fetchrow(
        """select (select count(*) from runs where environment_id = $1 and finished_at is null) as runs,
             (select count(*) from batches where environment_id = $1 and completed_at is null) as batches,
             (select count(*) from bulk_actions where environment_id = $1 and completed_at is null) as bulk_actions,
             (select count(*) from workers where environment_id = $1 and expires_at > $2) as workers""",
        environment.id,
        now,
    )
    assert row is not None
    return InUse(environment, **row) if any(row) else None

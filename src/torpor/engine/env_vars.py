"""Environment variables: what all runs of an environment have in `os.environ`.

Here their values are sealed; only servers have the master key that opens them (server/master_keys.py). Each change moves the
environment's revision on. Hand-outs and heartbeats name it, so that a worker asks for the values when they are others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from torpor.engine.events import announce
from torpor.engine.outcomes import Unknown
from torpor.store.database import Transaction
from torpor.store.records import EnvVar


@dataclass(frozen=True, slots=True)
class NewVariable:
    """A variable to be set. `is_secret` None: as it was; a new one is none."""

    name: str
    sealed: bytes
    master: str
    size_bytes: int
    is_secret: bool | None = None


@dataclass(frozen=True, slots=True)
class VariableBounds:
    """How many an environment may have, and how many bytes of names and values together."""

    count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class VariablesChanged:
    """Runs that are handed out from now on have it so."""

    revision: int


@dataclass(frozen=True, slots=True)
class AlreadySet:
    """These are there, and were not to be overridden: nothing has changed."""

    names: list[str]


@dataclass(frozen=True, slots=True)
class TooManyVariables:
    """There would be so many, of so many bytes: nothing has changed."""

    count: int
    size_bytes: int


async def variables(tx: Transaction, environment_id: str) -> tuple[int, list[EnvVar]]:
    """The revision, and all variables by name. They are at least as new as it says."""
    revision = await tx.fetchval("select variables_revision from environments where id = $1", environment_id)
    assert revision is not None
    rows = await tx.fetch("select * from env_vars where environment_id = $1 order by name", environment_id)
    return revision, [EnvVar.of(row) for row in rows]


async def variable(tx: Transaction, environment_id: str, name: str) -> EnvVar | None:
    """The one of that name."""
    row = await tx.fetchrow("select * from env_vars where environment_id = $1 and name = $2", environment_id, name)
    return EnvVar.of(row) if row else None


async def set_variables(
    tx: Transaction,
    environment_id: str,
    new: Sequence[NewVariable],
    *,
    override: bool,
    bounds: VariableBounds,
    now: datetime,
) -> VariablesChanged | AlreadySet | TooManyVariables:
    """Set them all, or none. For the API."""
    known = await _lock(tx, environment_id)
    if not override and (there := sorted(each.name for each in new if each.name in known)):
        return AlreadySet(there)
    if too_many := _exceeding(known, new, bounds):
        return too_many
    await _write(tx, environment_id, new, now)
    return VariablesChanged(await _move_on(tx, environment_id))


async def change_variable(
    tx: Transaction, environment_id: str, new: NewVariable, *, bounds: VariableBounds, now: datetime
) -> VariablesChanged | TooManyVariables | Unknown:
    """Another value for one that is there. For the API."""
    known = await _lock(tx, environment_id)
    if new.name not in known:
        return Unknown()
    if too_many := _exceeding(known, [new], bounds):
        return too_many
    await _write(tx, environment_id, [new], now)
    return VariablesChanged(await _move_on(tx, environment_id))


async def unset_variable(tx: Transaction, environment_id: str, name: str) -> VariablesChanged | Unknown:
    """There is none of that name from now on. For the API."""
    if name not in await _lock(tx, environment_id):
        return Unknown()
    await tx.execute("delete from env_vars where environment_id = $1 and name = $2", environment_id, name)
    return VariablesChanged(await _move_on(tx, environment_id))


async def variables_to_reseal(tx: Transaction, master: str) -> list[EnvVar]:
    """Those that another master key seals, locked. For server start-up, when there is a new one in front."""
    rows = await tx.fetch("select * from env_vars where master <> $1 order by environment_id, name for update", master)
    return [EnvVar.of(row) for row in rows]


async def reseal_variable(tx: Transaction, environment_id: str, name: str, sealed: bytes, master: str) -> None:
    """The same value, sealed by another master key. The caller has locked it."""
    await tx.execute(
        "update env_vars set sealed = $3, master = $4 where environment_id = $1 and name = $2",
        environment_id,
        name,
        sealed,
        master,
    )


async def _lock(tx: Transaction, environment_id: str) -> dict[str, int]:
    """One change of an environment's variables at a time. What there is: name -> size."""
    await tx.execute("select from environments where id = $1 for no key update", environment_id)
    rows = await tx.fetch("select name, size_bytes from env_vars where environment_id = $1", environment_id)
    return {row["name"]: row["size_bytes"] for row in rows}


def _exceeding(known: dict[str, int], new: Sequence[NewVariable], bounds: VariableBounds) -> TooManyVariables | None:
    """What is over the bounds already may be changed, but not grow."""
    then = known | {each.name: each.size_bytes for each in new}
    count, size_bytes = len(then), sum(then.values())
    is_more = count > max(bounds.count, len(known)) or size_bytes > max(bounds.size_bytes, sum(known.values()))
    return TooManyVariables(count, size_bytes) if is_more else None


async def _write(tx: Transaction, environment_id: str, new: Sequence[NewVariable], now: datetime) -> None:
    await tx.executemany(
        """insert into env_vars (environment_id, name, sealed, master, size_bytes, is_secret, created_at, updated_at)
           values ($1, $2, $3, $4, $5, coalesce($6, false), $7, $7)
           on conflict (environment_id, name) do update set sealed = excluded.sealed, master = excluded.master,
               size_bytes = excluded.size_bytes, is_secret = coalesce($6, env_vars.is_secret),
               updated_at = excluded.updated_at""",
        [(environment_id, each.name, each.sealed, each.master, each.size_bytes, each.is_secret, now) for each in new],
    )


async def _move_on(tx: Transaction, environment_id: str) -> int:
    revision = await tx.fetchval(
        "update environments set variables_revision = variables_revision + 1 where id = $1 returning variables_revision",
        environment_id,
    )
    assert revision is not None
    await announce(tx, "variables")
    return revision

"""Idempotency keys: the same key, the same run, until the key expires, its run fails, or it is reset.

A key is kept apart from its run, so that it can move on to a new run while the old one still shows what it was
triggered with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from torpor.engine.instants import after
from torpor.engine.outcomes import Unknown
from torpor.engine.states import RunState
from torpor.store.database import Transaction

TTL_S = 30 * 24 * 3600.0
RELEASED_BY = (RunState.FAILED, RunState.CRASHED, RunState.TIMED_OUT, RunState.EXPIRED, RunState.SYSTEM_FAILURE)
"""A run that ended so gives its key back: the caller may try again. One that was canceled keeps it: somebody decided so."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A request wants this key for its run."""

    index: int
    task_id: str
    key: str
    run_id: str
    ttl_s: float | None


@dataclass(frozen=True, slots=True)
class KeyReset:
    """The key is free: the next trigger with it makes a new run."""


_CLAIM = """
    insert into idempotency_keys (environment_id, task_id, key, run_id, expires_at) values ($1, $2, $3, $4, $5)
    on conflict (environment_id, task_id, key) do update
        set run_id = excluded.run_id, expires_at = excluded.expires_at
        where idempotency_keys.expires_at <= $6
           or exists (select from runs where id = idempotency_keys.run_id and state = any($7::text[]))
    returning run_id"""


async def claim(tx: Transaction, environment_id: str, claims: Sequence[Claim], *, now: datetime) -> dict[int, str]:
    """Put keys on runs; for each claim that came too late (by its index) the run that has the key.

    One statement decides: of two claims at once, the second waits for the first to commit and then loses. They are made
    in the order of the keys, so that two batches don't wait for each other.
    """
    ordered = sorted(claims, key=lambda each: (each.task_id, each.key, each.index))
    rows = [
        (
            environment_id,
            each.task_id,
            each.key,
            each.run_id,
            after(now, TTL_S if each.ttl_s is None else each.ttl_s),
            now,
            list(RELEASED_BY),
        )
        for each in ordered
    ]
    won = [await tx.fetchrow(_CLAIM, *rows[0])] if len(rows) == 1 else await tx.fetchmany(_CLAIM, rows)
    winners = {row["run_id"] for row in won if row}
    lost = [each for each in ordered if each.run_id not in winners]
    if not lost:
        return {}
    held = await tx.fetch(
        """select task_id, key, run_id from idempotency_keys
           where environment_id = $1 and (task_id, key) in (select * from unnest($2::text[], $3::text[]))""",
        environment_id,
        [each.task_id for each in lost],
        [each.key for each in lost],
    )
    holders = {(row["task_id"], row["key"]): row["run_id"] for row in held}
    return {each.index: holders[(each.task_id, each.key)] for each in lost}


async def move(tx: Transaction, run_id: str, to_run_id: str) -> None:
    """The run was not made, another stands for its key."""
    await tx.execute("update idempotency_keys set run_id = $2 where run_id = $1", run_id, to_run_id)


async def drop(tx: Transaction, run_id: str) -> None:
    """The run was not made, nobody has its key."""
    await tx.execute("delete from idempotency_keys where run_id = $1", run_id)


async def reset_key(
    tx: Transaction, environment_id: str, task_id: str, key: str, *, now: datetime
) -> KeyReset | Unknown:
    """Free a key, whatever its run does or did; the run goes on. For the API. Unknown: no run has it, or has it any more."""
    row = await tx.fetchrow(
        """delete from idempotency_keys where environment_id = $1 and task_id = $2 and key = $3
           returning expires_at""",
        environment_id,
        task_id,
        key,
    )
    return KeyReset() if row and row["expires_at"] > now else Unknown()

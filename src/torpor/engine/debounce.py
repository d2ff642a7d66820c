"""Debounce: while a run is delayed by its debounce key, further triggers with that key push it on instead of making runs.

    leading    the first trigger's payload is performed, once it has been quiet for the delay
    trailing   the newest one's

The run is found by a unique index over delayed runs (runs_debounced), so that two triggers at once meet in one run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from torpor.engine import events
from torpor.engine.instants import after, to_iso
from torpor.store.database import Transaction

TAKEN_OVER = ("payload", "payload_object", "metadata", "tags")
"""What a trailing trigger brings to the run."""


@dataclass(frozen=True, slots=True)
class Debounce:
    """How long it must be quiet, and for how long at most the run is put off, from the first trigger on."""

    key: str
    delay_s: float
    mode: str = "leading"  # leading | trailing
    max_delay_s: float | None = None


def first(asked: Debounce, now: datetime) -> datetime:
    """When a new run is due."""
    latest_at = latest(asked, now)
    due_at = after(now, asked.delay_s)
    return min(due_at, latest_at) if latest_at else due_at


def latest(asked: Debounce, now: datetime) -> datetime | None:
    """Beyond this nothing pushes it."""
    return after(now, asked.max_delay_s) if asked.max_delay_s is not None else None


async def find(tx: Transaction, environment_id: str, wanted: Sequence[tuple[str, str]]) -> list[str]:
    """The delayed runs that these (task, key) stand for now. Without a lock: the caller locks them in order."""
    rows = await tx.fetch(
        """select id from runs where environment_id = $1 and state = 'delayed' and attempt = 0
             and debounce_key is not null
             and (task_id, debounce_key) in (select * from unnest($2::text[], $3::text[]))""",
        environment_id,
        [task_id for task_id, _ in wanted],
        [key for _, key in wanted],
    )
    return [row["id"] for row in rows]


async def push(
    tx: Transaction, environment_id: str, task_id: str, asked: Debounce, brought: dict[str, Any], *, now: datetime
) -> str | None:
    """Put off the run that this key stands for, and return its id; None: there is none (now).

    Another server may be releasing it: then this waits, and finds it gone.
    """
    row = await tx.fetchrow(
        """update runs set available_at = greatest(available_at, least($4, coalesce(debounce_until, $4))),
               delay_until = greatest(available_at, least($4, coalesce(debounce_until, $4))), updated_at = $5,
               payload = case when $6 then $7 else payload end,
               payload_object = case when $6 then $8 else payload_object end,
               metadata = case when $6 then $9 else metadata end,
               given_metadata = case when $6 then null else given_metadata end,
               tags = case when $6 then $10 else tags end
           where environment_id = $1 and task_id = $2 and debounce_key = $3 and state = 'delayed' and attempt = 0
           returning id, delay_until""",
        environment_id,
        task_id,
        asked.key,
        after(now, asked.delay_s),
        now,
        asked.mode == "trailing",
        *(brought[name] for name in TAKEN_OVER),
    )
    if row is None:
        return None
    data = {"mode": asked.mode, "until": to_iso(row["delay_until"])}
    await events.record(tx, row["id"], "run.debounced", now=now, data=data)
    return row["id"]

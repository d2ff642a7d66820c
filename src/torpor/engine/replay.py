"""Perform again what a run performed: a new run, from an old one's payload."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from torpor.engine import events
from torpor.engine.draft import TriggerRequest
from torpor.engine.outcomes import Unknown
from torpor.engine.trigger import Outcome, Triggered, trigger
from torpor.store.database import Transaction
from torpor.store.records import Run


async def replay(
    tx: Transaction, environment_id: str, run_id: str, changes: Mapping[str, Any], *, now: datetime
) -> Outcome | Unknown:
    """A new run like that one, whatever became of it, with these fields of its TriggerRequest changed. For the API.

    It takes over payload, tags, the metadata that it began with, queue, concurrency key, head start, and whatever else its
    trigger said where the task has defaults. Not: the idempotency key, debounce, delay, the version it was locked to (the
    current one performs it), its parent, batch and schedule.
    """
    row = await tx.fetchrow("select * from runs where id = $1 and environment_id = $2", run_id, environment_id)
    if row is None:
        return Unknown()
    outcome = await trigger(tx, environment_id, replace(like(Run.of(row)), **changes), now=now)
    if isinstance(outcome, Triggered) and not outcome.is_cached:
        await events.record(tx, run_id, "run.replayed", now=now, data={"as": outcome.run_id})
    return outcome


def like(run: Run) -> TriggerRequest:
    """What would make another run like that one."""
    asked = run.asked or {}
    return TriggerRequest(
        task_id=run.task_id,
        payload=run.payload,
        payload_object=run.payload_object,
        tags=run.tags,
        metadata=run.metadata if run.given_metadata is None else run.given_metadata,
        is_test=run.is_test,
        queue=asked.get("queue"),
        concurrency_key=run.concurrency_key,
        priority_s=run.priority_s,
        max_attempts=asked.get("max_attempts"),
        ttl_s=asked.get("ttl_s"),
        max_duration_s=asked.get("max_duration_s"),
        preset=asked.get("preset"),
        inherit_tags=run.inherit_tags,
        trigger_function="replay",
        replayed_from=run.id,
    )

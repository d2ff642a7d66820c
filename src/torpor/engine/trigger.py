"""Requests become runs: queued, delayed, or waiting for a version that knows their task.

One implementation serves one request and a thousand: what they need is looked up once, the rows go in one round trip,
and whoever listens is told once. What becomes of a request is decided in draft.py (payload.py: does the
payload fit?), idempotency.py and debounce.py (is it a run that is there already?) and room.py (is there room?).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from torpor.engine import debounce, idempotency, room
from torpor.engine.draft import Draft, Refusal, TriggerRequest, look, plan
from torpor.engine.instants import to_iso
from torpor.engine.locks import fenced
from torpor.engine.outcomes import Stale
from torpor.engine.room import QueueFull
from torpor.store.database import CHANNEL, Transaction, note
from torpor.store.records import Run


@dataclass(frozen=True, slots=True)
class Triggered:
    """The run, new, or (`is_cached`) the one that this request, its idempotency or its debounce key had made before."""

    run_id: str
    is_cached: bool


Outcome = Triggered | QueueFull | Refusal | Stale


async def trigger(tx: Transaction, environment_id: str, request: TriggerRequest, *, now: datetime) -> Outcome:
    """Make a run. For the API, and for user code through its worker (`parent_lease`; Stale: that process is void)."""
    (outcome,) = await trigger_all(tx, environment_id, [request], now=now)
    return outcome


async def trigger_all(
    tx: Transaction, environment_id: str, requests: Sequence[TriggerRequest], *, now: datetime
) -> list[Outcome]:
    """Make many runs at once, an outcome for each request, in their order; a refused one doesn't stop the others.

    Each lines up a microsecond after the one before. Two that share an idempotency or debounce key share a run.
    """
    locked = await _lock(tx, environment_id, requests)
    scene = await look(tx, environment_id, requests)
    outcomes: list[Outcome | None] = [None] * len(requests)
    drafts: dict[int, Draft] = {}
    for index, request in enumerate(requests):
        parent = fenced(locked.get(request.parent_lease.run_id), request.parent_lease) if request.parent_lease else None
        if isinstance(parent, Stale):
            outcomes[index] = parent
        elif request.run_id in scene.known_runs:
            outcomes[index] = Triggered(request.run_id, is_cached=True)
        else:
            planned = await plan(tx, scene, request, parent, place=timedelta(microseconds=index), now=now)
            if isinstance(planned, Draft):
                drafts[index] = planned
            else:
                outcomes[index] = planned

    came_before = await _claim(tx, environment_id, drafts, now=now)
    fresh = {index: draft for index, draft in drafts.items() if index not in came_before}
    became: dict[str, Outcome] = {}  # by the run id that a request would have made
    if scene.max_queued is not None:
        became |= await room.refuse_too_many(tx, environment_id, fresh.values(), scene.max_queued, now=now)
    for draft in fresh.values():
        if draft.request.debounce and draft.run_id not in became:
            became[draft.run_id] = await _debounced(tx, environment_id, draft, now=now)
    await _give_up_keys(tx, fresh, became)
    became |= await _insert(tx, [draft for draft in fresh.values() if draft.run_id not in became])

    for index, draft in fresh.items():
        outcomes[index] = became[draft.run_id]
    for index, holder in came_before.items():
        outcome = became.get(holder, Triggered(holder, is_cached=True))
        outcomes[index] = Triggered(outcome.run_id, is_cached=True) if isinstance(outcome, Triggered) else outcome
    assert all(outcome is not None for outcome in outcomes)
    return [outcome for outcome in outcomes if outcome is not None]


# -- what is there already ---------------------------------------------------------------------------------------------


async def _lock(tx: Transaction, environment_id: str, requests: Sequence[TriggerRequest]) -> dict[str, Run]:
    """The triggering runs, and those that a debounce key may push on: by id, the lock order."""
    parents = {request.parent_lease.run_id for request in requests if request.parent_lease}
    wanted = [(request.task_id, request.debounce.key) for request in requests if request.debounce]
    pushed = await debounce.find(tx, environment_id, wanted) if wanted else []
    if pushed:
        rows = await tx.fetch(
            "select * from runs where id = any($1::text[]) order by id for no key update", sorted(parents | set(pushed))
        )
    elif parents:
        # A share is enough: its lease can't end before its child is there, and it may trigger others meanwhile.
        rows = await tx.fetch("select * from runs where id = any($1::text[]) order by id for share", sorted(parents))
    else:
        rows = []
    return {row["id"]: Run.of(row) for row in rows}


# -- keys, and room ----------------------------------------------------------------------------------------------------


async def _claim(tx: Transaction, environment_id: str, drafts: dict[int, Draft], *, now: datetime) -> dict[int, str]:
    """Put idempotency keys on the drafts that bring one; of those that came too late, whose run has the key."""
    claims = [
        idempotency.Claim(
            index,
            draft.request.task_id,
            draft.request.idempotency_key,
            draft.run_id,
            draft.request.idempotency_key_ttl_s,
        )
        for index, draft in drafts.items()
        if draft.request.idempotency_key
    ]
    return await idempotency.claim(tx, environment_id, claims, now=now) if claims else {}


async def _give_up_keys(tx: Transaction, fresh: dict[int, Draft], became: dict[str, Outcome]) -> None:
    """A key that was claimed for a run that isn't made belongs to the run that is there instead, or to none."""
    for draft in fresh.values():
        outcome = became.get(draft.run_id)
        if draft.request.idempotency_key is None or outcome is None:
            continue
        if not isinstance(outcome, Triggered):
            await idempotency.drop(tx, draft.run_id)
        elif outcome.run_id != draft.run_id:
            await idempotency.move(tx, draft.run_id, outcome.run_id)


# -- the rows ----------------------------------------------------------------------------------------------------------


async def _debounced(tx: Transaction, environment_id: str, draft: Draft, *, now: datetime) -> Outcome:
    """The delayed run that this debounce key stands for, pushed on; else a new one, which it stands for from now on."""
    assert draft.request.debounce is not None
    while True:
        held = await debounce.push(
            tx,
            environment_id,
            draft.request.task_id,
            draft.request.debounce,
            {name: draft.row[name] for name in debounce.TAKEN_OVER},
            now=now,
        )
        if held is not None:
            return Triggered(held, is_cached=True)
        made = await _insert(tx, [draft])
        # Not made, and not there under this id: another trigger's run has taken the key, and is there now.
        if made[draft.run_id] == Triggered(draft.run_id, is_cached=False) or await _is_there(tx, draft.run_id):
            return made[draft.run_id]


async def _is_there(tx: Transaction, run_id: str) -> bool:
    return await tx.fetchval("select true from runs where id = $1", run_id) or False


@cache
def _statement(columns: tuple[str, ...]) -> str:
    """Row, story and notes in one round trip. Postgres sends equal notes of a transaction once.

    A conflict is a twin of this request that was quicker, or (runs_debounced) another that took the debounce key.
    """
    n = len(columns)
    return f"""
        with made as (
            insert into runs ({", ".join(columns)}) values ({", ".join(f"${i}" for i in range(1, n + 1))})
            on conflict do nothing returning id, created_at),
        told as (
            insert into events (run_id, at, kind, data) select id, created_at, ${n + 1}, ${n + 2} from made)
        select id, (select count(pg_notify('{CHANNEL}', note)) from unnest(${n + 3}::text[]) as note) from made"""


async def _insert(tx: Transaction, drafts: list[Draft]) -> dict[str, Outcome]:
    """The rows. Where nothing was made, a concurrent twin of the request was quicker."""
    if not drafts:
        return {}
    due = [draft.due_at for draft in drafts if draft.due_at]
    timer = [note("timer", due_at=to_iso(min(due)))] if due else []
    rows: list[tuple[Any, ...]] = []
    for draft in drafts:
        work = [note("work", environment_id=draft.row["environment_id"])] if draft.row["state"] == "queued" else []
        run = note("run", run_id=draft.run_id)  # who follows its tags or its batch learns of it
        rows.append((*draft.row.values(), "run.triggered", draft.told, [*work, *timer, run]))
    insert = _statement(tuple(drafts[0].row))
    made = [await tx.fetchrow(insert, *rows[0])] if len(rows) == 1 else await tx.fetchmany(insert, rows)
    made_ids = {row["id"] for row in made if row}
    return {draft.run_id: Triggered(draft.run_id, is_cached=draft.run_id not in made_ids) for draft in drafts}

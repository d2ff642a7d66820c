"""What waits, and for what: for the dashboard. Writes nothing."""

from dataclasses import dataclass
from datetime import datetime

from torpor.engine.pages import FIRST, Conditions, Listing, Page, listing
from torpor.engine.read import TokenView, views
from torpor.engine.read_runs import RunFilter, runs
from torpor.engine.states import RunState
from torpor.store.database import Transaction
from torpor.store.records import Run, Waitpoint

MOST_COUNTED = 10_000
PLACE = ("(title is null)", "coalesce(due_at, 'infinity')", "id")
"""Where a token stands among those that are open."""


@dataclass(frozen=True, slots=True)
class OpenWait:
    """A wait of a run that has no answer yet. `until` is when it has one at the latest."""

    run_id: str
    kind: str
    waitpoint_id: str
    title: str | None
    since: datetime
    until: datetime | None
    awaited_run_id: str | None
    awaited_task_id: str | None
    batch_id: str | None


@dataclass(frozen=True, slots=True)
class WaitingRun:
    """A run that waits, with what it waits for; if it is frozen, the bytes that it takes on disk."""

    run: Run
    waits: list[OpenWait]
    frozen_bytes: int | None


async def waiting_runs(tx: Transaction, environment_id: str, page: Page = FIRST) -> Listing[WaitingRun]:
    """Runs that wait, in memory or frozen, newest first."""
    found = await runs(tx, environment_id, RunFilter(states=[RunState.WAITING, RunState.SUSPENDED]), page)
    run_ids = [run.id for run in found.items]
    rows = await tx.fetch(
        """select waits.run_id, waitpoints.kind, waitpoints.id as waitpoint_id, waitpoints.title, waits.created_at as since,
                  least(waits.times_out_at, waitpoints.due_at) as until, waitpoints.awaited_run_id,
                  awaited.task_id as awaited_task_id, waitpoints.batch_id
           from waits join waitpoints on waitpoints.id = waits.waitpoint_id
                      left join runs as awaited on awaited.id = waitpoints.awaited_run_id
           where waits.run_id = any($1::text[]) and waits.detached_at is null and waits.delivered_at is null
             and waitpoints.status = 'pending'
           order by waits.created_at, waits.wait_id""",
        run_ids,
    )
    sizes = await tx.fetch(
        "select run_id, size_bytes from checkpoints where id = any($1::text[])",
        [run.checkpoint_id for run in found.items if run.state == RunState.SUSPENDED],
    )
    waits: dict[str, list[OpenWait]] = {}
    for row in rows:
        waits.setdefault(row["run_id"], []).append(OpenWait(**row))
    bytes_of = {row["run_id"]: row["size_bytes"] for row in sizes}
    items = [WaitingRun(run, waits.get(run.id, []), bytes_of.get(run.id)) for run in found.items]
    return Listing(items, found.next, found.previous)


async def open_tokens(tx: Transaction, environment_id: str, page: Page = FIRST) -> Listing[TokenView]:
    """Tokens without an answer: those that ask a person first, and of them, as of the others, the one that times out next."""
    place, backwards = ", ".join(PLACE), page.before is not None
    made = Conditions(environment_id)
    made.parts += ["kind = 'token'", "status = 'pending'"]
    if (cursor := page.before or page.after) is not None:
        sign = "<" if backwards else ">"
        made.add(f"({place}) {sign} (select {place} from waitpoints where id = {{}})", cursor)
    order = ", ".join(f"{each} desc" if backwards else each for each in PLACE)
    limit = made.value(page.size + 1)
    rows = await tx.fetch(
        f"select * from waitpoints where {' and '.join(made.parts)} order by {order} limit {limit}", *made.values
    )
    found = listing(rows, page, Waitpoint.of)
    return Listing(await views(tx, found.items), found.next, found.previous)


async def count_waiting(tx: Transaction, environment_id: str) -> dict[RunState, int]:
    """How many runs wait in memory, and how many are frozen; of each at most MOST_COUNTED. Along the index of states."""
    rows = await tx.fetch(
        f"""select state, count from unnest($2::text[]) as states (state) cross join lateral (
               select count(*) from (select from runs where environment_id = $1 and hook is null and runs.state = states.state
                                     limit {MOST_COUNTED}) as line) as counted""",
        environment_id,
        [RunState.WAITING, RunState.SUSPENDED],
    )
    return {RunState(row["state"]): row["count"] for row in rows}


async def tasks_of(tx: Transaction, run_ids: list[str]) -> dict[str, str]:
    """Run -> task."""
    rows = await tx.fetch("select id, task_id from runs where id = any($1::text[])", run_ids)
    return {row["id"]: row["task_id"] for row in rows}

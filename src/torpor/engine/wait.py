"""Block a run on waitpoints, and hand it their answers.

The lost wake-up, and why there is none: a run's waits are tied while its row, every awaited run and every waitpoint
concerned are locked (shares of the latter two). Whoever completes one of them holds that waitpoint and all runs tied to
it. So either the completion comes first and `block` reads the answer, or the tie comes first and the completion finds
it.
"""

from datetime import datetime

from torpor.engine import active, answers, cycles, events, slots
from torpor.engine.answers import Tied
from torpor.engine.instants import to_iso
from torpor.engine.locks import fenced, in_turn, lock_leased
from torpor.engine.outcomes import Blocked, Lease, Stale
from torpor.engine.resume import stand_in_line
from torpor.engine.states import RunState
from torpor.engine.tie import tie
from torpor.store.database import Transaction
from torpor.store.records import Run
from torpor.wire.http import BlockReport, OpenWait


async def block(tx: Transaction, lease: Lease, report: BlockReport, *, now: datetime) -> Blocked | Stale:
    """The process has entered waits, left some, and says whether anything but waits keeps it awake.

    For the worker that holds the lease. `answers`: complete already, and now on their way: the run goes on. `open`: what
    it still waits for, by which the worker decides to hold it or to suspend it. The run is `waiting` when it is idle,
    something is open, and nothing was answered. A wait that could never end, for a run that waits for this one, is
    answered with an error (cycles.py).

    The same report twice ties nothing twice, and answers for the waits it names are given again; only the first counts
    them as delivered, for nobody may read the answer to a copy. One that comes after a later report is Stale. Who can't
    know whether an earlier report arrived, and holds a process with other waits open, calls `collect`, which answers
    everything.
    """
    children = {wait.run_id for wait in report.waits if wait.kind == "run" and wait.run_id}
    run, awaited = await _lock_with_children(tx, lease, children)
    if isinstance(run, Stale):
        return run
    is_news = await in_turn(tx, run, report.nth)
    if isinstance(is_news, Stale):
        return is_news
    await tie(tx, run, report.waits, awaited, now=now)
    if report.dropped:
        await tx.execute(
            """update waits set detached_at = $3
               where run_id = $1 and wait_id = any($2::text[]) and detached_at is null""",
            run.id,
            report.dropped,
            now,
        )
    named = {wait.wait_id for wait in report.waits}
    waits = await answers.tied(tx, run.id)
    if report.idle and await cycles.refuse(tx, run, waits, named, awaited, now=now):
        waits = await answers.tied(tx, run.id)
    open_waits = [wait for wait in waits if wait.is_open]
    answered = _to_tell(waits, named, is_stuck=report.idle and not open_waits)
    if answered and report.idle and not await _may_go_on(tx, run, now=now):
        return _in_line(waits, now)
    if is_news:
        await answers.mark_delivered(tx, run.id, [wait.wait_id for wait in answered], now=now)
    await _move(tx, run, report, open_waits, is_waiting=report.idle and bool(open_waits) and not answered, now=now)
    return _blocked(answered, open_waits, now)


async def collect(
    tx: Transaction, lease: Lease, open_waits: list[str], *, idle: bool = False, nth: int = 0, now: datetime
) -> Blocked | Stale:
    """The process says which waits it has open, and gets every answer there is to them.

    For the worker that holds the lease: after a restore, after `answered` news, and when it can't know what arrived.
    Waits not listed are dropped. Answers come even if they were given before: the process that got them may be gone.
    A run that waits where slots are limited gets none yet: it stands in line, and is told when `grant` lets it go on.

    `idle`: nothing but these waits keeps the process. When it was let go on and there is no answer (it dropped that wait
    meanwhile), it waits again, and gives its slot back.
    """
    run = await lock_leased(tx, lease)
    if isinstance(run, Stale):
        return run
    is_news = await in_turn(tx, run, nth)
    if isinstance(is_news, Stale):
        return is_news
    await set_open_waits(tx, run.id, open_waits, now=now)
    waits = await answers.tied(tx, run.id)
    answered = [wait for wait in waits if not wait.is_open]
    if answered and not await _may_go_on(tx, run, now=now):
        return _in_line(waits, now)
    if is_news:
        await answers.mark_delivered(tx, run.id, [wait.wait_id for wait in answered], now=now)
    if answered and run.state == RunState.WAITING:
        await tx.execute(
            f"update runs set state = 'executing', ready_at = null, updated_at = $2, {active.begins('$2')} where id = $1",
            run.id,
            now,
        )
        await tx.notify("run", run_id=run.id)
    elif waits and not answered and idle and run.state == RunState.EXECUTING:
        await tx.execute(
            f"update runs set state = 'waiting', updated_at = $2, {active.ends('$2')} where id = $1", run.id, now
        )
        await tx.notify("run", run_id=run.id)
        await slots.released(tx, run)
    elif not answered and run.ready_at is not None:
        await tx.execute("update runs set ready_at = null, updated_at = $2 where id = $1", run.id, now)
    return _blocked(answered, [wait for wait in waits if wait.is_open], now)


async def _may_go_on(tx: Transaction, run: Run, *, now: datetime) -> bool:
    """Whether answers may be given to the process: it has its slot, or needs none. Else it stands in line from now on."""
    if run.state != RunState.WAITING or not await slots.is_limited(tx, run):
        return True
    await stand_in_line(tx, run, now=now)
    return False


async def set_open_waits(tx: Transaction, run_id: str, wait_ids: list[str], *, now: datetime) -> None:
    """Make the engine's view of a run's waits that of its process: exactly these. The caller holds the run's row.

    A process that came back from an older image may wait again for what a later one had dropped. Tying again needs the
    waitpoints, as in `block`.
    """
    await tx.execute(
        """select from waitpoints where id in (select waitpoint_id from waits where run_id = $1 and wait_id = any($2::text[]))
           order by id for share""",
        run_id,
        wait_ids,
    )
    again = await tx.fetch(
        """update waits set detached_at = null
           where run_id = $1 and wait_id = any($2::text[]) and detached_at is not null returning times_out_at""",
        run_id,
        wait_ids,
    )
    if deadlines := [row["times_out_at"] for row in again if row["times_out_at"]]:
        await tx.notify("timer", due_at=to_iso(min(deadlines)))
    await tx.execute(
        "update waits set detached_at = $3 where run_id = $1 and not wait_id = any($2::text[]) and detached_at is null",
        run_id,
        wait_ids,
        now,
    )


def _blocked(answered: list[Tied], open_waits: list[Tied], now: datetime) -> Blocked:
    return Blocked([wait.answer() for wait in answered], [wait.open_wait(now) for wait in open_waits])


def _in_line(waits: list[Tied], now: datetime) -> Blocked:
    """What the process hears while it stands in line: nothing is answered, and when it will be is not to be known."""
    return Blocked(
        [], [wait.open_wait(now) if wait.is_open else OpenWait(wait.wait_id, "slot", None) for wait in waits]
    )


def _to_tell(waits: list[Tied], named: set[str], *, is_stuck: bool) -> list[Tied]:
    """The answers that this block's reply carries."""
    complete = [wait for wait in waits if not wait.is_open]
    told = [wait for wait in complete if wait.delivered_at is None or wait.wait_id in named]
    if told or not is_stuck:
        return told
    # A process that is blocked on nothing at all has not got the last reply: it was lost on the way. Say it again.
    last = max((wait.delivered_at for wait in complete if wait.delivered_at), default=None)
    return [wait for wait in complete if wait.delivered_at == last]


async def _lock_with_children(tx: Transaction, lease: Lease, children: set[str]) -> tuple[Run | Stale, dict[str, Run]]:
    """The run to block, and a share of each run it wants to wait for, so that none ends meanwhile: all in id order."""
    awaited: dict[str, Run] = {}
    share = "select * from runs where id = any($1::text[]) order by id for share"
    for row in await tx.fetch(share, sorted(child for child in children if child < lease.run_id)):
        awaited[row["id"]] = Run.of(row)
    row = await tx.fetchrow("select * from runs where id = $1 for no key update", lease.run_id)
    run = fenced(Run.of(row) if row else None, lease)
    if not isinstance(run, Stale):
        for row in await tx.fetch(share, sorted(child for child in children if child > lease.run_id)):
            awaited[row["id"]] = Run.of(row)
    return run, awaited


async def _move(
    tx: Transaction, run: Run, report: BlockReport, open_waits: list[Tied], *, is_waiting: bool, now: datetime
) -> None:
    """executing <-> waiting, and the story's line for it. A run whose start is not reported yet stays `dequeued`."""
    if run.state == RunState.EXECUTING and is_waiting:
        await tx.execute(
            f"update runs set state = 'waiting', updated_at = $2, {active.ends('$2')} where id = $1", run.id, now
        )
        await slots.released(tx, run)
        due = [wait.ends_at for wait in open_waits if wait.ends_at]
        data = {
            "kinds": sorted({wait.kind for wait in open_waits}),
            "count": len(open_waits),
            "due_at": to_iso(min(due)) if due else None,
        }
        await events.record(tx, run.id, "run.waiting", now=now, attempt=run.attempt, data=data)
    elif run.state == RunState.WAITING and not is_waiting:
        # Also where slots are limited: the process works already, whether it has one or not.
        await tx.execute(
            f"update runs set state = 'executing', ready_at = null, updated_at = $2, {active.begins('$2')} where id = $1",
            run.id,
            now,
        )
        await tx.notify("run", run_id=run.id)
    if report.blockers and open_waits:
        last = await tx.fetchval(
            "select data from events where run_id = $1 and kind = 'run.held' order by id desc limit 1", run.id
        )
        data = {"blockers": report.blockers}
        if last != data:  # each turn of a polling loop says so again; once is enough for the story
            await events.record(tx, run.id, "run.held", now=now, attempt=run.attempt, data=data)

"""The server's duties that nobody asks for: fire what is due, take back runs whose worker fell silent, cancel the children
of canceled runs, say why a run is not taken, let it go on without a checkpoint that nobody can use, put right what must not
be, delete what is old and what is in deleted environments.

Every server of a fleet does them all; the verbs claim rows with SKIP LOCKED, so there is no leader to lose. A duty is a
plain `step`, which tests call directly.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import asyncpg

from torpor import engine
from torpor.durations import parse_instant
from torpor.engine import read
from torpor.server.bulk_work import work_off
from torpor.server.garbage import collect_garbage, notice_unreferenced
from torpor.server.hub import Hub
from torpor.server.pruning import prune
from torpor.server.reach import Reach
from torpor.server.removal import remove_deleted
from torpor.server.timers import Timers
from torpor.server.wakeups import Ear
from torpor.store.database import DatabaseDown

log = logging.getLogger("torpor.server")

LONGEST_SLEEP_S = 5.0
"""The timer duty looks at least this often: a notification can be lost, and the wall clock can jump."""
SHORTEST_SLEEP_S = 0.002
RESCUE_INTERVAL_S = 2.0
CASCADE_INTERVAL_S = 0.5
STRANDED_INTERVAL_S = 30.0
ABORT_INTERVAL_S = 60.0
REPAIR_INTERVAL_S = 600.0
PRUNE_INTERVAL_S = 600.0
REMOVE_INTERVAL_S = 30.0
GARBAGE_INTERVAL_S = 60.0
GIVE_UP_INTERVAL_S = 5.0
PAUSE_S = 1.0
"""After a step that the database did not let through."""
TROUBLE = (DatabaseDown, asyncpg.PostgresError)
"""What a duty survives: a lost connection, a deadlock broken by the database. A bug of ours ends the server instead."""


async def run_all(here: Hub) -> None:
    """All duties, until cancelled."""
    reach = watch(here)
    turn = asyncio.Lock()  # the quick ones come first
    async with asyncio.TaskGroup() as duties:
        duties.create_task(fire_timers(here), name="fire timers")
        duties.create_task(grant_slots(here), name="grant slots")
        duties.create_task(fire_schedules(here), name="fire schedules")
        duties.create_task(work_off_bulk_actions(here), name="work off bulk actions")
        duties.create_task(every(turn, RESCUE_INTERVAL_S, lambda: rescue(here, reach)), name="rescue")
        duties.create_task(every(turn, CASCADE_INTERVAL_S, lambda: cascade(here)), name="cascade")
        duties.create_task(every(turn, STRANDED_INTERVAL_S, lambda: tell_stranded(here, reach)), name="tell stranded")
        duties.create_task(every(turn, GIVE_UP_INTERVAL_S, lambda: give_up(here, reach)), name="give up")
        duties.create_task(every(turn, ABORT_INTERVAL_S, lambda: abort_batches(here)), name="abort batches")
        duties.create_task(every(turn, REPAIR_INTERVAL_S, lambda: repair(here)), name="repair")
        duties.create_task(every(turn, GARBAGE_INTERVAL_S, lambda: collect_garbage(here)), name="collect garbage")
        duties.create_task(every(turn, REPAIR_INTERVAL_S, lambda: notice_unreferenced(here)), name="notice garbage")
        duties.create_task(every(turn, PRUNE_INTERVAL_S, lambda: prune(here)), name="prune")
        duties.create_task(every(turn, REMOVE_INTERVAL_S, lambda: remove_deleted(here)), name="remove deleted")


def watch(here: Hub) -> Reach:
    """From now on the server takes requests, and `rescue` looks every two seconds."""
    # Workers renew a lease when a third of it is over, so a stop of half a lease costs none.
    longest_gap_s = max(here.settings.lease_s / 2, 2 * RESCUE_INTERVAL_S)
    return Reach(here.database, longest_gap_s=longest_gap_s, now=here.clock.now())


async def every(turn: asyncio.Lock, interval_s: float, step: Callable[[], Awaitable[object]]) -> None:
    """The step, again and again, this long after its last end; the first time when it is its turn.

    All at once, they would have the pool open a connection for each, which would then be kept.
    """
    async with turn:
        await _try(step)
    while True:
        await asyncio.sleep(interval_s)
        await _try(step)


async def _try(step: Callable[[], Awaitable[object]]) -> bool:
    try:
        await step()
    except TROUBLE as error:
        log.warning("a duty could not be done and is tried again: %s: %s", type(error).__name__, error)
        return False
    return True


async def fire_timers(here: Hub) -> None:
    """Fire waits, token timeouts and delayed runs within milliseconds of their time."""
    await _keep_firing(here, Timers(here))


async def fire_schedules(here: Hub) -> None:
    """Trigger what is scheduled within milliseconds of its time. In a loop of its own: a crowd of waits delays no tick."""
    await _keep_firing(here, Timers(here, engine.fire_schedules, engine.due_schedules))


async def _keep_firing(here: Hub, timers: Timers) -> None:
    """Sleep until the next one is due, and fire. One made meanwhile may be due sooner, so each new one pokes the sleeper."""
    next_due: datetime | None = None

    async def step() -> None:
        nonlocal next_due
        next_due = await timers.fire()

    with here.wakeups.listen("timer") as ear:
        while not here.wakeups.is_closed:
            if await _try(step):
                latest = here.clock.now() + timedelta(seconds=LONGEST_SLEEP_S)
                await _rest(here, ear, min(next_due or latest, latest))
            else:
                await asyncio.sleep(PAUSE_S)


async def grant_slots(here: Hub) -> None:
    """Let runs that wait in memory go on as soon as limits allow it."""
    with here.wakeups.listen("grant") as ear:
        while not here.wakeups.is_closed:
            await ear.wait(LONGEST_SLEEP_S)
            # All environments with somebody in line, not only those just heard of: a note can be lost.
            ear.heard.clear()
            await _try(lambda: grant(here))


async def work_off_bulk_actions(here: Hub) -> None:
    """Begin with one as soon as it is made; what a server that died has left, within seconds."""
    with here.wakeups.listen("bulk") as ear:
        while not here.wakeups.is_closed:
            await _try(lambda: work_off(here))
            await ear.wait(LONGEST_SLEEP_S)


async def grant(here: Hub) -> int:
    """Each environment in a transaction of its own."""
    async with here.database.transaction() as tx:
        environments = await read.environments_in_line(tx)
    count = 0
    for environment_id in environments:
        async with here.database.transaction() as tx:
            count += await engine.grant(tx, environment_id, now=here.clock.now())
    return count


async def _rest(here: Hub, ear: Ear, until: datetime) -> None:
    """Until then, or until something is announced that is due sooner."""
    while not here.wakeups.is_closed:
        # Something that is due and was not fired is in another transaction's hands: give that a moment.
        left_s = max((until - here.clock.now()).total_seconds(), SHORTEST_SLEEP_S)
        if not await ear.wait(left_s):
            return
        notes = tuple(ear.heard)
        ear.heard.clear()
        if not notes or any(parse_instant(note["due_at"]) < until for note in notes):
            return


async def rescue(here: Hub, reach: Reach) -> list[str]:
    """Take back every run whose lease has run out, or that doesn't start, unless its worker may just not have been heard.

    A worker that starts anew says so itself (hello), and gets back what it held without delay.
    """
    taken: list[str] = []
    if reach.held_s(here.clock.now()) < here.settings.lease_s:
        return taken
    while True:
        async with here.database.transaction() as tx:
            some = await engine.rescue(
                tx,
                max_rescues=here.settings.max_rescues,
                boot_timeout_s=here.settings.boot_timeout_s,
                now=here.clock.now(),
            )
        taken += some
        if not some:
            return taken


async def cascade(here: Hub) -> int:
    """Cancel the children of canceled runs, step by step, until none is left to do."""
    count = 0
    while True:
        async with here.database.transaction() as tx:
            some = await engine.cascade(tx, now=here.clock.now())
        if some is None:
            return count
        count += some


async def tell_stranded(here: Hub, reach: Reach) -> list[str]:
    """Let queued runs that nobody can take say so in their stories. Who is connected is known after a lease only.

    Before that, what a trigger or a retry has queued while a version was being registered finds its place.
    """
    async with here.database.transaction() as tx:
        await engine.match_versions(tx, now=here.clock.now())
    told: list[str] = []
    if reach.held_s(here.clock.now()) < here.settings.lease_s:
        return told
    while True:
        async with here.database.transaction() as tx:
            some = await engine.tell_stranded(tx, now=here.clock.now())
        told += some
        if not some:
            return told


async def give_up(here: Hub, reach: Reach) -> list[str]:
    """Let runs go on without checkpoints that nobody can use. Who is connected is known after a lease only."""
    given_up: list[str] = []
    if reach.held_s(here.clock.now()) < here.settings.lease_s:
        return given_up
    while True:
        async with here.database.transaction() as tx:
            some = await engine.give_up(tx, patience_s=here.settings.unfit_patience_s, now=here.clock.now())
        given_up += some
        if not some:
            return given_up


async def abort_batches(here: Hub) -> list[str]:
    """Close batches whose items stopped coming half an hour ago."""
    aborted: list[str] = []
    while True:
        async with here.database.transaction() as tx:
            some = await engine.abort_batches(tx, now=here.clock.now())
        aborted += some
        if not some:
            return aborted


async def repair(here: Hub) -> list[engine.Fault]:
    """Look at everything that lives, now and at start-up, and put right what must not be. Returns what was found."""
    repaired: list[engine.Fault] = []
    place: str | None = ""
    while place is not None:
        async with here.database.transaction() as tx:
            look = await engine.find_faults(tx, place=place, now=here.clock.now())
        for fault in look.faults:
            async with here.database.transaction() as tx:
                is_done = await engine.repair(tx, fault, now=here.clock.now())
            if is_done:
                log.warning("repaired %s: %s", fault.id, fault.kind)
                repaired.append(fault)
        place = look.place
    return repaired

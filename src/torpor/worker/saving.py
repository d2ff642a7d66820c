"""How a run is written down when it does not wait: save points, that it asks for or that come by themselves, and moves.

To be frozen in the middle of its work a process is stopped first, and all that it has said until then is heard and answered.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from torpor.errors import ApiError, CriuError
from torpor.wire import http, runner
from torpor.worker import checkpoint, connections
from torpor.worker.faults import Fault, reach
from torpor.worker.life import NO_CHECKPOINT, Life, reason
from torpor.worker.process import RunProcess
from torpor.worker.waiting import FreezeNow, Waiting

log = logging.getLogger(__name__)

QUIET_TIMEOUT_S = 5.0
"""How long a process that was stopped in its work may stand still for the answers to what it had asked before."""
LOOK_AGAIN_S = 0.25


@dataclass(frozen=True)
class SaveDue:
    """The run may have worked for long enough without a checkpoint."""


@dataclass(frozen=True)
class MoveOn:
    """The worker is to be rid of the run: freeze it wherever it is.

    Attributes:
        reason: for the story.
        patient_until: connections with others are given so long to end by themselves (monotonic).
        until: after that no more is tried.
    """

    reason: str
    patient_until: float
    until: float


class Saving:
    """Writes one run down outside of its waits.

    Args:
        life: the run.
        waiting: its waits.
        handle: deals with what a stopped process has said before.
    """

    def __init__(self, life: Life, waiting: Waiting, handle: Callable[[RunProcess, Any], Awaitable[None]]) -> None:
        self._life = life
        self._waiting = waiting
        self._handle = handle
        self._saved_at_s = life.assignment.active_s
        self._save_every_s = life.assignment.save_every_s
        self._keeping: asyncio.Task[None] | None = None
        self._was_asked_to_leave = False

    # -- save points --------------------------------------------------------------------------------------------------

    async def save(self, process: RunProcess, asked: runner.SavePoint) -> None:
        """The process sleeps by its own wish: dump it, and let it go on when there is no doubt about the checkpoint."""
        if self._waiting.report is not None:
            await self._waiting.settle_report(process)
        waits = {*asked.open_waits, *self._life.open}

        async def tell(stored: http.StoredCheckpoint) -> http.LeaseReply:
            report = http.SaveReport(
                self._life.lease.lease, stored, sorted(waits), asked.waiting_at, self._life.next(), process.usage()
            )
            return await self._life.send("save", report, http.LeaseReply)

        try:
            if self._life.house.criu is None:
                raise CriuError(self._life.house.no_freeze_reason)
            if self._life.cancel is not None:
                raise CriuError("the run is to end")
            taken = await self._life.take_checkpoint(process, time.perf_counter())
            reply = await self._life.settle(taken, "named", tell, name=asked.name)
        except NO_CHECKPOINT as error:
            self._life.saved = (None, reason(error))
            if process.is_alive:
                await self._life.tell("run.save_failed", {"name": asked.name, "reason": reason(error)})
        else:
            self._life.saved = (taken.id, None)
            self._saved_at_s = self._life.clock.worked_s(now=time.monotonic())
            self._life.over = reply.status == "stale"
        self._life.stands_still = False
        process.go_on()
        process.wake()

    def plan_save(self, process: RunProcess) -> None:
        """Be told when the run has worked for long enough without a checkpoint. A wait is none of that: there it is frozen."""
        if self._save_every_s is not None and self._life.house.criu is not None:
            since_s = self._life.clock.worked_s(now=time.monotonic()) - self._saved_at_s
            self._life.later(max(self._save_every_s - since_s, 0.0), process, SaveDue())

    async def save_by_itself(self, process: RunProcess) -> None:
        """Write the run down in the middle of its work. It goes on as soon as that is done, before the image is durable."""
        now = time.monotonic()
        assert self._save_every_s is not None
        if (
            not self._life.clock.is_going
            or self._life.clock.worked_s(now=now) - self._saved_at_s < self._save_every_s - 0.001
        ):
            return  # it waits, or was saved meanwhile: a later timer counts
        is_busy = self._keeping is not None and not self._keeping.done()
        if is_busy or self._life.cancel is not None or not await self._stop(process):
            if not self._life.over and process.is_alive:
                self._life.later(LOOK_AGAIN_S, process, SaveDue())
            return
        self._saved_at_s = self._life.clock.worked_s(now=now)
        waits = self._life.waits_in_memory()
        try:
            taken = await self._life.take_checkpoint(process, time.perf_counter())
        except NO_CHECKPOINT as error:
            await self._not_saved(reason(error))
        else:
            self._keeping = self._life.in_background(self._keep(process, taken, waits))
        process.go_on()
        process.nudge()
        self.plan_save(process)

    async def _keep(self, process: RunProcess, taken: checkpoint.Taken, waits: list[str]) -> None:
        """Make it durable while the run works on. Uncounted among the reports, for others may overtake it."""

        async def tell(stored: http.StoredCheckpoint) -> http.LeaseReply:
            report = http.SaveReport(self._life.lease.lease, stored, waits, usage=process.usage())
            return await self._life.send("save", report, http.LeaseReply)

        try:
            reply = await self._life.settle(taken, "auto", tell)
        except NO_CHECKPOINT as error:
            await self._not_saved(reason(error))
        except ApiError as refused:
            log.error("run %s: the server refused a save point: %s", self._life.lease.run_id, refused)
        else:
            self._save_every_s = self._life.assignment.save_every_s
            if reply.status == "stale":
                process.inbox.put_nowait(http.News("stale", self._life.lease.run_id, self._life.lease.lease))

    async def _not_saved(self, why: str) -> None:
        """What stops a save point may never go away: each next one comes later."""
        assert self._life.assignment.save_every_s is not None
        assert self._save_every_s is not None
        self._save_every_s = min(self._save_every_s * 2, self._life.assignment.save_every_s * 16)
        await self._life.tell("run.save_failed", {"name": None, "reason": why, "next_try_s": self._save_every_s})

    # -- at any moment ------------------------------------------------------------------------------------------------

    async def move(self, process: RunProcess, order: MoveOn) -> None:
        """Freeze the run wherever it is, and have it go on elsewhere."""
        now = time.monotonic()
        if now > order.until or self._life.house.criu is None or self._life.cancel is not None:
            return
        if not self._was_asked_to_leave and self._life.is_waiting and process.is_connected:
            self._was_asked_to_leave = True
            process.inbox.put_nowait(FreezeNow())  # it leaves by its own freeze, which closes nothing
        found = await asyncio.to_thread(connections.outside, checkpoint.tree(process.pid or 0))
        is_early = now < order.patient_until and (bool(found) or self._life.is_waiting)
        if is_early or not await self._stop(process, though_it_waits=True):
            if not self._life.over and process.is_alive:
                self._life.later(LOOK_AGAIN_S, process, order)
            return
        why = order.reason
        if found:
            why += f"; its connections were closed: {', '.join(found)}"
        waits = self._life.waits_in_memory()

        async def tell(stored: http.StoredCheckpoint) -> http.LeaseReply:
            report = http.MoveReport(
                self._life.lease.lease,
                stored,
                waits,
                nth=self._life.next(),
                reason=why,
                usage=process.usage(),
            )
            return await self._life.send("move", report, http.LeaseReply)

        try:
            taken = await self._life.take_checkpoint(process, time.perf_counter())
            reply = await self._life.settle(taken, "move", tell)
        except NO_CHECKPOINT as error:
            self._life.not_moved = reason(error)
            if process.is_alive:
                await self._life.tell("run.move_failed", {"reason": self._life.not_moved})
                process.go_on()
                process.nudge()
                self._life.later(LOOK_AGAIN_S * 8, process, order)
            return
        if reply.status == "awake":
            process.go_on()
            process.nudge()
        else:
            await self._life.leave(process, reply, "moved")

    async def _stop(self, process: RunProcess, *, though_it_waits: bool = False) -> bool:
        """Have the process stand still in the middle of its work, with nothing between us: all that it has said is heard and
        answered, and our end of its connection is closed. False: not now; it goes on.

        Args:
            though_it_waits: also when nothing but waits keeps it in memory. Else it goes on, and is frozen for that.
        """
        if self._life.stands_still or self._life.suspend_asked or not process.is_alive or not await process.stop():
            return False
        self._life.is_being_stopped = True
        try:
            is_quiet = await self._hear_out(process) and (though_it_waits or not self._life.is_waiting)
        finally:
            self._life.is_being_stopped = False
        if not is_quiet:
            process.go_on()
            if self._life.is_waiting and not self._life.over:
                self._waiting.consider_freezing(process)
            return False
        self._waiting.cancel_freeze()
        process.let_go()
        await reach(Fault.STOPPED)
        return True

    async def _hear_out(self, process: RunProcess) -> bool:
        """Deal with all that the stopped process has said. False: it has come to a point of its own, or there is no end of it."""
        end = time.monotonic() + QUIET_TIMEOUT_S
        while not (
            process.inbox.empty() and not self._life.calls and self._waiting.report is None and process.has_heard_us()
        ):
            if time.monotonic() > end:
                return False
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    event = await process.inbox.get()
            except TimeoutError:
                continue
            if isinstance(event, runner.Finished | runner.Suspending | runner.SavePoint | SaveDue | MoveOn | FreezeNow):
                process.inbox.put_nowait(event)  # nothing else of the process can be behind it, or it may wait
                return False
            await self._handle(process, event)
            if self._life.over or not process.is_alive or self._life.cancel is not None:
                return False
        return True

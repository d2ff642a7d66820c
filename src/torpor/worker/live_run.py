"""One run in memory, seen from the supervisor: its process, its control socket, its lease.

    begin or restore -> serve -> (frozen | finished | crashed | stale): always out of memory at the end

Everything that happens to the run arrives in one inbox, from the runner, from the server and from the clock, and is
handled one after the other; so there is no moment at which two of them act on the process at once.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from torpor import ids
from torpor.errors import ApiError, CriuError, ImageDamaged, MemoryLost
from torpor.objects import ObjectsDown
from torpor.wire import http, runner
from torpor.worker import birth, checkpoint, connections
from torpor.worker.faults import Fault, reach
from torpor.worker.hold import Hold, expected
from torpor.worker.house import House
from torpor.worker.output import Follower, Output
from torpor.worker.process import Closed, Exited, RunProcess
from torpor.worker.restore import Unfit
from torpor.worker.version import ImportFailed, ZygoteDied
from torpor.worker.work_clock import WorkClock

log = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 10.0
QUIET_TIMEOUT_S = 5.0
"""How long a process that was stopped in its work may stand still for the answers to what it had asked before."""
LOOK_AGAIN_S = 0.25
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0
CALLS = {
    "trigger": "trigger",
    "create_batch": "batches",
    "batch_items": "batches/items",
    "batch_results": "batches/results",
    "create_token": "tokens",
    "complete_token": "tokens/complete",
}
"""What user code may ask the server through us, and where it is asked."""


@dataclass(frozen=True)
class FreezeNow:
    """The time for which the waiting process was to be held in memory is over."""


@dataclass(frozen=True)
class Answered:
    """A request of user code was answered: whoever waits for all of them may look."""


@dataclass(frozen=True)
class GraceOver:
    """The time in which a canceled run was to end by itself is over."""


@dataclass(frozen=True)
class TimeIsUp:
    """The attempt may have worked for longer than it is allowed."""


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


NO_CHECKPOINT = (CriuError, ObjectsDown, ImageDamaged, checkpoint.NotAccepted, OSError)
"""Why there may be none: the process can't be dumped, the store is down, there is no key, there is no room."""


class LiveRun:
    """A lease, and the process that it is for.

    Args:
        house: what the worker's runs share.
        assignment: the lease, and what to do: start, or restore a checkpoint.

    Attributes:
        gone: set, by its keeper, when nothing of it is left here.
        left: how it was frozen, if that was its end here: `frozen` in a wait, `moved` out of its work.
        not_moved: why it could not be frozen when it was last tried to move it.
    """

    def __init__(self, house: House, assignment: http.Assignment) -> None:
        self.house = house
        self.assignment = assignment
        self.lease = http.HeldLease(assignment.run_id, assignment.lease)
        self._process: RunProcess | None = None
        self._output: Output | None = None
        self._follower: Follower | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._taken_away = asyncio.Event()
        self._open: dict[str, http.OpenWait] = {}
        self._report: asyncio.Task[http.BlockReply] | None = None
        self._hold = Hold(house.settings)
        self._is_idle = False
        self._suspend_asked = False
        self._stands_still = False
        self._freeze_timer: asyncio.TimerHandle | None = None
        self._waiting_at: list[dict[str, Any]] = []
        self._wait_entered = 0.0
        self._told_unfreezable = False
        self._cancel: runner.Cancel | None = None
        self._early_cancel: http.News | None = None
        self._clock = WorkClock(assignment.context.max_duration_s, assignment.active_s)
        self._timers: list[asyncio.TimerHandle] = []
        self._calls = 0  # requests of user code that are not answered yet
        self._lately_answered: deque[str] = deque(maxlen=1000)
        self._is_at_work = False  # restored in the middle of its work, it has yet to say `Resumed`
        self._save_point: runner.SavePoint | None = None
        self._saved: tuple[str | None, str | None] = (
            None,
            None,
        )  # what became of it: a checkpoint, or why there is none
        self._saved_at_s = assignment.active_s
        self._save_every_s = assignment.save_every_s
        self._keeping: asyncio.Task[None] | None = None
        self._order: MoveOn | None = None
        self._was_asked_to_leave = False
        self._is_being_stopped = False
        self._over = False
        self._reports = 0
        self.gone = asyncio.Event()
        self.left: str | None = None
        self.not_moved: str | None = None

    # -- from the supervisor ------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_waiting(self) -> bool:
        """Nothing but waits keeps this run in memory."""
        return self._is_idle and bool(self._open)

    def tell(self, news: http.News) -> None:
        """Hand on what the server says of this run."""
        if news.kind == "stale":
            self._taken_away.set()
        if news.kind == "cancel" and self._process is None:
            self._early_cancel = news
        if self._process is not None:
            self._process.inbox.put_nowait(
                news
            )  # an answer that comes before there is a process is in the next heartbeat

    def freeze_soon(self) -> None:
        """Memory is short, or the worker is about to stop: if the run waits, freeze it now, though an answer may be near."""
        if self._process is not None and self.is_waiting and self.house.criu is not None:
            self._process.inbox.put_nowait(FreezeNow())

    @property
    def idle_since(self) -> float | None:
        """Since when (`time.perf_counter()`) this run has waited, if it could be frozen now; None if it can't."""
        is_free = self.is_waiting and self._may_freeze and not self._suspend_asked and not self._stands_still
        may_try = self._hold.may_try(now=time.monotonic())
        return self._wait_entered if is_free and may_try and self._process and self._process.is_connected else None

    def move_on(self, order: MoveOn) -> None:
        """The worker is about to stop: freeze the run wherever it is, so that another worker goes on with it."""
        if self._order is None:
            self._order = order
            if self._process is not None:
                self._process.inbox.put_nowait(order)

    async def live(self) -> None:
        """Hold the run until it is out of memory, one way or another."""
        try:
            born = await self._birth()
            if born is not None and await self._announce(born):
                assert self._follower is not None
                self._follower.start()
                if self._early_cancel is not None:
                    self._ask_to_end(born.process, self._early_cancel)
                if self._order is not None:
                    born.process.inbox.put_nowait(self._order)
                while not self._over:
                    self._keep_time(born.process)
                    await self._handle(born.process, await born.process.inbox.get())
        except ApiError as refused:
            log.error("run %s: the server refused a message (%s); its process is ended", self.lease.run_id, refused)
        except Exception as fault:
            # A fault of ours. Silence would cost the run its lease and, in the end, its outcome; so it is told as a crash.
            log.exception("run %s: its attendant failed", self.lease.run_id)
            await self._report_crash(
                runner.TaskError("WorkerFault", f"the worker failed: {type(fault).__name__}: {fault}")
            )
        finally:
            await self._leave_nothing()

    # -- birth --------------------------------------------------------------------------------------------------------

    async def _birth(self) -> birth.Born | None:
        """Its process. What fails for a passing reason (a full disk, a port in use) is tried again for a while."""
        way = birth.thaw if self.assignment.checkpoint else birth.begin
        delay_s, end = FIRST_RETRY_S, time.monotonic() + self.house.settings.start_patience_s
        while True:
            try:
                return await self._unless_taken_away(way(self.house, self.assignment))
            except birth.NotHere as error:
                return await self._refuse(str(error))
            except ImageDamaged as error:
                return await self._refuse(str(error), unusable=True)
            except Unfit as error:
                return await self._refuse(str(error), unfit=True)
            except (CriuError, MemoryLost, ObjectsDown, ZygoteDied, ImportFailed, OSError) as error:
                if time.monotonic() + delay_s > end:
                    return await self._refuse(f"gave up: {error}", unusable=self.assignment.checkpoint is not None)
                await self._tell("run.start_failed", {"reason": str(error), "next_try_s": delay_s})
            if not await birth.pause(delay_s, self._taken_away):
                return None
            delay_s = min(delay_s * 2, LONGEST_RETRY_S)

    async def _unless_taken_away(self, born: Coroutine[Any, Any, birth.Born]) -> birth.Born | None:
        """A birth that hangs ends when the engine takes the run back; else it would stand in the way of the next one."""
        birth_task = asyncio.create_task(born)
        taken_away = asyncio.create_task(self._taken_away.wait())
        try:
            await asyncio.wait({birth_task, taken_away}, return_when=asyncio.FIRST_COMPLETED)
            return birth_task.result() if birth_task.done() else None
        finally:
            birth_task.cancel()
            taken_away.cancel()
            await asyncio.wait({birth_task, taken_away})

    async def _announce(self, born: birth.Born) -> bool:
        """Tell the engine that user code is on its way; false: this run is no longer ours."""
        self._process, self._output, self._is_at_work = born.process, born.output, born.is_at_work
        self._follower = Follower(born.output, self._tell_output)
        reply = await self._send("start", born.report, http.LeaseReply)
        await reach(Fault.STARTED)
        if reply.status != "ok" or self._taken_away.is_set():
            return False
        if born.lost:
            await self._tell("run.descriptors_lost", {"lost": born.lost})
        if born.open_waits:
            self._take(born.process, await self._collect(born.open_waits))
        return True

    # -- life ---------------------------------------------------------------------------------------------------------

    async def _handle(self, process: RunProcess, event: Any) -> None:
        if self._report is not None and not isinstance(event, runner.Suspending | runner.SavePoint | Closed):
            await self._settle_report(process)
        match event:
            case runner.Block():
                await self._block(process, event)
            case runner.Call():
                self._calls += 1
                self._in_background(self._call(process, event))
            case runner.Suspending(_, waiting_at):
                self._stands_still = True
                self._waiting_at = waiting_at
            case runner.SavePoint():
                self._stands_still = True
                self._save_point = event
            case runner.NotSaved(name, reasons):
                await self._tell("run.save_failed", {"name": name, "reason": "; ".join(reasons)})
            case runner.StayingAwake(reasons, moved):
                self._suspend_asked = False
                if not moved:  # else the process says anew when it is idle
                    next_try_s = self._hold.failed(now=time.monotonic())
                    await self._tell("run.held", {"reasons": reasons, "next_try_s": next_try_s})
                    self._freeze_in(process, next_try_s)
            case runner.Resumed(_, open_waits, lost):
                await self._resume_in_place(process, open_waits, lost)
            case runner.Finished():
                await self._finish(process, event)
            case Closed():
                if self._save_point is not None:
                    await self._save(process, self._save_point)
                elif self._stands_still:
                    await self._freeze(process)
            case Exited():
                await self._crash()
            case http.News(kind="answered"):
                if self._open and not self._stands_still:
                    self._take(process, await self._collect([*self._open]))
            case http.News(kind="stale"):
                self._over = True
            case http.News(kind="cancel"):
                self._ask_to_end(process, event)
            case GraceOver():
                message = f"the process did not end within {self.house.settings.cancel_grace_s:g} s of being asked to"
                await self._end_by_force(
                    process, "canceled", runner.TaskError("NotEnded", message + ", and was killed")
                )
            case TimeIsUp():
                await self._out_of_time(process)
            case SaveDue():
                await self._save_by_itself(process)
            case MoveOn():
                await self._move(process, event)
            case FreezeNow():
                if self.is_waiting and self._may_freeze and not self._suspend_asked and process.is_connected:
                    self._ask_to_suspend(process)
            case Answered():
                pass
            case _:
                log.warning("run %s: %s makes no sense now", self.lease.run_id, type(event).__name__)

    async def _block(self, process: RunProcess, message: runner.Block) -> None:
        self._wait_entered = time.perf_counter()
        self._cancel_freeze()
        self._is_idle = message.idle
        if message.waits:
            self._hold.entered_new_wait()
        for wait_id in message.dropped:
            self._open.pop(wait_id, None)
        now = datetime.now(UTC)
        self._open |= {wait.wait_id: expected(wait, now=now) for wait in message.waits}
        self._report = asyncio.create_task(self._report_block(message))
        if self.is_waiting and self._may_freeze and self._freeze_delay() == 0:
            # A long wait for certain: the freeze may begin while the engine is told. Should the engine have the answer
            # already, the dump was in vain, which is rare and does no harm.
            self._ask_to_suspend(process)
        else:
            await self._settle_report(process)

    async def _report_block(self, message: runner.Block) -> http.BlockReply:
        report = http.BlockReport(
            self.lease.lease, message.waits, message.dropped, message.idle, message.blockers, self._next()
        )
        reply, tries = await self.house.link.send_counting(self._path("block"), report, http.BlockReply)
        if reply.status == "ok" and tries > 1:
            # An earlier answer to this message may have been lost on the way, with answers in it.
            reply = await self._collect([*self._open])
        return reply

    async def _settle_report(self, process: RunProcess) -> http.BlockReply:
        """Wait for what the engine says of the waits just entered, and act on it."""
        assert self._report is not None
        reply = await self._report
        self._report = None
        self._take(process, reply)
        return reply

    async def _collect(self, open_waits: list[str]) -> http.BlockReply:
        request = http.CollectRequest(self.lease.lease, open_waits, self._is_idle, self._next())
        return await self._send("collect", request, http.BlockReply)

    def _take(self, process: RunProcess, reply: http.BlockReply) -> None:
        """Act on what the engine says of our waits."""
        if reply.status == "stale":
            self._over = True
            return
        self._open = {wait.wait_id: wait for wait in reply.open}
        if self.is_waiting:
            self.house.room.set()  # who waits does not work: another run may
        if reply.answers:
            self._is_idle = False
            self._cancel_freeze()
            self._lately_answered.extend(answer.wait_id for answer in reply.answers)
            process.say(runner.Answers(reply.answers))
        elif self.is_waiting and not self._suspend_asked:
            self._consider_freezing(process)

    async def _call(self, process: RunProcess, call: runner.Call) -> None:
        """Pass a request of user code on to the server, with our lease instead of credentials."""
        try:
            process.say(await self._answer(call))
        finally:
            self._calls -= 1
            process.inbox.put_nowait(Answered())

    async def _answer(self, call: runner.Call) -> runner.Result:
        path = CALLS.get(call.kind)
        if path is None:
            return runner.Result(call.call_id, False, status=400, error=f"unknown call {call.kind!r}")
        body = msgspec.json.decode(call.body, type=dict[str, msgspec.Raw])  # payloads pass untouched
        body["lease"] = msgspec.Raw(str(self.lease.lease).encode())
        try:
            reply = await self._send(path, body, msgspec.Raw)
        except ApiError as refused:
            told = msgspec.Raw(msgspec.json.encode(refused.body))
            return runner.Result(call.call_id, False, told, refused.status, refused.message)
        return runner.Result(call.call_id, True, reply)

    # -- held or frozen -----------------------------------------------------------------------------------------------

    @property
    def _may_freeze(self) -> bool:
        """A run that was asked to end is to do that: it isn't frozen in its cleanup."""
        return self.house.criu is not None and self._cancel is None and not self._is_being_stopped

    def _freeze_delay(self) -> float | None:
        return self._hold.delay_s(self._open.values(), now=time.monotonic())

    def _consider_freezing(self, process: RunProcess) -> None:
        if self.house.criu is None:
            if not self._told_unfreezable:
                self._told_unfreezable = True
                self._in_background(self._tell("run.held", {"reasons": [self.house.no_freeze_reason]}))
        elif self._may_freeze and (delay := self._freeze_delay()) is not None:
            self._freeze_in(process, delay)

    def _freeze_in(self, process: RunProcess, delay_s: float) -> None:
        self._cancel_freeze()
        self._freeze_timer = asyncio.get_running_loop().call_later(delay_s, process.inbox.put_nowait, FreezeNow())

    def _cancel_freeze(self) -> None:
        if self._freeze_timer is not None:
            self._freeze_timer.cancel()
            self._freeze_timer = None

    def _ask_to_suspend(self, process: RunProcess) -> None:
        self._suspend_asked = True
        process.say(runner.Suspend())

    async def _freeze(self, process: RunProcess) -> None:
        """The process sleeps, since it waits: dump it, let the engine decide, then kill it or let it run on."""
        if self._cancel is not None:  # it crossed with the request: the process hears of that when it is back
            self._stands_still = self._suspend_asked = False
            if self._report is not None:
                await self._settle_report(process)
            process.wake()
            return

        async def tell(stored: http.StoredCheckpoint) -> http.LeaseReply:
            if self._report is not None and (await self._settle_report(process)).answers:
                return http.LeaseReply("awake")
            if self._over:
                return http.LeaseReply("stale")
            report = http.SuspendReport(self.lease.lease, stored, self._waiting_at, self._next())
            return await self._send("suspend", report, http.LeaseReply)

        try:
            taken = await self._take_checkpoint(process, self._wait_entered)
            reply = await self._settle(taken, "wait", tell)
        except NO_CHECKPOINT as error:
            await self._freeze_failed(process, _reason(error))
            return
        if reply.status == "awake":  # the answer came while the process was dumped: the image is of no use
            self._stands_still = self._suspend_asked = False
            process.go_on()
            process.wake()
        else:
            await self._leave(process, reply, "frozen")

    async def _take_checkpoint(self, process: RunProcess, entered: float) -> checkpoint.Taken:
        """Write the process down as it stands, and tell all that it has said until then.

        Raises:
            CriuError, OSError: it can't be; see `checkpoint.take`.
        """
        assert self.house.criu is not None
        assert self._output is not None
        assert self._follower is not None
        output = self._output
        sending = asyncio.create_task(self._follower.catch_up())
        try:
            taken = await checkpoint.take(
                self.house.criu,
                self.house.images,
                checkpoint_id=ids.new("checkpoint"),
                process=process,
                facts=lambda: {
                    **self.house.facts,
                    "run_id": self.lease.run_id,
                    "directory": process.directory.name,
                    "output_position": output.end(),
                },
                entered=entered,
            )
        finally:
            await sending
        return taken

    async def _settle(
        self,
        taken: checkpoint.Taken,
        kind: checkpoint.Kind,
        tell: Callable[[http.StoredCheckpoint], Awaitable[http.LeaseReply]],
        name: str | None = None,
    ) -> http.LeaseReply:
        """Publish what was taken and let the engine decide. Meanwhile the rest of the output is told."""
        assert self._follower is not None
        sending = asyncio.create_task(self._follower.catch_up(last=kind in ("wait", "move")))
        try:
            return await checkpoint.settle(
                self.house.images,
                taken,
                kind,
                tell,
                store_id=self.house.store_id,
                strays=self.house.strays,
                name=name,
            )
        finally:
            await sending

    async def _leave(self, process: RunProcess, reply: http.LeaseReply, how: str) -> None:
        """The image is the run now, or another worker has it: nothing of it stays here.

        Stale may mean that an earlier, unanswered copy of our message was accepted: then the image is the run, and is kept.
        """
        if reply.status == "suspended":
            process.lives_on = True
            self.left = how
        process.kill()
        await asyncio.wait([process.exited], timeout=EXIT_TIMEOUT_S)
        await reach(Fault.KILLED)
        self._over = True

    async def _freeze_failed(self, process: RunProcess, reason: str) -> None:
        self._stands_still = self._suspend_asked = False
        if self._report is not None:
            await self._settle_report(process)
        if process.is_alive:  # else its end is in the inbox
            next_try_s = self._hold.failed(now=time.monotonic())
            await self._tell("run.freeze_failed", {"reason": reason, "next_try_s": next_try_s})
            process.go_on()
            process.wake()

    async def _resume_in_place(self, process: RunProcess, open_waits: list[str], lost: list[str]) -> None:
        """The process is back: after a dump that was given up, an answer that came first, a save point; or we had let it go in
        its work, here or in an earlier life.
        """
        reply = await self._collect(open_waits)
        if self._is_at_work:
            process.say(birth.awoken(self.house, self.assignment, reply.answers))
            self._is_at_work = False
            if lost:
                await self._tell("run.descriptors_lost", {"lost": lost})
        else:
            saved, error = self._saved
            process.say(runner.Awoken(False, reply.answers, saved=saved, error=error))
        self._saved = (None, None)
        if self._cancel is not None:
            process.ask_to_end(self._cancel)
        self._open = {wait.wait_id: wait for wait in reply.open}
        if reply.status == "stale":
            self._over = True
        elif reply.answers:
            self._is_idle = False
        elif self.is_waiting:
            self._consider_freezing(process)

    # -- save points --------------------------------------------------------------------------------------------------

    async def _save(self, process: RunProcess, asked: runner.SavePoint) -> None:
        """The process sleeps by its own wish: dump it, and let it go on when there is no doubt about the checkpoint."""
        self._save_point = None
        if self._report is not None:
            await self._settle_report(process)
        waits = {*asked.open_waits, *self._open}

        async def tell(stored: http.StoredCheckpoint) -> http.LeaseReply:
            report = http.SaveReport(self.lease.lease, stored, sorted(waits), asked.waiting_at, self._next())
            return await self._send("save", report, http.LeaseReply)

        try:
            if self.house.criu is None:
                raise CriuError(self.house.no_freeze_reason)
            if self._cancel is not None:
                raise CriuError("the run is to end")
            taken = await self._take_checkpoint(process, time.perf_counter())
            reply = await self._settle(taken, "named", tell, name=asked.name)
        except NO_CHECKPOINT as error:
            self._saved = (None, _reason(error))
            if process.is_alive:
                await self._tell("run.save_failed", {"name": asked.name, "reason": _reason(error)})
        else:
            self._saved = (taken.id, None)
            self._saved_at_s = self._clock.worked_s(now=time.monotonic())
            self._over = reply.status == "stale"
        self._stands_still = False
        process.go_on()
        process.wake()

    def _plan_save(self, process: RunProcess) -> None:
        """Be told when the run has worked for long enough without a checkpoint. A wait is none of that: there it is frozen."""
        if self._save_every_s is not None and self.house.criu is not None:
            since_s = self._clock.worked_s(now=time.monotonic()) - self._saved_at_s
            self._later(max(self._save_every_s - since_s, 0.0), process, SaveDue())

    async def _save_by_itself(self, process: RunProcess) -> None:
        """Write the run down in the middle of its work. It goes on as soon as that is done, before the image is durable."""
        now = time.monotonic()
        assert self._save_every_s is not None
        if not self._clock.is_going or self._clock.worked_s(now=now) - self._saved_at_s < self._save_every_s - 0.001:
            return  # it waits, or was saved meanwhile: a later timer counts
        is_busy = self._keeping is not None and not self._keeping.done()
        if is_busy or self._cancel is not None or not await self._stop(process):
            if not self._over and process.is_alive:
                self._later(LOOK_AGAIN_S, process, SaveDue())
            return
        self._saved_at_s = self._clock.worked_s(now=now)
        waits = sorted({*self._open, *self._lately_answered})
        try:
            taken = await self._take_checkpoint(process, time.perf_counter())
        except NO_CHECKPOINT as error:
            await self._not_saved(_reason(error))
        else:
            self._keeping = self._in_background(self._keep(process, taken, waits))
        process.go_on()
        process.nudge()
        self._plan_save(process)

    async def _keep(self, process: RunProcess, taken: checkpoint.Taken, waits: list[str]) -> None:
        """Make it durable while the run works on. Uncounted among the reports, for others may overtake it."""

        async def tell(stored: http.StoredCheckpoint) -> http.LeaseReply:
            return await self._send("save", http.SaveReport(self.lease.lease, stored, waits), http.LeaseReply)

        try:
            reply = await self._settle(taken, "auto", tell)
        except NO_CHECKPOINT as error:
            await self._not_saved(_reason(error))
        except ApiError as refused:
            log.error("run %s: the server refused a save point: %s", self.lease.run_id, refused)
        else:
            self._save_every_s = self.assignment.save_every_s
            if reply.status == "stale":
                process.inbox.put_nowait(http.News("stale", self.lease.run_id, self.lease.lease))

    async def _not_saved(self, reason: str) -> None:
        """What stops a save point may never go away: each next one comes later."""
        assert self.assignment.save_every_s is not None
        assert self._save_every_s is not None
        self._save_every_s = min(self._save_every_s * 2, self.assignment.save_every_s * 16)
        await self._tell("run.save_failed", {"name": None, "reason": reason, "next_try_s": self._save_every_s})

    # -- at any moment ------------------------------------------------------------------------------------------------

    async def _stop(self, process: RunProcess, *, though_it_waits: bool = False) -> bool:
        """Have the process stand still in the middle of its work, with nothing between us: all that it has said is heard and
        answered, and our end of its connection is closed. False: not now; it goes on.

        Args:
            though_it_waits: also when nothing but waits keeps it in memory. Else it goes on, and is frozen for that.
        """
        if self._stands_still or self._suspend_asked or not process.is_alive or not await process.stop():
            return False
        self._is_being_stopped = True
        try:
            is_quiet = await self._hear_out(process) and (though_it_waits or not self.is_waiting)
        finally:
            self._is_being_stopped = False
        if not is_quiet:
            process.go_on()
            if self.is_waiting and not self._over:
                self._consider_freezing(process)
            return False
        self._cancel_freeze()
        process.let_go()
        await reach(Fault.STOPPED)
        return True

    async def _hear_out(self, process: RunProcess) -> bool:
        """Deal with all that the stopped process has said. False: it has come to a point of its own, or there is no end of it."""
        end = time.monotonic() + QUIET_TIMEOUT_S
        while not (process.inbox.empty() and not self._calls and self._report is None and process.has_heard_us()):
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
            if self._over or not process.is_alive or self._cancel is not None:
                return False
        return True

    async def _move(self, process: RunProcess, order: MoveOn) -> None:
        """Freeze the run wherever it is, and have it go on elsewhere."""
        now = time.monotonic()
        if now > order.until or self.house.criu is None or self._cancel is not None:
            return
        if not self._was_asked_to_leave and self.is_waiting and process.is_connected:
            self._was_asked_to_leave = True
            process.inbox.put_nowait(FreezeNow())  # it leaves by its own freeze, which closes nothing
        found = await asyncio.to_thread(connections.outside, checkpoint.tree(process.pid or 0))
        is_early = now < order.patient_until and (bool(found) or self.is_waiting)
        if is_early or not await self._stop(process, though_it_waits=True):
            if not self._over and process.is_alive:
                self._later(LOOK_AGAIN_S, process, order)
            return
        reason = order.reason
        if found:
            reason += f"; its connections were closed: {', '.join(found)}"
        waits = sorted({*self._open, *self._lately_answered})

        async def tell(stored: http.StoredCheckpoint) -> http.LeaseReply:
            report = http.MoveReport(self.lease.lease, stored, waits, nth=self._next(), reason=reason)
            return await self._send("move", report, http.LeaseReply)

        try:
            taken = await self._take_checkpoint(process, time.perf_counter())
            reply = await self._settle(taken, "move", tell)
        except NO_CHECKPOINT as error:
            self.not_moved = _reason(error)
            if process.is_alive:
                await self._tell("run.move_failed", {"reason": self.not_moved})
                process.go_on()
                process.nudge()
                self._later(LOOK_AGAIN_S * 8, process, order)
            return
        if reply.status == "awake":
            process.go_on()
            process.nudge()
        else:
            await self._leave(process, reply, "moved")

    # -- ends ---------------------------------------------------------------------------------------------------------

    async def _finish(self, process: RunProcess, finished: runner.Finished) -> None:
        process.say(runner.Finishing())
        self._cancel_freeze()
        await self._last_output()
        await reach(Fault.BEFORE_FINISH)
        report = http.FinishReport(
            self.lease.lease,
            "canceled" if finished.canceled else "completed" if finished.ok else "failed",
            finished.output,
            finished.error,
            retryable=finished.retryable,
            hooks=finished.hooks,
        )
        try:
            await self._send("finish", report, http.LeaseReply)
        except ApiError as refused:
            # Told as a failure: without any outcome the run would be taken back and end up here again.
            error = runner.TaskError("OutcomeRefused", f"the server refused the run's outcome: {refused.message}")
            report = http.FinishReport(self.lease.lease, "failed", error=error, retryable=False)
            await self._send("finish", report, http.LeaseReply)
        self._over = True
        await asyncio.wait([process.exited], timeout=EXIT_TIMEOUT_S)

    def _ask_to_end(self, process: RunProcess, news: http.News) -> None:
        """The run is canceled: ask its process to end, and kill it if it doesn't. Asked once, however often we hear it."""
        if self._cancel is not None:
            return
        grace_s = self.house.settings.cancel_grace_s
        self._cancel = runner.Cancel(news.reason, grace_s)
        self._cancel_freeze()
        self._later(grace_s, process, GraceOver())
        if not self._stands_still:
            process.ask_to_end(self._cancel)

    def _keep_time(self, process: RunProcess) -> None:
        """Count the time in which the run works, and be told when it has worked for long enough."""
        now = time.monotonic()
        if self.is_waiting:
            self._clock.stop(now=now)
        elif not self._clock.is_going:
            self._clock.go(now=now)
            if (left_s := self._clock.left_s(now=now)) is not None:
                self._later(left_s, process, TimeIsUp())
            self._plan_save(process)

    async def _out_of_time(self, process: RunProcess) -> None:
        now = time.monotonic()
        if not self._clock.is_going or self._clock.left_s(now=now) != 0:
            return  # it has waited meanwhile: a later timer counts
        message = (
            f"the attempt worked for {self._clock.worked_s(now=now):.1f} s and was killed: max_duration is"
            f" {self._clock.limit_s:g} s (waiting doesn't count)"
        )
        await self._end_by_force(process, "timed_out", runner.TaskError("MaxDurationExceeded", message))

    async def _end_by_force(
        self, process: RunProcess, outcome: Literal["canceled", "timed_out"], error: runner.TaskError
    ) -> None:
        """Kill the process, then tell: what follows the run's end must not meet it alive."""
        process.kill()
        await asyncio.wait([process.exited], timeout=EXIT_TIMEOUT_S)
        await self._last_output()
        report = http.FinishReport(self.lease.lease, outcome, error=error, retryable=False)
        await self._send("finish", report, http.LeaseReply)
        self._over = True

    async def _crash(self) -> None:
        """The process is gone and had not said why."""
        await self._last_output()
        assert self._process is not None
        if (lost := self._process.memory_failure) is not None:
            # No fault of the run's, which goes on from where it was, somewhere.
            await self._refuse(self._process.end_told(), unusable=isinstance(lost, ImageDamaged), lost=True)
        else:
            await self._report_crash(runner.TaskError("ProcessDied", self._process.end_told()))
        self._over = True

    async def _report_crash(self, error: runner.TaskError) -> None:
        await self._send("finish", http.FinishReport(self.lease.lease, "crashed", error=error), http.LeaseReply)

    async def _refuse(self, reason: str, *, unusable: bool = False, unfit: bool = False, lost: bool = False) -> None:
        log.warning("run %s: %s", self.lease.run_id, reason)
        refusal = http.Refusal(self.lease.lease, reason, unusable, unfit, lost)
        await self._send("refuse", refusal, http.LeaseReply)

    async def _leave_nothing(self) -> None:
        self._over = True
        self._cancel_freeze()
        for timer in self._timers:
            timer.cancel()
        if self._follower is not None:
            await self._follower.stop()
        if self._process is not None:
            await self._process.bury()
        for task in self._background:
            task.cancel()
        if self._report is not None:
            self._report.cancel()

    # -- words --------------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        """The number of a report about the waits: by it the engine knows a copy that comes late. One is under way at a time."""
        self._reports += 1
        return self._reports

    def _path(self, what: str) -> str:
        return f"runs/{self.lease.run_id}/{what}"

    async def _send(self, what: str, message: Any, reply: type[Any]) -> Any:
        return await self.house.link.send(self._path(what), message, reply)

    async def _tell(self, kind: str, data: dict[str, Any]) -> None:
        event = http.StoryEvent(kind, datetime.now(UTC).isoformat(), data)
        await self._send("events", http.EventReport(self.lease.lease, [event]), http.LeaseReply)

    def _later(self, delay_s: float, process: RunProcess, event: object) -> None:
        self._timers = [timer for timer in self._timers if timer.when() > asyncio.get_running_loop().time()]
        self._timers.append(asyncio.get_running_loop().call_later(delay_s, process.inbox.put_nowait, event))

    def _in_background(self, coroutine: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _last_output(self) -> None:
        if self._follower is not None:
            await self._follower.stop()
            await self._follower.catch_up(last=True)

    async def _tell_output(self, first: int, lines: list[http.LogLine]) -> None:
        """Output is told as well as can be: it never costs a run its outcome."""
        try:
            await self._send("logs", http.LogReport(self.lease.lease, first, lines), dict)
        except (ApiError, ValueError) as error:
            log.warning("run %s: %d lines of its output could not be told: %s", self.lease.run_id, len(lines), error)


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, CriuError) else str(error)

"""One run in memory, seen from the supervisor: its process, its control socket, its lease.

    begin or restore -> serve -> (frozen | finished | crashed | stale): always out of memory at the end

Everything that happens to the run arrives in one inbox, from the runner, from the server and from the clock, and is
handled one after the other; so there is no moment at which two of them act on the process at once.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from torpor import ids
from torpor.errors import ApiError, CriuError, ImageDamaged
from torpor.wire import http, runner
from torpor.worker import birth, checkpoint
from torpor.worker.criu import let_run
from torpor.worker.faults import Fault, reach
from torpor.worker.hold import Hold, expected
from torpor.worker.house import House
from torpor.worker.output import Output
from torpor.worker.process import Closed, Exited, RunProcess
from torpor.worker.version import ImportFailed, ZygoteDied
from torpor.worker.work_clock import WorkClock

log = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 10.0
OUTPUT_INTERVAL_S = 0.2
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
class GraceOver:
    """The time in which a canceled run was to end by itself is over."""


@dataclass(frozen=True)
class TimeIsUp:
    """The attempt may have worked for longer than it is allowed."""


class LiveRun:
    """A lease, and the process that it is for.

    Args:
        house: what the worker's runs share.
        assignment: the lease, and what to do: start, or restore a checkpoint.

    Attributes:
        gone: set, by its keeper, when nothing of it is left here.
    """

    def __init__(self, house: House, assignment: http.Assignment) -> None:
        self.house = house
        self.assignment = assignment
        self.lease = http.HeldLease(assignment.run_id, assignment.lease)
        self._process: RunProcess | None = None
        self._output: Output | None = None
        self._output_task: asyncio.Task[None] | None = None
        self._one_sender = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._taken_away = asyncio.Event()
        self._open: dict[str, http.OpenWait] = {}
        self._report: asyncio.Task[http.BlockReply] | None = None
        self._hold = Hold(house.settings)
        self._is_idle = False
        self._suspend_asked = False
        self._suspending = False
        self._freeze_timer: asyncio.TimerHandle | None = None
        self._waiting_at: list[dict[str, Any]] = []
        self._wait_entered = 0.0
        self._told_unfreezable = False
        self._cancel: runner.Cancel | None = None
        self._early_cancel: http.News | None = None
        self._clock = WorkClock(assignment.context.max_duration_s, assignment.active_s)
        self._timers: list[asyncio.TimerHandle] = []
        self._over = False
        self._reports = 0
        self.gone = asyncio.Event()

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
        """The worker is about to stop: if the run waits, freeze it now."""
        if self._process is not None and self.is_waiting and self.house.criu is not None:
            self._process.inbox.put_nowait(FreezeNow())

    async def live(self) -> None:
        """Hold the run until it is out of memory, one way or another."""
        try:
            born = await self._birth()
            if born is not None and await self._announce(born):
                self._output_task = asyncio.create_task(self._follow_output())
                if self._early_cancel is not None:
                    self._ask_to_end(born.process, self._early_cancel)
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
            except (CriuError, ZygoteDied, ImportFailed, OSError) as error:
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
        self._process, self._output = born.process, born.output
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
        if self._report is not None and not isinstance(event, runner.Suspending | Closed):
            await self._settle_report(process)
        match event:
            case runner.Block():
                await self._block(process, event)
            case runner.Call():
                self._in_background(self._call(process, event))
            case runner.Suspending(_, waiting_at):
                self._suspending = True
                self._waiting_at = waiting_at
            case runner.StayingAwake(reasons, moved):
                self._suspend_asked = False
                if not moved:  # else the process says anew when it is idle
                    next_try_s = self._hold.failed(now=time.monotonic())
                    await self._tell("run.held", {"reasons": reasons, "next_try_s": next_try_s})
                    self._freeze_in(process, next_try_s)
            case runner.Resumed(_, open_waits):
                await self._resume_in_place(process, open_waits)
            case runner.Finished():
                await self._finish(process, event)
            case Closed():
                if self._suspending:
                    await self._freeze(process)
            case Exited():
                await self._crash()
            case http.News(kind="answered"):
                if self._open and not self._suspending:
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
            case FreezeNow():
                if self.is_waiting and self._may_freeze and not self._suspend_asked and process.is_connected:
                    self._ask_to_suspend(process)
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
            process.say(runner.Answers(reply.answers))
        elif self.is_waiting and not self._suspend_asked:
            self._consider_freezing(process)

    async def _call(self, process: RunProcess, call: runner.Call) -> None:
        """Pass a request of user code on to the server, with our lease instead of credentials."""
        path = CALLS.get(call.kind)
        if path is None:
            process.say(runner.Result(call.call_id, False, status=400, error=f"unknown call {call.kind!r}"))
            return
        body = msgspec.json.decode(call.body, type=dict[str, msgspec.Raw])  # payloads pass untouched
        body["lease"] = msgspec.Raw(str(self.lease.lease).encode())
        try:
            reply = await self._send(path, body, msgspec.Raw)
        except ApiError as refused:
            told = msgspec.Raw(msgspec.json.encode(refused.body))
            result = runner.Result(call.call_id, False, told, refused.status, refused.message)
        else:
            result = runner.Result(call.call_id, True, reply)
        process.say(result)

    # -- held or frozen -----------------------------------------------------------------------------------------------

    @property
    def _may_freeze(self) -> bool:
        """A run that was asked to end is to do that: it isn't frozen in its cleanup."""
        return self.house.criu is not None and self._cancel is None

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
        """The process sleeps: dump it, let the engine decide, then kill it or let it run on."""
        if self._cancel is not None:  # it crossed with the request: the process hears of that when it is back
            self._suspending = self._suspend_asked = False
            if self._report is not None:
                await self._settle_report(process)
            process.wake()
            return
        assert self.house.criu is not None
        assert self._output is not None
        checkpoint_id = ids.new("checkpoint")
        output = self._output
        sending = asyncio.create_task(self._send_output())
        try:
            stored = await checkpoint.take(
                self.house.criu,
                self.house.images,
                checkpoint_id=checkpoint_id,
                process=process,
                facts=lambda: {
                    **self.house.facts,
                    "run_id": self.lease.run_id,
                    "directory": process.directory.name,
                    "output_position": output.end(),
                },
                entered=self._wait_entered,
            )
        except (CriuError, OSError) as error:
            await sending
            await self._freeze_failed(process, error.reason if isinstance(error, CriuError) else str(error))
            return
        await sending
        await self._send_output(last=True)  # what was written until the tree stood still
        if self._report is not None and (await self._settle_report(process)).answers:
            await self._let_run_on(process, checkpoint_id)
            return
        if self._over:
            return
        reply = await self._send(
            "suspend",
            http.SuspendReport(self.lease.lease, stored, self._waiting_at, self._next()),
            http.LeaseReply,
        )
        self.house.settled.add(checkpoint_id)
        await reach(Fault.ACCEPTED)
        if reply.status == "awake":
            await self._let_run_on(process, checkpoint_id)
        else:
            # Stale may mean that an earlier, unanswered copy of this message was accepted: then the image is the run.
            # The census deletes it if it isn't.
            process.lives_on = reply.status == "suspended"
            self._over = True

    async def _let_run_on(self, process: RunProcess, checkpoint_id: str) -> None:
        """The answer came while the process was dumped: the image is of no use."""
        assert process.pid is not None
        await asyncio.to_thread(self.house.images.delete, checkpoint_id)
        self._suspending = self._suspend_asked = False
        let_run(process.pid)
        process.wake()

    async def _freeze_failed(self, process: RunProcess, reason: str) -> None:
        self._suspending = self._suspend_asked = False
        if self._report is not None:
            await self._settle_report(process)
        if process.is_alive:  # else its end is in the inbox
            next_try_s = self._hold.failed(now=time.monotonic())
            await self._tell("run.freeze_failed", {"reason": reason, "next_try_s": next_try_s})
            process.wake()

    async def _resume_in_place(self, process: RunProcess, open_waits: list[str]) -> None:
        """The dump was given up, or the answer came first: the same process goes on."""
        reply = await self._collect(open_waits)
        process.say(runner.Awoken(False, reply.answers))
        if self._cancel is not None:
            process.ask_to_end(self._cancel)
        self._open = {wait.wait_id: wait for wait in reply.open}
        if reply.status == "stale":
            self._over = True
        elif reply.answers:
            self._is_idle = False
        else:
            self._consider_freezing(process)

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
        if not self._suspending:
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
        await self._report_crash(runner.TaskError("ProcessDied", self._process.end_told()))
        self._over = True

    async def _report_crash(self, error: runner.TaskError) -> None:
        await self._send("finish", http.FinishReport(self.lease.lease, "crashed", error=error), http.LeaseReply)

    async def _refuse(self, reason: str, *, unusable: bool = False) -> None:
        log.warning("run %s: %s", self.lease.run_id, reason)
        await self._send("refuse", http.Refusal(self.lease.lease, reason, unusable), http.LeaseReply)

    async def _leave_nothing(self) -> None:
        self._over = True
        self._cancel_freeze()
        for timer in self._timers:
            timer.cancel()
        await self._stop_following()
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

    def _in_background(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _follow_output(self) -> None:
        while True:
            await asyncio.sleep(OUTPUT_INTERVAL_S)
            if not self._suspending:
                await self._send_output()

    async def _stop_following(self) -> None:
        if self._output_task is not None:
            self._output_task.cancel()
            await asyncio.wait([self._output_task])
            self._output_task = None

    async def _last_output(self) -> None:
        await self._stop_following()
        await self._send_output(last=True)

    async def _send_output(self, *, last: bool = False) -> None:
        """All that was written since the last time. Output is told as well as can be: it never costs a run its outcome."""
        assert self._output is not None
        async with self._one_sender:
            for first, lines in self._output.pieces(last=last):
                try:
                    await self._send("logs", http.LogReport(self.lease.lease, first, lines), dict)
                except (ApiError, ValueError) as error:
                    log.warning(
                        "run %s: %d lines of its output could not be told: %s", self.lease.run_id, len(lines), error
                    )

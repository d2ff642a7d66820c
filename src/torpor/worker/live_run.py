"""One run in memory, seen from the supervisor: its process, its control socket, its lease.

    begin or restore -> serve -> (frozen | finished | crashed | stale): always out of memory at the end

Everything that happens to the run arrives in one inbox, from the runner, from the server and from the clock, and is
handled one after the other; so there is no moment at which two of them act on the process at once.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from torpor.errors import ApiError, CriuError, ImageDamaged, MemoryLost
from torpor.objects import ObjectsDown
from torpor.wire import http, runner
from torpor.worker import birth
from torpor.worker.faults import Fault, reach
from torpor.worker.forking import ImportFailed, ZygoteDied
from torpor.worker.house import House
from torpor.worker.life import EXIT_TIMEOUT_S, Life
from torpor.worker.met import Limits, Met, out_of_memory
from torpor.worker.output import Follower
from torpor.worker.process import Closed, Exited, RunProcess
from torpor.worker.restore import Unfit
from torpor.worker.saving import MoveOn, SaveDue, Saving
from torpor.worker.waiting import FreezeNow, Waiting

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0
REST_S = 1.0
CALLS = {
    "trigger": "trigger",
    "create_batch": "batches",
    "batch_items": "batches/items",
    "batch_results": "batches/results",
    "create_token": "tokens",
    "complete_token": "tokens/complete",
    "inputs": "inputs",
}
"""What user code may ask the server through us, and where it is asked."""


@dataclass(frozen=True)
class Answered:
    """A request of user code was answered: whoever waits for all of them may look."""


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
        self._life = Life(house, assignment)
        self.lease = self._life.lease
        self.gone = asyncio.Event()
        self._waiting = Waiting(self._life)
        self._saving = Saving(self._life, self._waiting, self._handle)
        self._process: RunProcess | None = None
        self._limits: Limits | None = None
        self._taken_away = asyncio.Event()
        self._early_cancel: http.News | None = None
        self._save_point: runner.SavePoint | None = None
        self._order: MoveOn | None = None

    # -- from the supervisor ------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_waiting(self) -> bool:
        """Nothing but waits keeps this run in memory."""
        return self._life.is_waiting

    @property
    def left(self) -> str | None:
        """How it was frozen, if that was its end here: `frozen` in a wait, `moved` out of its work."""
        return self._life.left

    @property
    def not_moved(self) -> str | None:
        """Why it could not be frozen when it was last tried to move it."""
        return self._life.not_moved

    def tell(self, news: http.News) -> None:
        """Hand on what the server says of this run."""
        if news.kind == "stale":
            self._taken_away.set()
        if news.kind == "cancel" and self._process is None:
            self._early_cancel = news
        if self._process is not None:
            # An answer that comes before there is a process is in the next heartbeat.
            self._process.inbox.put_nowait(news)

    def freeze_soon(self) -> None:
        """Memory is short, or the worker is about to stop: if the run waits, freeze it now, though an answer may be near."""
        if self._process is not None and self._life.is_waiting and self._life.house.criu is not None:
            self._process.inbox.put_nowait(FreezeNow())

    @property
    def idle_since(self) -> float | None:
        """Since when (`time.perf_counter()`) this run has waited, if it could be frozen now; None if it can't."""
        is_free = (
            self._life.is_waiting
            and self._waiting.may_freeze
            and not self._life.suspend_asked
            and not self._life.stands_still
        )
        may_try = self._waiting.hold.may_try(now=time.monotonic())
        return (
            self._waiting.wait_entered if is_free and may_try and self._process and self._process.is_connected else None
        )

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
                assert self._life.follower is not None
                self._life.follower.start()
                if self._early_cancel is not None:
                    self._ask_to_end(born.process, self._early_cancel)
                if self._order is not None:
                    born.process.inbox.put_nowait(self._order)
                while not self._life.over:
                    self._keep_time(born.process)
                    await self._handle(born.process, await born.process.inbox.get())
        except ApiError as refused:
            # What its process has said can't be kept. Silence would have the run taken back, to say the same again.
            log.error(
                "run %s: the server refused a message (%s); its process is ended", self._life.lease.run_id, refused
            )
            with suppress(ApiError):  # the lease is no longer ours, or the run is gone
                await self._report_crash(
                    runner.TaskError("MessageRefused", f"the server refused what the process said: {refused.message}")
                )
        except Exception as fault:
            # A fault of ours. Silence would cost the run its lease and, in the end, its outcome; so it is told as a crash.
            log.exception("run %s: its attendant failed", self._life.lease.run_id)
            await self._report_crash(
                runner.TaskError("WorkerFault", f"the worker failed: {type(fault).__name__}: {fault}")
            )
        finally:
            await self._leave_nothing()

    # -- birth --------------------------------------------------------------------------------------------------------

    async def _birth(self) -> birth.Born | None:
        """Its process. What fails for a passing reason (a full disk, a port in use) is tried again for a while."""
        way = birth.thaw if self._life.assignment.checkpoint else birth.begin
        delay_s, end = FIRST_RETRY_S, time.monotonic() + self._life.house.settings.start_patience_s
        while True:
            try:
                return await self._unless_taken_away(way(self._life.house, self._life.assignment))
            except birth.NotHere as error:
                return await self._refuse(str(error))
            except ImageDamaged as error:
                return await self._refuse(str(error), unusable=True)
            except Unfit as error:
                return await self._refuse(str(error), unfit=True)
            except (CriuError, MemoryLost, ObjectsDown, ZygoteDied, ImportFailed, OSError) as error:
                if time.monotonic() + delay_s > end:
                    return await self._refuse(
                        f"gave up: {error}", unusable=self._life.assignment.checkpoint is not None
                    )
                await self._life.tell("run.start_failed", {"reason": str(error), "next_try_s": delay_s})
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
        self._process, self._life.output, self._life.is_at_work = born.process, born.output, born.is_at_work
        self._limits = Limits(born.process.belongings.cgroup) if born.process.belongings.cgroup is not None else None
        self._life.follower = Follower(born.output, self._life.tell_output)
        reply = await self._life.send("start", born.report, http.LeaseReply)
        await reach(Fault.STARTED)
        if reply.status != "ok" or self._taken_away.is_set():
            return False
        if born.lost:
            await self._life.tell("run.descriptors_lost", {"lost": born.lost})
        if born.open_waits:
            self._waiting.take(born.process, await self._waiting.collect(born.open_waits))
        return True

    # -- life ---------------------------------------------------------------------------------------------------------

    async def _handle(self, process: RunProcess, event: Any) -> None:
        if self._waiting.report is not None and not isinstance(event, runner.Suspending | runner.SavePoint | Closed):
            await self._waiting.settle_report(process)
        match event:
            case runner.Block():
                await self._waiting.block(process, event)
            case runner.Call():
                self._life.calls += 1
                self._life.in_background(self._call(process, event))
            case runner.Change():
                self._life.relay.change(process, event)
            case runner.Append():
                self._life.relay.append(process, event)
            case runner.Suspending(_, waiting_at):
                self._life.stands_still = True
                self._waiting.waiting_at = waiting_at
            case runner.SavePoint():
                self._life.stands_still = True
                self._save_point = event
            case runner.NotSaved(name, reasons):
                await self._life.tell("run.save_failed", {"name": name, "reason": "; ".join(reasons)})
            case runner.StayingAwake(reasons, moved):
                self._life.suspend_asked = False
                if not moved:  # else the process says anew when it is idle
                    next_try_s = self._waiting.hold.failed(now=time.monotonic())
                    await self._life.tell("run.held", {"reasons": reasons, "next_try_s": next_try_s})
                    self._waiting.freeze_in(process, next_try_s)
            case runner.Resumed(_, open_waits, lost):
                await self._waiting.resume_in_place(process, open_waits, lost)
            case runner.Finished():
                await self._finish(process, event)
            case Closed():
                if self._save_point is not None:
                    asked, self._save_point = self._save_point, None
                    await self._saving.save(process, asked)
                elif self._life.stands_still:
                    await self._waiting.freeze(process)
            case Exited():
                await self._crash()
            case http.News(kind="answered"):
                if self._life.open and not self._life.stands_still:
                    self._waiting.take(process, await self._waiting.collect([*self._life.open]))
            case http.News(kind="stale"):
                self._life.over = True
            case http.News(kind="cancel"):
                self._ask_to_end(process, event)
            case GraceOver():
                message = (
                    f"the process did not end within {self._life.house.settings.cancel_grace_s:g} s of being asked to"
                )
                await self._end_by_force(
                    process, "canceled", runner.TaskError("NotEnded", message + ", and was killed")
                )
            case TimeIsUp():
                await self._out_of_time(process)
            case SaveDue():
                await self._saving.save_by_itself(process)
            case MoveOn():
                await self._saving.move(process, event)
            case FreezeNow():
                if (
                    self._life.is_waiting
                    and self._waiting.may_freeze
                    and not self._life.suspend_asked
                    and process.is_connected
                ):
                    self._waiting.ask_to_suspend(process)
            case Answered():
                pass
            case _:
                log.warning("run %s: %s makes no sense now", self._life.lease.run_id, type(event).__name__)

    async def _call(self, process: RunProcess, call: runner.Call) -> None:
        """Pass a request of user code on to the server, with our lease instead of credentials."""
        try:
            process.say(await self._answer(call))
        finally:
            self._life.calls -= 1
            process.inbox.dealt_with(call)
            process.inbox.put_nowait(Answered())

    async def _answer(self, call: runner.Call) -> runner.Result:
        if call.kind == "flush":
            return await self._life.relay.answer(call)
        path = CALLS.get(call.kind)
        if path is None:
            return runner.Result(call.call_id, False, status=400, error=f"unknown call {call.kind[:40]!r}")
        try:
            body = msgspec.json.decode(call.body, type=dict[str, msgspec.Raw])  # payloads pass untouched
        except (msgspec.DecodeError, RecursionError) as error:
            return runner.Result(call.call_id, False, status=400, error=f"not a request: {error}")
        body["lease"] = msgspec.Raw(str(self._life.lease.lease).encode())
        try:
            reply = await self._life.send(path, body, msgspec.Raw)
        except ApiError as refused:
            told = msgspec.Raw(msgspec.json.encode(refused.body))
            return runner.Result(call.call_id, False, told, refused.status, refused.message)
        return runner.Result(call.call_id, True, reply)

    # -- ends ---------------------------------------------------------------------------------------------------------

    async def _finish(self, process: RunProcess, finished: runner.Finished) -> None:
        process.say(runner.Finishing())
        self._waiting.cancel_freeze()
        await self._life.last_words()
        await self._tell_met(self._at_the_end(0)[0])
        await reach(Fault.BEFORE_FINISH)
        report = http.FinishReport(
            self._life.lease.lease,
            "canceled" if finished.canceled else "completed" if finished.ok else "failed",
            finished.output,
            finished.error,
            retryable=finished.retryable,
            hooks=finished.hooks,
            usage=process.usage(),
        )
        try:
            await self._life.send("finish", report, http.LeaseReply)
        except ApiError as refused:
            # Told as a failure: without any outcome the run would be taken back and end up here again.
            error = runner.TaskError("OutcomeRefused", f"the server refused the run's outcome: {refused.message}")
            report = http.FinishReport(self._life.lease.lease, "failed", error=error, retryable=False)
            await self._life.send("finish", report, http.LeaseReply)
        self._life.over = True
        await asyncio.wait([process.exited], timeout=EXIT_TIMEOUT_S)

    def _ask_to_end(self, process: RunProcess, news: http.News) -> None:
        """The run is canceled: ask its process to end, and kill it if it doesn't. Asked once, however often we hear it."""
        if self._life.cancel is not None:
            return
        grace_s = self._life.house.settings.cancel_grace_s
        self._life.cancel = runner.Cancel(news.reason, grace_s)
        self._waiting.cancel_freeze()
        self._life.later(grace_s, process, GraceOver())
        if not self._life.stands_still:
            process.ask_to_end(self._life.cancel)

    def _keep_time(self, process: RunProcess) -> None:
        """Count the time in which the run works, and be told when it has worked for long enough."""
        now = time.monotonic()
        if self._life.is_waiting:
            self._life.clock.stop(now=now)
        elif not self._life.clock.is_going:
            self._life.clock.go(now=now)
            if (left_s := self._life.clock.left_s(now=now)) is not None:
                self._life.later(left_s, process, TimeIsUp())
            self._saving.plan_save(process)

    async def _out_of_time(self, process: RunProcess) -> None:
        now = time.monotonic()
        if not self._life.clock.is_going or self._life.clock.left_s(now=now) != 0:
            return  # it has waited meanwhile: a later timer counts
        message = (
            f"the attempt worked for {self._life.clock.worked_s(now=now):.1f} s and was killed: max_duration is"
            f" {self._life.clock.limit_s:g} s (waiting doesn't count)"
        )
        await self._end_by_force(process, "timed_out", runner.TaskError("MaxDurationExceeded", message))

    async def _end_by_force(
        self, process: RunProcess, outcome: Literal["canceled", "timed_out"], error: runner.TaskError
    ) -> None:
        """Kill the process, then tell: what follows the run's end must not meet it alive."""
        process.kill()
        await asyncio.wait([process.exited], timeout=EXIT_TIMEOUT_S)
        await self._life.last_words()
        report = http.FinishReport(self._life.lease.lease, outcome, error=error, retryable=False, usage=process.usage())
        await self._life.send("finish", report, http.LeaseReply)
        self._life.over = True

    async def _crash(self) -> None:
        """The process is gone and had not said why."""
        assert self._process is not None
        met, oom = [], None
        if not self._process.was_killed:
            met, oom = self._at_the_end(self._process.exited.result())
            await self._hear_the_rest(self._process)
        await self._life.last_words()
        if (lost := self._process.memory_failure) is not None:
            # No fault of the run's, which goes on from where it was, somewhere.
            await self._refuse(self._process.end_told(), unusable=isinstance(lost, ImageDamaged), lost=True)
        else:
            await self._tell_met(met)
            error = runner.TaskError("ProcessDied", self._process.end_told())
            await self._report_crash(error if oom is None else out_of_memory(oom, self._life.assignment.preset), oom)
        self._life.over = True

    async def _hear_the_rest(self, process: RunProcess) -> None:
        """Its end was noticed before all was read that it had said of its run. A child may keep its connection open."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_S):
                while process.is_connected or not process.inbox.empty():
                    match await process.inbox.get():
                        case runner.Change() as change:
                            self._life.relay.change(process, change)
                        case runner.Append() as append:
                            self._life.relay.append(process, append)
                        case _:
                            pass  # nobody is there any more to hear of it

    async def _report_crash(self, error: runner.TaskError, oom: http.OutOfMemory | None = None) -> None:
        used = self._process.usage() if self._process is not None else http.Usage()
        report = http.FinishReport(self._life.lease.lease, "crashed", error=error, usage=used, oom=oom)
        await self._life.send("finish", report, http.LeaseReply)

    # -- limits -------------------------------------------------------------------------------------------------------

    def look_at_limits(self) -> None:
        """Now and then: what it uses, and whether it has met a limit, which goes into its story."""
        process = self._process
        # Of one that is dying, its end will be told: a kill must not be taken for that of a child meanwhile.
        if self._limits is not None and process is not None and process.is_alive and not process.is_dying:
            self._life.in_background(self._tell_met(self._limits.look()))

    def _at_the_end(self, status: int) -> tuple[list[Met], http.OutOfMemory | None]:
        return self._limits.at_the_end(status) if self._limits is not None else ([], None)

    async def _tell_met(self, met: list[Met]) -> None:
        for each in met:
            await self._life.tell(each.kind, each.data)

    async def _refuse(self, reason: str, *, unusable: bool = False, unfit: bool = False, lost: bool = False) -> None:
        log.warning("run %s: %s", self._life.lease.run_id, reason)
        refusal = http.Refusal(self._life.lease.lease, reason, unusable, unfit, lost)
        await self._life.send("refuse", refusal, http.LeaseReply)

    async def _leave_nothing(self) -> None:
        self._life.over = True
        self._waiting.cancel_freeze()
        self._life.stop_timers()
        if self._life.follower is not None:
            await self._life.follower.stop()
        if self._process is not None:
            await self._process.bury()
        self._life.stop_background()
        if self._waiting.report is not None:
            self._waiting.report.cancel()

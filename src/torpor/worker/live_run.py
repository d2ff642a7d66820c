"""One run in memory, seen from the supervisor: its process, its control socket, its lease.

    begin or restore -> serve -> (frozen | finished | crashed | stale): always out of memory at the end

Everything that happens to the run arrives in one inbox, from the runner, from the server and from the clock, and is
handled one after the other; so there is no moment at which two of them act on the process at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from torpor import ids
from torpor.config import Settings
from torpor.errors import ApiError, CriuError, ImageDamaged
from torpor.wire import http, runner
from torpor.worker import checkpoint, restore
from torpor.worker.criu import Criu, let_run
from torpor.worker.faults import Fault, reach
from torpor.worker.hold import Hold, expected
from torpor.worker.images import Images
from torpor.worker.link import Link
from torpor.worker.output import Output
from torpor.worker.process import Closed, Exited, RunProcess
from torpor.worker.version import ImportFailed, Version, ZygoteDied

log = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 10.0
OUTPUT_INTERVAL_S = 0.2
MAX_RESTORE_FAILURES = 3


@dataclass
class House:
    """What all runs of a worker share."""

    settings: Settings
    link: Link
    images: Images
    criu: Criu | None
    no_freeze_reason: str
    facts: dict[str, Any]
    run_root: Path
    worker_id: str
    version: Callable[[str], Version | None]
    failed_restores: dict[str, int]
    settled: set[str]
    """Images that the engine has decided about: the census may delete them when it does not list them."""


@dataclass(frozen=True)
class FreezeNow:
    """The time for which the waiting process was to be held in memory is over."""


class LiveRun:
    """A lease, and the process that it is for.

    Args:
        house: what the worker's runs share.
        assignment: the lease, and what to do: start, or restore a checkpoint.
    """

    def __init__(self, house: House, assignment: http.Assignment) -> None:
        self.house = house
        self.assignment = assignment
        self.lease = http.HeldLease(assignment.run_id, assignment.lease)
        self._process: RunProcess | None = None
        self._output: Output | None = None
        self._output_task: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._early: list[http.News] = []
        self._open: dict[str, http.OpenWait] = {}
        self._report: asyncio.Task[http.BlockReply] | None = None
        self._hold = Hold(house.settings)
        self._is_idle = False
        self._suspend_asked = False
        self._suspending = False
        self._freeze_timer: asyncio.TimerHandle | None = None
        self._waiting_at: list[dict[str, Any]] = []
        self._wait_entered = 0.0
        self._assigned = time.perf_counter()
        self._told_unfreezable = False
        self._over = False

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
        if self._process is not None:
            self._process.inbox.put_nowait(news)
        else:
            self._early.append(news)

    def freeze_soon(self) -> None:
        """The worker is about to stop: if the run waits, freeze it now."""
        if self._process is not None and self.is_waiting and self.house.criu is not None:
            self._process.inbox.put_nowait(FreezeNow())

    async def live(self) -> None:
        """Hold the run until it is out of memory, one way or another."""
        try:
            process = await (self._restore() if self.assignment.checkpoint else self._begin())
            if process is not None:
                self._output_task = asyncio.create_task(self._follow_output())
                while not self._over:
                    await self._handle(process, await process.inbox.get())
        except ApiError as refused:
            log.error("run %s: the server refused a message (%s); its process is ended", self.lease.run_id, refused)
        finally:
            await self._leave_nothing()

    # -- birth --------------------------------------------------------------------------------------------------------

    async def _begin(self) -> RunProcess | None:
        version = self.house.version(self.assignment.version)
        if version is None:
            return await self._refuse(f"version {self.assignment.version} is not loaded here")
        await reach(Fault.BEFORE_FORK)
        try:
            process = await version.runner()
        except (ZygoteDied, ImportFailed) as error:
            return await self._refuse(str(error))
        self._adopt(process, Output(process.directory / "output.log"))
        process.say(runner.Begin(self.assignment.context, self.assignment.payload))
        start_ms = (time.perf_counter() - self._assigned) * 1000
        version.fork_ahead()
        started = await self._report_start(http.StartReport(self.lease.lease, pid=process.pid, start_ms=start_ms))
        return process if started else None

    async def _restore(self) -> RunProcess | None:
        stored = self.assignment.checkpoint
        assert stored is not None
        if self.house.criu is None:
            return await self._refuse(f"this worker can't restore: {self.house.no_freeze_reason}")
        try:
            prepared = await restore.prepare(self.house.images, stored.id, self.house.run_root)
            process = RunProcess(prepared.directory)
            self._adopt(process, Output(process.directory / "output.log", prepared.output_base))
            await process.listen()
            pid, restore_ms = await restore.revive(self.house.criu, prepared)
        except ImageDamaged as damaged:
            return await self._refuse(str(damaged), unusable=True)
        except (CriuError, OSError) as error:
            failures = self.house.failed_restores.get(stored.id, 0) + 1
            self.house.failed_restores[stored.id] = failures
            return await self._refuse(f"could not restore: {error}", unusable=failures >= MAX_RESTORE_FAILURES)
        self.house.failed_restores.pop(stored.id, None)
        process.watch(pid)
        process.wake()
        resumed = await process.first_words(runner.Resumed)
        if resumed is None:
            return process  # it died in its sleep: the exit in the inbox tells how
        answers = [answer for answer in self.assignment.answers if answer.wait_id in resumed.open_waits]
        process.say(runner.Awoken(True, answers, context=self.assignment.context))
        await reach(Fault.RESUMED)
        report = http.StartReport(
            self.lease.lease,
            answered=[answer.wait_id for answer in answers],
            pid=pid,
            start_ms=(time.perf_counter() - self._assigned) * 1000,
            restore_ms=restore_ms,
            since_due_ms=_ms_since(self.assignment.due_at),
        )
        if not await self._report_start(report):
            return None
        if resumed.lost:
            await self._tell("run.descriptors_lost", {"lost": resumed.lost})
        left = [wait_id for wait_id in resumed.open_waits if wait_id not in report.answered]
        if left:
            self._take(process, await self._collect(left))
        return process

    def _adopt(self, process: RunProcess, output: Output) -> None:
        self._process = process
        self._output = output
        for news in self._early:
            process.inbox.put_nowait(news)

    async def _report_start(self, report: http.StartReport) -> bool:
        reply = await self._send("start", report, http.LeaseReply)
        await reach(Fault.STARTED)
        return reply.status == "ok"

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
                await self._crash(event)
            case http.News(kind="answered"):
                if self._open and not self._suspending:
                    self._take(process, await self._collect([*self._open]))
            case http.News(kind="stale"):
                self._over = True
            case FreezeNow():
                if self.is_waiting and not self._suspend_asked and process.is_connected:
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
        if self.is_waiting and self.house.criu is not None and self._freeze_delay() == 0:
            # A long wait for certain: the freeze may begin while the engine is told. Should the engine have the answer
            # already, the dump was in vain, which is rare and does no harm.
            self._ask_to_suspend(process)
        else:
            await self._settle_report(process)

    async def _report_block(self, message: runner.Block) -> http.BlockReply:
        report = http.BlockReport(self.lease.lease, message.waits, message.dropped, message.idle, message.blockers)
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
        return await self._send("collect", http.CollectRequest(self.lease.lease, open_waits), http.BlockReply)

    def _take(self, process: RunProcess, reply: http.BlockReply) -> None:
        """Act on what the engine says of our waits."""
        if reply.status == "stale":
            self._over = True
            return
        self._open = {wait.wait_id: wait for wait in reply.open}
        if reply.answers:
            self._is_idle = False
            self._cancel_freeze()
            process.say(runner.Answers(reply.answers))
        elif self.is_waiting and not self._suspend_asked:
            self._consider_freezing(process)

    async def _call(self, process: RunProcess, call: runner.Call) -> None:
        """Pass a request of user code on to the server, with our lease instead of credentials."""
        path = {"trigger": "trigger", "create_token": "tokens", "complete_token": "tokens/complete"}.get(call.kind)
        if path is None:
            process.say(runner.Result(call.call_id, False, status=400, error=f"unknown call {call.kind!r}"))
            return
        body = msgspec.json.decode(call.body)
        body["lease"] = self.lease.lease
        try:
            reply = await self._send(path, body, msgspec.Raw)
        except ApiError as refused:
            told = msgspec.Raw(msgspec.json.encode(refused.body))
            result = runner.Result(call.call_id, False, told, refused.status, refused.message)
        else:
            result = runner.Result(call.call_id, True, reply)
        process.say(result)

    # -- held or frozen -----------------------------------------------------------------------------------------------

    def _freeze_delay(self) -> float | None:
        return self._hold.delay_s(self._open.values(), now=time.monotonic())

    def _consider_freezing(self, process: RunProcess) -> None:
        if self.house.criu is None:
            if not self._told_unfreezable:
                self._told_unfreezable = True
                self._in_background(self._tell("run.held", {"reasons": [self.house.no_freeze_reason]}))
        elif (delay := self._freeze_delay()) is not None:
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
        assert self.house.criu is not None
        assert self._output is not None
        checkpoint_id = ids.new("checkpoint")
        first, lines = self._output.lines(last=True)
        sending = asyncio.create_task(self._send_output(first, lines))
        facts = {
            **self.house.facts,
            "run_id": self.lease.run_id,
            "directory": process.directory.name,
            "output_position": self._output.position,
        }
        try:
            stored = await checkpoint.take(
                self.house.criu,
                self.house.images,
                checkpoint_id=checkpoint_id,
                process=process,
                facts=facts,
                entered=self._wait_entered,
            )
        except (CriuError, OSError) as error:
            await sending
            await self._freeze_failed(process, error.reason if isinstance(error, CriuError) else str(error))
            return
        await sending
        if self._report is not None and (await self._settle_report(process)).answers:
            self._let_run_on(process, checkpoint_id)
            return
        if self._over:
            return
        reply = await self._send(
            "suspend", http.SuspendReport(self.lease.lease, stored, self._waiting_at), http.LeaseReply
        )
        self.house.settled.add(checkpoint_id)
        await reach(Fault.ACCEPTED)
        if reply.status == "awake":
            self._let_run_on(process, checkpoint_id)
        else:
            # Stale may mean that an earlier, unanswered copy of this message was accepted: then the image is the run.
            # The census deletes it if it isn't.
            self._over = True

    def _let_run_on(self, process: RunProcess, checkpoint_id: str) -> None:
        """The answer came while the process was dumped: the image is of no use."""
        assert process.pid is not None
        self.house.images.delete(checkpoint_id)
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
            "completed" if finished.ok else "failed",
            finished.output,
            finished.error,
            retryable=finished.retryable,
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

    async def _crash(self, exited: Exited) -> None:
        """The process is gone and had not said why."""
        await self._last_output()
        error = runner.TaskError("ProcessDied", str(exited))
        await self._send("finish", http.FinishReport(self.lease.lease, "crashed", error=error), http.LeaseReply)
        self._over = True

    async def _refuse(self, reason: str, *, unusable: bool = False) -> None:
        log.warning("run %s: %s", self.lease.run_id, reason)
        await self._send("refuse", http.Refusal(self.lease.lease, reason, unusable), http.LeaseReply)

    async def _leave_nothing(self) -> None:
        self._over = True
        self._cancel_freeze()
        await self._stop_following()
        if self._process is not None:
            await self._process.bury()
        for task in self._background:
            task.cancel()
        if self._report is not None:
            self._report.cancel()

    # -- words --------------------------------------------------------------------------------------------------------

    def _path(self, what: str) -> str:
        return f"runs/{self.lease.run_id}/{what}"

    async def _send(self, what: str, message: Any, reply: type[Any]) -> Any:
        return await self.house.link.send(self._path(what), message, reply)

    async def _tell(self, kind: str, data: dict[str, Any]) -> None:
        event = http.StoryEvent(kind, datetime.now(UTC).isoformat(), data)
        await self._send("events", http.EventReport(self.lease.lease, [event]), http.LeaseReply)

    def _in_background(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _follow_output(self) -> None:
        assert self._output is not None
        while True:
            await asyncio.sleep(OUTPUT_INTERVAL_S)
            if not self._suspending:
                await self._send_output(*self._output.lines())

    async def _stop_following(self) -> None:
        if self._output_task is not None:
            self._output_task.cancel()
            await asyncio.wait([self._output_task])
            self._output_task = None

    async def _last_output(self) -> None:
        assert self._output is not None
        await self._stop_following()
        await self._send_output(*self._output.lines(last=True))

    async def _send_output(self, first: int, lines: list[http.LogLine]) -> None:
        if lines:
            await self._send("logs", http.LogReport(self.lease.lease, first, lines), dict)


def _ms_since(instant: str | None) -> float | None:
    if instant is None:
        return None
    return (datetime.now(UTC) - datetime.fromisoformat(instant)).total_seconds() * 1000
